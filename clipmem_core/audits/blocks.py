"""What the embeddings of all members tell of pairs: of all at once where they are kept, else a block of them at a time.

External pairs are what the others are held against (ν, the maps between members, neighbours), and there are at most
5,000: each block is measured together with all of them, as a small audit of its own. A block is kept once it is there,
and any process that sees the audit can measure it: python -m clipmem_core.audits.blocks BLOCKS_FOLDER ROWS…

.blocks/<key of the members>/      in the audit's folder, until its scores are written
  .<start>-<stop>.npz              a block, once all of it is there
  <start>-<stop>/                  where its process says what went wrong
  .whole                           all blocks as arrays of all pairs, which took their place
"""

import contextlib
import ctypes
import functools
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from clipmem_core import columns as c
from clipmem_core.atomic import naming, replacing
from clipmem_core.audits.embeddings import Embeddings
from clipmem_core.audits.executor import Executor, Looks, Task
from clipmem_core.audits.prepare import membership_of, sides_of
from clipmem_core.audits.store import MEMBERS, MEMBERSHIP, Audit, read_table
from clipmem_core.config import InputError, fingerprint
from clipmem_core.files import reading
from clipmem_core.scores.alignment import IMAGE_SQUARE, TEXT_SQUARE, pair_terms
from clipmem_core.scores.detectors import fit_out
from clipmem_core.scores.in_out import Sides
from clipmem_core.scores.shapley import Maps, contributions, fit_maps
from clipmem_core.training.files import CHECKPOINT

BLOCK, UNIT = 65_536, 4_096  # pairs of a block, at most and at least; UNIT is a multiple of what is embedded at once
HELD = 720_000_000  # bytes of the embeddings that a block is measured from
MAPPED_FROM = 1 << 22  # bytes of an array that is held in a file instead of memory
BLOCKS = ".blocks"
_WHOLE = ".whole"
_TERMS = (*c.TERMS, IMAGE_SQUARE, TEXT_SQUARE)
_OF_PAIR = 4  # numbers of float64 that all members together give of a pair: both parts, csls_out, log_probability_out
Matrices = Sequence[np.ndarray]  # of each member, [n_pairs, dim]


