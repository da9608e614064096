"""A benchmark's folder and its results: tables with intervals, a CSV and curves.

<data>/benchmarks/<name>/   benchmark.json · pairs.parquet, as those of an audit
    injections/<kind>-<share>-<seed>.json       metrics of each detector of pairs, captions and
                                                words; written last
    injections/<kind>-<share>-<seed>.parquet    row, injected (bool) and each detector's score of
                                                the scored pairs
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import AfterValidator
from rich.console import Console
from typing_extensions import TypedDict

from clipmem_core import columns as c
from clipmem_core.audit.console import machine_line, plain, write_csv
from clipmem_core.audit.settings import check_fields, typed, typed_flags
from clipmem_core.audit.store import PAIRS, Audit, Named, read_table
from clipmem_core.config import AuditConfig, affecting, as_dict
from clipmem_core.dataset.injected_errors import ERROR_KINDS, WORD_KINDS
from clipmem_core.io import read_json
from clipmem_core.scores.detection import AVERAGE_PRECISION, METRICS, PRECISION_AT_K, ROC_AUC
from clipmem_core.scores.registry import (
    DETECTORS,
    MISFIT_FORMULA,
    MISFIT_SECOND,
    REFERENCE_DETECTOR,
    SECOND_FORMULA,
    words,
)
from clipmem_core.scores.seeds import MIN_REPLICATES, paired_difference, seed_interval
from clipmem_core.studies.results import print_table

BENCHMARK = "benchmark.json"
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
}
DIGITS = {measure: 1 if measure.startswith("found") else 3 for measure in SHORT}
OVER = "over_reference"
TABLE_COLUMNS = [
    KIND,
    SHARE,
    DETECTOR,
    MEASURE,
    "n",
    "mean",
    "low",
    "high",
    OVER,
    f"{OVER}_low",
    f"{OVER}_high",
]
_HINT = "delete its folder and run the benchmark again"


class BenchmarkFile(TypedDict):
    """The fields of benchmark.json."""

    source: str
    root: str
    config: Annotated[AuditConfig, AfterValidator(check_fields)]
    dataset_fingerprint: str
    machine: dict[str, str | int]


class Piece(NamedTuple):
    """One injection: a kind of error, its share of the pairs, and the seed of split, draw and
    members."""

    kind: str
    share: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{np.format_float_positional(self.share)}-{self.seed}"

    @classmethod
    def of(cls, name: str) -> "Piece":
        kind, share, seed = name.rsplit("-", 2)
        return cls(kind, float(share), int(seed))


@dataclass(frozen=True)
class Benchmark(Named):
    """One benchmark's folder. Files are read on access."""

    KIND = "benchmark"
    PARENT = "benchmarks"
    FIRST = BENCHMARK

    @property
    def request(self) -> dict[str, Any]:
        """The content of benchmark.json; its config as an `AuditConfig`."""
        return read_json(self.folder / BENCHMARK, BenchmarkFile, repair=_HINT)

    @property
    def pairs(self) -> pd.DataFrame:
        return read_table(self.folder / PAIRS, repair=_HINT)

    def result(self, piece: Piece) -> Path:
        """Return the result file of an injection; it exists if the injection is done."""
        return self.folder / "injections" / f"{piece.name}.json"

    def scores(self, piece: Piece) -> Path:
        """Return the file with each detector's scores."""
        return self.folder / "injections" / f"{piece.name}.parquet"

    def audit(self, piece: Piece) -> Audit:
        """Return the audit of an injection, which is deleted once its result is written."""
        return Audit(self.folder / "injections" / ".audits" / piece.name)

    @property
    def done(self) -> list[Piece]:
        """The finished injections, by kind, share and seed."""
        pieces = [
            Piece.of(path.name.removesuffix(".json"))
            for path in (self.folder / "injections").glob("[!.]*.json")
        ]
        return sorted(pieces, key=lambda piece: (list(ERROR_KINDS).index(piece.kind), *piece))

    def read(self, piece: Piece) -> dict[str, Any]:
        return read_json(self.result(piece), dict[str, Any], repair=_HINT)

    def results(self) -> list[dict[str, Any]]:
        """Return the results, without injections that had too few suitable pairs."""
        return [result for result in map(self.read, self.done) if not result["absent"]]

    @property
    def absent(self) -> dict[str, str]:
        """The kinds with too few suitable pairs, with the reason."""
        return {
            result[KIND]: result["absent"]
            for result in map(self.read, self.done)
            if result["absent"]
        }


benchmark_of = Benchmark.of
list_benchmarks = Benchmark.every


