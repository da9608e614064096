"""Audits of made features × 512 dims, four members: seconds, memory, how both grow, and what heads make of products.

Each audit is the command a person types, in an empty data folder. Processor seconds are those of all its processes;
anonymous memory (RssAnon) is sampled and added up over them: files that are mapped do not count, copies do. What heads
reach is counted from the log of the largest audit: operations of a batch (`flops`) times the batches a second after the
first epoch, with as many members side by side as train at once, so that everything a step does counts as time.
"""

import itertools
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from clipmem_core.audits.settings import side_by_side
from clipmem_core.audits.store import Audit
from clipmem_core.config import DATA_VARIABLE, data_folder
from clipmem_core.training.model import HIDDEN
from tests.bench.flops import head_flops, loss_flops
from tests.bench.peak import SIDE, peak_flops
from tests.bench.products import GIGA, steps_a_second
from tests.bench.report import Measure, Measures, console
from tests.made_features import make_features

SIZES, MILLION, QUICK = (1_000, 10_000, 100_000), (1_000, 10_000, 100_000, 1_000_000), (500, 1_000)
WIDTH = 512
FLAGS = ("--preset", "locked", "--folds", "4", "--members", "4")
SECONDS_BETWEEN_SAMPLES = 0.2
WANTED = {1_000_000: "at most 720 on two idle cores"}


def measure(quick: bool, repeats: int) -> Measures:
    """Audit each size once; `repeats` changes nothing."""
    return _grow(QUICK if quick else SIZES, quick=quick)


def measure_million(quick: bool, repeats: int) -> Measures:
    """The same up to a million pairs."""
    return _grow(QUICK if quick else MILLION, quick=quick)


def _grow(sizes: tuple[int, ...], *, quick: bool) -> Measures:
    lines: Measures = []
    spent: dict[int, float] = {}
    data_folder().mkdir(parents=True, exist_ok=True)
    for pairs in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=data_folder().resolve()) as temporary:
            table = make_features(Path(temporary) / "features", pairs=pairs, dim=WIDTH)
            seconds, processor, peak = _audit(table, Path(temporary) / "data", quick=quick)
            audit = Audit(Path(temporary) / "data" / "audits" / "bench")
            own = audit.verdict["seconds"]
            heads = _heads(audit, quick=quick) if pairs == max(sizes) else []
        spent[pairs] = processor
        console.print(f"{pairs:,} pairs: {seconds:.0f} s, {processor:.0f} s of processors, {peak / 1e6:.0f} MB")
        lines += [
            Measure(f"{pairs:,} pairs (s)", seconds, target=WANTED.get(pairs, "")),
            *(Measure(f"{pairs:,} pairs, {part} (s)", own[part]) for part in ("prepare", "members", "scoring")),
            Measure(f"{pairs:,} pairs, processors (s)", processor),
            Measure(f"{pairs:,} pairs, anonymous memory (MB)", peak / 1e6, target="under 4000"),
        ]
    for few, many in itertools.pairwise(spent):
        exponent = math.log(spent[many] / spent[few]) / math.log(many / few)
        lines.append(Measure(f"growth exponent, {few:,} to {many:,} pairs", exponent, target="at most 1.05"))
    return [*lines, *heads]


def _heads(audit: Audit, *, quick: bool) -> Measures:
    """Set the step of a member beside the time that its products alone would take at the peak of this machine: those of
    the heads in the audit's precision, those of the loss in float32."""
    record = audit.record
    config = record.config
    trained = audit.membership[list(record.members)].to_numpy().sum(axis=0).mean()
    batch = round(trained / math.ceil(trained / config.batch_size))
    heads, loss = head_flops(WIDTH, WIDTH, hidden=HIDDEN, dim=256, batch=batch), loss_flops(256, batch)
    crew = {"processes": side_by_side(config), "threads": record.threads}
    pace = float(np.mean([steps_a_second(audit, name) for name in record.members]))
    peak = {
        kind: flops / crew["processes"] for kind, flops in peak_flops(**crew, seconds=1.0 if quick else 3.0).items()
    }
    floor = heads / peak["bfloat16" if config.precision == "amp_bf16" else "float32"] + loss / peak["float32"]
    return [
        Measure("a step of heads (multiplications and additions, GFLOP)", (heads + loss) / GIGA),
        *(
            Measure(f"{kind} product of side {SIDE}, one of {crew['processes']} processes (GFLOP/s)", flops / GIGA)
            for kind, flops in peak.items()
        ),
        Measure("a step of heads (ms)", 1000 / pace),
        Measure("its products alone, at these peaks (ms)", 1000 * floor),
        Measure("share of the matrix-product peak that heads reach", ratio=floor * pace, target="at least 0.5"),
    ]


def _audit(table: Path, data: Path, *, quick: bool) -> tuple[float, float, int]:
    """Return the seconds, the processor seconds and the peak of anonymous bytes of one audit."""
    return run_command(["audit", str(table), "--name", "bench", *FLAGS, *(["--epochs", "3"] if quick else [])], data)


def run_command(words: list[str], data: Path) -> tuple[float, float, int]:
    """Run a command of the package; return its seconds, processor seconds and the peak of its own bytes."""
    command = [sys.executable, "-m", "clipmem_core", *words]
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
