"""A config and a data set → the pace of a few real steps, with as many processes side by side as the audit will run."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audits.members import KEEP_MEMORY, stop
from clipmem_core.audits.settings import side_by_side
from clipmem_core.audits.throughput import Pace, write_sample
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.pairs.table import RawPairs
from clipmem_core.scores.membership import Membership

CAPTIONS_TRIED = 1024


def measure_pace(
    config: AuditConfig, raw: RawPairs, membership: Membership, readable: Sequence[str]
) -> tuple[Pace, float]:
    """Train a little, as many processes side by side as the audit will: their mean pace, and the seconds they start in.

    Raises:
        InputError: the model cannot be built or trained.
    """
    trained = max(1, round(float(membership.trained.sum(axis=1).mean())))
    batch = math.ceil(trained / math.ceil(trained / config.batch_size))
    drawn = raw.pairs[c.CAPTIONS].sample(min(CAPTIONS_TRIED, len(raw.pairs)), random_state=config.seed)
    streams = len(raw.pairs) * config.cache_size**2 * 3 > config.cache_gb * 2**30
    with tempfile.TemporaryDirectory(prefix="clipmem-") as folder:
        write_sample(
            Path(folder),
            config,
            [captions[0] for captions in drawn],
            batch=batch,
            root=raw.root,
            streamed=readable if streams else [],
        )
        return _run_side_by_side(Path(folder), side_by_side(config), threads=config.threads)


def _run_side_by_side(folder: Path, count: int, *, threads: int) -> tuple[Pace, float]:
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "clipmem_core.audits.throughput", str(folder)]
    began = time.monotonic()
    processes = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)
    ]
    try:
        for process in processes:
            _line(process)  # it is warm
        starting = time.monotonic() - began
        for process in processes:
            _say_go(process)
        paces = [Pace(**json.loads(_line(process))) for process in processes]
    finally:
        stop(processes)
    mean = Pace(*np.mean([list(vars(pace).values()) for pace in paces], axis=0).tolist())
    return mean, max(0.0, starting - mean.waited - mean.warm_up)


def _say_go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[bytes]) -> bytes:
    """Return the next line that a process says.

    Raises:
        InputError: it says what is wrong.
        RuntimeError: it died.
    """
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if line.startswith(b'{"error"'):
        raise InputError(json.loads(line)["error"])
    if not line:
        raise RuntimeError(f"the process that measures the steps ended with exit code {process.wait()}")
    return line
