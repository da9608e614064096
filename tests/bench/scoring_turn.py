"""One turn of the pass's benchmark, in a process of its own: make the files, read them, or score from them.

    python -m tests.bench.scoring_turn make FOLDER PAIRS DIM | read FOLDER | score FOLDER

Prints what it measured as JSON.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clipmem_core.columns import EXTERNAL
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership, Sides, paper_membership
from clipmem_core.scores.memorization import memorization_table

KINDS = ("image", "text")
BUFFER = 4 << 20
SECONDS_BETWEEN_SAMPLES = 0.02


def files(folder: Path, member: str) -> list[Path]:
    """Return the two files of embeddings of a member."""
    return [folder / f"{member}-{kind}.npy" for kind in KINDS]


def membership(pairs: int) -> Membership:
    """Return the paper's membership of that many pairs, no two alike."""
    return paper_membership(np.arange(pairs), seeds=1, seed=0)


def make(folder: Path, pairs: int, dim: int) -> dict[str, Any]:
    """Write the files with random vectors of about unit length."""
    rng = np.random.default_rng(0)
    for member in membership(pairs).members:
        for path in files(folder, member):
            np.save(path, rng.standard_normal((pairs, dim), dtype=np.float32) / np.float32(dim) ** 0.5)
    (folder / "pairs").write_text(str(pairs))
    return {}


def read(folder: Path) -> dict[str, Any]:
    """Read every file once, one after the other."""
    buffer = bytearray(BUFFER)
    began = time.perf_counter()
    for path in sorted(folder.glob("*.npy")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return {"seconds": time.perf_counter() - began}


def score(folder: Path) -> dict[str, Any]:
    """Compute the members' terms and the table from the files."""
    drawn = membership(int((folder / "pairs").read_text()))
    with AnonymousMemory() as memory:
        began = time.perf_counter()
        external = drawn.group == EXTERNAL
        mapped = [[np.load(path, mmap_mode="r") for path in files(folder, member)] for member in drawn.members]
        terms = [pair_terms(image, text, external) for image, text in mapped]
        between = time.perf_counter()
        memorization_table(terms, Sides(drawn, "paper", 0))
        ended = time.perf_counter()
    return {
        "seconds": ended - began,
        "terms": between - began,
        "table": ended - between,
        "anonymous": memory.peak,
    }


class AnonymousMemory:
    """Watches this process's anonymous memory (RssAnon) and keeps the largest number of bytes seen."""

    def __init__(self) -> None:
        self.peak = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "AnonymousMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(SECONDS_BETWEEN_SAMPLES):
            lines = Path("/proc/self/status").read_text().splitlines()
            kilobytes = next(line.split()[1] for line in lines if line.startswith("RssAnon"))
            self.peak = max(self.peak, int(kilobytes) * 1024)


def main(arguments: list[str]) -> None:
    """Run one turn and print what it measured."""
    kind, folder, *sizes = arguments
    turns: dict[str, Callable[..., dict[str, Any]]] = {"make": make, "read": read, "score": score}
    print(json.dumps(turns[kind](Path(folder), *(int(size) for size in sizes))))


if __name__ == "__main__":
    main(sys.argv[1:])
