"""A benchmark's folder and its results: detectors by kind and share with intervals, on a terminal, as a CSV and curves.

<data>/benchmarks/<name>/   benchmark.json · pairs.parquet, as those of an audit
    plantings/<kind>-<share>-<seed>.json       how well each detector found the injected errors; written last
    plantings/<kind>-<share>-<seed>.parquet    row, planted (true or false) and each detector's score of a scored pair
"""

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
from clipmem_core.audits.console import machine_line, plain, write_csv
from clipmem_core.audits.settings import check_fields, typed, typed_flags
from clipmem_core.audits.store import PAIRS, Named, Prepared, read_prepared, read_table
from clipmem_core.config import AuditConfig, affecting, as_dict
from clipmem_core.io import read_json
from clipmem_core.pairs.errors import ERROR_KINDS
from clipmem_core.scores.detection import AUROC, AVERAGE_PRECISION, DETECTORS, MISFIT_SECOND, PRECISION_AT_K, REFERENCE
from clipmem_core.scores.registry import MISFIT_FORMULA, SECOND_FORMULA, words
from clipmem_core.scores.seeds import MIN_REPLICATES, paired_difference, seed_interval
from clipmem_core.studies.results import print_table

BENCHMARK = "benchmark.json"
KIND, SHARE, SEED, DETECTOR, MEASURE = "kind", "share", "seed", "detector", "measure"
METRICS = (AUROC, AVERAGE_PRECISION, PRECISION_AT_K)
SHORT = {AUROC: "AUROC", AVERAGE_PRECISION: "AP", PRECISION_AT_K: "P@50"}
OVER = "over_reference"
TABLE_COLUMNS = [
    *(KIND, SHARE, DETECTOR, MEASURE, "n", "mean", "low", "high"),
    *(OVER, f"{OVER}_low", f"{OVER}_high"),
]
MEND = "delete its folder and run the benchmark again"


class BenchmarkFile(TypedDict):
    """The fields of benchmark.json."""

    source: str
    root: str
    config: Annotated[AuditConfig, AfterValidator(check_fields)]
    dataset_fingerprint: str
    machine: dict[str, str | int]


class Piece(NamedTuple):
    """One planting: a kind of error, the share of pairs that have it, and the seed of split, draw and members."""

    kind: str
    share: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{np.format_float_positional(self.share)}-{self.seed}"

    @classmethod
    def of(cls, name: str) -> "Piece":
        """Return the piece of a name."""
        kind, share, seed = name.rsplit("-", 2)
        return cls(kind, float(share), int(seed))


@dataclass(frozen=True)
class Benchmark(Named):
    """One benchmark's folder. Its files are read on access."""

    KIND, PARENT, FIRST = "benchmark", "benchmarks", BENCHMARK

    @property
    def asked(self) -> dict[str, Any]:
        """The content of benchmark.json; its config as an `AuditConfig`."""
        return read_json(self.folder / BENCHMARK, BenchmarkFile, repair=MEND)

    @property
    def pairs(self) -> pd.DataFrame:
        return read_table(self.folder / PAIRS, repair=MEND)

    @property
    def prepared(self) -> Prepared:
        return read_prepared(self.folder)

    def result(self, piece: Piece) -> Path:
        """Return the file of a planting's result; if it exists, the planting is done."""
        return self.folder / "plantings" / f"{piece.name}.json"

    def scores(self, piece: Piece) -> Path:
        """Return the table of each detector's score of each pair."""
        return self.folder / "plantings" / f"{piece.name}.parquet"

    @property
    def done(self) -> list[Piece]:
        """The plantings that have a result, by kind, share and seed."""
        found = [Piece.of(path.name.removesuffix(".json")) for path in (self.folder / "plantings").glob("[!.]*.json")]
        return sorted(found, key=lambda piece: (list(ERROR_KINDS).index(piece.kind), *piece))

    def read(self, piece: Piece) -> dict[str, Any]:
        """Return a planting's result."""
        return read_json(self.result(piece), dict[str, Any], repair="delete it and run the benchmark again")

    def results(self) -> list[dict[str, Any]]:
        """Return every planting's result; those whose kind had no room are left out."""
        return [result for result in map(self.read, self.done) if not result["absent"]]

    @property
    def absent(self) -> dict[str, str]:
        """The kinds that had no room in a planting, with the reason."""
        return {result[KIND]: result["absent"] for result in map(self.read, self.done) if result["absent"]}


