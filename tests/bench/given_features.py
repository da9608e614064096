"""Audits of made features, 10,000 to a million pairs × 512 dims, four members: seconds, memory, and how both grow.

Each audit is the command a person types, in an empty data folder. Processor seconds are those of all its processes;
anonymous memory (RssAnon) is sampled and added up over them: files that are mapped do not count, copies do.
"""

import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from clipmem_core.config import DATA_VARIABLE, data_folder
from tests.bench.report import Measure, Measures, console
from tests.made_features import make_features

SIZES, QUICK = (10_000, 100_000, 1_000_000), (500, 1_000)
FLAGS = ("--preset", "locked", "--folds", "4", "--members", "4")
SECONDS_BETWEEN_SAMPLES = 0.2
TARGETS = {1_000_000: "at most 720 on two idle cores"}


def measure(quick: bool, repeats: int) -> Measures:
    """Audit each size once; `repeats` changes nothing."""
    lines: Measures = []
    spent: dict[int, float] = {}
    data_folder().mkdir(parents=True, exist_ok=True)
    for pairs in QUICK if quick else SIZES:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=data_folder().resolve()) as temporary:
            table = make_features(Path(temporary) / "features", pairs=pairs)
            seconds, processor, peak = _audit(table, Path(temporary) / "data", quick=quick)
        spent[pairs] = processor
        console.print(f"{pairs:,} pairs: {seconds:.0f} s, {processor:.0f} s of processors, {peak / 1e6:.0f} MB")
        lines += [
            Measure(f"{pairs:,} pairs (s)", seconds, target=TARGETS.get(pairs, "")),
            Measure(f"{pairs:,} pairs, processors (s)", processor),
            Measure(f"{pairs:,} pairs, anonymous memory (MB)", peak / 1e6, target="under 4000"),
        ]
    few, many = min(spent), max(spent)
    exponent = math.log(spent[many] / spent[few]) / math.log(many / few)
    return [*lines, Measure(f"growth exponent, {few:,} to {many:,} pairs", exponent, target="at most 1.05")]


def _audit(table: Path, data: Path, *, quick: bool) -> tuple[float, float, int]:
    """Return the seconds, the processor seconds and the peak of anonymous bytes of one audit."""
    command = [sys.executable, "-m", "clipmem_core", "audit", str(table), "--name", "bench", *FLAGS]
    command += ["--epochs", "1"] if quick else []
    before, began, peak = _children(), time.perf_counter(), 0
    with subprocess.Popen(command, env={**os.environ, DATA_VARIABLE: str(data)}, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    return time.perf_counter() - began, _children() - before, peak


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _anonymous(pid: int) -> int:
    """Return the anonymous bytes of a process and all that it started."""
    try:
        parent = psutil.Process(pid)
        crew = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_own, crew))


def _own(process: psutil.Process) -> int:
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)
