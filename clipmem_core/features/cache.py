"""Features on disk: an array in the order of its keys, computed in batches, here or by other processes in shards.

    <folder>/<key of the tower>/<key of the rows>/
      keys.npy        uint8 [n, 32], the sha256 of what each row was computed from
      features.npy    float16 [n, dim]
      features.json   the tower, and how many inputs it cut; written last

While it is computed, the folder's name ends in `.part`, and it also holds

      order.npy       the rows to compute, in their order
      batches.jsonl   a line with a checksum for each finished batch
      asked.json      for shards: the tower's arguments, how batches are cut, and the folder that pictures are in
      inputs.parquet  image and sha256, or caption, of the rows in the order of order.npy; a row group a shard
      <n>/            where the process of shard n says what went wrong
      <n>.npy         float16 [n_rows, dim], the finished shard n, until it is copied into features.npy
"""

import hashlib
import json
import shutil
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from clipmem_core.atomic import naming, replacing, sync
from clipmem_core.config import InputError
from clipmem_core.pairs.pictures import PictureError, decode, resize
from clipmem_core.pairs.references import read_bytes
from clipmem_core.shortage import shortage

if TYPE_CHECKING:  # torch, which only computing features needs
    from clipmem_core.features.towers import Tower

FEATURES_FILE, KEYS_FILE, MADE_FILE = "features.npy", "keys.npy", "features.json"
ORDER_FILE, _BATCHES_FILE = "order.npy", "batches.jsonl"
BATCHES = 64  # of a shard: 1,024 pictures are half a minute of one core
SECONDS_BETWEEN_LOOKS = 1.0
_ASKED, _INPUTS = "asked.json", "inputs.parquet"
_BLOCK = 65_536  # rows that are read or copied at a time

Progress = Callable[[int, int], None]
Batches = Sequence[tuple[int, np.ndarray]]  # number of each batch, and its rows
Embedded = Iterator[tuple[int, np.ndarray]]  # number of a batch, and its features, float32 [n_rows, dim]
# Has shards of a folder computed, by their names, and lets its caller look again and again at what is there.
Elsewhere = Callable[[Path, Sequence[str]], Generator[Any, None, None]]


@dataclass(frozen=True)
class Wanted:
    """Features that are asked for: rows of `tower`, known by their `keys`, uint8 [n, 32].

    Rows with equal keys are computed once, in batches of `batch`. `arrange` puts the rows to compute into the order
    that batches are cut from; `embed` computes batches, in any order, for the folder that it is told; `name` says whose
    row it is, for messages; `cut` counts the rows whose input is longer than the tower reads.
    """

    tower: "Tower"
    keys: np.ndarray
    batch: int
    arrange: Callable[[np.ndarray], np.ndarray]
    embed: Callable[[Path, Batches], Embedded]
    name: Callable[[int], str]
    cut: Callable[[], int] = lambda: 0


def key_rows(inputs: Iterable[bytes]) -> np.ndarray:
    """Return sha256 digests of 32 bytes each as the rows of an array, uint8 [n, 32]."""
    return np.frombuffer(b"".join(inputs), np.uint8).reshape(-1, 32)


def cached_features(
    wanted: Wanted,
    folder: Path,
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[np.ndarray, int]:
    """Return features from the cache, computing those that are not there; what was interrupted goes on.

    Args:
        wanted: what is asked for.
        folder: the cache's, of all towers.
        progress: called with (rows computed, rows to compute).
        say: told which folder cannot be read, where its features are computed again.

    Returns:
        The features, float16 [n, dim], mapped from the file; and how many rows had too long an input.

    Raises:
        InputError: the tower gives NaN or infinity, or the same for everything.
        OSError: the machine ran short of something; what is done stays.
    """
    target = folder / wanted.tower.key / hashlib.sha256(wanted.keys.tobytes()).hexdigest()[:16]
    found = _opened(target)
    if found is None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):  # two audits of one data set compute it once
            found = _opened(target)
            if found is None:
                if target.is_dir():
                    say(f"{target} is broken: computing its features again")
                    shutil.rmtree(target)
                with naming(target):
                    _compute(wanted, target, progress or (lambda done, total: None))
                found = _opened(target)
    assert found is not None
    return found[1:]


