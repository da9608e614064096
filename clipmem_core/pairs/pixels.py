"""The pictures of a data set → facts, descriptors and squares of pixels; each picture is decoded once and kept.

Squares that fit a budget are mapped from one file. Others are decoded again at every use, to the same bytes.
"""

import errno
import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
from filelock import FileLock

from clipmem_core.config import fingerprint
from clipmem_core.pairs.pictures import RESIZE_MODES
from clipmem_core.pairs.pixel_cache.cache import (
    CACHE_FILE,
    DESCRIPTORS_FILE,
    PIXELS_FILE,
    Progress,
    broken_file,
    build,
    read_facts,
)
from clipmem_core.pairs.pixel_cache.facts import read_square
from clipmem_core.pairs.pixel_cache.workers import cores
from clipmem_core.pairs.references import source_stamp

VERSION = 2  # of what is kept and how it is computed; a new number leaves old caches behind


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
    broken = functools.partial(broken_file, folder, size=size, resize_mode=resize_mode, keep=keep)
    if broken():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.name}.lock"):  # two audits of one data set decode it once
            if found := broken():
                if folder.is_dir():
                    say(f"{found} is broken or gone: storing the small pictures again")
                build(
                    folder,
                    root,
                    images,
                    size=size,
                    resize_mode=resize_mode,
                    keep=keep,
                    workers=workers or cores(),
                    progress=progress,
                )
                if found := broken():
                    raise OSError(errno.EIO, "what was just written reads otherwise", str(found))
    return read_facts(folder), open_pixels(folder, rows=np.arange(len(images)), root=root, images=images)
