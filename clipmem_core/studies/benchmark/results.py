"""A benchmark's folder and its results: detectors by kind and share with intervals, on a terminal, as a CSV and curves.

<data>/benchmarks/<name>/   benchmark.json · pairs.parquet, as those of an audit
    plantings/<kind>-<share>-<seed>.json       how well each detector found what was planted; written last
    plantings/<kind>-<share>-<seed>.parquet    row, planted (true or false) and each detector's score of a judged pair
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import AfterValidator
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typing_extensions import TypedDict

from clipmem_core.audits.console import machine_line, plain, write_csv
from clipmem_core.audits.settings import check_fields, typed, typed_flags
from clipmem_core.audits.store import PAIRS, Named, read_prepared, read_table
from clipmem_core.config import AuditConfig, affecting, as_dict
from clipmem_core.files import read_json
from clipmem_core.pairs.errors import ERROR_KINDS, SWAP_SHARES
from clipmem_core.scores.detection import AUROC, AVERAGE_PRECISION, DETECTORS, MISFIT_SECOND, PRECISION_AT_K, REFERENCE
from clipmem_core.scores.registry import SECOND_FORMULA, words
from clipmem_core.scores.seeds import paired_difference, seed_interval

BENCHMARK = "benchmark.json"
KIND, SHARE, SEED, DETECTOR, SECONDS = "kind", "share", "seed", "detector", "seconds"
METRICS = (AUROC, AVERAGE_PRECISION, PRECISION_AT_K)
SHORT = {AUROC: "AUROC", AVERAGE_PRECISION: "AP", PRECISION_AT_K: "P@50"}
OVER = "over_reference"
MEASURE = "measure"
TABLE_COLUMNS = [
    *(KIND, SHARE, DETECTOR, MEASURE, "n", "mean", "low", "high"),
    *(OVER, f"{OVER}_low", f"{OVER}_high"),
]
MEND = "delete its folder and run the benchmark again"
MEND_PIECE = "delete it and run the benchmark again, which makes it anew"


class BenchmarkFile(TypedDict):
    """The fields of benchmark.json."""

    source: str
    root: str
    config: Annotated[AuditConfig, AfterValidator(check_fields)]
    dataset_fingerprint: str
    pairs: int
    captions: int
    left_out: dict[str, str]
    towers: list[str]
    machine: dict[str, str | int]
    versions: dict[str, str]
    misfit: str  # its formula


class Found(TypedDict):
    """How well a detector found what was planted."""

    auroc: float
    average_precision: float
    precision_at_k: float
    seconds: float
    curve: list[float]


class PieceFile(TypedDict):
    """The fields of a planting's result."""

    kind: str
    share: float
    seed: int
    planted: int
    judged: int
    absent: str
    recall: float | None
    reliability: float | None
    seconds: dict[str, float]
    numbers: list[int]
    detectors: dict[str, Found]
    without: dict[str, str]


class Piece(NamedTuple):
    """One planting: a kind of mistake, the share of pairs that have it, and the seed of split, draw and members."""

    kind: str
    share: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{np.format_float_positional(self.share)}-{self.seed}"

    @classmethod
    def of(cls, name: str) -> "Piece":
        """Return the piece of a name.

        Example:
            >>> Piece.of("random-0.05-3")
            Piece(kind='random', share=0.05, seed=3)
        """
        kind, share, seed = name.rsplit("-", 2)
        return cls(kind, float(share), int(seed))


@dataclass(frozen=True)
class Benchmark(Named):
    """One benchmark's folder. What is in it is read when asked for."""

    KIND, PARENT, FIRST = "benchmark", "benchmarks", BENCHMARK

    @property
    def asked(self) -> dict[str, Any]:
        """The content of benchmark.json; its config as an `AuditConfig`."""
        return read_json(self.folder / BENCHMARK, BenchmarkFile, mend=MEND)

    @property
    def misfit(self) -> str:
        """The formula of misfit in its plantings."""
        return str(self.asked["misfit"])

    @property
    def pairs(self) -> pd.DataFrame:
        return read_table(self.folder / PAIRS, mend=MEND)

    @property
    def prepared(self) -> Any:
        """Which stored picture each pair is, its look-alikes, and the store."""
        return read_prepared(self.folder)

    def result(self, piece: Piece) -> Path:
        """Return the file that says how a planting came out; where it is, the planting is done."""
        return self.folder / "plantings" / f"{piece.name}.json"

    def scores(self, piece: Piece) -> Path:
        """Return the table of what each detector said of each pair."""
        return self.folder / "plantings" / f"{piece.name}.parquet"

    @property
    def done(self) -> list[Piece]:
        """The plantings that have a result, by kind, share and seed."""
        found = [Piece.of(path.name.removesuffix(".json")) for path in (self.folder / "plantings").glob("[!.]*.json")]
        order = {kind: place for place, kind in enumerate(ERROR_KINDS)}
        return sorted(found, key=lambda piece: (order.get(piece.kind, len(order)), *piece))

    def read(self, piece: Piece) -> dict[str, Any]:
        """Return a planting's result."""
        return read_json(self.result(piece), PieceFile, mend=MEND_PIECE)

    def results(self) -> list[dict[str, Any]]:
        """Return every planting's result; those whose kind had no room are left out."""
        return [result for result in map(self.read, self.done) if not result["absent"]]


