"""Two small audits of the drawn set, one in each protocol: what they are made from and how their vectors are read."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch

from clipmem_core.audits.executor import PROGRAM, Looks, Task, do_work
from clipmem_core.audits.status import MemberProgress
from clipmem_core.commands import parse
from clipmem_core.config import AuditConfig

ROOT = Path(__file__).parents[2]
# One caption a pair and no crops: few epochs are enough to learn pairs by heart, and every number can be recomputed.
PAPER = shlex.split(
    "--preset tiny --protocol paper --scenes-pairs 400 --captions 1 --crop-scale 1 --epochs 24 --batch-size 32 "
    "--precision fp32 --threads 1"
)
LOCKED = shlex.split("--scenes-pairs 330 --folds 4 --members 8 --batch-size 64 --threads 1")
ENSEMBLE = shlex.split("--preset tiny --scenes-pairs 400 --epochs 10 --threads 1 --rounds 1")


class Silent:
    """A screen that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def pictures(self, done: int, total: int) -> None:
        pass

    def captions(self, done: int, total: int) -> None:
        pass

    def members(self, progress: list[MemberProgress]) -> None:
        pass


def here(tasks: Sequence[Task], *, at_once: int = 1) -> Looks:
    """An executor that trains members in this process, one after the other: no starting of Python."""
    threads = torch.get_num_threads()
    for task in tasks:
        do_work(task.command[len(PROGRAM) :])
        torch.set_num_threads(threads)
        yield task


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Have a data folder made by the first process of a test run that asks for it; nobody may change it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with filelock.FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        if not (done := folder.with_suffix(".done")).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            patch.setenv("CLIPMEM_DATA", str(folder))
            make(folder)
            done.touch()
    return folder


def config_of(flags: Sequence[str]) -> AuditConfig:
    return parse(["audit", "scenes", *flags]).config


def vectors(path: Path) -> np.ndarray:
    """Read a member's embeddings with numpy alone, float64 [n_pairs, dim]."""
    return np.load(path).astype(np.float64)


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
