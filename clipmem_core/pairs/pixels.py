"""The pictures of a data set, cached in a folder of files; a file that is missing or cannot be read is made again.

    facts.parquet      one row a picture: width, height, sha256, reason
    descriptors.npy    uint8 [n_pictures, 768], for `lookalikes`
    pixels.npy         uint8 [n_pictures, size, size, 3]; only if it fits the budget
    cache.json         the square's size and resize mode

Each picture is decoded once. Squares that fit a budget are mapped from one file. Others are decoded again at every use,
to the same bytes. The folder is built under another name and then renamed: it is complete or not there.
"""

import functools
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL
import pyarrow.parquet as pq
from filelock import FileLock

from clipmem_core import columns as c
from clipmem_core.config import fingerprint
from clipmem_core.io import naming, shortage, sync
from clipmem_core.pairs.pictures import Fact, check_chunk, read_square
from clipmem_core.pairs.references import source_stamp
from clipmem_core.pairs.workers import cores, map_chunks

VERSION = 2  # of what is stored and how it is computed; a new number leaves old caches behind
FACTS_FILE = "facts.parquet"
DESCRIPTORS_FILE = "descriptors.npy"
PIXELS_FILE = "pixels.npy"
CACHE_FILE = "cache.json"

Progress = Callable[[int, int], None]

_CHUNK = 16  # pictures handed to a process at a time