def _opened(folder: Path) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Map the keys and features of a folder, and read how many inputs were cut; None where it cannot be read."""
    try:
        made = json.loads((folder / MADE_FILE).read_text(encoding="utf-8"))
        return np.load(folder / KEYS_FILE, mmap_mode="r"), _mapped(folder), made["cut"]
    except (OSError, ValueError, EOFError, LookupError, TypeError):
        return None


def _mapped(folder: Path) -> np.ndarray:
    return np.load(folder / FEATURES_FILE, mmap_mode="r")


def _compute(wanted: Wanted, target: Path, progress: Progress) -> None:
    part = target.with_suffix(".part")
    if (part / MADE_FILE).is_file():  # complete: a kill came while it was published
        _publish(part, target)
        return
    if not part.is_dir():
        _prepare(wanted, part)
    order = np.load(part / ORDER_FILE)
    batches = [(n, order[at : at + wanted.batch]) for n, at in enumerate(range(0, len(order), wanted.batch))]
    done = _done(part, batches)
    count = sum(len(batches[n][1]) for n in done)
    progress(count, len(order))
    with (part / FEATURES_FILE).open("r+b") as file, (part / _BATCHES_FILE).open("a", encoding="utf-8") as noted:
        noted.write("\n")  # a line cut off by a kill ends here
        for number, features in wanted.embed(part, [batch for batch in batches if batch[0] not in done]):
            rows = batches[number][1]
            values = to_half(features, rows, wanted.tower, wanted.name)
            _write_rows(file, rows, values)
            file.flush()
            noted.write(json.dumps({"batch": number, "crc32": zlib.crc32(values.tobytes())}) + "\n")
            noted.flush()
            count += len(rows)
            progress(count, len(order))
    _copy_repeats(part, wanted.keys)
    _refuse_constant(_mapped(part), wanted)
    seal(part, (KEYS_FILE, FEATURES_FILE), {"tower": wanted.tower.record(), "cut": wanted.cut()})
    _publish(part, target)


def _publish(part: Path, target: Path) -> None:
    """Remove what only the computation needs, and put a complete folder in its place."""
    for path in [path for path in part.iterdir() if path.name not in (KEYS_FILE, FEATURES_FILE, MADE_FILE)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    part.rename(target)
    sync(target.parent)


def _prepare(wanted: Wanted, part: Path) -> None:
    """Lay the folder out, with the rows that other arrays of the same tower already hold."""
    with replacing_folder(part) as new:
        np.save(new / KEYS_FILE, wanted.keys)
        with (new / FEATURES_FILE).open("wb") as file:
            shape = (len(wanted.keys), wanted.tower.dim)
            np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
            file.truncate(file.tell() + shape[0] * shape[1] * 2)  # zeros, which take no room on the disk yet
        left = {key.tobytes(): row for row, key in reversed(list(enumerate(wanted.keys)))}  # to the first of its rows
        for other in sorted(part.parent.glob(f"*/{MADE_FILE}")):
            _copy_known(other.parent, new, left)
        rows = np.array(sorted(left.values()), np.int64)
        np.save(new / ORDER_FILE, wanted.arrange(rows) if len(rows) else rows)
        (new / _BATCHES_FILE).touch()


def _copy_known(other: Path, new: Path, left: dict[bytes, int]) -> None:
    """Copy the rows that are `left` and that another array holds, and take them out of `left`."""
    if not left or other.suffix or (opened := _opened(other)) is None:
        return
    keys, features, _ = opened
    found = [(left[key], row) for row, key in enumerate(map(bytes, keys)) if key in left]
    pairs = np.array(found, np.int64).reshape(-1, 2)
    with (new / FEATURES_FILE).open("r+b") as file:
        for at in range(0, len(pairs), _BLOCK):
            block = pairs[at : at + _BLOCK]
            _write_rows(file, block[:, 0], features[block[:, 1]])
    for row in pairs[:, 1]:
        left.pop(keys[row].tobytes(), None)


def _done(part: Path, batches: Batches) -> set[int]:
    """Return the batches whose rows are what was noted; one that a kill or a power cut spoilt is computed again."""
    features, done = _mapped(part), set()
    for line in (part / _BATCHES_FILE).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            noted = json.loads(line)
            number, crc = noted["batch"], noted["crc32"]
        except (ValueError, LookupError, TypeError):
            continue
        if number < len(batches) and zlib.crc32(features[batches[number][1]].tobytes()) == crc:
            done.add(number)
    return done


def to_half(features: np.ndarray, rows: np.ndarray, tower: "Tower", name: Callable[[int], str]) -> np.ndarray:
    """Return a batch's features as float16.

    Raises:
        InputError: not all of them are finite numbers; the first row's name is told.
    """
    if features.shape != (len(rows), tower.dim):
        raise InputError(f"tower {tower.name} gives {list(features.shape)} numbers for {len(rows)} × {tower.dim}")
    with np.errstate(over="ignore"):
        values = features.astype(np.float16)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        what = "NaN or infinity" if not np.isfinite(features[bad[0]]).all() else "numbers too large for float16"
        raise InputError(f"tower {tower.name} gives {what} for {name(int(rows[bad[0]]))}: take another tower")
    return values


def _write_rows(file: IO[bytes], rows: np.ndarray, values: np.ndarray) -> None:
    # Written, not mapped: on a full disk a write to a map ends the process.
    file.seek(0)
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    start, size = file.tell(), values.shape[1] * values.itemsize
    runs = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 2) != 1)
    for at, end in zip(runs, [*runs[1:], len(rows)], strict=True):
        file.seek(start + int(rows[at]) * size)
        file.write(values[at:end].tobytes())


def _copy_repeats(part: Path, keys: np.ndarray) -> None:
    """Fill the rows whose key came before."""
    first: dict[bytes, int] = {}
    found = [(row, first.setdefault(key, row)) for row, key in enumerate(map(bytes, keys))]
    pairs = np.array([(row, earlier) for row, earlier in found if row != earlier], np.int64).reshape(-1, 2)
    features = _mapped(part)
    with (part / FEATURES_FILE).open("r+b") as file:
        for at in range(0, len(pairs), _BLOCK):
            block = pairs[at : at + _BLOCK]
            _write_rows(file, block[:, 0], features[block[:, 1]])


def _refuse_constant(features: np.ndarray, wanted: Wanted) -> None:
    other = np.flatnonzero((wanted.keys != wanted.keys[:1]).any(axis=1))
    if len(other) and all(
        (features[row : row + _BLOCK] == features[0]).all() for row in range(0, len(features), _BLOCK)
    ):
        raise InputError(
            f"tower {wanted.tower.name} gives the same for {wanted.name(0)} as for {wanted.name(int(other[0]))} "
            f"and all {len(features):,}: take another tower"
        )


def seal(folder: Path, names: Sequence[str], made: dict[str, Any]) -> None:
    """Write down what is `made` of a folder once its files are on the disk, which marks it as complete."""
    for name in names:
        sync(folder / name)
    (folder / MADE_FILE).write_text(json.dumps(made, indent=1), encoding="utf-8")
    sync(folder / MADE_FILE)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Give a folder that becomes `target` when the block ends well."""
    new = target.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    with naming(target):
        yield new
        new.rename(target)
        sync(target.parent)


