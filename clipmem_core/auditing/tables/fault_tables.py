"""The tables of what is wrong with a data set: checks of each pair that need no model, and
incidents, faults of the pipeline that explain many wrong captions at once."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from clipmem_core.auditing.folder import store
from clipmem_core.auditing.folder.prepare import audit_pixels
from clipmem_core.auditing.folder.settings import towers_of
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.config import AuditConfig
from clipmem_core.dataset.checks import (
    CHECKS,
    Captions,
    PictureMeasures,
    check_table,
    measure_pictures,
)
from clipmem_core.dataset.faults import Fault, ascending
from clipmem_core.dataset.languages import NAMES
from clipmem_core.dataset.pictures import PictureError
from clipmem_core.errors.runs import EXCHANGE, LIKELY, REVERSAL, SHIFT, DisplacedRun
from clipmem_core.training import model_config
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError, reading, write_once

NEAR_DUPLICATE_OF = "near_duplicate_of"
NUMBER = "number"  # of an incident
_REPEATED_CAUSE = "probably a placeholder or boilerplate"
_MIXED = "captions of another source were mixed in"
_TEXT_CAUSES = {  # by check
    "model_output": "placeholders and messages of a captioning service were not filtered",
    c.RECURRING_TEXT: "an error text or boilerplate: it fits no picture better than chance",
    "empty_caption": "captions were lost, or read from another column",
    "markup": "markup was not removed",
    "gibberish": "text was decoded wrongly, or read from another column",
    "file_name": "file names were read as captions",
    "other_language": _MIXED,
    "other_script": _MIXED,
}
_FAULT_CAUSES = {  # by kind, with the facts of a fault
    "repeated caption": "{count:,} pictures have the caption “{caption:.80}”{where}: {reason}.",
    "repeated picture": (
        "{rows:,} pairs with {count:,} captions have the picture {image}{where}: {reason}."
    ),
    "text": "{label}: {rows:,} of {pairs:,} pairs{languages}{where}; probably {reason}.",
    "sorted": (
        "The captions of all {rows:,} pairs are in alphabetical order: they belong to other "
        "pictures, unless whole rows were sorted."
    ),
    "source": (
        "{source}: {percent:.0f} % of {pairs:,} pairs are probably wrong, elsewhere "
        "{elsewhere:.1f} %."
    ),
}


def ensure_checks(audit: Audit) -> Path:
    """Return the file of an audit's checks; compute it if it is missing, or lacks a check."""
    path = audit.folder / store.CHECK_TABLE
    if stored_checks(audit) is None:
        path.unlink(missing_ok=True)
        write_once(path, functools.partial(_write_checks, audit))
    return path


def stored_checks(audit: Audit) -> Path | None:
    """Return the file of an audit's checks if it exists and has every check."""
    path = audit.folder / store.CHECK_TABLE
    if not path.is_file():
        return None
    with reading(path):
        return path if CHECKS.keys() <= {*pq.read_schema(path).names} else None


def _write_checks(audit: Audit, path: Path) -> None:
    columns = c.PAIR_ID, c.IMAGE, c.WIDTH, c.HEIGHT, c.CAPTIONS
    pairs = audit.read_columns(store.PAIRS, *columns)
    captions = Captions.from_pairs(pairs[c.CAPTIONS].tolist())
    captions = dataclasses.replace(captions, cut=_cut(audit.record.config, list(captions.texts)))
    pictures = _pictures(audit, pairs)
    table = check_table(captions, pictures, pairs=len(pairs))
    table.insert(0, c.PAIR_ID, pairs[c.PAIR_ID])
    table[NEAR_DUPLICATE_OF] = pd.Series(None, table.index, dtype=object)
    if pictures.clusters is not None:
        rows = np.flatnonzero(table["near_duplicate"])
        first = pairs[c.PAIR_ID].to_numpy()[pictures.clusters[rows]]
        table.loc[rows, NEAR_DUPLICATE_OF] = first
    table.to_parquet(path, index=False, row_group_size=store.ROW_GROUP)


def _pictures(audit: Audit, pairs: pd.DataFrame) -> PictureMeasures:
    """Return the measurements of the pictures, without those that need missing files."""
    shape = pairs[[c.WIDTH, c.HEIGHT]].to_numpy()
    config = audit.record.config
    shorter = shape.min(axis=1) if shape.all() else None
    clusters = None
    with suppress(FileNotFoundError, InputError, PictureError):
        clusters = store.read_prepared(audit.folder).clusters
        if not config.features:
            gather = audit_pixels(audit, pairs[c.IMAGE]).gather
            values = measure_pictures(gather, shape, padded=config.resize_mode == "longest")
            return PictureMeasures(shorter, clusters, *values)
    return PictureMeasures(shorter, clusters)


