"""Two small audits of the drawn set, one in each protocol: what they are made from and how their vectors are read."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np

from clipmem_core.audits.progress import MemberProgress
from clipmem_core.commands import parse
from clipmem_core.config import AuditConfig

ROOT = Path(__file__).parents[2]
# One caption a pair and no crops: few epochs are enough to learn pairs by heart, and every number can be recomputed.
PAPER = shlex.split(
    "--preset tiny --protocol paper --scenes-pairs 400 --captions 1 --crop-scale 1 --epochs 24 --batch-size 32 "
    "--precision fp32 --threads 1"
)
ENSEMBLE = shlex.split("--preset tiny --scenes-pairs 400 --epochs 10 --threads 1")


class Silent:
    """A screen that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def pictures(self, done: int, total: int) -> None:
        pass

    def members(self, progress: list[MemberProgress]) -> None:
        pass


def config_of(flags: Sequence[str]) -> AuditConfig:
    return parse(["audit", "scenes", *flags]).config


def vectors(path: Path) -> np.ndarray:
    """Read an index's vectors with FAISS alone, float64 [n_pairs, dim]."""
    index = faiss.read_index(str(path))
    return index.reconstruct_n(0, index.ntotal).astype(np.float64)


# As `python -m clipmem_core`, but with Ctrl-C as in a terminal: where tests run in the background it is ignored.
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from clipmem_core.commands import main
sys.exit(main(sys.argv[1:]))
"""


def command(*arguments: str, data: Path, **environment: str) -> "subprocess.Popen[str]":
    """Start the command line in a process group of its own, where Ctrl-C works as in a terminal."""
    path = os.pathsep.join(filter(None, [environment.pop("PYTHONPATH", ""), str(ROOT)]))
    return subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        env={**os.environ, **environment, "PYTHONPATH": path, "CLIPMEM_DATA": str(data)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def with_drawn_set(data: Path, made: Path) -> Path:
    """Give a new data folder the drawn set of another, but not what was computed from it."""
    shutil.copytree(made / "sets", data / "sets")
    return data