def metric_rows(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return one row per injection and detector: kind, share, seed, detector and the metrics."""
    rows = [
        {KIND: result[KIND], SHARE: result[SHARE], _SEED: result[_SEED], DETECTOR: name, **metrics}
        for result in results
        for name, metrics in result["detectors"].items()
    ]
    return pd.DataFrame(rows, columns=[KIND, SHARE, _SEED, DETECTOR, *SHORT])


def benchmark_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Average over injections, and compare each detector with the reference on the same injections.

    Intervals are Student's t over injections; NaN below three. `over_reference` is the mean of the
    paired differences detector − reference.
    """
    table = []
    for (kind, share), injections in rows.groupby([KIND, SHARE], sort=False):
        wide = {
            measure: injections.pivot(index=_SEED, columns=DETECTOR, values=measure)
            for measure in SHORT
        }
        for name, measure in itertools.product(dict.fromkeys(injections[DETECTOR]), SHORT):
            values = wide[measure][name].dropna()
            over = [np.nan] * 3
            if values.empty:
                continue
            both = (
                wide[measure][[name]]
                .assign(reference=wide[measure].get(REFERENCE_DETECTOR, np.nan))
                .dropna()
            )
            if len(both):
                paired = paired_difference(both[name], both["reference"])
                ends = [paired.low, paired.high] if paired.n >= MIN_REPLICATES else [np.nan] * 2
                over = [paired.mean, *ends]
            mean = [len(values), values.mean(), *seed_interval(values.to_numpy())]
            table.append([kind, share, name, measure, *mean, *over])
    return pd.DataFrame(table, columns=TABLE_COLUMNS)


def mean_curves(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Average the precision by number of reviewed pairs over injections: kind, share, detector,
    number, precision.

    Curves are interpolated at the numbers of the first injection, up to the smallest number of
    scored pairs.
    """
    rows = []
    for (kind, share), group in itertools.groupby(
        results, lambda result: (result[KIND], result[SHARE])
    ):
        injections = list(group)
        most = min(result["judged"] for result in injections)
        numbers = [number for number in injections[0]["numbers"] if number <= most]
        for name in (
            name for name, metrics in injections[0]["detectors"].items() if "curve" in metrics
        ):
            curves = [
                np.interp(numbers, result["numbers"], result["detectors"][name]["curve"])
                for result in injections
                if name in result["detectors"]
            ]
            means = zip(numbers, np.mean(curves, axis=0).tolist(), strict=True)
            rows += [(kind, share, name, number, value) for number, value in means]
    return pd.DataFrame(rows, columns=[KIND, SHARE, DETECTOR, "number", "precision"])


def show_benchmark(benchmark: Benchmark) -> None:
    """Print a table per kind and share, and the skipped kinds and detectors with reasons."""
    console = Console(highlight=False)
    results = benchmark.results()
    for (kind, share), cell_rows in benchmark_table(metric_rows(results)).groupby(
        [KIND, SHARE], sort=False
    ):
        injected = [result for result in results if (result[KIND], result[SHARE]) == (kind, share)]
        counts = (
            f"{injected[0]['injected']:,} of {injected[0]['judged']:,} pairs; "
            f"{len(injected)} injections"
        )
        found = cell_rows[MEASURE].str.startswith("found")
        of_pairs = cell_rows[MEASURE].isin(METRICS)
        parts = {
            f"{ERROR_KINDS[str(kind)].label}, {share:.0%} ({counts})": cell_rows[of_pairs],
            f"of {injected[0].get('changed', 0):,} changed captions, those in the "
            "first pairs": cell_rows[found],
            "single captions, by the kind of word, and the place of the changed word": cell_rows[
                ~of_pairs & ~found
            ],
        }
        for heading, part in parts.items():
            shown = pd.DataFrame(
                index=pd.Index(part[DETECTOR].unique()).map(words).rename("detector")
            )
            for measure, cells in part.set_index(part[DETECTOR].map(words)).groupby(
                MEASURE, sort=False
            ):
                name = SHORT[str(measure)].split(": ")[-1]
                digits = DIGITS[str(measure)]
                shown[name] = _intervals(cells[["mean", "low", "high"]], f".{digits}f")
                if measure in METRICS:
                    shown[f"{name} over {REFERENCE_DETECTOR}"] = _intervals(
                        cells[TABLE_COLUMNS[-3:]], f"+.{digits}f"
                    )
            if len(shown):
                print_table(console, heading, shown.fillna("").reset_index())
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


def _intervals(cells: pd.DataFrame, style: str) -> pd.Series:
    texts = [
        f"{mean:{style}}" + ("" if np.isnan(low) else f" [{low:{style}}, {high:{style}}]")
        for mean, low, high in cells.itertuples(index=False)
    ]
    return pd.Series(texts, cells.index)


def command_of(benchmark: Benchmark) -> str:
    """Return the command that reproduces a benchmark."""
    request = benchmark.request
    done = benchmark.done
    config: AuditConfig = request["config"]
    following = (*affecting("machine"), "members" if config.members == 2 * config.folds else "")
    fields = {
        name: value for name, value in typed(as_dict(config)).items() if name not in following
    }
    swaps = sorted({piece.share for piece in done if len(ERROR_KINDS[piece.kind].shares) > 1})
    source = Path(request["source"])
    parts = [
        f"python -m clipmem_core benchmark {source.name if source.is_absolute() else source} "
        f"--name {benchmark.name}",
        f"--preset {config.preset} --injections {len({piece.seed for piece in done})}",
        f"--kinds {' '.join(dict.fromkeys(piece.kind for piece in done))}",
        *([f"--shares {' '.join(map(str, swaps))}"] if swaps else []),
    ]
    return " ".join([*parts, *typed_flags(fields)])


def write_results(benchmark: Benchmark, path: Path) -> None:
    """Write the table below comment lines with command, machine, seeds and means."""
    request = benchmark.request
    results = benchmark.results()
    pairs = benchmark.pairs
    config = as_dict(request["config"])
    seeds = ", ".join(map(str, sorted({result[_SEED] for result in results})))
    skipped = [f"{kind}: {why}" for kind, why in benchmark.absent.items()]
    second = f"; {words(MISFIT_SECOND)}: {SECOND_FORMULA}" if config["rounds"] != "1" else ""
    head = [
        f"command: {command_of(benchmark)}",
        machine_line(request["machine"], config),
        f"seeds: {seeds}, each another split and injection, trained by {config['members']} members",
        "low, high: 95 % over them (Student's t); over_reference: detector − misfit, paired",
        f"misfit: {MISFIT_FORMULA}{second}",
        f"pairs: {len(pairs):,} with {pairs[c.CAPTIONS].map(len).sum():,} captions; data set: "
        f"{request['dataset_fingerprint']}",
        f"skipped: {'; '.join(skipped) or 'no kind'}",
    ]
    write_csv(path, head, benchmark_table(metric_rows(results)))
