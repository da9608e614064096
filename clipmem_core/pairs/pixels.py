"""The pictures of a data set in a folder of files, read through: what is missing, or cannot be opened, is made again.

    facts.parquet      one row a picture: width, height, sha256, reason
    descriptors.npy    uint8 [n_pictures, 768], for `lookalikes`
    pixels.npy         uint8 [n_pictures, size, size, 3]; only if it fits the budget
    cache.json         the square's size and resize mode, and whether pixels are stored; written last

Each picture is decoded once. Squares that fit a budget are mapped from one file. Others are decoded again at every use,
to the same bytes. The folder is built under another name and then renamed: it is complete or not there. What was built
of pictures that come from a URL goes on where it was cut short.
"""

import functools
import io
import json
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
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
from clipmem_core.pairs.journal import Journal
from clipmem_core.pairs.pictures import (
    DESCRIPTOR_LENGTH,
    RESIZE_MODES,
    Fact,
    broken,
    check_chunk,
    has_room,
    read_square,
)
from clipmem_core.pairs.references import fetched_with, is_streamed, source_stamp
from clipmem_core.pairs.workers import Killed, cores, map_chunks

VERSION = 3  # of what is kept and how it is computed; a new number leaves old caches behind
FACTS_FILE = "facts.parquet"
DESCRIPTORS_FILE = "descriptors.npy"
PIXELS_FILE = "pixels.npy"
CACHE_FILE = "cache.json"
JOURNAL_FILE = "journal.jsonl"  # while the folder is built

Progress = Callable[[int, int], None]

_CHUNK = 16  # pictures handed to a process at a time
_CHUNK_STREAMED = 100  # the same of those at a URL: neighbours are one request; Hugging Face's row groups have as many
_CRASHED = "the process decoding it crashed"


class Pixels(ABC):
    """The squares of some pictures of a cache, addressed 0 … len − 1.

    Attributes:
        folder: the cache they belong to.
        rows: int64 [n], the row of each picture in that cache.
        size: pixels of a square's side.
    """

    def __init__(self, folder: Path, rows: np.ndarray, size: int) -> None:
        self.folder = folder
        self.rows = rows
        self.size = size

    def __len__(self) -> int:
        return len(self.rows)

    def descriptors(self) -> np.ndarray:
        """Return the descriptors of the pictures, uint8 [n, 768]: what `lookalike_clusters` reads."""
        return np.load(self.folder / DESCRIPTORS_FILE)[self.rows]

    @abstractmethod
    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the squares of some pictures, uint8 [len(rows), size, size, 3], in the order asked for.

        Args:
            rows: int [m], of 0 … len − 1, repeats allowed. Only pictures without a `reason` have a square.
        """

    @abstractmethod
    def select(self, rows: np.ndarray) -> "Pixels":
        """Return the same squares, addressed anew: picture i of the result is picture rows[i] of this."""


class CachedPixels(Pixels):
    """Squares mapped from a file."""

    def __init__(self, folder: Path, rows: np.ndarray, squares: np.ndarray) -> None:
        super().__init__(folder, rows, squares.shape[1])
        self._squares = squares

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the squares of some pictures from the file."""
        return self._squares[self.rows[rows]]

    def select(self, rows: np.ndarray) -> "CachedPixels":
        """Return a view on some of the pictures."""
        return CachedPixels(self.folder, self.rows[rows], self._squares)


