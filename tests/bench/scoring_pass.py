"""The clipmem pass over files of embeddings of a million pairs, against one sequential read of the same files.

The pass is the terms of two members and the table. The four files (two members, pictures and texts) lie in the page
cache. Each turn is a process of its own: a read in blocks of 4 MB into one buffer, then the pass, three times. Time is
that of the work, without Python's start. Anonymous memory is sampled while the pass runs, for the process as a whole:
libraries and the table it makes count.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from clipmem_core.config import data_folder
from tests.bench.report import Measure, Measures, Skipped, console, spread

GIGA = 1e9
TURNS = 3
MEMBERS = 2
MEMORY_LIMIT = 2 * 2**30


def measure(quick: bool, repeats: int) -> Measures:
    """Make the files, then read and score in turn; `repeats` changes nothing."""
    pairs, dim = (100_000, 512) if quick else (1_000_000, 512)
    size = pairs * dim * 4 * 2 * MEMBERS
    data_folder().mkdir(parents=True, exist_ok=True)
    check_room(data_folder(), size)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=data_folder().resolve()) as temporary:
        console.print(f"writing {size / GIGA:.1f} GB of files of embeddings")
        in_process("make", temporary, str(pairs), str(dim))
        os.sync()
        in_process("read", temporary)  # the cache is warm from here on
        reads, passes = [], []
        for _ in range(TURNS):
            reads.append(in_process("read", temporary))
            passes.append(in_process("score", temporary))
            console.print(f"read {reads[-1]['seconds']:.2f} s, pass {passes[-1]['seconds']:.2f} s")
    return compare(reads, passes, pairs=pairs, dim=dim, size=size)


def check_room(folder: Path, size: int) -> None:
    """Leave the part out where the files do not fit the disk, or the memory that has to keep them cached."""
    free = shutil.disk_usage(folder).free
    if free < 1.2 * size:
        raise Skipped(f"it needs {1.2 * size / GIGA:.0f} GB on the disk of {folder}, {free / GIGA:.0f} GB are free")
    available = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    wanted = 1.5 * size + MEMORY_LIMIT
    if available < wanted:
        raise Skipped(f"it needs {wanted / GIGA:.0f} GB of memory, {available / GIGA:.0f} GB are available")


def in_process(*arguments: str) -> dict[str, Any]:
    """Run one turn in a fresh process and return what it measured."""
    command = [sys.executable, "-m", "tests.bench.scoring_turn", *arguments]
    finished = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(finished.stdout)


def compare(reads: list[dict[str, Any]], passes: list[dict[str, Any]], *, pairs: int, dim: int, size: int) -> Measures:
    """Set the pass beside the read: a ratio is that of one turn."""
    middle = statistics.median
    what = f"{pairs:,} pairs × {dim} × {MEMBERS} members"
    peak = max(turn["anonymous"] for turn in passes)
    read = [turn["seconds"] for turn in reads]
    scored = [turn["seconds"] for turn in passes]
    return [
        Measure(f"one sequential read of {size / GIGA:.2f} GB (s)", middle(read)),
        Measure(f"the pass over {what} (s)", middle(scored)),
        Measure("of that, the terms of the members (s)", middle(turn["terms"] for turn in passes)),
        Measure("of that, the table (s)", middle(turn["table"] for turn in passes)),
        *spread("pass / read", [b / a for a, b in zip(read, scored, strict=True)], "at most 3"),
        Measure("peak anonymous memory (MB)", peak / 1e6, target=f"under {MEMORY_LIMIT / 1e6:.0f}"),
    ]