def embedded_elsewhere(
    part: Path, batches: Batches, inputs: Mapping[str, Sequence[str]], asked: Mapping[str, Any], compute: Elsewhere
) -> Embedded:
    """Yield the features of batches that other processes compute, shard by shard as they come.

    Args:
        part: the folder that they are computed in.
        batches: those that are left.
        inputs: of all rows, by their column.
        asked: kind and arguments of the tower, rows of each batch, and the folder that pictures are in, as JSON values.
        compute: has shards computed.
    """
    left: dict[str, list[tuple[int, int]]] = {}
    for number, rows in batches:
        left.setdefault(str(number // BATCHES), []).append((number, len(rows)))
    if not left:
        return
    if not (part / _INPUTS).is_file():
        order = pa.array(np.load(part / ORDER_FILE))
        columns = {name: pa.array(values, pa.large_string()).take(order) for name, values in inputs.items()}
        with replacing(part / _INPUTS) as temporary:
            pq.write_table(pa.table(columns), temporary, row_group_size=BATCHES * asked["batch"])
    with replacing(part / _ASKED) as temporary:
        temporary.write_text(json.dumps(asked), encoding="utf-8")

    def finished(name: str) -> Embedded:
        values = np.load(part / f"{name}.npy")
        for number, rows in left[name]:
            at = (number - int(name) * BATCHES) * asked["batch"]
            yield number, values[at : at + rows]
        (part / f"{name}.npy").unlink()
        del left[name]

    with closing(compute(part, list(left))) as looks:
        looked = 0.0
        for _ in looks:
            if time.monotonic() - looked > SECONDS_BETWEEN_LOOKS:
                for name in [path.stem for path in part.glob("*.npy") if path.stem in left]:
                    yield from finished(name)
                looked = time.monotonic()
    for name in list(left):
        yield from finished(name)


def read_asked(part: Path) -> dict[str, Any]:
    """Return what `embedded_elsewhere` was asked for in a folder."""
    return json.loads((part / _ASKED).read_text(encoding="utf-8"))


def missing_shards(part: Path, names: Sequence[str]) -> Iterator[tuple[Path, dict[str, list[str]]]]:
    """Yield the file and the inputs, column by column, of each named shard that is missing."""
    with pq.ParquetFile(part / _INPUTS) as file:
        for name in names:
            path = part / f"{name}.npy"
            if not path.is_file():
                yield path, file.read_row_group(int(name)).to_pydict()


def read_squares(
    chunk: list[tuple[int, str, str]], *, root: Path, size: int, resize_mode: str
) -> list[tuple[int, np.ndarray | str]]:
    """Read and decode pictures, in a process that does not load torch.

    Args:
        chunk: row, reference and sha256 of each picture.
        root: the folder the references are relative to.
        size: side of the square, in pixels.
        resize_mode: shortest, longest or squash.

    Returns:
        Each row with its square, uint8 [size, size, 3], or the reason for its lack.
    """
    found: list[tuple[int, np.ndarray | str]] = []
    for row, image, sha256 in chunk:
        try:
            data = read_bytes(root, image)
            if hashlib.sha256(data).hexdigest() == sha256:
                found.append((row, resize(decode(data, size=size), size, resize_mode)))
            else:
                found.append((row, "its file is not what it was when the data set was read"))
        except (OSError, ValueError, PictureError) as error:
            if shortage(error):
                raise
            found.append((row, str(error)))
    return found
