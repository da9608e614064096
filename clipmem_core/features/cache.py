"""Features on disk: each input of a tower is computed once, in shards that a killed run leaves
whole.

<folder>/<key of the tower>/
  features.faiss  float16 [n, dim]
  keys.bin        KEYS [n]: the sha256 of each row's input, and whether the input was truncated
  engine.json     what computes them, if that was measured: torch or ONNX Runtime
  .part/          while rows are computed; the next run adds the finished shards of a killed one
    request.json    the tower's arguments, and the folder of the pictures
    inputs.parquet  key, length, cut, and image and sha256, or text; one row group a shard
    <n>/            error messages of the process of shard n
    <n>.npy         float16 [n_rows, dim], shard n
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core.config import data_folder, fingerprint
from clipmem_core.embeddings import BLOCK, Vectors, read_vectors, write_vectors
from clipmem_core.io import reading, replacing

SHARD = {"image": 1024, "text": 4096}  # inputs: ten seconds of one core
KEY = "key"
LENGTH = "length"
CUT = "cut"
KEYS = np.dtype([(KEY, "V32"), (CUT, "?")])
DIGEST = pa.binary(32)

# Computes the named shards of a folder in other processes; yields while they run.
ComputeShards = Callable[[Path, Sequence[str]], Generator[Any, None, None]]


def tower_key(facts: Mapping[str, Any]) -> str:
    """Return the key of a tower's features: a fingerprint of everything they depend on except the
    input."""
    used = {name: value for name, value in facts.items() if name not in ("licence", "seen")}
    return f"{facts['name'].replace('/', '-')}-{fingerprint(used)}"


def text_keys(texts: Sequence[str]) -> pa.Array:
    """Return the key of each caption."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    return pa.array(digests, DIGEST)


class FeatureStore:
    """The features of the tower with a key."""

    def __init__(self, key: str) -> None:
        self.folder = data_folder() / "cache" / "features" / key
        self.features_file = self.folder / "features.faiss"
        self.keys_file = self.folder / "keys.bin"
        self.part = self.folder / ".part"

    def keys(self) -> np.ndarray:
        return np.fromfile(self.keys_file, KEYS) if self.keys_file.is_file() else np.empty(0, KEYS)

    def find(self, keys: pa.Array) -> np.ndarray:
        """Return the row of each key, int64 [n]; -1 for a key that is missing."""
        stored = self.keys()[KEY]
        digests = pa.Array.from_buffers(DIGEST, len(stored), [None, pa.py_buffer(stored.tobytes())])
        return pc.fill_null(pc.index_in(keys, value_set=digests), -1).to_numpy().astype(np.int64)

    def features(self) -> Vectors:
        with reading(
            self.features_file, repair="delete its folder, and the audit computes it again"
        ):
            return read_vectors(self.features_file)

    def begin(self, request: Mapping[str, Any], inputs: pa.Table) -> list[str]:
        """Write the inputs of the rows to compute, and return the names of their shards."""
        self.part.mkdir()
        (self.part / "request.json").write_text(json.dumps(request), encoding="utf-8")
        with replacing(self.part / "inputs.parquet") as temporary:
            pq.write_table(inputs, temporary, row_group_size=SHARD[request["kind"]])
        return [str(shard) for shard in range(-(-len(inputs) // SHARD[request["kind"]]))]

    def finished_shards(self) -> int:
        return sum(1 for _ in self.part.glob("[0-9]*.npy"))

    def add_shards(self) -> None:
        """Add the rows of the finished shards to the index, and delete the shards."""
        keys = [self.keys()]
        shards = list[tuple[Path, np.ndarray]]()
        if (self.part / "inputs.parquet").is_file():
            with pq.ParquetFile(self.part / "inputs.parquet") as file:
                for shard in range(file.num_row_groups):
                    if (path := self.part / f"{shard}.npy").is_file():
                        table = file.read_row_group(shard, columns=[KEY, CUT])
                        new = (
                            self.find(table[KEY].combine_chunks()) < 0
                        )  # a kill may have come after they were added
                        added = np.empty(len(table), KEYS)
                        added[KEY] = [np.void(key) for key in table[KEY].to_pylist()]
                        added[CUT] = table[CUT].to_numpy()
                        keys.append(added[new])
                        shards.append((path, new))

        def blocks() -> Iterator[np.ndarray]:
            if valid := len(keys[0]):
                stored = self.features()
                yield from (stored[at : min(at + BLOCK, valid)] for at in range(0, valid, BLOCK))
            yield from (np.load(path)[new] for path, new in shards)

        if sum(map(len, keys[1:])):
            write_vectors(self.features_file, blocks())
            with replacing(self.keys_file) as temporary:
                temporary.write_bytes(np.concatenate(keys).tobytes())
        shutil.rmtree(self.part, ignore_errors=True)


def missing_shards(part: Path, names: Sequence[str]) -> Iterator[tuple[Path, dict[str, list[Any]]]]:
    """Yield the file and the input columns of each named shard that is missing."""
    with pq.ParquetFile(part / "inputs.parquet") as file:
        columns = [name for name in file.schema_arrow.names if name not in (KEY, CUT)]
        for name in names:
            path = part / f"{name}.npy"
            if not path.is_file():
                yield path, file.read_row_group(int(name), columns=columns).to_pydict()
