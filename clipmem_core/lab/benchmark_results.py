"""A benchmark's folder and its results: tables with intervals, a CSV and curves.

<data>/benchmarks/<name>/   config.json, pairs.parquet and more, as of an audit that is not trained
    injections/<kind>-<share>-<seed>.json       metrics of each detector of pairs, captions and
                                                words; written last
    injections/<kind>-<share>-<seed>.parquet    row, injected (bool) and each detector's score of
                                                the scored pairs
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console

from clipmem_core import columns as c
from clipmem_core.audit.console import plain
from clipmem_core.audit.store import Audit
from clipmem_core.dataset.injected_errors import ERROR_KINDS, WORD_KINDS
from clipmem_core.io import read_json
from clipmem_core.lab.baselines import DETECTORS, MISFIT_SECOND, REFERENCE_DETECTOR
from clipmem_core.lab.results import print_table, reproducing_command, write_results
from clipmem_core.scores.metrics import AVERAGE_PRECISION, METRICS, PRECISION_AT_K, ROC_AUC
from clipmem_core.scores.registry import MISFIT_FORMULA, SECOND_FORMULA, words
from clipmem_core.scores.seeds import (
    MIN_REPLICATES,
    interval_text,
    paired_difference,
    seed_interval,
)

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
        """Return the result file of an injection, which exists if it is done; each detector's
        scores are beside it."""
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
    table = []
    for key, rows in values.groupby([KIND, SHARE, DETECTOR, MEASURE], sort=False):
        mean = [len(rows), rows["value"].mean(), *seed_interval(rows["value"].to_numpy())]
        paired = rows.dropna()
        over = [np.nan] * 3
        if len(paired):
            difference = paired_difference(paired["value"], paired["value_of_reference"])
            over = [difference.mean, difference.low, difference.high]
        if len(paired) < MIN_REPLICATES:
            over[1:] = [np.nan] * 2
        table.append([*key, *mean, *over])
    return pd.DataFrame(table, columns=TABLE_COLUMNS)


def mean_curves(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Average the precision by number of reviewed pairs over injections: kind, share, detector,
    number, precision.

    Curves are interpolated at the numbers of the first injection, up to the smallest number of
    scored pairs.
    """
    rows = []
    for key, group in itertools.groupby(results, lambda result: (result[KIND], result[SHARE])):
        injections = list(group)
        fewest = min(result["judged"] for result in injections)
        numbers = [number for number in injections[0]["numbers"] if number <= fewest]
        for name, metrics in injections[0]["detectors"].items():
            if "curve" not in metrics:
                continue
            curves = [
                np.interp(numbers, result["numbers"], result["detectors"][name]["curve"])
                for result in injections
                if name in result["detectors"]
            ]
            means = np.mean(curves, axis=0).tolist()
            rows += [(*key, name, *point) for point in zip(numbers, means, strict=True)]
    return pd.DataFrame(rows, columns=[KIND, SHARE, DETECTOR, "number", "precision"])


def show_benchmark(benchmark: Benchmark) -> None:
    """Print a table per kind and share, and the skipped kinds and detectors with reasons."""
    console = Console(highlight=False)
    results = benchmark.results
    by_error = benchmark_table(results).groupby([KIND, SHARE], sort=False)
    for (kind, share), rows in by_error:
        first = next(result for result in results if (result[KIND], result[SHARE]) == (kind, share))
        counts = f"{first['injected']:,} of {first['judged']:,} pairs; {rows['n'].max()} injections"
        changed = f"of {first['changed']:,} changed captions, those in the first pairs"
        headings: dict[Any, str] = {  # by how the measures of a table begin
            tuple(METRICS): f"{ERROR_KINDS[str(kind)].label}, {share:.0%} ({counts})",
            "found": changed,
            ("caption", "sum", "word"): "single captions, by the kind of word, and the place of "
            "the changed word",
            "incidents": "planted runs, their pairs, repairs, and incidents beside them",
            "review": "a review: share of stops at which the interval of what remains holds, and "
            "how far slips at its beginning move the estimate",
        }
        for begin, heading in headings.items():
            part = rows[rows[MEASURE].str.startswith(begin)]
            if len(part):
                print_table(console, heading, _wide(part))
    missing = {f"kind {kind!r}": {reason} for kind, reason in benchmark.absent.items()}
    missing |= {
        words(name): {result["without"].get(name) for result in results} - {None}
        for name in DETECTORS
    }
    for what, reasons in missing.items():
        if reasons:
            console.print(plain(f"{what} is skipped: {'; '.join(sorted(reasons))}"), soft_wrap=True)
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


def benchmark_command(benchmark: Benchmark) -> str:
    """Return the command that reproduces a benchmark."""
    record = benchmark.record
    stored = benchmark.stored
    source = Path(record.source)
    seeds = {result[_SEED] for result in stored}
    kinds = dict.fromkeys(result[KIND] for result in stored)
    shares = {str(result[SHARE]) for result in stored if len(ERROR_KINDS[result[KIND]].shares) > 1}
    command = ["benchmark", source.name if source.is_absolute() else record.source]
    command += [f"--name={benchmark.name}", f"--injections={len(seeds)}", "--kinds", *kinds]
    command += ["--shares", *sorted(shares)] if shares else []
    return reproducing_command(command, record.config)


def write_benchmark_results(benchmark: Benchmark, path: Path) -> None:
    """Write the table of a benchmark as a CSV file."""
    record = benchmark.record
    config = record.config
    results = benchmark.results
    pairs = benchmark.pairs
    seeds = ", ".join(map(str, sorted({result[_SEED] for result in results})))
    skipped = [f"{kind}: {reason}" for kind, reason in benchmark.absent.items()]
    second = f"; {words(MISFIT_SECOND)}: {SECOND_FORMULA}" if config.rounds != "1" else ""
    notes = [
        "low, high: 95 % over injections (Student's t); over_reference: detector − misfit, paired",
        f"misfit: {MISFIT_FORMULA}{second}",
        f"pairs: {len(pairs):,} with {pairs[c.CAPTIONS].map(len).sum():,} captions; data set: "
        f"{record.dataset_fingerprint}",
        f"skipped: {'; '.join(skipped) or 'no kind'}",
    ]
    write_results(
        path,
        benchmark_table(results),
        command=benchmark_command(benchmark),
        machine=record.machine,
        config=config,
        seeds=f"{seeds}, each another split and injection, trained by {config.members} members",
        notes=notes,
    )
