"""What the detectors of an audit say: how well they find what was planted, how far they agree, where they differ."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.config import InputError
from clipmem_core.review.rows import misfit_note
from clipmem_core.review.tables import ROW, count_pairs_of, fetch_columns, kept, number
from clipmem_core.scores.detection import detection_table, numbers_reviewed, precision_curve
from clipmem_core.scores.registry import DETECTION, scores_in
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

MOST_RANKED = 50_000  # pairs that an agreement is measured on
RESAMPLED = 2_000_000  # pairs drawn by all bootstrap resamples of a kind together


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

    Raises:
        InputError: a file is missing or broken, or the tables list other pairs.
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
    """Return what a benchmark has found up to now; None before its first planting.

    Raises:
        InputError: a result is broken.
    """
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

    Args:
        scores: as `detector_scores` returns them.
        one: the detector that suspects them.
        other: the one that does not.
        limit: at most so many pairs.

    Returns:
        row, one and other: the share of pairs that each detector suspects less, in [0, 1]; the largest difference
        first, and only where `one` is above `other`.
    """
    ranks = pd.DataFrame({"row": scores["row"], "one": scores[one].rank(), "other": scores[other].rank()})
    apart = (ranks["one"] - ranks["other"]).sort_values(ascending=False, kind="stable")
    found = ranks.loc[apart[apart > 0].index[:limit]].reset_index(drop=True)
    found[["one", "other"]] = (found[["one", "other"]] - 1) / max(len(scores) - 1, 1)
    return found
