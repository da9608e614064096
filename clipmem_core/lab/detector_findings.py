"""How well the scores of an audit or benchmark find injected errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.audit.store import PAIRS, SCORES, Audit
from clipmem_core.columns import GROUP, INJECTED, MISCAPTION, TARGET_GROUPS
from clipmem_core.io import InputError
from clipmem_core.lab import benchmark_results as b
from clipmem_core.review.queries import ROW, cached, fetch_all, number_sql
from clipmem_core.review.rows import misfit_note
from clipmem_core.scores.metrics import (
    METRICS,
    detection_table,
    numbers_reviewed,
    precision_curve,
)
from clipmem_core.scores.registry import DETECTION_SCORES

_RESAMPLED = 2_000_000  # pairs in all bootstrap resamples of one kind of error


@dataclass(frozen=True)
class Findings:
    """How well detectors find injected errors, of each kind and share."""

    table: pd.DataFrame  # kind, share, detector, measure, mean, low, high
    curves: pd.DataFrame  # kind, share, detector, number of pairs reviewed, precision
    interval: str  # the kind of interval from low to high
    note: str = ""  # on misfit of a second round of training


@cached(4, SCORES, PAIRS)
def detector_scores(audit: Audit) -> pd.DataFrame:
    """Return row, injected and each detector with values (larger: more suspicious), of scored or
    candidate pairs."""
    detectors = DETECTION_SCORES
    oriented = (
        f'{score.direction} * {number_sql(name)} AS "{name}"' for name, score in detectors.items()
    )
    table = fetch_all(audit, [f"{ROW} AS row", f'"{GROUP}"', *oriented], [INJECTED])
    table = table[table[GROUP].isin(TARGET_GROUPS)]
    names = [name for name in detectors if np.isfinite(table[name]).mean() > 0.5]
    finite = np.isfinite(table[names].to_numpy(dtype=float)).all(axis=1)
    return table.loc[finite, ["row", INJECTED, *names]].reset_index(drop=True)


def names_in(scores: pd.DataFrame) -> list[str]:
    """Return the detectors in a table of `detector_scores`."""
    return [str(name) for name in scores.columns if name not in ("row", INJECTED)]


@cached(4, SCORES, PAIRS)
def injected_findings(audit: Audit) -> Findings | None:
    """Return how well an audit's detectors find each kind of injected error; None without injected
    errors."""
    scores = detector_scores(audit)
    names = names_in(scores)
    injected = scores[INJECTED]
    rows = []
    curves = []
    for kind in sorted(injected.dropna().unique(), key=lambda kind: (kind != MISCAPTION, kind)):
        subset = scores[injected.isna() | (injected == kind)]
        truth = subset[INJECTED].notna().to_numpy()
        if not names or truth.sum() < 2 or truth.all():
            continue
        values = {name: subset[name].to_numpy(dtype=float) for name in names}
        cell: dict[str, Any] = {b.KIND: str(kind), b.SHARE: float(truth.mean())}
        n_boot = int(np.clip(_RESAMPLED // len(subset), 50, 500))
        detected = detection_table(values, truth, n_boot=n_boot)
        for metric in METRICS:
            part = detected[["score", metric, f"{metric}_low", f"{metric}_high"]]
            part = part.set_axis([b.DETECTOR, "mean", "low", "high"], axis=1)
            values_of = cell | {b.MEASURE: metric, "n": 1}
            rows.append(part.assign(**values_of))
        numbers = numbers_reviewed(len(subset))
        for name in names:
            curve = {"number": numbers, "precision": precision_curve(values[name], truth, numbers)}
            curves.append(pd.DataFrame(cell | {b.DETECTOR: name} | curve))
    if not rows:
        return None
    interval = "95 % bootstrap over the pairs of this one injection"
    table = pd.concat(rows, ignore_index=True).reindex(columns=b.TABLE_COLUMNS)
    return Findings(table, pd.concat(curves, ignore_index=True), interval, misfit_note(audit))


def benchmarks_of(audit: Audit) -> list[b.Benchmark]:
    """Return the benchmarks on an audit's data set, those with the same pairs first."""
    record = audit.record
    same = []
    others = []
    for benchmark in b.Benchmark.every():
        try:
            other = benchmark.record
        except InputError:
            continue  # its command reports the broken file
        if other.dataset_fingerprint == record.dataset_fingerprint:
            same.append(benchmark)
        elif other.root == record.root:
            others.append(benchmark)
    return [benchmark for benchmark in same + others if benchmark.result_files]


def benchmark_findings(benchmark: b.Benchmark) -> Findings | None:
    """Return the results of a benchmark so far, None before the first one."""
    results = benchmark.results
    if not results:
        return None
    table = b.benchmark_table(results)
    return Findings(table, b.mean_curves(results), "95 % over injections (Student's t)")


def differ_most(scores: pd.DataFrame, one: str, other: str, *, limit: int) -> list[int]:
    """Return the rows of the pairs with a higher rank in `one` than in `other`, the largest
    difference first."""
    lead = (scores[one].rank() - scores[other].rank()).sort_values(ascending=False, kind="stable")
    return scores["row"][lead[lead > 0].index[:limit]].tolist()
