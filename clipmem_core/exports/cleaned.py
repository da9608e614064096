"""An audit and what was decided on its pairs → the cleaned data set: the pairs that stay, with their captions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core.audits.store import PAIRS, Audit, reading
from clipmem_core.columns import CAPTIONS, HEIGHT, IMAGE, LABEL, PAIR_ID, PLANTED, WIDTH
from clipmem_core.config import InputError
from clipmem_core.exports.originals import planted_captions
from clipmem_core.pairs.readers.text import tidy
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
    root = _root(audit)
    pairs = _with_captions(_read_pairs(audit), planted_captions(audit))
    decisions = replace(open_review(audit), pairs=pairs.select([PAIR_ID, CAPTIONS])).table()
    remove = pc.is_in(pairs[PAIR_ID], value_set=_ids(decisions, REMOVE))
    gone = pairs.filter(remove)
    new, empty = _new_captions(decisions)
    notes = _notes(audit, pairs, decisions, empty)
    kept = _with_captions(pairs.filter(pc.invert(remove)).drop_columns([PLANTED, RECAPTIONED]), new)
    if kept.num_rows == 0:
        raise InputError(f"every pair of audit {audit.name!r} is to be removed: nothing is left to export")
    return Cleaned(audit, root, kept, gone, notes)


def _root(audit: Audit) -> Path:
    return Path(audit.config["root"])


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
    changed = pc.is_in(pairs[PAIR_ID], value_set=pa.array(list(captions), pa.large_string()))
    places = np.flatnonzero(changed.to_numpy())
    new = [captions[pair_id] for pair_id in pairs[PAIR_ID].take(places).to_pylist()]
    index = np.arange(pairs.num_rows)
    index[places] = pairs.num_rows + np.arange(len(new))
    pool = pa.chunked_array([*pairs[CAPTIONS].chunks, pa.array(new, _CAPTION_LISTS)], _CAPTION_LISTS)
    swapped = pairs.set_column(pairs.schema.get_field_index(CAPTIONS), CAPTIONS, pool.take(index))
    return swapped.append_column(RECAPTIONED, changed)


def _ids(decisions: pd.DataFrame, decision: str) -> pa.Array:
    return pa.array(decisions.loc[decisions["decision"] == decision, PAIR_ID].tolist(), pa.large_string())


def _new_captions(decisions: pd.DataFrame) -> tuple[dict[str, list[str]], int]:
    """Return pair_id → its new captions, and how many pairs were to get captions that say nothing."""
    chosen = decisions[decisions["decision"] == RECAPTION]
    tidied = ((pair_id, _tidy_all(texts)) for pair_id, texts in zip(chosen[PAIR_ID], chosen[CAPTIONS], strict=True))
    new = {pair_id: texts for pair_id, texts in tidied if texts}
    return new, len(chosen) - len(new)


def _tidy_all(texts: Sequence[str]) -> list[str]:
    """Return captions as a reader would take them from a file: tidy, none empty, none twice."""
    return [text for text in dict.fromkeys(map(tidy, texts)) if text]


def _notes(audit: Audit, pairs: pa.Table, decisions: pd.DataFrame, empty: int) -> tuple[str, ...]:
    quarantined = len(audit.quarantine)
    most = audit.config["config"].get("captions")
    restored = pairs.filter(pairs[RECAPTIONED])
    away = _count(pairs, decisions.loc[decisions[FOR_OTHER].notna(), PAIR_ID])
    misled = _count(restored, _decided(decisions) & _decided(open_review(audit).table())) if len(restored) else 0
    notes = [
        (quarantined, f"{quarantined:,} quarantined input rows are not in it"),
        (
            len(restored),
            f"{len(restored):,} pairs have their own captions again, which the audit had swapped to plant mistakes",
        ),
        (misled, f"{misled:,} of these were decided on, perhaps for the planted caption's sake: look at them again"),
        (
            away,
            f"{away:,} pairs were decided on with other captions, as where mistakes are planted: that does not count",
        ),
        (most, f"only the first {most} captions of a pair are in it: the audit used no more (--captions)"),
        (empty, f"{empty:,} pairs to be recaptioned keep their captions: the new ones are empty"),
    ]
    return tuple(note for count, note in notes if count)


def _decided(decisions: pd.DataFrame) -> set[str]:
    return set(decisions.loc[decisions["decision"].notna(), PAIR_ID])


def _count(pairs: pa.Table, pair_ids: Iterable[str]) -> int:
    """Return how many of the pairs have one of some ids."""
    return pc.sum(pc.is_in(pairs[PAIR_ID], value_set=pa.array(list(pair_ids), pa.large_string()))).as_py() or 0
