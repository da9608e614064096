"""The facts of all pictures ↔ a folder of files, complete or not there.

    facts.parquet      one row a picture: width, height, sha256, reason
    descriptors.npy    uint8 [n_pictures, 768], for `lookalikes`
    pixels.npy         uint8 [n_pictures, size, size, 3]; only if it fits the budget
    cache.json         the square's size and resize mode, and the checksum (CRC-32) of each other file

The folder is built under another name and then renamed, so an interrupted build leaves nothing that looks finished.
"""

import functools
import io
import json
import math
import shutil
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipmem_core.atomic import checksum, naming, sync
from clipmem_core.columns import HEIGHT, REASON, SHA256, WIDTH
from clipmem_core.pairs.pixel_cache.facts import DESCRIPTOR_LENGTH, Fact, broken, check_chunk, has_room
from clipmem_core.pairs.pixel_cache.workers import Killed, map_chunks

FACTS_FILE = "facts.parquet"
DESCRIPTORS_FILE = "descriptors.npy"
PIXELS_FILE = "pixels.npy"
CACHE_FILE = "cache.json"

Progress = Callable[[int, int], None]

_CHUNK = 16  # pictures handed to a process at a time
_CRASHED = "the process decoding it crashed"


def read_facts(folder: Path) -> pd.DataFrame:
    """Return the facts of a cache that is whole."""
    return _frame(pq.read_table(folder / FACTS_FILE))


def broken_file(folder: Path, *, size: int, resize_mode: str, keep: bool = False) -> Path | None:
    """Return the first file of a cache that is gone or no longer what was written, None where all of it is whole.

    Reads every file, once in each process: 13 kB a picture of 64 pixels, at about a gigabyte a second.

    Args:
        folder: the cache's.
        size: side of the square, in pixels.
        resize_mode: shortest, longest or squash.
        keep: whether the pixels are to be there; if not, they may be.
    """
    try:
        made = json.loads((folder / CACHE_FILE).read_text(encoding="utf-8"))
        sums, own = made["crc32"], made.pop("own_crc32")
        if own != _checksum_of(made) or (made["size"], made["resize_mode"]) != (size, resize_mode):
            return folder / CACHE_FILE
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return folder / CACHE_FILE
    wanted = sums if PIXELS_FILE in sums or not keep else sums | {PIXELS_FILE: None}
    files = {folder / name: known for name, known in wanted.items()}
    return next((path for path, known in files.items() if not path.is_file() or checksum(path) != known), None)


def build(
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
        OSError, MemoryError: the machine ran short of something; no folder is left.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with naming(folder):
            pixels = part / PIXELS_FILE if keep else None
            if pixels is not None:
                _make_room(pixels, (len(images), size, size, 3))
            work = functools.partial(check_chunk, root=root, size=size, resize_mode=resize_mode, pixels=pixels)
            _write(part, _collect(work, images, workers, progress))
            _seal(part, {"size": size, "resize_mode": resize_mode})
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
            sync(folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


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
    try:
        with closing(map_chunks(work, list(enumerate(images)), workers=workers, chunk=_CHUNK)) as answers:
            for chunk, answer in answers:
                crashed += chunk if answer is None else []
                facts.update(answer if answer is not None else [(row, broken(_CRASHED)) for row, _ in chunk])
                if progress is not None:
                    progress(len(facts), len(images))
    except Killed as error:
        raise MemoryError(f"the process decoding picture {error.args[0][1]!r} was killed, alone as well") from None
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


def _seal(folder: Path, made: dict[str, Any]) -> None:
    """Note the checksum of each file, once it is on the disk."""
    files = sorted(folder.iterdir())
    for file in files:
        sync(file)
    made = made | {"crc32": {file.name: checksum(file) for file in files}}
    (folder / CACHE_FILE).write_text(json.dumps(made | {"own_crc32": _checksum_of(made)}), encoding="utf-8")
    sync(folder / CACHE_FILE)
    sync(folder)


def _checksum_of(made: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(made).encode())


def _frame(table: pa.Table) -> pd.DataFrame:
    """Return the facts as a frame whose texts are plain strings, and None where there is no reason."""
    columns = {name: table[name].to_numpy() for name in (WIDTH, HEIGHT)}
    texts = {name: pd.Series(table[name].to_pylist(), dtype=object) for name in (SHA256, REASON)}
    return pd.DataFrame({**columns, **texts})
