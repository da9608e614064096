"""How well detectors find injected errors: the folder and results of a benchmark, and the errors
injected into an audit.

<data>/benchmarks/<name>/   config.json, pairs.parquet and more, as of an audit that is not trained
    injections/<kind>-<share>-<seed>.json   metrics of each detector of pairs, captions and words
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder.store import PAIRS, SCORES, Audit
from clipmem_core.dataset.injected_errors import ERROR_KINDS, WORD_KINDS
from clipmem_core.lab.baselines import MISFIT_SECOND, REFERENCE_DETECTOR
from clipmem_core.lab.study_results import (
    MEASURE,
    origin,
    print_line,
    print_table,
    table_of_texts,
    write_csv,
)
from clipmem_core.review.filters import misfit_note
from clipmem_core.review.queries import cached
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
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError, read_json

KIND = "kind"
SHARE = "share"
SEED = "seed"
DETECTOR = "detector"
_CELL = [KIND, SHARE, SEED]
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
OVER = "over_reference"
_INTERVAL = ["mean", "low", "high"]
_OVER_COLUMNS = [OVER, f"{OVER}_low", f"{OVER}_high"]
TABLE_COLUMNS = [KIND, SHARE, DETECTOR, MEASURE, "n", *_INTERVAL, *_OVER_COLUMNS]
INJECTED_AUDITS = "injections/.audits"
OF_INJECTIONS = "95 % over injections (Student's t)"
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

    @property
    def request(self) -> dict[str, Any]:
        """The source and config, and more."""
        return vars(self.record)

    def result_file(self, injection: Injection) -> Path:
        """Return the result file of an injection, which exists if it is done."""
        return self.folder / "injections" / f"{injection.name}.json"

    def injected_audit(self, injection: Injection) -> Audit:
        """Return the audit of an injection, which is deleted once its result is written."""
        return Audit(self.folder / INJECTED_AUDITS / injection.name)

    @property
    def result_files(self) -> list[Path]:
        return list((self.folder / "injections").glob("[!.]*.json"))

    @property
    def stored(self) -> list[dict[str, Any]]:
        """The results of all finished injections, by kind, share and seed; `absent` is why one had
        too few suitable pairs."""
        kinds = list(ERROR_KINDS)
        return sorted(
            (read_json(path, dict[str, Any], repair=_REPAIR) for path in self.result_files),
            key=lambda result: (kinds.index(result[KIND]), result[SHARE], result[SEED]),
        )

    @property
    def absent(self) -> list[str]:
        """The kinds with too few suitable pairs, with the reason."""
        reasons = {result[KIND]: result["absent"] for result in self.stored if result["absent"]}
        return [f"{kind}: {reason}" for kind, reason in reasons.items()]

    @property
    def rows(self) -> pd.DataFrame:
        """One row per finished injection and detector: kind, share, seed, detector, the numbers of
        pairs reviewed, the curve of precision at them, and the other measures."""
        rows = [
            result | metrics | {DETECTOR: name}
            for result in self.stored
            if not result["absent"]
            for name, metrics in result["detectors"].items()
        ]
        return pd.DataFrame(rows, columns=[*_CELL, DETECTOR, "numbers", "curve", *SHORT])


def benchmark_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Average each measure of each detector over injections, and compare it with that of
    `REFERENCE_DETECTOR` on the same injections.

    Intervals are Student's t over injections; NaN below three. `over_reference` is the mean of the
    paired differences detector − reference.
    """
    if rows.empty:
        return pd.DataFrame(columns=TABLE_COLUMNS)
    by = [KIND, SHARE, DETECTOR, MEASURE]
    values = rows.set_index([*_CELL, DETECTOR])[list(SHORT)]
    values = values.astype(float).rename_axis(columns=MEASURE)
    over = values - values.xs(REFERENCE_DETECTOR, level=DETECTOR)
    long = pd.concat([values.stack(), over.stack()], axis=1, keys=["value", OVER]).reset_index()
    table = over_seeds(long, by=by, measure="value")
    over = over_seeds(long, by=by, measure=OVER).drop(columns="n")
    return table.merge(over.set_axis([*by, *_OVER_COLUMNS], axis=1), on=by, how="left")


