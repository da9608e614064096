"""The pictures of a data set in a folder of files, read through: what is not there, or cannot be read, is made again.

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
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from clipmem_core.atomic import naming, sync
from clipmem_core.columns import HEIGHT, REASON, SHA256, WIDTH
from clipmem_core.config import fingerprint
from clipmem_core.pairs.pictures import (
    DESCRIPTOR_LENGTH,
    RESIZE_MODES,
    Fact,
    broken,
    check_chunk,
    has_room,
    read_square,
)
from clipmem_core.pairs.references import source_stamp
from clipmem_core.pairs.workers import cores, map_chunks
from clipmem_core.shortage import shortage

VERSION = 2  # of what is kept and how it is computed; a new number leaves old caches behind
FACTS_FILE = "facts.parquet"
DESCRIPTORS_FILE = "descriptors.npy"
PIXELS_FILE = "pixels.npy"
CACHE_FILE = "cache.json"

Progress = Callable[[int, int], None]

_CHUNK = 16  # pictures handed to a process at a time
_CRASHED = "the process decoding it crashed or hung"


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
        """Return the squares of some pictures, uint8 [len(rows), size, size, 3], in the order asked for.

        Args:
            rows: int [m], of 0 … len − 1, repeats allowed. Only pictures without a `reason` have a square.
        """
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
    """Open squares that `check_pictures` left, in any process, within milliseconds.

    Args:
        folder: the cache's folder, as in `Pixels.folder`.
        rows: int [n], rows of the cache, as in `Pixels.rows`.
        root: the folder the references are relative to; read only where pictures stream.
        images: reference of each picture, in the order of `rows`.

    Raises:
        ValueError: `images` and `rows` differ in length.
    """
    if len(images) != len(rows):
        raise ValueError(f"images must hold one reference for each of the {len(rows)} rows, not {len(images)}")
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
    """Decode every picture of a data set once, or find that this was done before.

    Args:
        root: the folder the references are relative to.
        images: reference of each picture.
        size: side of the squares, in pixels.
        resize_mode: shortest, longest or squash.
        cache: the folder caches live in.
        budget_bytes: above this many bytes of squares, none are kept and pictures stream from their files.
        workers: processes; None takes one for each core.
        progress: called with (pictures done, pictures in all).
        say: told which file was broken, where the pictures are decoded again because of one.

    Returns:
        One row a picture, in order: width and height of the upright original (0 if unusable), sha256 of the file's
        bytes (empty if they cannot be read), reason (None, or why it is unusable); and the squares.

    Raises:
        ValueError: the size or the resize mode is not a possible one.
        OSError, MemoryError: the machine ran short of something; nothing is kept, and it says nothing of a picture.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    if resize_mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode must be one of {', '.join(RESIZE_MODES)}, not {resize_mode!r}")
    kind = [VERSION, PIL.__version__, size, resize_mode]
    folder = cache / fingerprint([*kind, source_stamp(root, images)])
    keep = 0 < len(images) * size * size * 3 <= budget_bytes
    if broken_file(folder, keep=keep):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.name}.lock"):  # two audits of one data set decode it once
            if found := broken_file(folder, keep=keep):
                if folder.is_dir():
                    say(f"{found} is broken or gone: storing the small pictures again")
                with _replacing_folder(folder) as part:
                    pixels = part / PIXELS_FILE if keep else None
                    if pixels:
                        _make_room(pixels, (len(images), size, size, 3))
                    work = functools.partial(check_chunk, root=root, size=size, resize_mode=resize_mode, pixels=pixels)
                    _write(part, _collect(work, images, workers or cores(), progress))
                    (part / CACHE_FILE).write_text(json.dumps({"size": size, "resize_mode": resize_mode}))
    return _read_facts(folder), open_pixels(folder, rows=np.arange(len(images)), root=root, images=images)


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


def broken_file(folder: Path, *, keep: bool = False) -> Path | None:
    """Return the first file of a cache that is missing or cannot be read, None where all can.

    Args:
        folder: the cache's.
        keep: whether the pixels are to be there; if not, they may be.
    """
    mapped = functools.partial(np.load, mmap_mode="r")  # fails where the file is shorter than its header says
    readers: dict[str, Callable[[Path], Any]] = {
        CACHE_FILE: lambda path: json.loads(path.read_text()),
        FACTS_FILE: pq.read_table,
        DESCRIPTORS_FILE: mapped,
    }
    if keep or (folder / PIXELS_FILE).exists():
        readers[PIXELS_FILE] = mapped
    for name, read in readers.items():
        try:
            read(folder / name)
        except (OSError, ValueError, EOFError) as error:
            if shortage(error):
                raise
            return folder / name
    return None


def _make_room(pixels: Path, shape: tuple[int, ...]) -> None:
    """Write a .npy file of zeros, which takes no room on the disk yet."""
    with pixels.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + math.prod(shape))


def _collect(
    work: Callable[[list[tuple[int, str]]], list[tuple[int, Fact]]],
    images: Sequence[str],
    workers: int,
    progress: Progress | None,
) -> list[Fact]:
    """Return the fact of each picture, in order."""
    facts: dict[int, Fact] = {}
    crashed: list[tuple[int, str]] = []
    with closing(map_chunks(work, list(enumerate(images)), workers=workers, chunk=_CHUNK)) as answers:
        for part, answer in answers:
            if answer is None:
                crashed += part
                answer = [(row, broken(_CRASHED)) for row, _ in part]
            facts.update(answer)
            if progress is not None:
                progress(len(facts), len(images))
    # Decoders crash, too, where memory is limited: then it tells nothing about the picture.
    if crashed and not all(answer for _, answer in map_chunks(has_room, crashed[:1], workers=1, chunk=1)):
        raise MemoryError(f"{_CRASHED}: picture {crashed[0][1]!r}")
    return [facts[row] for row in range(len(images))]


def _write(folder: Path, facts: list[Fact]) -> None:
    descriptors, buffer = np.frombuffer(b"".join(fact.descriptor for fact in facts), np.uint8), io.BytesIO()
    np.save(buffer, descriptors.reshape(len(facts), DESCRIPTOR_LENGTH))  # straight to a full disk, no errno is raised
    (folder / DESCRIPTORS_FILE).write_bytes(buffer.getvalue())
    columns = {
        WIDTH: pa.array([fact.width for fact in facts], pa.int64()),
        HEIGHT: pa.array([fact.height for fact in facts], pa.int64()),
        SHA256: pa.array([fact.sha256 for fact in facts], pa.string()),
        REASON: pa.array([fact.reason for fact in facts], pa.string()),
    }
    pq.write_table(pa.table(columns), folder / FACTS_FILE)


def _read_facts(folder: Path) -> pd.DataFrame:
    """Return the facts as a frame whose texts are plain strings, and None where there is no reason."""
    table = pq.read_table(folder / FACTS_FILE)
    columns = {name: table[name].to_numpy() for name in (WIDTH, HEIGHT)}
    texts = {name: pd.Series(table[name].to_pylist(), dtype=object) for name in (SHA256, REASON)}
    return pd.DataFrame({**columns, **texts})