def metric_rows(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return one row a planting and detector: kind, share, seed, detector, the metrics and seconds."""
    rows = [
        {KIND: one[KIND], SHARE: one[SHARE], SEED: one[SEED], DETECTOR: name}
        | {column: found[column] for column in (*METRICS, SECONDS)}
        for one in results
        for name, found in one["detectors"].items()
    ]
    return pd.DataFrame(rows, columns=[KIND, SHARE, SEED, DETECTOR, *METRICS, SECONDS])


benchmark_of, open_benchmark, list_benchmarks = Benchmark.of, Benchmark.open, Benchmark.every


def benchmark_table(rows: pd.DataFrame, *, reference: str = REFERENCE) -> pd.DataFrame:
    """Average over plantings, and compare each detector with the reference on the same plantings.

    Args:
        rows: one a planting and detector, as `metric_rows` returns them.
        reference: the detector that others are held against.

    Returns:
        One row a kind, share, detector and measure: n (plantings), mean, low and high (Student's t over plantings, each
        of which has its own split, draw and members; NaN below three); over_reference is the mean of the paired
        differences detector − reference with its interval, above 0 where the detector is better.
    """
    found: list[dict[str, Any]] = []
    for (kind, share), own in rows.groupby([KIND, SHARE], sort=False):
        wide = {measure: own.pivot(index=SEED, columns=DETECTOR, values=measure) for measure in METRICS}
        for name in dict.fromkeys(own[DETECTOR]):
            for measure in METRICS:
                values = wide[measure][name].dropna()
                low, high = seed_interval(values.to_numpy())
                row = {KIND: kind, SHARE: share, DETECTOR: name, MEASURE: measure, "n": len(values)}
                found.append(
                    row | {"mean": values.mean(), "low": low, "high": high} | _over(wide[measure], name, reference)
                )
    return pd.DataFrame(found, columns=TABLE_COLUMNS)


def _over(wide: pd.DataFrame, name: str, reference: str) -> dict[str, float]:
    """Return the paired lead of a detector over the reference, with its interval."""
    if reference not in wide:
        return dict.fromkeys((OVER, f"{OVER}_low", f"{OVER}_high"), float("nan"))
    both = wide[[name]].assign(reference=wide[reference]).dropna()
    found = paired_difference(both[name].tolist(), both["reference"].tolist())
    known = found.n >= 3
    return {
        OVER: found.mean,
        f"{OVER}_low": found.low if known else float("nan"),
        f"{OVER}_high": found.high if known else float("nan"),
    }


def mean_curves(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Average precision against the number of pairs reviewed over plantings: kind, share, detector, number, precision.

    Plantings may judge a few pairs more or less: curves are read at the numbers of the first, as far as all reach.
    """
    rows: list[dict[str, Any]] = []
    cells: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for one in results:
        cells.setdefault((one[KIND], one[SHARE]), []).append(one)
    for (kind, share), own in cells.items():
        numbers = np.array([number for number in own[0]["numbers"] if number <= min(one["judged"] for one in own)])
        for name in own[0]["detectors"]:
            curves = [
                np.interp(numbers, one["numbers"], one["detectors"][name]["curve"])
                for one in own
                if name in one["detectors"]
            ]
            cell = {KIND: kind, SHARE: share, DETECTOR: name}
            rows += [
                cell | {"number": int(number), "precision": float(value)}
                for number, value in zip(numbers, np.mean(curves, axis=0), strict=True)
            ]
    return pd.DataFrame(rows, columns=[KIND, SHARE, DETECTOR, "number", "precision"])


def price(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds of processor time of a planting, by what they are spent on: means over plantings."""
    spent = pd.DataFrame([one["seconds"] for one in results])
    return {str(name): float(value) for name, value in spent.mean().items()}


def show_benchmark(benchmark: Benchmark) -> None:
    """Print a table a kind and share, what is missing and why, and the price."""
    console, results = Console(highlight=False), benchmark.results()
    rows = metric_rows(results)
    table = benchmark_table(rows)
    spent = rows.groupby(DETECTOR)[SECONDS].mean()
    for (kind, share), own in table.groupby([KIND, SHARE], sort=False):
        planted = [one for one in results if (one[KIND], one[SHARE]) == (kind, share)]
        console.print(_shown(planted, own, spent))
    for name, reason in benchmark.asked["left_out"].items():
        console.print(plain(f"kind {name!r} is left out: {reason}"), soft_wrap=True)
    for name in DETECTORS:
        reasons = {one["without"][name] for one in results if name in one["without"]}
        if reasons:
            console.print(plain(f"{words(name)} is left out: {'; '.join(sorted(reasons))}"), soft_wrap=True)
    if results:
        told = ", ".join(f"{name} {value:,.1f} s" for name, value in price(results).items())
        console.print(plain(f"a planting takes, of one processor: {told}"), soft_wrap=True)
    console.print("In brackets: 95 % over plantings (Student's t), each with its own split, draw and members.")
    console.print(plain(str(benchmark.folder)), soft_wrap=True)


def _shown(planted: list[dict[str, Any]], own: pd.DataFrame, spent: pd.Series) -> Table:
    kind, share = planted[0][KIND], planted[0][SHARE]
    says = ERROR_KINDS[kind].label if kind in ERROR_KINDS else kind
    counts = f"{planted[0]['planted']:,} of {planted[0]['judged']:,} pairs"
    table = Table(
        title=f"{says}, {share:.0%} ({counts}; {len(planted)} plantings)",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("detector")
    for measure in METRICS:
        table.add_column(SHORT[measure], justify="right")
    for measure in METRICS[:2]:
        table.add_column(f"{SHORT[measure]} over {REFERENCE}", justify="right")
    table.add_column("s", justify="right")
    for name, cells in own.groupby(DETECTOR, sort=False):
        by = {str(row[MEASURE]): row for row in cells.to_dict("records")}
        means = [_interval(by[measure], "mean", "low", "high") for measure in METRICS]
        leads = [
            Text("–") if name == REFERENCE else _interval(by[measure], OVER, f"{OVER}_low", f"{OVER}_high", sign="+")
            for measure in METRICS[:2]
        ]
        table.add_row(words(str(name)), *means, *leads, f"{spent[name]:.1f}")
    return table


def _interval(row: Mapping[Hashable, Any], mean: str, low: str, high: str, *, sign: str = "") -> Text:
    told = f"{row[mean]:{sign}.3f}"
    return Text(told if pd.isna(row[low]) else f"{told} [{row[low]:{sign}.3f}, {row[high]:{sign}.3f}]")


def command_of(benchmark: Benchmark) -> str:
    """Return the command that makes a benchmark again."""
    asked, done = benchmark.asked, benchmark.done
    config = as_dict(asked["config"])
    following = (*affecting("machine"), "members" if asked["config"].members == 2 * asked["config"].folds else "")
    given = {name: value for name, value in typed(config).items() if name not in following}
    kinds = list(dict.fromkeys(piece.kind for piece in done))
    chosen = (
        "" if kinds == [kind for kind in ERROR_KINDS if kind not in asked["left_out"]] else f"--kinds {' '.join(kinds)}"
    )
    swaps = sorted({piece.share for piece in done if len(ERROR_KINDS[piece.kind].shares) > 1})
    shares = f"--shares {' '.join(map(str, swaps))}" if swaps and tuple(swaps) != SWAP_SHARES else ""
    plantings = 1 + max((piece.seed for piece in done), default=0) - asked["config"].seed
    source = Path(asked["source"]).name if Path(asked["source"]).is_absolute() else asked["source"]
    words_ = ["python -m clipmem_core benchmark", source, f"--name {benchmark.name}"]
    words_ += [f"--preset {config['preset']}", f"--plantings {plantings}", chosen, shares, *typed_flags(given)]
    return " ".join(filter(None, words_))


def write_results(benchmark: Benchmark, path: Path) -> None:
    """Write the table with a head of comment lines that say where it comes from."""
    asked, results = benchmark.asked, benchmark.results()
    config = as_dict(asked["config"])
    seeds = sorted({one[SEED] for one in results})
    recalls = pd.DataFrame(results, columns=[SHARE, KIND, "recall", "reliability"]).groupby([KIND, SHARE], sort=False)
    spent = ", ".join(f"{name} {value:,.1f}" for name, value in price(results).items()) if results else "nothing"
    second = f"; {words(MISFIT_SECOND)}: {SECOND_FORMULA}" if config.get("rounds") != "1" else ""
    head = [
        f"command: {command_of(benchmark)}",
        machine_line(asked["machine"], config),
        f"seeds: {', '.join(map(str, seeds))}, each another split and planting, trained by {config['members']} members",
        "low, high: 95 % over them (Student's t); over_reference: detector − misfit, paired",
        f"misfit: {benchmark.misfit}{second}",
        f"pairs: {asked['pairs']:,} with {asked['captions']:,} captions; data set: {asked['dataset_fingerprint']}",
        f"left out: {'; '.join(f'{kind}: {why}' for kind, why in asked['left_out'].items()) or 'no kind'}",
        f"seconds of one processor a planting: {spent}",
        *(
            f"{kind} {share:.0%}: R@5 {own['recall'].mean():.3f}, reliability {own['reliability'].mean():.3f}"
            for (kind, share), own in recalls
        ),
    ]
    write_csv(path, head, benchmark_table(metric_rows(results)))
