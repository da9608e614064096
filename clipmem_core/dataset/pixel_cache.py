"""The pictures of a data set, decoded once by worker processes and cached in a folder.

    facts.parquet      one row a picture: width, height, sha256, reason
    descriptors.npy    uint8 [n_pictures, 768], for `near_duplicates`
    pixels.npy         uint8 [n_pictures, size, size, 3]; only if it fits the budget, else decoded
                       at every use

The folder is built under a temporary name and then renamed, so an existing folder is complete.
A folder whose files do not have their hashes (sha256.json) is built again.

A worker may crash, hang or be killed. It is a fresh Python, not a fork: threads of the caller
cannot deadlock it, and it ends when the caller is killed.
"""

import functools
import math
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL
import pyarrow.parquet as pq
from pebble import ProcessExpired, ProcessPool

from clipmem_core.config import fingerprint
from clipmem_core.dataset.pictures import Fact, check_chunk, discard_output, read_square
from clipmem_core.dataset.readers.containers import source_stamp
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import cached_folder, cores, naming
from clipmem_core.utils.processes import Spawn

VERSION = 3  # of what is stored and how it is computed; a new number leaves old caches behind
FACTS_FILE = "facts.parquet"
DESCRIPTORS_FILE = "descriptors.npy"
PIXELS_FILE = "pixels.npy"

_CRASHED = "the process decoding it crashed or hung"
_CHUNK = 16  # pictures handed to a process at a time
SECONDS = 300.0  # limit of a chunk; the largest picture takes a few seconds


@dataclass(eq=False)
class Pixels:
    """Squares of some pictures of a cache, numbered from 0: mapped from its file, or decoded at
    every use."""

    folder: Path  # of the cache
    rows: np.ndarray  # int64 [n], the row of each picture in the cache
    size: int  # pixels of a square's side
    images: Sequence[str] = ()  # reference of each picture
    read: Callable[[str], np.ndarray] | None = None  # decodes the square of a reference
    # uint8 [n_cached, size, size, 3]; None: the cache has no squares
    stored: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def descriptors(self) -> np.ndarray:
        """Return the descriptors of the pictures for `near_duplicate_clusters`, uint8 [n, 768]."""
        return np.load(self.folder / DESCRIPTORS_FILE)[self.rows]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the squares of rows in 0 … len − 1, uint8 [len(rows), size, size, 3]; they must
        have no `reason`."""
        if self.stored is not None:
            return self.stored[self.rows[rows]]
        assert self.read is not None
        with ThreadPoolExecutor(cores()) as threads:
            return np.stack(list(threads.map(self.read, [self.images[row] for row in rows])))

    def select(self, rows: np.ndarray) -> "Pixels":
        """Return a selection: picture i of the result is picture rows[i] of this."""
        return replace(self, rows=self.rows[rows], images=[self.images[row] for row in rows])


def open_pixels(
    folder: Path,
    *,
    rows: np.ndarray,
    root: Path,
    images: Sequence[str],
    size: int,
    resize_mode: str,
) -> Pixels:
    """Open squares that `check_pictures` stored; `images` has the reference of each row, relative
    to `root`."""
    file = folder / PIXELS_FILE
    stored = np.asarray(np.load(file, mmap_mode="r")) if file.exists() else None
    read = functools.partial(read_square, root, size=size, resize_mode=resize_mode)
    return Pixels(folder, rows, size, images, read, stored)


def check_pictures(
    root: Path,
    images: Sequence[str],
    *,
    size: int,
    resize_mode: str,
    cache: Path,
    budget_bytes: int,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[pd.DataFrame, Pixels]:
    """Decode every picture of a data set once, or read the facts and squares (`Pixels`) that an
    earlier run stored.

    Above `budget_bytes`, no squares are stored. A full disk or a lack of memory raises OSError or
    MemoryError, stores nothing, and marks no picture as unusable. The facts are, in order, width
    and height of the upright original (0 if unusable), sha256 of the file's bytes (empty if they
    cannot be read), and reason (None, or why it is unusable).
    """
    shape = (len(images), size, size, 3)
    fits = 0 < math.prod(shape) <= budget_bytes
    content = [VERSION, PIL.__version__, size, resize_mode, fits, source_stamp(root, images)]

    def decode(folder: Path) -> None:
        squares = folder / PIXELS_FILE if fits else None
        if squares:  # zeros, which take no room on the disk yet
            np.lib.format.open_memmap(squares, mode="w+", dtype=np.uint8, shape=shape)
        work = functools.partial(
            check_chunk, root=root, size=size, resize_mode=resize_mode, pixels=squares
        )
        facts = dict[int, Fact]()
        chunks = map_chunks(work, list(enumerate(images)), workers=cores(), chunk=_CHUNK)
        with closing(chunks):
            for chunk, result in chunks:
                facts |= result or {row: Fact(reason=_CRASHED) for row, _ in chunk}
                if progress is not None:
                    progress(len(facts), len(images))
        table = pd.DataFrame([facts[row] for row in sorted(facts)], columns=Fact._fields)
        descriptors = np.frombuffer(b"".join(table.pop("descriptor")), np.uint8)
        np.save(folder / DESCRIPTORS_FILE, descriptors.reshape(len(table), len(Fact().descriptor)))
        table.to_parquet(folder / FACTS_FILE, index=False)

    folder = cache / fingerprint(content)
    with naming(folder):
        cached_folder(folder, decode, say=say)
    facts_of_pictures = pd.DataFrame(pq.read_table(folder / FACTS_FILE).to_pydict(), dtype=object)
    rows = np.arange(len(images))
    pixels = open_pixels(
        folder, rows=rows, root=root, images=images, size=size, resize_mode=resize_mode
    )
    return facts_of_pictures.astype({c.WIDTH: np.int64, c.HEIGHT: np.int64}), pixels


def map_chunks(
    work: Callable[[list[Any]], Any], items: Sequence[Any], *, workers: int, chunk: int
) -> Generator[tuple[list[Any], Any], None, None]:
    """Yield each chunk of items with the result of `work`, a function of a module or a partial of
    one.

    The items of a chunk whose process died or hung are retried one by one at the end, in a single
    process. An item that crashes or hangs its process again has the result None; one whose process
    is killed again raises MemoryError.
    """
    chunks = [list(items[start : start + chunk]) for start in range(0, len(items), chunk)]
    retries = list[list[Any]]()
    for parts, processes in ((chunks, workers), (retries, 1)):
        pool = ProcessPool(processes, initializer=discard_output, context=Spawn())
        try:
            futures = deque(pool.schedule(work, (part,), timeout=SECONDS) for part in parts)
            for part in parts:
                result = None
                try:
                    result = futures.popleft().result()
                except (ProcessExpired, TimeoutError) as error:
                    if parts is chunks:
                        retries += [[item] for item in part]
                        continue
                    # by the system, for example when memory ran out
                    if getattr(error, "exitcode", 0) == -signal.SIGKILL:
                        raise MemoryError(
                            f"the process working on {part[0]!r} was killed, alone as well"
                        ) from error
                yield part, result
        finally:
            pool.stop()
            pool.join()
