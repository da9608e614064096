"""Features on disk: each input of a tower is computed once. Rows are appended, so a killed run continues.

<folder>/<key of the tower>/
  features.bin    float16 [n, dim]
  engine.json     what computes them, if that was measured: torch or ONNX Runtime
  index.bin       INDEX [n]: the sha256 of each row's input, and whether the input was truncated
  <key>.part/     while other processes compute shards:
    request.json    the tower's arguments, the batch size, and the folder of the pictures
    inputs.parquet  key, cut, and image and sha256, or text; one row group a shard
    <n>/            error messages of the process of shard n
    <n>.npy         float16 [n_rows, dim], shard n
"""

import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core.io import replacing

BATCHES = 64  # of a shard: 1,024 pictures are half a minute of one core
KEY, CUT = "key", "cut"
INDEX = np.dtype([(KEY, "V32"), (CUT, "?")])
DIGEST = pa.binary(32)

# Computes the named shards of a folder in other processes; yields while they run.
ComputeShards = Callable[[Path, Sequence[str]], Generator[Any, None, None]]
Computed = tuple[pa.Array, np.ndarray, np.ndarray]  # keys, whether inputs were truncated, features float16 [n, dim]


class SomeRows:
    """`values[rows]` of an array [n, dim], read on access."""

    ndim = 2

    def __init__(self, values: np.ndarray, rows: np.ndarray) -> None:
        self.values, self.rows = values, rows
        self.shape, self.dtype = (len(rows), values.shape[1]), values.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        return self.values[self.rows[key]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def some_rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return rows of a mapped array: the array itself if `rows` are all its rows in order, else `SomeRows`."""
    if np.array_equal(rows, np.arange(len(values))):
        return values
    if isinstance(values, SomeRows):
        values, rows = values.values, values.rows[rows]
    return SomeRows(values, rows)  # type: ignore[return-value]  # used as an array


class FeatureStore:
    """The features of one tower."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder, self.dim = folder, dim
        folder.mkdir(parents=True, exist_ok=True)
        self.files = {folder / "features.bin": 2 * dim, folder / "index.bin": INDEX.itemsize}  # bytes of a row

    def __len__(self) -> int:
        """Count the rows in both files; after a kill one may be shorter."""
        return min(path.stat().st_size // size if path.is_file() else 0 for path, size in self.files.items())

    def index(self) -> np.ndarray:
        count = len(self)
        return np.fromfile(self.folder / "index.bin", INDEX, count) if count else np.empty(0, INDEX)

    def find(self, keys: pa.Array) -> np.ndarray:
        """Return the row of each key, int64 [n]; -1 for a key that is missing."""
        stored = self.index()[KEY]
        digests = pa.Array.from_buffers(DIGEST, len(stored), [None, pa.py_buffer(stored.tobytes())])
        return pc.fill_null(pc.index_in(keys, value_set=digests), -1).to_numpy().astype(np.int64)

    def features(self) -> np.ndarray:
        """Map the features, float16 [n, dim]."""
        shape = (len(self), self.dim)
        return np.memmap(self.folder / "features.bin", np.float16, "r", shape=shape) if len(self) else np.empty(shape)

    def append(self, keys: pa.Array, cut: np.ndarray, features: np.ndarray) -> None:
        """Append rows; the index is written last and makes them valid."""
        index = np.empty(len(keys), INDEX)
        index[KEY], index[CUT] = [np.void(key) for key in keys.to_pylist()], cut
        count = len(self)
        for (path, size), values in zip(self.files.items(), (features, index), strict=True):
            with path.open("r+b" if path.is_file() else "wb") as file:
                file.seek(count * size)
                file.write(values.tobytes())
                file.flush()
                os.fsync(file.fileno())


def compute_shards(
    store: FeatureStore,
    part: Path,
    request: Mapping[str, Any],
    inputs: pa.Table,
    compute: ComputeShards,
) -> Iterator[Computed]:
    """Yield features that other processes compute, shard by shard.

    Args:
        store: shards whose rows it has are skipped.
        part: the folder for the shards; it is resumed if it exists, and removed at the end.
        request: kind and arguments of the tower, the batch size, and the folder of the pictures, as JSON values.
        inputs: key, cut, and the inputs of the rows to compute, in the order of their batches.
        compute: computes shards.
    """
    part.mkdir(exist_ok=True)
    if not (part / "inputs.parquet").is_file():
        with replacing(part / "inputs.parquet") as temporary:
            pq.write_table(inputs, temporary, row_group_size=BATCHES * request["batch"])
    with replacing(part / "request.json") as temporary:
        temporary.write_text(json.dumps(request), encoding="utf-8")
    with pq.ParquetFile(part / "inputs.parquet") as file:
        pending = dict[str, tuple[pa.Array, np.ndarray]]()
        for shard in range(file.num_row_groups):
            table = file.read_row_group(shard, columns=[KEY, CUT])
            keys = table[KEY].combine_chunks()
            if (store.find(keys) < 0).any():
                pending[str(shard)] = keys, table[CUT].to_numpy()

    def finished() -> Iterator[Computed]:
        for name in [name for name in pending if (part / f"{name}.npy").is_file()]:
            (keys, cut), features = pending.pop(name), np.load(part / f"{name}.npy")
            new = store.find(keys) < 0
            yield keys.filter(pa.array(new)), cut[new], features[new]

    if pending:
        with closing(compute(part, list(pending))) as running:
            for _ in running:
                yield from finished()
        yield from finished()
    shutil.rmtree(part)


def missing_shards(part: Path, names: Sequence[str]) -> Iterator[tuple[Path, dict[str, list[str]]]]:
    """Yield the file and the input columns of each named shard that is missing."""
    with pq.ParquetFile(part / "inputs.parquet") as file:
        columns = [name for name in file.schema_arrow.names if name not in (KEY, CUT)]
        for name in names:
            path = part / f"{name}.npy"
            if not path.is_file():
                yield path, file.read_row_group(int(name), columns=columns).to_pydict()
