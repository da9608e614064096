"""What the embeddings of all members tell of pairs: of all at once where they are kept, else a block of them at a time.

External pairs are what the others are held against (ν, the maps between members, neighbours), and there are at most
5,000: each block is measured together with all of them, as a small audit of its own.
"""

import contextlib
import ctypes
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipmem_core import columns as c
from clipmem_core.atomic import naming
from clipmem_core.config import InputError
from clipmem_core.scores.alignment import IMAGE_SQUARE, TEXT_SQUARE, pair_terms
from clipmem_core.scores.detectors import fit_out
from clipmem_core.scores.in_out import Sides
from clipmem_core.scores.shapley import contributions

BLOCK = 65_536  # pairs whose embeddings are held at a time; a multiple of what is embedded and measured at once
MAPPED_FROM = 1 << 24  # bytes of an array that is held in a file instead of memory
_TERMS = (*c.TERMS, IMAGE_SQUARE, TEXT_SQUARE)
Matrices = Sequence[np.ndarray]  # of each member, [n_pairs, dim]


@dataclass(frozen=True, eq=False)
class Compared:
    """What members tell of each pair together.

    Attributes:
        parts: the image and the text encoder's of clipmem, [2, n_pairs]; NaN where members cannot be mapped.
        fits: of each mapped member how well its map fits.
        missing: why there are no parts.
        out: csls_out and log_probability_out, [2, n_pairs].
    """

    parts: np.ndarray
    fits: dict[str, float]
    missing: str
    out: np.ndarray


def compare(image: Matrices, text: Matrices, sides: Sides, logit_scales: Sequence[float]) -> Compared:
    """Compare the members of all pairs at once."""
    parts, fits, missing = np.full((2, len(sides.external)), np.nan), dict[str, float](), ""
    try:
        table, fits = contributions(image, text, sides)
        parts = table.to_numpy().T
    except InputError as error:
        missing = str(error)
    out = np.stack(fit_out(image, text, sides.membership.trained, sides.external, logit_scales))
    return Compared(parts, fits, missing, out)


def compare_blocks(
    image: Matrices,
    text: Matrices,
    sides: Sides,
    logit_scales: Sequence[float],
    *,
    folder: Path,
    say: Callable[[str], None] = lambda line: None,
    block: int = BLOCK,
) -> tuple[list[dict[str, np.ndarray]], Compared]:
    """Measure what `pair_terms` and `compare` do, of an ensemble, each embedding computed once.

    Args:
        image, text: of each member; read a block of rows at a time.
        sides: which members count as in and out.
        logit_scales: of each member.
        folder: of the files that large results are held in.
        say: told how far it is.
        block: pairs at a time.

    Returns:
        The terms of each member, float32 [n_pairs] each, and what `compare` returns.
    """
    n, members = len(sides.external), range(len(image))
    context = np.flatnonzero(sides.membership.group == c.EXTERNAL)
    beside = [(np.asarray(a[context]), np.asarray(b[context])) for a, b in zip(image, text, strict=True)]
    terms = [{name: on_disk(folder, (n,), np.float32) for name in _TERMS} for _ in members]
    parts, out = on_disk(folder, (2, n), np.float64), on_disk(folder, (2, n), np.float64)
    found: Compared | None = None
    for start in range(0, n, block):
        rows = np.arange(start, min(start + block, n))
        every = np.union1d(rows, context)
        own, external = np.searchsorted(every, rows), np.searchsorted(every, context)

        def read(member: int, every: Any = every, rows: Any = rows, own: Any = own, external: Any = external) -> Any:
            sides_of_member = []
            for matrix, fixed in zip((image[member], text[member]), beside[member], strict=True):
                values = np.empty((len(every), matrix.shape[1]), matrix.dtype)
                values[own] = matrix[rows[0] : rows[-1] + 1]
                values[external] = fixed  # the same in every block
                sides_of_member.append(values)
            return sides_of_member

        with ThreadPoolExecutor(2) as pool:
            images, texts = zip(*pool.map(read, members), strict=True)
        some = sides.some(every)
        for member in members:
            for name, values in pair_terms(images[member], texts[member], some.external).items():
                terms[member][name][rows] = values[own]
        found = compare(images, texts, some, logit_scales)
        parts[:, rows], out[:, rows] = found.parts[:, own], found.out[:, own]
        del images, texts  # before the next are read
        give_back()
        say(f"scored {rows[-1] + 1:,} of {n:,} pairs")
    assert found is not None
    return terms, Compared(parts, found.fits, found.missing, out)


def give_back() -> None:
    """Give what was freed back to the system: glibc keeps it for each thread that ever was, block after block."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems have no such call
        ctypes.CDLL(None).malloc_trim(0)


def on_disk(folder: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of zeros; a large one is mapped from a file without a name, which goes when the array does."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < MAPPED_FROM:
        return np.zeros(shape, dtype)
    with naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, size)  # on a full disk a write to a map would end the process
        return np.asarray(np.memmap(file, dtype, "w+", shape=shape))


def kept_on_disk(values: np.ndarray, folder: Path) -> np.ndarray:
    """Return the same values, in a file where there are many."""
    if values.nbytes < MAPPED_FROM or isinstance(values.base, np.memmap):
        return values
    held = on_disk(folder, values.shape, values.dtype)
    held[:] = values
    return held
