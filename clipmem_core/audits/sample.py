"""An audit of a random sample of a data set's pairs (`--sample`), and what its counts say of the whole set.

A pair is drawn where the hash of its id and the audit's seed is among the smallest: which are, hardly changes when
other pairs come or go. Look-alikes within the sample share group and fold as everywhere. Those outside are not known,
since no picture is opened there; no member trains on them either.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.record import Record
from clipmem_core.audits.store import Audit, read_table
from clipmem_core.audits.verdict import WRONG
from clipmem_core.config import AuditConfig
from clipmem_core.draws import SAMPLE, draw_keys, hashed
from clipmem_core.files import numbers
from clipmem_core.pairs.checks import CHECKS
from clipmem_core.pairs.table import RawPairs
from clipmem_core.scores.prevalence import whole_count

UNUSABLE = "rows that cannot be used"
# How often one pair is like another depends on how many there are to be like.
NOT_TOLD = ("lookalike", "repeated_caption")
BASIS = (
    "Estimate and 95 % interval of sampling without replacement (hypergeometric); for wrong captions together with "
    "the uncertainty of their count in the sample. Look-alikes and repeated captions are at least as many as in the "
    "sample: how many more cannot be told from it."
)


def sampled(
    raw: RawPairs, config: AuditConfig, *, say: Callable[[str], None] = lambda line: None
) -> tuple[RawPairs, np.ndarray]:
    """Return a data set with as many of its pairs as a config asks for, and their rows, int64 ascending."""
    count = len(raw.pairs)
    if not 0 < config.sample < count:
        if config.sample:
            say(f"note: --sample {config.sample:,} is no less than the {count:,} pairs there are: all are audited")
        return raw, np.arange(count)
    order = hashed(draw_keys(raw.pairs[c.PAIR_ID].tolist()), config.seed, SAMPLE)
    rows = np.sort(np.argsort(order, kind="stable")[: config.sample])
    say(f"a random sample of {config.sample:,} of {count:,} pairs, by their ids and seed {config.seed}")
    return dataclasses.replace(raw, pairs=raw.pairs.iloc[rows].reset_index(drop=True), drawn_of=count), rows


def whole_set(
    audit: Audit, record: Record, scores: pd.DataFrame, checks: Path, wrong: dict[str, Any]
) -> dict[str, Any]:
    """Return what an audit's verdict says of the whole set that its pairs were drawn of; nothing where all are in it.

    Args:
        audit: one that is scored.
        record: of it.
        scores: its table.
        checks: the file of its checks.
        wrong: what the verdict says of wrong captions.

    Returns:
        pairs, of, basis, and counts: rows of count, found, among (as many of the sample), whole, low, high.
    """
    drawn, of = record.config.sample, record.sampled_of
    if not of:
        return {}
    aside = int((~audit.quarantine[c.REASON].str.startswith("look-alike of ")).sum())
    unread = record.quarantined - (drawn - record.pairs)  # these were counted, and not drawn
    broken = aside - unread
    rows = [_row(UNUSABLE, broken, drawn, of, exact=unread)]
    usable = drawn - broken
    table = read_table(checks)
    for name in (name for name in CHECKS if name in table and name not in NOT_TOLD):
        flags = table[name].dropna()
        if len(flags):
            # Pairs that are not judged, and as large a share of those set aside, are as if they had not been drawn.
            rows.append(_row(CHECKS[name].label, int(flags.sum()), round(drawn * len(flags) / usable), of))
    if ends := numbers([wrong.get(name) for name in ("estimate", "low", "high")], 3):
        found, low, high = (max(0.0, end - wrong["planted"]) for end in ends)
        judged = np.isfinite(scores[c.CSLS_OUT])
        among = round(drawn * (int(judged.sum()) - wrong["planted"]) / usable)
        rows.append(_row(WRONG, found, among, of, low=low, high=high))
    return {"pairs": record.pairs, "of": of, "basis": BASIS, "counts": rows}


def _row(
    count: str,
    found: float,
    drawn: int,
    of: int,
    *,
    exact: int = 0,
    low: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:
    whole, least, most = whole_count(min(found, drawn), drawn, of, low=low, high=high)
    ends = {"whole": whole + exact, "low": least + exact, "high": most + exact}
    return {"count": count, "found": found, "among": drawn, **{name: round(end, 1) for name, end in ends.items()}}
