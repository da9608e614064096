"""Shards of features that other processes compute, on any machine that sees the cache: what they find, what they leave.

<key of the rows>.part/
  asked.json       the tower, as `named` is asked for it, how batches are cut, and the folder that pictures are in
  inputs.parquet   image and sha256, or caption, of the rows in the order of order.npy; a row group a shard
  <n>/             where the process of shard n says what went wrong
  <n>.npy          float16 [n_rows, dim], shard n, once all of it is there; it is taken into features.npy
"""

import dataclasses
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipmem_core.atomic import replacing
from clipmem_core.features.cache import ORDER_FILE, Batches, Embedded

if TYPE_CHECKING:  # torch, which only computing features needs
    from clipmem_core.features.towers import Tower

BATCHES = 64  # of a shard: 1,024 pictures are half a minute of one core
SECONDS_BETWEEN_LOOKS = 1.0
_ASKED, _INPUTS = "asked.json", "inputs.parquet"

# Has shards of a folder computed, by their names, and lets its caller look again and again at what is there.
Elsewhere = Callable[[Path, Sequence[str]], Generator[Any, None, None]]


@dataclass(frozen=True)
class Asked:
    """What the shards of a folder have in common."""

    kind: str
    tower: Mapping[str, Any]
    batch: int
    root: str


@dataclass(frozen=True)
class Shard:
    """What a shard is computed from, column by column, and where it goes."""

    inputs: dict[str, list[str]]
    path: Path


def embedded_elsewhere(
    part: Path,
    batches: Batches,
    inputs: Mapping[str, Sequence[str]],
    tower: "Tower",
    root: Path,
    batch: int,
    compute: Elsewhere,
) -> Embedded:
    """Yield the features of batches that other processes compute, shard by shard as they come.

    Args:
        part: the folder that they are computed in.
        batches: those that are left.
        inputs: of all rows, by their column.
        tower: locked.
        root: the folder that pictures are in.
        batch: rows of each.
        compute: has shards computed.

    Raises:
        InputError, RuntimeError: as of `compute`.
    """
    left: dict[str, list[tuple[int, int]]] = {}
    for number, rows in batches:
        left.setdefault(str(number // BATCHES), []).append((number, len(rows)))
    if not left:
        return
    _ask(part, inputs, Asked(tower.kind, dict(tower.asked), batch, str(root.absolute())))
    with closing(compute(part, list(left))) as looks:
        looked = 0.0
        for _ in looks:
            if time.monotonic() - looked > SECONDS_BETWEEN_LOOKS:
                for name in [path.stem for path in part.glob("*.npy") if path.stem in left]:
                    yield from _taken(part, name, left.pop(name), batch)
                looked = time.monotonic()
    for name, own in left.items():
        yield from _taken(part, name, own, batch)


def _ask(part: Path, inputs: Mapping[str, Sequence[str]], asked: Asked) -> None:
    """Leave what shards are computed from, unless it is there."""
    order = np.load(part / ORDER_FILE)
    if not (part / _INPUTS).is_file():
        columns = {name: pa.array(values, pa.large_string()).take(pa.array(order)) for name, values in inputs.items()}
        with replacing(part / _INPUTS) as temporary:
            pq.write_table(pa.table(columns), temporary, row_group_size=BATCHES * asked.batch)
    with replacing(part / _ASKED) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(asked)), encoding="utf-8")


def _taken(part: Path, name: str, own: Sequence[tuple[int, int]], batch: int) -> Embedded:
    """Yield the batches of a shard and delete it."""
    values = np.load(part / f"{name}.npy")
    for number, rows in own:
        at = (number - int(name) * BATCHES) * batch
        yield number, values[at : at + rows]
    (part / f"{name}.npy").unlink()


def asked_of(part: Path) -> Asked:
    """Return what the shards of a folder have in common."""
    return Asked(**json.loads((part / _ASKED).read_text(encoding="utf-8")))


def shards_of(part: Path, names: Sequence[str]) -> Iterator[Shard]:
    """Yield the named shards of a folder that are not there."""
    with pq.ParquetFile(part / _INPUTS) as file:
        for name in names:
            path = part / f"{name}.npy"
            if not path.is_file():
                yield Shard(file.read_row_group(int(name)).to_pydict(), path)


def leave(shard: Shard, values: np.ndarray) -> None:
    """Write a shard, float16 [n_rows, dim]."""
    with replacing(shard.path) as temporary, temporary.open("wb") as file:
        np.save(file, values)