def _cut(config: AuditConfig, texts: list[str]) -> np.ndarray | None:
    """Tell which captions are longer than the text encoder reads, bool [n_captions]; None if that
    is unknown."""
    if config.features:
        return None
    # torch, which the other checks do without
    from clipmem_core.features.embed import FeatureExtractor
    from clipmem_core.training import locked_towers, model

    try:
        if tower := towers_of(config).text:
            return FeatureExtractor(tower).truncated(texts)
        context = model_config(config.model)["text_cfg"].get("context_length", 77)
        tokenizer = model.open_tokenizer(config.model)
        return locked_towers.open_clip_lengths(tokenizer, texts) > context
    except InputError:
        return None


def write_incidents(
    audit: Audit,
    pairs: pd.DataFrame,
    runs: Sequence[DisplacedRun],
    faults: Sequence[Fault],
    swaps: DisplacedRun,
) -> None:
    """Write incidents.parquet, the largest first, and incident_pairs.parquet; number 0 are single
    swaps, which are no incident."""
    captions = pairs[c.CAPTIONS].tolist()
    found: list[Fault | DisplacedRun] = [*faults, *runs]
    found.sort(key=lambda each: -len(each.rows))
    incidents = []
    rows_of = [_incident_pairs(0, swaps.rows, swaps.partners, swaps.probability)]
    for number, each in enumerate(found, start=1):
        rows = each.rows
        if isinstance(each, Fault):
            rows_of.append(_incident_pairs(number, rows))
            repairs = 0
            cause = fault_cause(each)
            evidence = each.evidence
        else:
            rows_of.append(_incident_pairs(number, rows, each.partners, each.probability))
            repairs = int((each.probability >= LIKELY).sum())
            cause = cause_of(each, captions)
            evidence = each.score
            if each.kind == SHIFT:  # the pairs behind it, whose captions were overwritten
                step = int(each.partners[0] - rows[0])
                behind = rows.max() + 1 + np.arange(step)
                lost = behind if step > 0 else rows.min() + np.arange(step, 0)
                rows_of.append(_incident_pairs(number, lost))
        extent = (len(rows), int(rows.min()) + 1, int(rows.max()) + 1)
        incidents.append((number, each.kind, *extent, float(evidence), repairs, cause))
    table = pd.DataFrame(incidents, columns=c.INCIDENT_COLUMNS)
    store.write_table(audit.folder / store.INCIDENTS, table)
    store.write_table(audit.folder / store.INCIDENT_PAIRS, pd.concat(rows_of, ignore_index=True))


def _incident_pairs(
    number: int, rows: np.ndarray, partners: Any = -1, probability: Any = np.nan
) -> pd.DataFrame:
    columns = {NUMBER: number, "row": rows, "from_row": partners, "probability": probability}
    return pd.DataFrame(columns)


def fault_cause(fault: Fault) -> str:
    """Return the probable cause of a fault in a sentence."""
    facts = dict(fault.facts)
    facts["where"] = ""
    facts["reason"] = _REPEATED_CAUSE
    if fault.stretch:
        start, end = fault.stretch
        inside = np.count_nonzero((fault.rows >= start) & (fault.rows < end))
        is_whole = inside == len(fault.rows)
        all_of = "all" if is_whole else f"{inside:,} of them"
        facts["where"] = f" ({all_of} in pairs {start + 1:,} to {end:,})"
        if inside == len(fault.rows) == end - start:
            facts["reason"] = "probably one row was read repeatedly"
    if check := facts.get("check"):
        label = CHECKS[check].label if check in CHECKS else "Text that recurs"
        counts = facts.get("languages", Counter()).most_common()
        listed = " and ".join(f"{count:,} {NAMES[language]}" for language, count in counts)
        facts["label"] = label
        facts["languages"] = f", with {listed} captions" if counts else ""
        facts["reason"] = _TEXT_CAUSES[check]
    return _FAULT_CAUSES[fault.kind].format(rows=len(fault.rows), **facts)


def cause_of(run: DisplacedRun, captions: Sequence[Sequence[str]]) -> str:
    """Return the probable cause of a run among pairs with these captions, in one sentence."""
    where = f"from pair {run.rows.min() + 1:,} to {run.rows.max() + 1:,}"
    step = int(run.partners[0] - run.rows[0])
    size = "one row" if abs(step) == 1 else f"{abs(step):,} rows"
    if run.kind == SHIFT:
        return f"Captions are {size} {'late' if step > 0 else 'early'} {where}."
    if run.kind == EXCHANGE:
        return f"Captions {where} are exchanged with those {size} away."
    if run.kind == REVERSAL:
        return f"Captions {where} are in reverse order."
    if ascending([captions[row][0] for row in run.rows]):
        return f"Captions {where} are in alphabetical order, and belong to other pairs there."
    return f"Nearly all captions {where} belong to other pairs there."