benchmark_of, open_benchmark, list_benchmarks = Benchmark.of, Benchmark.open, Benchmark.every


def metric_rows(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return one row per planting and detector: kind, share, seed, detector and the metrics."""
    rows = [
        {KIND: one[KIND], SHARE: one[SHARE], SEED: one[SEED], DETECTOR: name, **found}
        for one in results
        for name, found in one["detectors"].items()
    ]
    return pd.DataFrame(rows, columns=[KIND, SHARE, SEED, DETECTOR, *METRICS])


def benchmark_table(rows: pd.DataFrame, *, reference: str = REFERENCE) -> pd.DataFrame:
    """Average over plantings, and compare each detector with the reference on the same plantings.

    Intervals are Student's t over plantings, each of which has its own split, draw and members; NaN below three.
    over_reference is the mean of the paired differences detector − reference.
    """
    found = []
    for (kind, share), own in rows.groupby([KIND, SHARE], sort=False):
        wide = {measure: own.pivot(index=SEED, columns=DETECTOR, values=measure) for measure in METRICS}
        for name in dict.fromkeys(own[DETECTOR]):
            for measure in METRICS:
                values = wide[measure][name].dropna()
                over = [np.nan] * 3
                if reference in wide[measure]:
                    both = wide[measure][[name]].assign(reference=wide[measure][reference]).dropna()
                    paired = paired_difference(both[name], both["reference"])
                    ends = [paired.low, paired.high] if paired.n >= MIN_REPLICATES else [np.nan] * 2
                    over = [paired.mean, *ends]
                mean = [len(values), values.mean(), *seed_interval(values.to_numpy())]
                found.append([kind, share, name, measure, *mean, *over])
    return pd.DataFrame(found, columns=TABLE_COLUMNS)


def mean_curves(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Average precision against the number of pairs reviewed over plantings: kind, share, detector, number, precision.

    Plantings may judge a few pairs more or less: curves are read at the numbers of the first, as far as all reach.
    """
    rows = []
    for kind, share in dict.fromkeys((one[KIND], one[SHARE]) for one in results):
        own = [one for one in results if (one[KIND], one[SHARE]) == (kind, share)]
        numbers = [number for number in own[0]["numbers"] if number <= min(one["judged"] for one in own)]
        for name in own[0]["detectors"]:
            curves = [
                np.interp(numbers, one["numbers"], one["detectors"][name]["curve"])
                for one in own
                if name in one["detectors"]
            ]
            rows += [
                (kind, share, name, number, float(value))
                for number, value in zip(numbers, np.mean(curves, axis=0), strict=True)
            ]
    return pd.DataFrame(rows, columns=[KIND, SHARE, DETECTOR, "number", "precision"])


def show_benchmark(benchmark: Benchmark) -> None:
    """Print a table per kind and share, and what is missing and why."""
    console, results = Console(highlight=False), benchmark.results()
    for (kind, share), own in benchmark_table(metric_rows(results)).groupby([KIND, SHARE], sort=False):
        planted = [one for one in results if (one[KIND], one[SHARE]) == (kind, share)]
        counts = f"{planted[0]['planted']:,} of {planted[0]['judged']:,} pairs; {len(planted)} plantings"
        shown = {"detector": own[DETECTOR].drop_duplicates().map(words).tolist()}
        for measure, cells in own.groupby(MEASURE, sort=False):
            shown[SHORT[str(measure)]] = _intervals(cells[["mean", "low", "high"]], "")
            shown[f"{SHORT[str(measure)]} over {REFERENCE}"] = _intervals(cells[TABLE_COLUMNS[-3:]], "+")
        print_table(console, f"{ERROR_KINDS[str(kind)].label}, {share:.0%} ({counts})", pd.DataFrame(shown))
    missing = {f"kind {kind!r}": {reason} for kind, reason in benchmark.absent.items()}
    missing |= {words(name): {one["without"].get(name) for one in results} - {None} for name in DETECTORS}
    for what, reasons in missing.items():
        if reasons:
            console.print(plain(f"{what} is left out: {'; '.join(sorted(reasons))}"), soft_wrap=True)
    console.print("In brackets: 95 % over plantings (Student's t), each with its own split, draw and members.")
    console.print(plain(str(benchmark.folder)), soft_wrap=True)


def _intervals(cells: pd.DataFrame, sign: str) -> list[str]:
    return [
        f"{mean:{sign}.3f}" + ("" if np.isnan(low) else f" [{low:{sign}.3f}, {high:{sign}.3f}]")
        for mean, low, high in cells.itertuples(index=False)
    ]


def command_of(benchmark: Benchmark) -> str:
    """Return the command that makes a benchmark again."""
    asked, done = benchmark.asked, benchmark.done
    config: AuditConfig = asked["config"]
    following = (*affecting("machine"), "members" if config.members == 2 * config.folds else "")
    given = {name: value for name, value in typed(as_dict(config)).items() if name not in following}
    swaps = sorted({piece.share for piece in done if len(ERROR_KINDS[piece.kind].shares) > 1})
    source = Path(asked["source"])
    parts = [
        f"python -m clipmem_core benchmark {source.name if source.is_absolute() else source} --name {benchmark.name}",
        f"--preset {config.preset} --plantings {len({piece.seed for piece in done})}",
        f"--kinds {' '.join(dict.fromkeys(piece.kind for piece in done))}",
        *([f"--shares {' '.join(map(str, swaps))}"] if swaps else []),
    ]
    return " ".join([*parts, *typed_flags(given)])


def write_results(benchmark: Benchmark, path: Path) -> None:
    """Write the table below comment lines that say what made it."""
    asked, results, pairs = benchmark.asked, benchmark.results(), benchmark.pairs
    config = as_dict(asked["config"])
    seeds = ", ".join(map(str, sorted({one[SEED] for one in results})))
    second = f"; {words(MISFIT_SECOND)}: {SECOND_FORMULA}" if config["rounds"] != "1" else ""
    seconds = pd.DataFrame([one["seconds"] for one in results]).mean()
    by_cell = pd.DataFrame(results, columns=[SHARE, KIND, "recall", "reliability"]).groupby([KIND, SHARE], sort=False)
    head = [
        f"command: {command_of(benchmark)}",
        machine_line(asked["machine"], config),
        f"seeds: {seeds}, each another split and planting, trained by {config['members']} members",
        "low, high: 95 % over them (Student's t); over_reference: detector − misfit, paired",
        f"misfit: {MISFIT_FORMULA}{second}",
        f"pairs: {len(pairs):,} with {pairs[c.CAPTIONS].map(len).sum():,} captions; data set: "
        f"{asked['dataset_fingerprint']}",
        f"left out: {'; '.join(f'{kind}: {why}' for kind, why in benchmark.absent.items()) or 'no kind'}",
        f"seconds of one processor a planting: {', '.join(f'{name} {value:,.1f}' for name, value in seconds.items())}",
        *(
            f"{kind} {share:.0%}: R@5 {own['recall'].mean():.3f}, reliability {own['reliability'].mean():.3f}"
            for (kind, share), own in by_cell
        ),
    ]
    write_csv(path, head, benchmark_table(metric_rows(results)))