class StreamedPixels(Pixels):
    """Squares decoded from their files whenever they are asked for, a thread to a core."""

    def __init__(
        self, folder: Path, rows: np.ndarray, size: int, *, resize_mode: str, root: Path, images: Sequence[str]
    ) -> None:
        super().__init__(folder, rows, size)
        self._resize_mode = resize_mode
        self._root = root
        self._images = images

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the squares of some pictures, decoded now.

        Raises:
            PictureError: a picture is broken.
        """
        read = functools.partial(read_square, self._root, size=self.size, resize_mode=self._resize_mode)
        squares = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        with ThreadPoolExecutor(cores()) as threads:
            for i, square in enumerate(threads.map(read, [self._images[row] for row in rows])):
                squares[i] = square
        return squares

    def select(self, rows: np.ndarray) -> "StreamedPixels":
        """Return a view on some of the pictures."""
        return StreamedPixels(
            self.folder,
            self.rows[rows],
            self.size,
            resize_mode=self._resize_mode,
            root=self._root,
            images=[self._images[row] for row in rows],
        )


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
    rows = np.asarray(rows, np.int64)
    if (folder / PIXELS_FILE).exists():
        return CachedPixels(folder, rows, np.asarray(np.load(folder / PIXELS_FILE, mmap_mode="r")))
    made = json.loads((folder / CACHE_FILE).read_text())
    return StreamedPixels(folder, rows, made["size"], resize_mode=made["resize_mode"], root=root, images=images)


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
        say: told which file cannot be opened, where the pictures are decoded again because of one.

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
    broken = functools.partial(broken_file, folder, size=size, resize_mode=resize_mode, keep=keep)
    if broken():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.name}.lock"):  # two audits of one data set decode it once
            if found := broken():
                if folder.is_dir():
                    say(f"{found} is broken or missing: storing the small pictures again")
                _build(
                    folder,
                    root,
                    images,
                    size=size,
                    resize_mode=resize_mode,
                    keep=keep,
                    workers=workers or cores(),
                    progress=progress,
                )
    return _read_facts(folder), open_pixels(folder, rows=np.arange(len(images)), root=root, images=images)


def broken_file(folder: Path, *, size: int, resize_mode: str, keep: bool = False) -> Path | None:
    """Return the first file of a cache that is missing or cannot be opened, None where all can.

    Args:
        folder: the cache's.
        size: side of the square, in pixels.
        resize_mode: shortest, longest or squash.
        keep: whether the pixels are to be there; if not, they may be.
    """
    try:
        made = json.loads((folder / CACHE_FILE).read_text(encoding="utf-8"))
        if (made["size"], made["resize_mode"]) != (size, resize_mode):
            return folder / CACHE_FILE
        keep = keep or made["pixels"]
    except (OSError, ValueError, LookupError, TypeError):
        return folder / CACHE_FILE
    for name in (FACTS_FILE, DESCRIPTORS_FILE, *([PIXELS_FILE] if keep else [])):
        try:
            if name == FACTS_FILE:
                pq.read_metadata(folder / name)
            else:
                np.load(folder / name, mmap_mode="r")
        except (OSError, ValueError, EOFError, pa.ArrowException):
            return folder / name
    return None


def _build(
    folder: Path,
    root: Path,
    images: Sequence[str],
    *,
    size: int,
    resize_mode: str,
    keep: bool,
    workers: int,
    progress: Progress | None,
) -> None:
    """Decode every picture and write the folder, in place of one that may be there.

    Raises:
        OSError, MemoryError: the machine ran short of something; no folder is left, but of pictures from a URL.
    """
    part = folder.with_name(f"{folder.name}.part")
    pixels, streamed = part / PIXELS_FILE if keep else None, is_streamed(root, images)
    if not (streamed and (part / JOURNAL_FILE).is_file() and (part / PIXELS_FILE).is_file() == keep):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    try:
        with naming(folder):
            if pixels is not None and not pixels.is_file():
                _make_room(pixels, (len(images), size, size, 3))
            work = functools.partial(check_chunk, root=root, size=size, resize_mode=resize_mode, pixels=pixels)
            journal = Journal(part / JOURNAL_FILE if streamed else None, pixels)
            how = handed_over(root, images, chunk=_CHUNK)
            _write(part, _collect(work, images, workers, progress, how, journal))
            (part / JOURNAL_FILE).unlink(missing_ok=True)
            for file in part.iterdir():
                sync(file)
            made = {"size": size, "resize_mode": resize_mode, "pixels": keep}
            (part / CACHE_FILE).write_text(json.dumps(made), encoding="utf-8")
            sync(part / CACHE_FILE)
            sync(part)
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
            sync(folder.parent)
    except BaseException:
        if not streamed:
            shutil.rmtree(part, ignore_errors=True)
        raise


def handed_over(root: Path, images: Sequence[str], *, chunk: int) -> dict[str, Any]:
    """Return how `map_chunks` hands over pictures, each item a row, a reference and what follows: so many at a time, or
    those at a URL as they are fetched."""
    if not is_streamed(root, images):
        return {"chunk": chunk}
    return {"chunk": _CHUNK_STREAMED, "alike": lambda item: fetched_with(root, item[1])}


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
    how: Mapping[str, Any],
    journal: Journal,
) -> list[Fact]:
    """Return the fact of each picture, in order."""
    facts = journal.facts
    items = [(row, image) for row, image in enumerate(images) if row not in facts]
    crashed: list[tuple[int, str]] = []
    try:
        with closing(map_chunks(work, items, workers=workers, **how)) as answers:
            for part, answer in answers:
                crashed += part if answer is None else []
                journal.add(dict(answer or ()))
                facts.update({row: broken(_CRASHED) for row, _ in part if answer is None})
                if progress is not None:
                    progress(len(facts), len(images))
    except Killed as error:
        raise MemoryError(f"the process decoding picture {error.args[0][1]!r} was killed, alone as well") from None
    finally:
        journal.note()
    # Decoders crash, too, where memory is limited: then it tells nothing about the picture.
    if crashed and not all(answer for _, answer in map_chunks(has_room, crashed[:1], workers=1, chunk=1)):
        raise MemoryError(f"{_CRASHED}: picture {crashed[0][1]!r}")
    return [facts[row] for row in range(len(images))]


def _write(folder: Path, facts: list[Fact]) -> None:
    descriptors, buffer = np.frombuffer(b"".join(fact.descriptor for fact in facts), np.uint8), io.BytesIO()
    np.save(buffer, descriptors.reshape(len(facts), DESCRIPTOR_LENGTH))
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