def mean_curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Average the precision by number of reviewed pairs over injections: kind, share, detector,
    number, precision. Injections differ by a few scored pairs, so numbers are averaged too."""
    names = {"numbers": "number", "curve": "precision"}
    points = rows.dropna(subset="curve").explode(list(names)).rename(columns=names)
    points = points.astype(dict.fromkeys(names.values(), float))
    by = [KIND, SHARE, DETECTOR, points.groupby(level=0).cumcount()]
    means = points.groupby(by, sort=False)[list(names.values())].mean()
    return means.round({"number": 0}).reset_index()


def cell_text(row: dict[Any, Any]) -> str:
    """Return a mean with its interval, and ▲ or ▼ where it is above or below that of the reference:
    the interval of the paired difference excludes 0."""
    digits = 1 if row[MEASURE].startswith("found") else 3
    text = interval_text(row["mean"], row["low"], row["high"], f".{digits}f")
    if row[f"{OVER}_low"] > 0:
        return f"{text} ▲"
    return f"{text} ▼" if row[f"{OVER}_high"] < 0 else text


def show_benchmark(benchmark: Benchmark) -> None:
    """Print how well pairs are found, a table per kind and share, and the skipped kinds with
    reasons."""
    table = benchmark_table(benchmark.rows)
    table = table[table[MEASURE].isin(METRICS)]
    texts = [cell_text(row) for row in table.to_dict("records")]
    table = table.assign(text=texts, measure=table[MEASURE].map(SHORT))
    table[DETECTOR] = table[DETECTOR].map(words)
    for (kind, share), rows in table.groupby([KIND, SHARE], sort=False):
        title = f"{ERROR_KINDS[str(kind)].label}, {share:.0%}, {rows['n'].max()} injections"
        print_table(title, table_of_texts(rows, DETECTOR, MEASURE))
    for line in benchmark.absent:
        print_line(f"skipped: {line}")
    print_line(
        f"In brackets: {OF_INJECTIONS}, each with another split, draw and members. ▲ ▼: above or "
        f"below {words(REFERENCE_DETECTOR)}. --out and the page Detectors have all measures."
    )
    print_line(str(benchmark.folder))


def write_benchmark_results(benchmark: Benchmark, path: Path, *, command: str) -> None:
    """Write the table of a benchmark as a CSV file."""
    record = benchmark.record
    rows = benchmark.rows
    pairs = benchmark.pairs
    seeds = ", ".join(map(str, sorted({result[SEED] for result in benchmark.stored})))
    seeds += f", each another split and injection, trained by {record.config.members} members"
    head = [
        *origin(command, benchmark.request, seeds),
        f"low, high: {OF_INJECTIONS}; over_reference: detector − misfit, paired",
        f"misfit: {MISFIT_FORMULA}; {words(MISFIT_SECOND)}: {SECOND_FORMULA}",
        f"pairs: {len(pairs):,} with {pairs[c.CAPTIONS].map(len).sum():,} captions; data set: "
        f"{record.dataset_fingerprint}",
        f"skipped: {'; '.join(benchmark.absent) or 'no kind'}",
    ]
    write_csv(path, head, benchmark_table(rows))


@dataclass(frozen=True)
class Findings:
    """How well detectors find injected errors, of each kind and share."""

    table: pd.DataFrame  # kind, share, detector, measure, mean, low, high
    curves: pd.DataFrame  # kind, share, detector, number of pairs reviewed, precision
    interval: str  # the kind of interval from low to high
    note: str = ""  # on misfit of a second round of training


def oriented(table: pd.DataFrame) -> pd.DataFrame:
    """Return the detectors in a table of scores, larger more suspicious."""
    directions = [score.direction for score in DETECTION_SCORES.values()]
    return table[list(DETECTION_SCORES)].astype(float) * directions


@cached(4, SCORES)
def detector_scores(audit: Audit) -> pd.DataFrame:
    """Return each detector with values (larger: more suspicious), of scored or candidate pairs by
    their row."""
    table = audit.read_columns(SCORES, c.GROUP, *DETECTION_SCORES)
    scores = oriented(table)[table[c.GROUP].isin(c.TARGET_GROUPS)]
    scores = scores.where(np.isfinite(scores))
    return scores.loc[:, scores.notna().mean() > 0.5].dropna()


@cached(4, SCORES, PAIRS)
def injected_findings(audit: Audit) -> Findings | None:
    """Return how well an audit's detectors find each kind of injected error; None without injected
    errors."""
    scores = detector_scores(audit)
    injected = audit.read_columns(PAIRS, c.INJECTED)[c.INJECTED][scores.index]
    tables = []
    curves = []
    for kind in sorted(injected.dropna().unique(), key=lambda kind: (kind != c.MISCAPTION, kind)):
        subset = injected.isna() | (injected == kind)
        truth = injected[subset].notna().to_numpy()
        if scores.empty or truth.sum() < 2 or truth.all():
            continue
        error: dict[str, Any] = {KIND: str(kind), SHARE: float(truth.mean())}
        values = {str(name): column.to_numpy() for name, column in scores[subset].items()}
        n_boot = int(np.clip(_RESAMPLED // len(truth), 50, 500))
        detected = detection_table(values, truth, n_boot=n_boot)
        for metric in METRICS:
            part = detected[["score", metric, f"{metric}_low", f"{metric}_high"]]
            part = part.set_axis([DETECTOR, *_INTERVAL], axis=1)
            tables.append(part.assign(measure=metric, n=1, **error))
        numbers = numbers_reviewed(len(truth))
        for name, column in values.items():
            curve = {"number": numbers, "precision": precision_curve(column, truth, numbers)}
            curves.append(pd.DataFrame(error | {DETECTOR: name} | curve))
    if not tables:
        return None
    table = pd.concat(tables, ignore_index=True).reindex(columns=TABLE_COLUMNS)
    interval = "95 % bootstrap over the pairs of this one injection"
    return Findings(table, pd.concat(curves, ignore_index=True), interval, misfit_note(audit))


def benchmarks_of(audit: Audit) -> list[Benchmark]:
    """Return the benchmarks on an audit's data set, those with the same pairs first."""
    record = audit.record
    has_other_pairs = {}
    for benchmark in Benchmark.every():
        with suppress(InputError):  # its command reports the broken file
            other = benchmark.record
            if benchmark.result_files and other.root == record.root:
                has_other_pairs[benchmark] = other.dataset_fingerprint != record.dataset_fingerprint
    return sorted(has_other_pairs, key=has_other_pairs.__getitem__)


def benchmark_findings(benchmark: Benchmark) -> Findings | None:
    """Return the results of a benchmark so far, None before the first one."""
    rows = benchmark.rows
    return Findings(benchmark_table(rows), mean_curves(rows), OF_INJECTIONS) if len(rows) else None


def differ_most(scores: pd.DataFrame, one: str, other: str, *, limit: int) -> list[int]:
    """Return the rows of the pairs with a higher rank in `one` than in `other`, the largest
    difference first."""
    lead = scores[one].rank() - scores[other].rank()
    return lead[lead > 0].nlargest(limit).index.tolist()
