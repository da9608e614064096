"""A score compared between two audits, and the detectors of one audit compared: how well they find what was planted,
how far they agree, where they differ.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import stats

from clipmem_core import columns as c
from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.config import FIELDS, InputError, as_dict, flat
from clipmem_core.review.rows import misfit_note
from clipmem_core.review.tables import (
    CAPTION_KEY,
    ROW,
    count_pairs_of,
    count_rows,
    fetch_arrow,
    fetch_columns,
    fetch_numbered,
    kept,
    number,
)
from clipmem_core.scores.detection import detection_table, numbers_reviewed, precision_curve
from clipmem_core.scores.registry import BY_NAME, DETECTION, scores_in
from clipmem_core.scores.seeds import paired_difference
from clipmem_core.studies.benchmark.results import (
    DETECTOR,
    KIND,
    MEASURE,
    METRICS,
    SHARE,
    TABLE_COLUMNS,
    Benchmark,
    benchmark_table,
    list_benchmarks,
    mean_curves,
    metric_rows,
)

POINTS = 5_000  # pairs of a scatter plot
MOST_RANKED = 50_000  # pairs that an agreement is measured on
RESAMPLED = 2_000_000  # pairs drawn by all bootstrap resamples of a kind together
CHANGED_COLUMNS = [
    *(c.PAIR_ID, "row_one", "row_other", "one", "other", "difference"),
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


def compare(one: Audit, other: Audit, *, column: str = c.CLIPMEM, limit: int) -> Comparison:
    """Compare a score of two audits pair by pair."""
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
    n, (mean, low, high) = scored.num_rows, mean_difference(*values)
    return Comparison(
        column=column,
        n_common=joined.num_rows,
        n_scored=n,
        only_one=count_rows(one.folder / SCORES) - joined.num_rows,
        only_other=count_rows(other.folder / SCORES) - joined.num_rows,
        edited=_count_edited(one, other),
        regrouped=int(np.count_nonzero(regrouped)),
        spearman=_correlation(stats.spearmanr, *values),
        pearson=_correlation(stats.pearsonr, *values),
        mean_difference=mean,
        low=low,
        high=high,
        changed=_changed(one, other, scored.filter(pa.array(~regrouped[finite])), limit),
        points=scored.take(np.sort(np.random.default_rng(0).choice(n, min(n, POINTS), replace=False))).to_pandas(),
        warnings=(*differing_settings(one, other), *(_differing_misfit(one, other) if column == c.MISFIT else ())),
    )


def mean_difference(one: np.ndarray, other: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """Return the mean of other − one and its 95 % interval by Student's t; None where there is none.

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


def _differing_misfit(one: Audit, other: Audit) -> tuple[str, ...]:
    noted = [f"in {audit.name}, {note}" for audit in (one, other) if (note := misfit_note(audit))]
    return (f"The formula of misfit differs: {noted[0]}",) if len(noted) == 1 else ()


def _join(one: Audit, other: Audit, column: str) -> pa.Table:
    """Return the common pairs in the order of the first audit; a score that is missing is NaN."""
    theirs = fetch_arrow(
        other.folder / SCORES,
        f'SELECT {c.PAIR_ID}, {ROW} AS row_other, "{c.GROUP}" AS group_other, {number(column)} AS other FROM parquet',
    )
    query = f"""
        SELECT {c.PAIR_ID}, {ROW} AS row_one, row_other, {number(column)} AS one, other, other - one AS difference,
            "{c.GROUP}" AS group_one, group_other
        FROM parquet JOIN theirs USING ({c.PAIR_ID}) ORDER BY row_one
    """
    return fetch_arrow(one.folder / SCORES, query, theirs=theirs)


def _count_edited(one: Audit, other: Audit) -> int:
    columns = f'"{c.PAIR_ID}", {CAPTION_KEY} AS captions, {c.SHA256} AS picture'
    theirs = fetch_arrow(other.folder / PAIRS, f"SELECT {columns} FROM parquet")
    query = f"""
        SELECT count(*) AS n FROM (SELECT {columns} FROM parquet) AS ours JOIN theirs USING ("{c.PAIR_ID}")
        WHERE (ours.captions, ours.picture) IS DISTINCT FROM (theirs.captions, theirs.picture)
    """
    return int(fetch_arrow(one.folder / PAIRS, query, theirs=theirs)["n"][0].as_py())


def _correlation(measure: Any, one: np.ndarray, other: np.ndarray) -> float | None:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(measure(one, other).statistic)


def _changed(one: Audit, other: Audit, scored: pa.Table, limit: int) -> pd.DataFrame:
    """Return the pairs whose score changed most; of equal ones those that come first."""
    order = np.argsort(-np.abs(scored["difference"].to_numpy()), kind="stable")[:limit]
    table = scored.take(order).to_pandas()
    ours = fetch_numbered(one.folder / PAIRS, [c.CAPTIONS], table["row_one"].tolist())
    theirs = fetch_numbered(other.folder / PAIRS, [c.CAPTIONS], table["row_other"].tolist())
    rows = zip(table["row_one"], table["row_other"], strict=True)
    table["captions_changed"] = [ours[row] != theirs[row_other] for row, row_other in rows]
    return table[CHANGED_COLUMNS]


@dataclass(frozen=True)
class Findings:
    """How well detectors find what was planted.

    `table` has kind, share, detector, measure, mean, low and high; `curves` has kind, share, detector, number of pairs
    reviewed and precision. `interval` says what low and high cover.
    """

    table: pd.DataFrame
    curves: pd.DataFrame
    interval: str
    note: str = ""  # on misfit, where it is by a second round of training