@dataclass(eq=False)
class Pixels:
    """The squares of some pictures of a cache, addressed 0 … len − 1: mapped from its file, or decoded at every use."""

    folder: Path  # of the cache
    rows: np.ndarray  # int64 [n], the row of each picture in the cache
    size: int  # pixels of a square's side
    images: Sequence[str] = ()  # reference of each picture
    read: Callable[[str], np.ndarray] | None = None  # decodes the square of a reference
    stored: np.ndarray | None = None  # uint8 [n_cached, size, size, 3]; None: the cache has no squares

    def __len__(self) -> int:
        return len(self.rows)

    def descriptors(self) -> np.ndarray:
        """Return the descriptors of the pictures, uint8 [n, 768], which `lookalike_clusters` reads."""
        return np.load(self.folder / DESCRIPTORS_FILE)[self.rows]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the squares of rows in 0 … len − 1, uint8 [len(rows), size, size, 3]; they must have no `reason`."""
        if self.stored is not None:
            return self.stored[self.rows[rows]]
        assert self.read is not None
        squares = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        with ThreadPoolExecutor(cores()) as threads:
            for i, square in enumerate(threads.map(self.read, [self.images[row] for row in rows])):
                squares[i] = square
        return squares

    def select(self, rows: np.ndarray) -> "Pixels":
        """Return the same squares, addressed anew: picture i of the result is picture rows[i] of this."""
        return replace(self, rows=self.rows[rows], images=[self.images[row] for row in rows])


def open_pixels(folder: Path, *, rows: np.ndarray, root: Path, images: Sequence[str]) -> Pixels:
    """Open squares that `check_pictures` stored, in any process, within milliseconds.

    `folder` and `rows` are as in `Pixels`; `images` has the reference of each row, relative to `root`.
    """
    made = json.loads((folder / CACHE_FILE).read_text())
    file = folder / PIXELS_FILE
    stored = np.asarray(np.load(file, mmap_mode="r")) if file.exists() else None
    read = functools.partial(read_square, root, **made)
    return Pixels(folder, np.asarray(rows, np.int64), made["size"], images, read, stored)


def check_pictures(
    root: Path,
    images: Sequence[str],
    *,
    size: int,
    resize_mode: str,
    cache: Path,
    budget_bytes: int,
    workers: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[pd.DataFrame, Pixels]:
    """Decode every picture of a data set once, or read what an earlier run stored of them.

    Above `budget_bytes` of squares, none are stored and pictures stream from their files. A machine that runs short of
    something raises OSError or MemoryError, stores nothing, and says nothing of a picture.

    Returns:
        One row a picture, in order: width and height of the upright original (0 if unusable), sha256 of the file's
        bytes (empty if they cannot be read), reason (None, or why it is unusable); and the squares.
    """
    kind = [VERSION, PIL.__version__, size, resize_mode]
    folder = cache / fingerprint([*kind, source_stamp(root, images)])
    shape = (len(images), size, size, 3)
    fits = 0 < math.prod(shape) <= budget_bytes
    if broken_file(folder, with_pixels=fits):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.name}.lock"):  # two audits of one data set decode it once
            if broken := broken_file(folder, with_pixels=fits):
                if folder.is_dir():
                    say(f"{broken} is broken or gone: storing the small pictures again")
                with _replacing_folder(folder) as part:
                    pixels = part / PIXELS_FILE if fits else None
                    if pixels:  # zeros, which take no room on the disk yet
                        np.lib.format.open_memmap(pixels, mode="w+", dtype=np.uint8, shape=shape)
                    work = functools.partial(check_chunk, root=root, size=size, resize_mode=resize_mode, pixels=pixels)
                    _write(part, _collect(work, images, workers or cores(), progress))
                    (part / CACHE_FILE).write_text(json.dumps({"size": size, "resize_mode": resize_mode}))
    facts = pq.read_table(folder / FACTS_FILE).to_pydict()
    texts = {name: pd.Series(facts[name], dtype=object) for name in (c.SHA256, c.REASON)}
    numbers = {name: np.array(facts[name], np.int64) for name in (c.WIDTH, c.HEIGHT)}
    return pd.DataFrame(numbers | texts), open_pixels(folder, rows=np.arange(len(images)), root=root, images=images)


@contextmanager
def _replacing_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder that replaces `folder` when the block ends well and is deleted when it does not."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        with naming(folder):
            yield part
            for path in (*part.iterdir(), part):
                sync(path)
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
            sync(folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def broken_file(folder: Path, *, with_pixels: bool = False) -> Path | None:
    """Return the first file of a cache that is missing or cannot be read; pixels may be missing unless required."""
    mapped = functools.partial(np.load, mmap_mode="r")  # fails where the file is shorter than its header says
    readers: dict[str, Callable[[Path], Any]] = {
        CACHE_FILE: lambda path: json.loads(path.read_text()),
        FACTS_FILE: pq.read_table,
        DESCRIPTORS_FILE: mapped,
    }
    if with_pixels or (folder / PIXELS_FILE).exists():
        readers[PIXELS_FILE] = mapped
    for name, read in readers.items():
        try:
            read(folder / name)
        except (OSError, ValueError, EOFError) as error:
            if shortage(error):
                raise
            return folder / name
    return None


def _collect(
    work: Callable[[list[tuple[int, str]]], list[tuple[int, Fact]]],
    images: Sequence[str],
    workers: int,
    progress: Progress | None,
) -> list[Fact]:
    """Return the fact of each picture, in order."""
    facts: dict[int, Fact] = {}
    with closing(map_chunks(work, list(enumerate(images)), workers=workers, chunk=_CHUNK)) as answers:
        for part, answer in answers:
            facts.update(answer or {row: Fact(reason="the process decoding it crashed or hung") for row, _ in part})
            if progress is not None:
                progress(len(facts), len(images))
    return [facts[row] for row in range(len(images))]


def _write(folder: Path, facts: list[Fact]) -> None:
    table = pd.DataFrame(facts, columns=Fact._fields).astype({c.WIDTH: np.int64, c.HEIGHT: np.int64})
    descriptors, buffer = np.frombuffer(b"".join(table.pop("descriptor")), np.uint8), io.BytesIO()
    np.save(buffer, descriptors.reshape(len(facts), len(Fact().descriptor)))
    (folder / DESCRIPTORS_FILE).write_bytes(buffer.getvalue())  # np.save itself raises no errno on a full disk
    table.astype({c.SHA256: "string", c.REASON: "string"}).to_parquet(folder / FACTS_FILE, index=False)
