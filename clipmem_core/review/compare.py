"""A score compared between two audits: how it agrees over the pairs they share, and which pairs changed most."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import stats

from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.columns import CAPTIONS, CLIPMEM, GROUP, MISFIT, PAIR_ID, SHA256
from clipmem_core.config import FIELDS, InputError, as_dict, flat
from clipmem_core.review.rows import misfit_note
from clipmem_core.review.tables import CAPTION_KEY, ROW, count_rows, fetch_arrow, fetch_numbered, number
from clipmem_core.scores.registry import BY_NAME
from clipmem_core.scores.seeds import paired_difference

POINTS = 5_000
CHANGED_COLUMNS = [
    *(PAIR_ID, "row_one", "row_other", "one", "other", "difference"),
    *("captions_changed", "group_one", "group_other"),
]


@dataclass(frozen=True)
class Comparison:
    """How a score differs between two audits, over the pairs of equal pair_id.

    `changed` has pair_id, row_one, row_other, one, other, difference, captions_changed, group_one and group_other, the
    largest change first, without pairs that changed their group. `points` has the same but captions_changed, of a
    sample of all pairs. Differences are other − one.
    """

    column: str
    n_common: int
    n_scored: int  # of these, those with a score in both
    only_one: int
    only_other: int
    edited: int  # common pairs with other captions or another picture
    regrouped: int  # common pairs in another group of the same protocol
    spearman: float | None  # None: of fewer than three pairs, or where all have one score
    pearson: float | None
    mean_difference: float | None
    low: float | None  # of the 95 % interval of the mean difference, paired by pair
    high: float | None
    changed: pd.DataFrame
    points: pd.DataFrame
    warnings: tuple[str, ...]


def compare(one: Audit, other: Audit, *, column: str = CLIPMEM, limit: int) -> Comparison:
    """Compare a score of two audits pair by pair.

    Args:
        one: a finished audit.
        other: another one, of the same data set or of another version of it.
        column: the score.
        limit: how many of the pairs that changed most are returned.

    Raises:
        InputError: they share no pair, the score is unknown, or a file is missing or broken.
    """
    if column not in BY_NAME:
        raise InputError(f"score {column!r} is unknown: choose one of {', '.join(BY_NAME)}")
    joined = _join(one, other, column)
    if joined.num_rows == 0:
        raise InputError(f"audits {one.name!r} and {other.name!r} share no pair_id: compare audits of one data set")
    finite = np.isfinite(joined["one"].to_numpy()) & np.isfinite(joined["other"].to_numpy())
    scored = joined.filter(pa.array(finite))
    regrouped = joined["group_one"].to_numpy() != joined["group_other"].to_numpy()
    regrouped &= one.record.protocol == other.record.protocol
    values = scored["one"].to_numpy(), scored["other"].to_numpy()
    mean, low, high = mean_difference(*values)
    return Comparison(
        column=column,
        n_common=joined.num_rows,
        n_scored=scored.num_rows,
        only_one=count_rows(one.folder / SCORES) - joined.num_rows,
        only_other=count_rows(other.folder / SCORES) - joined.num_rows,
        edited=_count_edited(one, other),
        regrouped=int(np.count_nonzero(regrouped)),
        spearman=_agreement(stats.spearmanr, *values),
        pearson=_agreement(stats.pearsonr, *values),
        mean_difference=mean,
        low=low,
        high=high,
        changed=_changed(one, other, scored.filter(pa.array(~regrouped[finite])), limit),
        points=_sample(scored),
        warnings=(*differing_settings(one, other), *_differing_misfit(one, other, column)),
    )


def mean_difference(one: np.ndarray, other: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """Return the mean of other − one and its 95 % interval by Student's t; None where there is none.

    Args:
        one: a number for each pair, [n].
        other: the same pairs' other number, [n].

    Example:
        >>> mean_difference(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
        (1.0, 1.0, 1.0)
    """
    if len(one) == 0:
        return None, None, None
    found = paired_difference(other, one)
    return (found.mean, found.low, found.high) if found.n > 1 else (found.mean, None, None)


def differing_settings(one: Audit, other: Audit) -> tuple[str, ...]:
    """Say in a sentence each which settings keep the scores of two audits from being compared."""
    first, second = (flat(as_dict(audit.record.config)) for audit in (one, other))
    return tuple(
        f"The {own.alike} differs: {first[name] or 'none'} in {one.name}, {second[name] or 'none'} in {other.name} "
        f"({own.flag}). clipmem compares only where it is the same."
        for name, own in FIELDS.items()
        if own.alike and first[name] != second[name]
    )


def _differing_misfit(one: Audit, other: Audit, column: str) -> tuple[str, ...]:
    if column != MISFIT:
        return ()
    noted = [f"in {audit.name}, {note}" for audit in (one, other) if (note := misfit_note(audit))]
    return (f"The formula of misfit differs: {noted[0]}",) if len(noted) == 1 else ()


def _join(one: Audit, other: Audit, column: str) -> pa.Table:
    """Return the common pairs in the order of the first audit; a score that is missing is NaN."""
    theirs = fetch_arrow(
        other.folder / SCORES,
        f'SELECT {PAIR_ID}, {ROW} AS row_other, "{GROUP}" AS group_other, {number(column)} AS other FROM parquet',
    )
    query = f"""
        SELECT {PAIR_ID}, {ROW} AS row_one, row_other, {number(column)} AS one, other, other - one AS difference,
            "{GROUP}" AS group_one, group_other
        FROM parquet JOIN theirs USING ({PAIR_ID}) ORDER BY row_one
    """
    return fetch_arrow(one.folder / SCORES, query, theirs=theirs)


def _count_edited(one: Audit, other: Audit) -> int:
    columns = f'"{PAIR_ID}", {CAPTION_KEY} AS captions, {SHA256} AS picture'
    theirs = fetch_arrow(other.folder / PAIRS, f"SELECT {columns} FROM parquet")
    query = f"""
        SELECT count(*) AS n FROM (SELECT {columns} FROM parquet) AS ours JOIN theirs USING ("{PAIR_ID}")
        WHERE (ours.captions, ours.picture) IS DISTINCT FROM (theirs.captions, theirs.picture)
    """
    return int(fetch_arrow(one.folder / PAIRS, query, theirs=theirs)["n"][0].as_py())


def _agreement(measure: Any, one: np.ndarray, other: np.ndarray) -> float | None:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(measure(one, other).statistic)


def _changed(one: Audit, other: Audit, scored: pa.Table, limit: int) -> pd.DataFrame:
    """Return the pairs whose score changed most; of equal ones those that come first."""
    order = np.argsort(-np.abs(scored["difference"].to_numpy()), kind="stable")[:limit]
    table = scored.take(order).to_pandas()
    ours = fetch_numbered(one.folder / PAIRS, [CAPTIONS], table["row_one"].tolist())
    theirs = fetch_numbered(other.folder / PAIRS, [CAPTIONS], table["row_other"].tolist())
    rows = zip(table["row_one"], table["row_other"], strict=True)
    table["captions_changed"] = [ours[row] != theirs[row_other] for row, row_other in rows]
    return table[CHANGED_COLUMNS]


def _sample(scored: pa.Table) -> pd.DataFrame:
    """Return the same few pairs at each call, in their order."""
    few, n = min(scored.num_rows, POINTS), scored.num_rows
    return scored.take(np.sort(np.random.default_rng(0).choice(n, few, replace=False))).to_pandas()
