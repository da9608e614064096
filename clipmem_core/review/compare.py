"""Comparison of a score between two audits, and of the detectors of one audit or benchmark."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy

from clipmem_core.audit.store import PAIRS, SCORES, Audit
from clipmem_core.columns import (
    CLIPMEM,
    GROUP,
    INJECTED,
    MISCAPTION,
    MISFIT,
    PAIR_ID,
    SHA256,
    TARGET_GROUPS,
)
from clipmem_core.config import FIELDS, as_dict, flat
from clipmem_core.io import InputError
from clipmem_core.review.queries import CAPTION_KEY, ROW, cached, fetch_all, number_sql
from clipmem_core.review.rows import misfit_note
from clipmem_core.scores.detection import (
    METRICS,
    detection_table,
    numbers_reviewed,
    precision_curve,
)
from clipmem_core.scores.registry import DETECTION_SCORES
from clipmem_core.scores.seeds import Difference, paired_difference
from clipmem_core.studies import benchmark_results as b

POINTS = 5_000  # pairs in a scatter plot
_RESAMPLED = 2_000_000  # pairs in all bootstrap resamples of one kind of error


@dataclass(frozen=True)
class Comparison:
    """A score in two audits, over the pairs with the same pair_id. Differences are other − one."""

    column: str
    n_common: int
    n_scored: int  # common pairs with a score in both
    only_one: int
    only_other: int
    edited: int  # common pairs with other captions or another picture
    regrouped: int  # common pairs in another group of the same protocol
    spearman: float | None  # None for fewer than three pairs or constant scores
    change: Difference | None  # paired by pair; None without pairs scored in both
    # pair_id, row_one, row_other, one, other, difference, group_one, group_other of pairs that stay
    # in their group, the largest change first
    changed: pd.DataFrame
    points: pd.DataFrame  # the same of a random sample
    warnings: tuple[str, ...]


def compare(one: Audit, other: Audit, *, column: str = CLIPMEM, limit: int) -> Comparison:
    """Compare a score of two audits pair by pair."""
    scores = [
        PAIR_ID,
        f"{ROW} AS row",
        f'"{GROUP}" AS "group"',
        f"{number_sql(column)} AS score",
    ]
    content = [f"hash({CAPTION_KEY}, {SHA256}) AS content"]
    tables = [fetch_all(audit, scores, content) for audit in (one, other)]
    joined = tables[0].merge(tables[1], on=PAIR_ID, suffixes=("_one", "_other"))
    if joined.empty:
        raise InputError(
            f"audits {one.name!r} and {other.name!r} share no pair_id: compare audits of one "
            "data set"
        )
    joined = joined.rename(columns={"score_one": "one", "score_other": "other"})
    joined["difference"] = joined["other"] - joined["one"]
    edited = joined.pop("content_one") != joined.pop("content_other")
    same_protocol = one.record.protocol == other.record.protocol
    regrouped = (joined["group_one"] != joined["group_other"]) & same_protocol
    finite = np.isfinite(joined["difference"])
    scored = joined[finite]
    stayed = joined[finite & ~regrouped]
    largest = stayed.sort_values("difference", key=lambda values: -values.abs(), kind="stable")
    sample = scored.sample(min(len(scored), POINTS), random_state=0).sort_index()
    values = scored["one"].to_numpy(), scored["other"].to_numpy()
    correlated = len(scored) > 2 and min(map(np.ptp, values)) > 0
    warnings = differing_settings(one, other)
    noted = [f"in {audit.name}, {note}" for audit in (one, other) if (note := misfit_note(audit))]
    if column == MISFIT and len(noted) == 1:
        warnings += (f"The formula of misfit differs: {noted[0]}",)
    return Comparison(
        column=column,
        n_common=len(joined),
        n_scored=len(scored),
        only_one=len(tables[0]) - len(joined),
        only_other=len(tables[1]) - len(joined),
        edited=int(edited.sum()),
        regrouped=int(regrouped.sum()),
        spearman=float(scipy.stats.spearmanr(*values).statistic) if correlated else None,
        change=paired_difference(values[1], values[0]) if len(scored) else None,
        changed=largest[:limit].reset_index(drop=True),
        points=sample.reset_index(drop=True),
        warnings=warnings,
    )


def changed_settings(one: Audit, other: Audit) -> pd.DataFrame:
    """Return the settings that differ between two audits: setting, first, second, as text."""
    first, second = (flat(as_dict(audit.record.config)) for audit in (one, other))
    table = pd.DataFrame({"first": first, "second": second}, dtype=object)
    table = table[table["first"] != table["second"]]
    return table.where(table.notna() & (table != ""), "–").astype(str).reset_index(names="setting")


def differing_settings(one: Audit, other: Audit) -> tuple[str, ...]:
    """Return a sentence for each setting that makes the scores of two audits incomparable."""
    return tuple(
        f"The {FIELDS[name].alike} differs: {first} in {one.name}, {second} in {other.name} "
        f"({FIELDS[name].flag}). clipmem is comparable only if it is the same."
        for name, first, second in changed_settings(one, other).itertuples(index=False)
        if FIELDS[name].alike
    )


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
