"""The facts of all pictures ↔ a folder of files, complete or not there.

    facts.parquet      one row a picture: width, height, sha256, reason
    descriptors.npy    uint8 [n_pictures, 768], for `lookalikes`
    pixels.npy         uint8 [n_pictures, size, size, 3]; only if it fits the budget
    cache.json         the square's size and resize mode

The folder is built under another name and then renamed, so an interrupted build leaves nothing that looks finished.
"""

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipmem_core.columns import HEIGHT, REASON, SHA256, WIDTH
from clipmem_core.pairs.pixel_cache.facts import DESCRIPTOR_LENGTH, Fact, broken, check_chunk
from clipmem_core.pairs.pixel_cache.workers import map_chunks

FACTS_FILE = "facts.parquet"
DESCRIPTORS_FILE = "descriptors.npy"
PIXELS_FILE = "pixels.npy"
CACHE_FILE = "cache.json"

Progress = Callable[[int, int], None]

_CHUNK = 16  # pictures handed to a process at a time
_CRASHED = "the process decoding it crashed"


def read_facts(folder: Path, *, pictures: int, size: int, keep: bool) -> pd.DataFrame | None:
    """Return the facts of a finished cache; None if it is missing, damaged, or lacks the pixels that are to be kept."""
    try:
        if keep and np.load(folder / PIXELS_FILE, mmap_mode="r").shape != (pictures, size, size, 3):
            return None
        if np.load(folder / DESCRIPTORS_FILE, mmap_mode="r").shape != (pictures, DESCRIPTOR_LENGTH):
            return None
        table = pq.read_table(folder / FACTS_FILE)
        json.loads((folder / CACHE_FILE).read_text())
    except (OSError, ValueError):  # Arrow's and JSON's complaints are ValueErrors
        return None
    return _frame(table) if len(table) == pictures else None


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
    """Decode every picture and write the folder, in place of one that may be there."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        pixels = part / PIXELS_FILE if keep else None
        if pixels is not None:
            shape = (len(images), size, size, 3)
            np.lib.format.open_memmap(pixels, mode="w+", dtype=np.uint8, shape=shape)
        work = functools.partial(check_chunk, root=root, size=size, resize_mode=resize_mode, pixels=pixels)
        _write(part, _collect(work, images, workers, progress))
        (part / CACHE_FILE).write_text(json.dumps({"size": size, "resize_mode": resize_mode}))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _collect(
    work: Callable[[list[tuple[int, str]]], list[tuple[int, Fact]]],
    images: Sequence[str],
    workers: int,
    progress: Progress | None,
) -> list[Fact]:
    """Return the fact of each picture, in order."""
    facts: dict[int, Fact] = {}
    with closing(map_chunks(work, list(enumerate(images)), workers=workers, chunk=_CHUNK)) as answers:
        for chunk, answer in answers:
            facts.update(answer if answer is not None else [(row, broken(_CRASHED)) for row, _ in chunk])
            if progress is not None:
                progress(len(facts), len(images))
    return [facts[row] for row in range(len(images))]


def _write(folder: Path, facts: list[Fact]) -> None:
    descriptors = np.frombuffer(b"".join(fact.descriptor for fact in facts), np.uint8)
    np.save(folder / DESCRIPTORS_FILE, descriptors.reshape(len(facts), DESCRIPTOR_LENGTH))
    columns = {
        WIDTH: pa.array([fact.width for fact in facts], pa.int64()),
        HEIGHT: pa.array([fact.height for fact in facts], pa.int64()),
        SHA256: pa.array([fact.sha256 for fact in facts], pa.string()),
        REASON: pa.array([fact.reason for fact in facts], pa.string()),
    }
    pq.write_table(pa.table(columns), folder / FACTS_FILE)


def _frame(table: pa.Table) -> pd.DataFrame:
    """Return the facts as a frame whose texts are plain strings, and None where there is no reason."""
    columns = {name: table[name].to_numpy() for name in (WIDTH, HEIGHT)}
    texts = {name: pd.Series(table[name].to_pylist(), dtype=object) for name in (SHA256, REASON)}
    return pd.DataFrame({**columns, **texts})
