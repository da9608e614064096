"""Writes the folder of a small benchmark with made-up results: what pages read of one."""

import numpy as np

from clipmem_core.audits.settings import machine, versions
from clipmem_core.audits.store import write_json
from clipmem_core.config import as_dict, preset_config
from clipmem_core.pairs.errors import ERROR_KINDS
from clipmem_core.scores.detection import DETECTORS, numbers_reviewed
from clipmem_core.scores.registry import MISFIT_FORMULA
from clipmem_core.studies.benchmark.results import BENCHMARK, METRICS, Benchmark, Piece, benchmark_of


def make_benchmark(name: str, *, root: str, fingerprint: str = "another", plantings: int = 3) -> Benchmark:
    """Write a benchmark into the data folder: every kind at its shares, and better detectors first."""
    benchmark, rng = benchmark_of(name), np.random.default_rng(0)
    (benchmark.folder / "plantings").mkdir(parents=True)
    config = as_dict(preset_config("tiny")) | {"members": 4}
    asked = {"source": "scenes", "root": root, "config": config, "dataset_fingerprint": fingerprint}
    asked |= {"pairs": 300, "captions": 1500, "left_out": {}, "towers": [], "machine": machine()}
    asked |= {"misfit": MISFIT_FORMULA}
    write_json(benchmark.folder / BENCHMARK, asked | {"versions": versions()})
    for kind, known in ERROR_KINDS.items():
        for piece in (Piece(kind, share, seed) for share in known.shares for seed in range(plantings)):
            write_json(benchmark.result(piece), _result(piece, rng))
    return benchmark


def _result(piece: Piece, rng: np.random.Generator) -> dict[str, object]:
    numbers = numbers_reviewed(200)
    detectors = {}
    for place, name in enumerate(DETECTORS):
        level = 0.95 - 0.03 * place
        values = {metric: float(level + rng.normal() * 0.01) for metric in METRICS}
        curve = (piece.share + (level - piece.share) * np.linspace(1, 0, len(numbers))).tolist()
        detectors[name] = values | {"seconds": 0.1, "curve": curve}
    found = {"planted": 40, "judged": 200, "absent": "", "recall": 0.5, "reliability": 0.8, "without": {}}
    return piece._asdict() | found | {"numbers": numbers.tolist(), "detectors": detectors, "seconds": {"members": 3.0}}
