"""Two small audits of the synthetic set, one in each protocol, and their scores recomputed by slow
loops."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import filelock
import numpy as np
import pandas as pd
import pytest

from clipmem_core.auditing.folder.jobs import Screen
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.executor import Task, TaskEvents, in_this_process
from clipmem_core.cli import parse_command
from clipmem_core.config import AuditConfig

ROOT = Path(__file__).parents[2]
PAIRS = 320
# One caption a pair and no crops: few epochs are enough to memorize pairs, and every number can be
# recomputed.
PAPER = shlex.split(
    f"--preset tiny --scenes-pairs {PAIRS} --protocol paper --captions 1 --crop-scale 1 "
    "--epochs 24 --batch-size 32 --precision fp32 --threads 1"
)
LOCKED = shlex.split("--scenes-pairs 330 --folds 4 --members 8 --batch-size 64 --threads 1")
ENSEMBLE = shlex.split(f"--preset tiny --scenes-pairs {PAIRS} --epochs 10 --threads 1 --rounds 1")


class Silent(Screen):
    """A screen that records its lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def run_script(folder: Path, names: Sequence[str]) -> None:
    """The work of a task whose name is a script."""
    exec(names[0], {"folder": folder})


def in_process(tasks: Sequence[Task], *, at_once: int = 1) -> TaskEvents:
    """Train members in this process, one after the other; an executor."""
    return in_this_process(tasks)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Have a data folder made by the first process of a test run that asks for it; nobody may
    change it."""
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
    return parse_command(["audit", "scenes", *flags]).config


def vectors(path: Path) -> np.ndarray:
    """Read a member's embeddings with faiss alone, float64 [n_pairs, dim]."""
    index = faiss.read_index(str(path))
    return index.reconstruct_n(0, index.ntotal).astype(np.float64)


# As `python -m clipmem_core`, but with Ctrl-C as in a terminal: where tests run in the background
# it is ignored.
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from clipmem_core.cli import main
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


def embeddings(audit: Audit, member: str) -> tuple[np.ndarray, np.ndarray]:
    return vectors(audit.member(member) / "image.faiss"), vectors(
        audit.member(member) / "text.faiss"
    )


def aligned(image: np.ndarray, text: np.ndarray, held_out: np.ndarray) -> dict[str, np.ndarray]:
    """Pair by pair, with the held-out pairs other than itself as negatives."""
    rows = np.flatnonzero(held_out)
    components: dict[str, np.ndarray] = {
        name: np.empty(len(image)) for name in ("positive", "negative_text", "negative_image")
    }
    for i in range(len(image)):
        others = rows[rows != i]
        components["positive"][i] = image[i] @ text[i]
        components["negative_text"][i] = np.mean(text[others] @ image[i])
        components["negative_image"][i] = np.mean(image[others] @ text[i])
    lengths = np.linalg.norm(image, axis=1) * np.linalg.norm(text, axis=1)
    components["similarity"] = components["positive"] / lengths
    components["alignment"] = (
        components["positive"] - components["negative_text"] - components["negative_image"]
    )
    return components


class Recomputed:
    """An audit, read without the code under test."""

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self.scores = pd.read_parquet(audit.folder / "scores.parquet")
        table = pd.read_parquet(audit.folder / "membership.parquet")
        self.group = table["group"].to_numpy(dtype=str)
        self.members = table.columns[2:].tolist()
        self.trained = table[self.members].to_numpy().T
        self.held_out = self.group == "held-out"
        self.components = [
            aligned(*embeddings(audit, name), self.held_out) for name in self.members
        ]

    def over(self, name: str, chosen: np.ndarray) -> np.ndarray:
        """Mean of a component over the chosen members of each pair, [n_members, n_pairs], as
        [n_pairs]."""
        values = np.stack([components[name] for components in self.components])
        with np.errstate(invalid="ignore"):
            return np.where(chosen, values, 0).sum(axis=0) / chosen.sum(axis=0)
