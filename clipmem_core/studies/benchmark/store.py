"""The folder of a benchmark: what it was asked for, the pairs it plants mistakes in, and a small result a planting.

<data>/benchmarks/<name>/   benchmark.json · pairs.parquet, as those of an audit
    plantings/<kind>-<share>-<seed>.json       how well each detector found what was planted; written last
    plantings/<kind>-<share>-<seed>.parquet    row, planted (true or false) and each detector's score of a judged pair
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import AfterValidator
from typing_extensions import TypedDict

from clipmem_core.audits.settings import check_fields
from clipmem_core.audits.store import PAIRS, Named, read_prepared, read_table
from clipmem_core.config import AuditConfig
from clipmem_core.files import read_json
from clipmem_core.pairs.errors import ERROR_KINDS
from clipmem_core.scores.detection import AUROC, AVERAGE_PRECISION, PRECISION_AT_K

BENCHMARK = "benchmark.json"
KIND, SHARE, SEED, DETECTOR, SECONDS = "kind", "share", "seed", "detector", "seconds"
METRICS = (AUROC, AVERAGE_PRECISION, PRECISION_AT_K)
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
