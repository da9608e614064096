"""The cleaned data set: the pairs of an audit that stay by what was decided, with the captions they are to have."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core.audits.prepare import content_fingerprint
from clipmem_core.audits.store import PAIRS, Audit, read_table, reading
from clipmem_core.columns import CAPTIONS, HEIGHT, IMAGE, LABEL, MISCAPTION, PAIR_ID, PLANTED, WIDTH
from clipmem_core.config import InputError, data_folder
from clipmem_core.pairs.readers.text import tidy
from clipmem_core.pairs.table import read_source
from clipmem_core.review.decisions import FOR_OTHER, RECAPTION, REMOVE, open_review

ROW = "row"  # the pair's row in the audit
RECAPTIONED = "recaptioned"
_CAPTION_LISTS = pa.large_list(pa.large_string())  # 64-bit offsets: a million pairs may have more than 2 GB of text


@dataclass(frozen=True)
class Cleaned:
    """A cleaned data set.

    `pairs` has row, pair_id, image, captions, label, width, height and recaptioned (bool), `gone` the same of the pairs
    to be removed, both in the audit's order.
    """

    audit: Audit
    root: Path  # image references are relative to it
    pairs: pa.Table
    gone: pa.Table
    notes: tuple[str, ...]  # what a person should know of it, whatever the format

    @property
    def kept(self) -> int:
        return self.pairs.num_rows

    @property
    def removed(self) -> int:
        return self.gone.num_rows

    @property
    def recaptioned(self) -> int:
        return pc.sum(self.pairs[RECAPTIONED]).as_py() or 0


def clean(audit: Audit) -> Cleaned:
    """Apply the decisions on an audit's pairs that were made on the captions which are written.

    Those of pairs with planted captions are the data set's own: what was decided on the planted ones does not count.

    Raises:
        InputError: no pair would stay, a file of the audit is missing or broken, or it planted wrong captions and the
            right ones cannot be had back.
    """
    pairs = _with_captions(_read_pairs(audit), planted_captions(audit))
    decisions = replace(open_review(audit), pairs=pairs.select([PAIR_ID, CAPTIONS])).table()
    remove = _among(pairs, decisions.loc[decisions["decision"] == REMOVE, PAIR_ID])
    gone = pairs.filter(remove)
    new, empty = _new_captions(decisions)
    notes = _notes(audit, pairs, decisions, empty)
    kept = _with_captions(pairs.filter(pc.invert(remove)).drop_columns([PLANTED, RECAPTIONED]), new)
    if kept.num_rows == 0:
        raise InputError(f"every pair of audit {audit.name!r} is to be removed: nothing is left to export")
    return Cleaned(audit, Path(audit.record.root), kept, gone, notes)


def _read_pairs(audit: Audit) -> pa.Table:
    path = audit.folder / PAIRS
    columns = [PAIR_ID, IMAGE, CAPTIONS, LABEL, WIDTH, HEIGHT, PLANTED]
    with reading(path):
        table = pq.read_table(path, columns=columns)
    types = {PAIR_ID: pa.large_string(), IMAGE: pa.large_string(), LABEL: pa.large_string(), CAPTIONS: _CAPTION_LISTS}
    table = table.cast(pa.schema([(field.name, types.get(field.name, field.type)) for field in table.schema]))
    return table.add_column(0, ROW, pa.array(np.arange(table.num_rows)))


def _with_captions(pairs: pa.Table, captions: dict[str, list[str]]) -> pa.Table:
    """Return the pairs with other captions where `captions` names some, and the column that says where."""
    changed = _among(pairs, captions)
    places = np.flatnonzero(changed.to_numpy())
    new = [captions[pair_id] for pair_id in pairs[PAIR_ID].take(places).to_pylist()]
    index = np.arange(pairs.num_rows)
    index[places] = pairs.num_rows + np.arange(len(new))
    pool = pa.chunked_array([*pairs[CAPTIONS].chunks, pa.array(new, _CAPTION_LISTS)], _CAPTION_LISTS)
    swapped = pairs.set_column(pairs.schema.get_field_index(CAPTIONS), CAPTIONS, pool.take(index))
    return swapped.append_column(RECAPTIONED, changed)


def _new_captions(decisions: pd.DataFrame) -> tuple[dict[str, list[str]], int]:
    """Return pair_id → its new captions, and how many pairs were to get captions that say nothing."""
    chosen = decisions[decisions["decision"] == RECAPTION]
    # as a reader would take them from a file: tidy, none empty, none twice
    tidied = (filter(None, dict.fromkeys(map(tidy, texts))) for texts in chosen[CAPTIONS])
    new = {pair_id: texts for pair_id, texts in zip(chosen[PAIR_ID], map(list, tidied), strict=True) if texts}
    return new, len(chosen) - len(new)


def _notes(audit: Audit, pairs: pa.Table, decisions: pd.DataFrame, empty: int) -> tuple[str, ...]:
    quarantined = len(audit.quarantine)
    most = audit.record.config.captions
    restored = pairs.filter(pairs[RECAPTIONED])
    away = _count(pairs, decisions.loc[decisions[FOR_OTHER].notna(), PAIR_ID])
    misled = _count(restored, _decided(decisions) & _decided(open_review(audit).table())) if len(restored) else 0
    own = "have their own captions again, which the audit had swapped to plant mistakes"
    other = "were decided on with other captions, as where mistakes are planted: that does not count"
    return counted(
        (quarantined, f"{quarantined:,} quarantined input rows are not in it"),
        (len(restored), f"{len(restored):,} pairs {own}"),
        (misled, f"{misled:,} of these were decided on, perhaps for the planted caption's sake: look at them again"),
        (away, f"{away:,} pairs {other}"),
        (most, f"only the first {most} captions of a pair are in it: the audit used no more (--captions)"),
        (empty, f"{empty:,} pairs to be recaptioned keep their captions: the new ones are empty"),
    )


def counted(*notes: tuple[int, str]) -> tuple[str, ...]:
    """Return the notes whose count is not 0."""
    return tuple(note for count, note in notes if count)


def _decided(decisions: pd.DataFrame) -> set[str]:
    return set(decisions.loc[decisions["decision"].notna(), PAIR_ID])


def _among(pairs: pa.Table, pair_ids: Iterable[str]) -> pa.ChunkedArray:
    """Tell of each pair whether its id is one of some."""
    return pc.is_in(pairs[PAIR_ID], value_set=pa.array(list(pair_ids), pa.large_string()))


def _count(pairs: pa.Table, pair_ids: Iterable[str]) -> int:
    return pc.sum(_among(pairs, pair_ids)).as_py() or 0


def planted_captions(audit: Audit) -> dict[str, list[str]]:
    """Return the own captions of the pairs that the audit gave another's; empty where it planted none.

    The audit keeps the key of its data set's content as it was before captions were swapped: what is read again must
    give the same key with every id, picture and caption.

    Raises:
        InputError: the source cannot be read, or is no longer what the audit read.
    """
    record = audit.record
    if not is_planted(audit):
        return {}
    pairs = read_table(audit.folder / PAIRS)
    config = record.config
    try:
        source = read_source(record.source, config.source, data=data_folder()).pairs
    except InputError as error:
        raise _refusal(audit, str(error)) from None
    own = {key: texts[: config.captions or None] for key, texts in zip(source[PAIR_ID], source[CAPTIONS], strict=True)}
    swapped = pairs.loc[pairs[PLANTED] == MISCAPTION, PAIR_ID]
    restored = {pair_id: own[pair_id] for pair_id in swapped if pair_id in own}
    texts = [restored.get(pair_id, there) for pair_id, there in zip(pairs[PAIR_ID], pairs[CAPTIONS], strict=True)]
    if content_fingerprint(pairs.assign(**{CAPTIONS: texts})) != record.dataset_fingerprint:
        raise _refusal(audit, f"{record.source} is no longer what the audit read")
    return restored


def is_planted(audit: Audit) -> bool:
    """Tell whether the audit gave pairs another's captions."""
    return bool(audit.record.config.plant_miscaptions)


def _refusal(audit: Audit, reason: str) -> InputError:
    return InputError(
        f"audit {audit.name!r} planted wrong captions, and the right ones cannot be had back ({reason}): "
        "audit the data set without --plant-miscaptions and export that"
    )