@kept(4, SCORES, PAIRS)
def detector_scores(audit: Audit) -> pd.DataFrame:
    """Return what each detector says of each pair that is judged: row, planted, and a column a detector.

    Larger is more suspicious. A detector that an audit does not have is left out, and then a pair that another of them
    says nothing of.
    """
    count_pairs_of(audit)
    detectors = scores_in(DETECTION)
    wanted = ", ".join(f'{score.direction} * {number(name)} AS "{name}"' for name, score in detectors.items())
    scores = fetch_columns(
        audit.folder / SCORES, f'SELECT {ROW} AS row, "{c.GROUP}", {wanted} FROM parquet ORDER BY row'
    )
    planted = fetch_columns(audit.folder / PAIRS, f'SELECT "{c.PLANTED}" FROM parquet ORDER BY {ROW}')
    table = pd.DataFrame(scores).assign(**{c.PLANTED: planted[c.PLANTED]})
    table = table[table[c.GROUP].isin([c.CANDIDATE, c.SCORED])].drop(columns=c.GROUP)
    known = [name for name in detectors if np.isfinite(table[name]).mean() > 0.5]
    finite = np.isfinite(table[known].to_numpy(dtype=float)).all(axis=1)
    return table.loc[finite, ["row", c.PLANTED, *known]].reset_index(drop=True)


def names_in(scores: pd.DataFrame) -> list[str]:
    """Return the detectors that a table of their scores has, in their order."""
    return [str(name) for name in scores.columns if name not in ("row", c.PLANTED)]


@kept(4, SCORES, PAIRS)
def planted_findings(audit: Audit) -> Findings | None:
    """Return how well an audit's scores find each kind of pairs that was planted in it; None where none was."""
    scores = detector_scores(audit)
    names, planted = names_in(scores), scores[c.PLANTED]
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for kind in sorted(planted.dropna().unique(), key=lambda kind: (kind != c.MISCAPTION, kind)):
        own = scores[planted.isna() | (planted == kind)]
        truth = own[c.PLANTED].notna().to_numpy()
        if not names or truth.sum() < 2 or truth.all():
            continue
        values = {name: own[name].to_numpy(dtype=float) for name in names}
        cell = {KIND: str(kind), SHARE: float(truth.mean())}
        n_boot = int(np.clip(RESAMPLED // len(own), 50, 500))
        for row in detection_table(values, truth, n_boot=n_boot).to_dict("records"):
            rows += [
                cell
                | {DETECTOR: row["score"], MEASURE: metric, "n": 1, "mean": row[metric]}
                | {"low": row[f"{metric}_low"], "high": row[f"{metric}_high"]}
                for metric in METRICS
            ]
        numbers = numbers_reviewed(len(own))
        for name in names:
            precision = precision_curve(values[name], truth, numbers)
            curves += [
                cell | {DETECTOR: name, "number": int(k), "precision": float(p)}
                for k, p in zip(numbers, precision, strict=True)
            ]
    if not rows:
        return None
    interval = "95 % bootstrap over the pairs of this one planting"
    table = pd.DataFrame(rows).reindex(columns=TABLE_COLUMNS)
    return Findings(table, pd.DataFrame(curves), interval, misfit_note(audit))


def benchmarks_of(audit: Audit) -> list[Benchmark]:
    """Return the benchmarks of the pictures that an audit is of, those of the very same pairs first."""
    record = audit.record
    found: list[tuple[bool, Benchmark]] = []
    for benchmark in list_benchmarks():
        try:
            asked = benchmark.asked
        except InputError:
            continue  # it is told where it is run again
        same = asked["dataset_fingerprint"] == record.dataset_fingerprint
        if (same or asked["root"] == record.root) and benchmark.done:
            found.append((not same, benchmark))
    return [benchmark for _, benchmark in sorted(found, key=lambda one: one[0])]


def benchmark_findings(benchmark: Benchmark) -> Findings | None:
    """Return what a benchmark has found up to now; None before its first planting."""
    results = benchmark.results()
    if not results:
        return None
    table = benchmark_table(metric_rows(results))
    return Findings(table, mean_curves(results), "95 % over plantings (Student's t)")


def agreement(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rank correlation (Spearman) of every two detectors, in [−1, 1], NaN where one says the same of all.

    Of more than 50,000 pairs as many are drawn, the same each time.
    """
    drawn = scores if len(scores) <= MOST_RANKED else scores.sample(MOST_RANKED, random_state=0)
    return drawn[names_in(scores)].corr(method="spearman")


def differ_most(scores: pd.DataFrame, one: str, other: str, *, limit: int) -> pd.DataFrame:
    """Return the pairs that one detector suspects far more than another.

    Returns:
        row, one and other: the share of pairs that each detector suspects less, in [0, 1]; the largest difference
        first, and only where `one` is above `other`.
    """
    ranks = pd.DataFrame({"row": scores["row"], "one": scores[one].rank(), "other": scores[other].rank()})
    apart = (ranks["one"] - ranks["other"]).sort_values(ascending=False, kind="stable")
    found = ranks.loc[apart[apart > 0].index[:limit]].reset_index(drop=True)
    found[["one", "other"]] = (found[["one", "other"]] - 1) / max(len(scores) - 1, 1)
    return found
