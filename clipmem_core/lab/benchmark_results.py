"""How well detectors find injected errors: the folder and results of a benchmark, and the errors
injected into an audit.

<data>/benchmarks/<name>/   config.json, pairs.parquet and more, as of an audit that is not trained
    injections/<kind>-<share>-<seed>.json   metrics of each detector of pairs, captions and words
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console

from clipmem_core import columns as c
from clipmem_core.audit.console import plain
from clipmem_core.audit.store import PAIRS, SCORES, Audit
from clipmem_core.dataset.injected_errors import ERROR_KINDS, WORD_KINDS
from clipmem_core.io import InputError, read_json
from clipmem_core.lab.baselines import MISFIT_SECOND, REFERENCE_DETECTOR
from clipmem_core.lab.study_results import print_table, write_results
from clipmem_core.review.queries import ROW, cached, fetch_all, number_sql
from clipmem_core.review.rows import misfit_note
from clipmem_core.scores.metrics import (
    AVERAGE_PRECISION,
    METRICS,
    PRECISION_AT_K,
    ROC_AUC,
    detection_table,
    numbers_reviewed,
    precision_curve,
)
from clipmem_core.scores.registry import DETECTION_SCORES, MISFIT_FORMULA, SECOND_FORMULA, words
from clipmem_core.scores.seeds import interval_text, over_seeds

KIND = "kind"
SHARE = "share"
_SEED = "seed"
DETECTOR = "detector"
MEASURE = "measure"
SHORT = {
    ROC_AUC: "AUROC",
    AVERAGE_PRECISION: "AP",
    PRECISION_AT_K: "P@50",
    # changed captions among the pairs reviewed first
    "found_100": "found in: 100",
    "found_500": "found in: 500",
    "found_1000": "found in: 1,000",
    "caption_auroc": "captions: AUROC",
    "caption_average_precision": "captions: AP",
    **{f"caption_auroc_{kind}": f"captions, AUROC: {kind}" for kind in WORD_KINDS},
    "sum_over_wrong": "captions: Σ p / wrong",
    # shares of the changed words, by their place in the caption
    "word_first": "changed word: first",
    "word_first_two": "changed word: first two",
    "incidents_named": "incidents: kind named",
    "incidents_repaired": "incidents: pairs repaired",
    "incidents_wrongly": "incidents: repairs that are wrong",
    "incidents_false": "incidents: not planted",
    "review_covered": "review: interval holds",
    "review_one_slip": "review: moved by one slip",
    "review_six_slips": "review: moved by six slips",
}
DIGITS = {measure: 1 if measure.startswith("found") else 3 for measure in SHORT}
OVER = "over_reference"
_OVER_COLUMNS = [OVER, f"{OVER}_low", f"{OVER}_high"]
TABLE_COLUMNS = [KIND, SHARE, DETECTOR, MEASURE, "n", "mean", "low", "high", *_OVER_COLUMNS]
_REPAIR = "delete it and run the benchmark again"
_RESAMPLED = 2_000_000  # pairs in all bootstrap resamples of one kind of error


class Injection(NamedTuple):
    """A kind of error, its share of the pairs, and the seed of split, errors and members."""

    kind: str
    share: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{np.format_float_positional(self.share)}-{self.seed}"

    @classmethod
    def of(cls, name: str) -> "Injection":
        kind, share, seed = name.rsplit("-", 2)
        return cls(kind, float(share), int(seed))


@dataclass(frozen=True)
class Benchmark(Audit):
    """One benchmark's folder: the data set as an audit that is not trained, and the results of
    injections. Files are read on access."""

    KIND = "benchmark"
    PARENT = "benchmarks"

    def result_file(self, injection: Injection) -> Path:
        """Return the result file of an injection, which exists if it is done."""
        return self.folder / "injections" / f"{injection.name}.json"

    def injected_audit(self, injection: Injection) -> Audit:
        """Return the audit of an injection, which is deleted once its result is written."""
        return Audit(self.folder / "injections" / ".audits" / injection.name)

    @property
    def result_files(self) -> list[Path]:
        return list((self.folder / "injections").glob("[!.]*.json"))

    @property
    def stored(self) -> list[dict[str, Any]]:
        """The results of all finished injections, by kind, share and seed."""
        kinds = list(ERROR_KINDS)
        return sorted(
            (read_json(path, dict[str, Any], repair=_REPAIR) for path in self.result_files),
            key=lambda result: (kinds.index(result[KIND]), result[SHARE], result[_SEED]),
        )

    @property
    def results(self) -> list[dict[str, Any]]:
        """The results without injections that had too few suitable pairs."""
        return [result for result in self.stored if not result["absent"]]

    @property
    def absent(self) -> dict[str, str]:
        """The kinds with too few suitable pairs, with the reason."""
        return {result[KIND]: result["absent"] for result in self.stored if result["absent"]}


def benchmark_table(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Average each measure of each detector over injections, and compare it with that of
    `REFERENCE` on the same injections.

    Intervals are Student's t over injections; NaN below three. `over_reference` is the mean of the
    paired differences detector − reference.
    """
    values = pd.DataFrame(
        [
            (result[KIND], result[SHARE], result[_SEED], name, measure, metrics[measure])
            for result in results
            for name, metrics in result["detectors"].items()
            for measure in SHORT
            if measure in metrics
        ],
        columns=[KIND, SHARE, _SEED, DETECTOR, MEASURE, "value"],
    )
    reference = values[values[DETECTOR] == REFERENCE_DETECTOR].drop(columns=DETECTOR)
    on = [KIND, SHARE, _SEED, MEASURE]
    values = values.merge(reference, on=on, how="left", suffixes=("", "_of_reference"))
    values[OVER] = values["value"] - values["value_of_reference"]
    by = [KIND, SHARE, DETECTOR, MEASURE]
    table = over_seeds(values, by=by, measure="value")
    over = over_seeds(values, by=by, measure=OVER).drop(columns="n")
    return table.merge(over.set_axis([*by, *_OVER_COLUMNS], axis=1), on=by, how="left")