@dataclass(frozen=True, eq=False)
class Members:
    """The embeddings of an audit's members, and what they count for.

    Attributes:
        image, text: of each; arrays, or what computes the rows that are asked for.
        sides: which members count as in and out.
        logit_scales: of each; NaN of a given checkpoint that is no longer there.
    """

    image: Matrices
    text: Matrices
    sides: Sides
    logit_scales: Sequence[float]

    @functools.cached_property
    def context(self) -> np.ndarray:
        """The external pairs, int64 [n_external]."""
        return np.flatnonzero(self.sides.membership.group == c.EXTERNAL)

    @functools.cached_property
    def beside(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Both embeddings of the external pairs, of each member, [n_external, dim]."""
        image, text = ([np.asarray(matrix[self.context]) for matrix in side] for side in (self.image, self.text))
        return image, text

    @functools.cached_property
    def maps(self) -> tuple[Maps | None, str]:
        """The maps between members, or why there are none."""
        try:
            return fit_maps(*self.beside, self.sides.some(self.context)), ""
        except InputError as error:
            return None, str(error)

    @property
    def block(self) -> int:
        """How many pairs a block has: as many, in whole `UNIT`s, as leave the embeddings of all members, of these and
        of the external pairs, `HELD` bytes; from `UNIT` to `BLOCK`."""
        row = sum(matrix.shape[1] * matrix.dtype.itemsize for matrix in (*self.image, *self.text))
        return min(max((HELD // row - len(self.context)) // UNIT * UNIT, UNIT), BLOCK)


def members_of(audit: Audit) -> Members:
    """Return an audit's members; embeddings stay on disk, or are computed as they are read.

    Raises:
        InputError: as of `Embeddings.of`.
    """
    record, embeddings = audit.record, Embeddings(audit)
    membership = membership_of(read_table(audit.folder / MEMBERSHIP, columns=[c.GROUP, *record.members]))
    image, text = zip(*(embeddings.of(name) for name in membership.members), strict=True)
    scales = [_logit_scale(audit, name) for name in membership.members]
    return Members(image, text, sides_of(audit, record.config, membership), scales)


def _logit_scale(audit: Audit, name: str) -> float:
    from clipmem_core.training.model import logit_scale_of  # torch, which nothing else here needs

    path = Path(audit.member_record(name).checkpoint or audit.member(name) / CHECKPOINT)
    return logit_scale_of(path) if path.is_file() else float("nan")


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


@contextmanager
def blocks_folder(audit: Audit) -> Iterator[Path]:
    """Give the folder that blocks of an audit's members are kept in; those of other members go.

    A finished audit has its scores, and several processes may look at it: the folder is this one's alone, for now.
    """
    record, files = audit.record, audit.files
    named = [MEMBERSHIP, *(f"{MEMBERS}/{name}/{CHECKPOINT}" for name in record.members)]
    key = fingerprint([record.fingerprint, record.members, [files.get(name) for name in named]])
    alone = tempfile.TemporaryDirectory(prefix=BLOCKS, dir=audit.folder) if audit.finished else None
    with alone or nullcontext(str(audit.folder / BLOCKS)) as parent:
        for other in Path(parent).glob("*"):
            if other.name != key:
                shutil.rmtree(other)
        folder = Path(parent) / key
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def compare_blocks(
    members: Members,
    folder: Path,
    *,
    say: Callable[[str], None] = lambda line: None,
    block: int = 0,
    executor: Executor | None = None,
    threads: int = 1,
) -> tuple[list[dict[str, np.ndarray]], Compared]:
    """Measure what `pair_terms` and `compare` do, of an ensemble, each embedding computed once.

    Args:
        members: of an audit; embeddings are read a block of rows at a time.
        folder: that blocks are kept in: those which are there are not measured again.
        say: told how far it is.
        block: pairs at a time; 0 takes `members.block`.
        executor: what has blocks measured by other processes; without, this one measures all.
        threads: of each of these.

    Returns:
        The terms of each member, float32 [n_pairs] each, mapped, and what `compare` returns.

    Raises:
        InputError, OSError, RuntimeError: as of the executor.
    """
    n, block = len(members.sides.external), block or members.block
    names = [f"{start}-{min(start + block, n)}" for start in range(0, n, block)]
    for left_over in folder.glob("..*"):  # half written when a run was killed
        left_over.unlink()
    if not (folder / _WHOLE).is_file():
        left = _left(folder, names)
        looks = _measured_here(members, folder, left) if executor is None else executor(_tasks(folder, left, threads))
        with closing(looks):
            for _ in looks:
                if len(now := _left(folder, left)) < len(left):
                    say(f"scored {n - sum(map(len, map(_rows, now))):,} of {n:,} pairs")
                    left = now
        _put_together(folder, names, n)
    of_pair = np.asarray(np.memmap(folder / _WHOLE, np.float64, "r", shape=(_OF_PAIR, n)))
    shape = (len(members.image), len(_TERMS), n)
    terms = np.asarray(np.memmap(folder / _WHOLE, np.float32, "r", of_pair.nbytes, shape))
    maps, missing = members.maps
    found = Compared(of_pair[:2], maps.fits if maps else {}, missing, of_pair[2:])
    return [dict(zip(_TERMS, own, strict=True)) for own in terms], found


def _rows(name: str) -> range:
    return range(*map(int, name.split("-")))


def _path(folder: Path, name: str) -> Path:
    return folder / f".{name}.npz"


def _left(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the blocks that are not there; a folder is listed, since a network's remembers what was not found."""
    there = {path.name for path in folder.glob(".*.npz")}
    return [name for name in names if _path(folder, name).name not in there]


def _tasks(folder: Path, names: Sequence[str], threads: int) -> list[Task]:
    """Return blocks as one task, which a cluster splits into as many as it has places: each opens all members once."""
    for name in names:
        (folder / name).mkdir(exist_ok=True)
    program = (sys.executable, "-m", "clipmem_core.audits.blocks", str(folder.absolute()))
    return [Task(tuple(folder / name for name in names), program, tuple(names), threads, "block")] if names else []


def run_blocks(folder: Path, names: Sequence[str]) -> None:
    """Measure blocks of an audit in this process, one after the other, with the threads of `finish_audit`."""
    members = members_of(Audit(folder.parents[1]))
    with threadpool_limits(1, "blas"):
        for _ in _measured_here(members, folder, _left(folder, names)):
            pass


def _measured_here(members: Members, folder: Path, names: Sequence[str]) -> Looks:
    for name in names:
        of_pair, terms = measure(members, _rows(name))
        with replacing(_path(folder, name)) as temporary, temporary.open("wb") as file:
            np.savez(file, of_pair=of_pair, terms=terms)
        give_back()
        yield None


def measure(members: Members, block: range) -> tuple[np.ndarray, np.ndarray]:
    """Measure a block of pairs beside the external ones.

    Returns:
        Both parts, csls_out and log_probability_out, float64 [4, n], and the terms of each member, float32
        [n_members, 7, n].
    """
    rows, context, beside = np.arange(block.start, block.stop), members.context, members.beside
    every = np.union1d(rows, context)
    own, external = np.searchsorted(every, rows), np.searchsorted(every, context)

    def read(member: int) -> list[np.ndarray]:
        found = []
        for matrix, fixed in zip(
            (members.image[member], members.text[member]), (side[member] for side in beside), strict=True
        ):
            values = np.empty((len(every), matrix.shape[1]), matrix.dtype)
            values[own] = matrix[block.start : block.stop]
            values[external] = fixed  # the same in every block
            found.append(values)
        return found

    with ThreadPoolExecutor(2) as pool:
        images, texts = zip(*pool.map(read, range(len(members.image))), strict=True)
    some, (maps, _) = members.sides.some(every), members.maps
    terms = np.empty((len(images), len(_TERMS), len(rows)), np.float32)
    for member, (image, text) in enumerate(zip(images, texts, strict=True)):
        measured = pair_terms(image, text, some.external)
        terms[member] = [measured[name][own] for name in _TERMS]
    of_pair = np.full((_OF_PAIR, len(rows)), np.nan)
    if maps:
        of_pair[:2] = contributions(images, texts, some, maps)[0].to_numpy()[own].T
    passed_over = some.membership.trained | ~np.isin(every, rows)  # external pairs of other blocks are measured there
    of_pair[2:] = np.stack(fit_out(images, texts, passed_over, some.external, members.logit_scales))[:, own]
    return of_pair, terms


def _put_together(folder: Path, names: Sequence[str], n: int) -> None:
    """Turn blocks into arrays of all pairs, in one file; each goes as soon as it is in there: they would take the disk
    twice. It is written to, since on a full disk a write to a map would end the process."""
    with replacing(folder / _WHOLE) as temporary, temporary.open("wb") as file:
        for name in names:
            path, start = _path(folder, name), _rows(name).start
            with (
                reading(path, mend="delete it and run the audit again"),
                path.open("rb") as part,
                np.load(part) as block,
            ):
                of_pair, terms = block["of_pair"], block["terms"]
            for first, values in ((0, of_pair), (_OF_PAIR * n * 8, terms.reshape(-1, terms.shape[-1]))):
                for place, row in enumerate(values):
                    file.seek(first + (place * n + start) * row.itemsize)
                    file.write(row)
            path.unlink()


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


if __name__ == "__main__":
    from clipmem_core.audits.__main__ import main

    sys.exit(main(sys.argv[1:], run_blocks))