def mean_curves(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Average the precision by number of reviewed pairs over injections: kind, share, detector,
    number, precision. Injections differ by a few scored pairs, so numbers are averaged too."""
    points = []
    for result in results:
        for name, metrics in result["detectors"].items():
            curve = enumerate(zip(result["numbers"], metrics.get("curve", ()), strict=False))
            points += [(result[KIND], result[SHARE], name, place, *point) for place, point in curve]
    by = [KIND, SHARE, DETECTOR, "place"]
    table = pd.DataFrame(points, columns=[*by, "number", "precision"])
    return table.groupby(by, sort=False).mean().round({"number": 0}).reset_index()


def show_benchmark(benchmark: Benchmark) -> None:
    """Print a table per kind and share, and the skipped kinds with reasons."""
    console = Console(highlight=False)
    by_error = benchmark_table(benchmark.results).groupby([KIND, SHARE], sort=False)
    for (kind, share), rows in by_error:
        title = f"{ERROR_KINDS[str(kind)].label}, {share:.0%}, {rows['n'].max()} injections"
        heading = rows[MEASURE].map(SHORT).str.rpartition(": ")[0]
        for what, part in rows.groupby(heading, sort=False):
            print_table(console, f"{title}: {what}".removesuffix(": "), _wide(part))
    for kind, reason in benchmark.absent.items():
        console.print(plain(f"kind {kind!r} is skipped: {reason}"), soft_wrap=True)
    console.print(
        "In brackets: 95 % over injections (Student's t), each with another split, draw and "
        "members."
    )
    console.print(plain(str(benchmark.folder)), soft_wrap=True)


def _wide(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per detector and one column per measure, with intervals as text."""
    columns = {}
    for measure, cells in rows.groupby(MEASURE, sort=False):
        cells = cells.set_index(DETECTOR)
        label = SHORT[str(measure)].split(": ")[-1]
        digits = DIGITS[str(measure)]
        columns[label] = _intervals(cells[["mean", "low", "high"]], f".{digits}f")
        if measure in METRICS:
            over = f"{label} over {REFERENCE_DETECTOR}"
            columns[over] = _intervals(cells[_OVER_COLUMNS], f"+.{digits}f")
    table = pd.DataFrame(columns).reindex(rows[DETECTOR].unique()).fillna("")
    return table.rename(index=words).rename_axis("detector").reset_index()


def _intervals(cells: pd.DataFrame, style: str) -> pd.Series:
    texts = [interval_text(mean, low, high, style) for mean, low, high in cells.to_numpy()]
    return pd.Series(texts, cells.index)


def write_benchmark_results(benchmark: Benchmark, path: Path, *, command: str) -> None:
    """Write the table of a benchmark as a CSV file."""
    record = benchmark.record
    config = record.config
    results = benchmark.results
    pairs = benchmark.pairs
    seeds = ", ".join(map(str, sorted({result[_SEED] for result in results})))
    skipped = [f"{kind}: {reason}" for kind, reason in benchmark.absent.items()]
    notes = [
        "low, high: 95 % over injections (Student's t); over_reference: detector − misfit, paired",
        f"misfit: {MISFIT_FORMULA}; {words(MISFIT_SECOND)}: {SECOND_FORMULA}",
        f"pairs: {len(pairs):,} with {pairs[c.CAPTIONS].map(len).sum():,} captions; data set: "
        f"{record.dataset_fingerprint}",
        f"skipped: {'; '.join(skipped) or 'no kind'}",
    ]
    write_results(
        path,
        benchmark_table(results),
        command=command,
        machine=record.machine,
        config=config,
        seeds=f"{seeds}, each another split and injection, trained by {config.members} members",
        notes=notes,
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
    table = fetch_all(audit, [f"{ROW} AS row", f'"{c.GROUP}"', *oriented], [c.INJECTED])
    table = table[table[c.GROUP].isin(c.TARGET_GROUPS)]
    names = [name for name in detectors if np.isfinite(table[name]).mean() > 0.5]
    finite = np.isfinite(table[names].to_numpy(dtype=float)).all(axis=1)
    return table.loc[finite, ["row", c.INJECTED, *names]].reset_index(drop=True)


def names_in(scores: pd.DataFrame) -> list[str]:
    """Return the detectors in a table of `detector_scores`."""
    return [str(name) for name in scores.columns if name not in ("row", c.INJECTED)]


@cached(4, SCORES, PAIRS)
def injected_findings(audit: Audit) -> Findings | None:
    """Return how well an audit's detectors find each kind of injected error; None without injected
    errors."""
    scores = detector_scores(audit)
    names = names_in(scores)
    injected = scores[c.INJECTED]
    rows = []
    curves = []
    for kind in sorted(injected.dropna().unique(), key=lambda kind: (kind != c.MISCAPTION, kind)):
        subset = scores[injected.isna() | (injected == kind)]
        truth = subset[c.INJECTED].notna().to_numpy()
        if not names or truth.sum() < 2 or truth.all():
            continue
        values = {name: subset[name].to_numpy(dtype=float) for name in names}
        cell: dict[str, Any] = {KIND: str(kind), SHARE: float(truth.mean())}
        n_boot = int(np.clip(_RESAMPLED // len(subset), 50, 500))
        detected = detection_table(values, truth, n_boot=n_boot)
        for metric in METRICS:
            part = detected[["score", metric, f"{metric}_low", f"{metric}_high"]]
            part = part.set_axis([DETECTOR, "mean", "low", "high"], axis=1)
            values_of = cell | {MEASURE: metric, "n": 1}
            rows.append(part.assign(**values_of))
        numbers = numbers_reviewed(len(subset))
        for name in names:
            curve = {"number": numbers, "precision": precision_curve(values[name], truth, numbers)}
            curves.append(pd.DataFrame(cell | {DETECTOR: name} | curve))
    if not rows:
        return None
    interval = "95 % bootstrap over the pairs of this one injection"
    table = pd.concat(rows, ignore_index=True).reindex(columns=TABLE_COLUMNS)
    return Findings(table, pd.concat(curves, ignore_index=True), interval, misfit_note(audit))


def benchmarks_of(audit: Audit) -> list[Benchmark]:
    """Return the benchmarks on an audit's data set, those with the same pairs first."""
    record = audit.record
    with_same_pairs = {}
    for benchmark in Benchmark.every():
        with suppress(InputError):  # its command reports the broken file
            other = benchmark.record
            if benchmark.result_files and other.root == record.root:
                same = other.dataset_fingerprint == record.dataset_fingerprint
                with_same_pairs[benchmark] = same
    return sorted(with_same_pairs, key=lambda benchmark: not with_same_pairs[benchmark])


def benchmark_findings(benchmark: Benchmark) -> Findings | None:
    """Return the results of a benchmark so far, None before the first one."""
    results = benchmark.results
    if not results:
        return None
    table = benchmark_table(results)
    return Findings(table, mean_curves(results), "95 % over injections (Student's t)")


def differ_most(scores: pd.DataFrame, one: str, other: str, *, limit: int) -> list[int]:
    """Return the rows of the pairs with a higher rank in `one` than in `other`, the largest
    difference first."""
    lead = (scores[one].rank() - scores[other].rank()).sort_values(ascending=False, kind="stable")
    return scores["row"][lead[lead > 0].index[:limit]].tolist()
