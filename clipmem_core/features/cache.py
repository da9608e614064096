"""Features on disk: each input of a tower is computed once, in shards that a killed run leaves
whole.

<folder>/<key of the tower>/
  features.faiss  float16 [n, dim]
  keys.parquet    the sha256 of each row's input, and whether the input was truncated; in its
                  metadata the sha256 of the features. If these differ, all are computed again
  engine.json     what computes them, if that was measured: torch or ONNX Runtime
  .part/          while rows are computed; the next run adds the finished shards of a killed one
    inputs.parquet  key, length, truncated, and image and sha256, or text; one row group a shard
    <n>.npy         float16 [n_rows, dim], shard n
"""

import functools
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import ArrowException

from clipmem_core.config import data_folder, fingerprint
from clipmem_core.utils.embeddings import BLOCK, Vectors, read_vectors, write_vectors
from clipmem_core.utils.io import reading, replacing, shortage

SHARD = {"image": 1024, "text": 4096}  # inputs: ten seconds of one core
KEY = "key"
LENGTH = "length"
TRUNCATED = "truncated"
DIGEST = pa.binary(32)
_KEYS = pa.schema([(KEY, DIGEST), (TRUNCATED, pa.bool_())])
_SHA256 = b"sha256"

ReportCount = Callable[[int, int], None]  # called with the numbers of finished and of all items
ReportLine = Callable[[str], None]


def tower_key(facts: Mapping[str, Any]) -> str:
    """Return the key of a tower's features: a fingerprint of everything they depend on except the
    input.

    Args:
        facts: the tower's record in an audit's config.json.
    """
    used = {name: value for name, value in facts.items() if name not in ("licence", "seen")}
    return f"{facts['name'].replace('/', '-')}-{fingerprint(used)}"


def text_keys(texts: Sequence[str]) -> pa.Array:
    """Return the key of each caption, 32 bytes [n]."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    return pa.array(digests, DIGEST)


class FeatureStore:
    """The features of the tower with a key."""

    def __init__(self, key: str, say: ReportLine = lambda line: None) -> None:
        self.say = say  # called with a line if stored features are damaged
        self.folder = data_folder() / "cache" / "features" / key
        self.features_file = self.folder / "features.faiss"
        self.keys_file = self.folder / "keys.parquet"
        self.part = self.folder / ".part"
        self.inputs_file = self.part / "inputs.parquet"

    def keys(self) -> pa.Table:
        """Return the key of each stored row, and whether its input was truncated. Damaged files
        are deleted."""
        if not self.keys_file.is_file():
            return _KEYS.empty_table()
        try:
            table = pq.read_table(self.keys_file, page_checksum_verification=True)
            if _features_sha256(self.features_file, len(table)) == table.schema.metadata[_SHA256]:
                return table
        except (OSError, KeyError, TypeError, ValueError, MemoryError, ArrowException) as error:
            if isinstance(error, OSError) and shortage(error):  # a damaged header asks for memory
                raise
        self.say(f"note: {self.folder} is damaged: its features are computed again")
        self.keys_file.unlink(missing_ok=True)
        self.features_file.unlink(missing_ok=True)
        return _KEYS.empty_table()

    def find(self, keys: pa.Array) -> np.ndarray:
        """Return the row of each key, int64 [n]; -1 for a key that is missing."""
        rows = pc.index_in(keys, value_set=self.keys()[KEY])
        return pc.fill_null(rows, -1).to_numpy().astype(np.int64)

    def features(self) -> Vectors:
        """Map the stored features, float16 [n, dim]."""
        with reading(self.features_file, repair="the same command computes it again"):
            return read_vectors(self.features_file)

    def begin(self, kind: str, inputs: pa.Table) -> None:
        """Write the inputs to compute, in shards.

        Args:
            kind: image or text.
            inputs: a row for each input, with the columns of inputs.parquet.
        """
        self.part.mkdir()
        with replacing(self.inputs_file) as temporary:
            pq.write_table(inputs, temporary, row_group_size=SHARD[kind])

    def missing_shards(self) -> Iterator[tuple[Path, dict[str, list[Any]]]]:
        """Yield the file and the input columns of each shard that is missing."""
        with pq.ParquetFile(self.inputs_file) as file:
            columns = [name for name in file.schema_arrow.names if name not in (KEY, TRUNCATED)]
            for shard in range(file.num_row_groups):
                path = self.part / f"{shard}.npy"
                if not path.is_file():
                    yield path, file.read_row_group(shard, columns=columns).to_pydict()

    def add_shards(self) -> None:
        """Add the rows of the finished shards to the index, and delete the shards."""
        keys = [self.keys()]
        n_stored = len(keys[0])
        shards = list[tuple[Path, np.ndarray]]()
        if self.inputs_file.is_file():
            with pq.ParquetFile(self.inputs_file) as file:
                for shard in range(file.num_row_groups):
                    path = self.part / f"{shard}.npy"
                    if path.is_file():
                        table = file.read_row_group(shard, columns=_KEYS.names)
                        # A kill may have come after the rows were added.
                        is_new = self.find(table[KEY].combine_chunks()) < 0
                        keys.append(table.filter(is_new))
                        shards.append((path, is_new))

        def blocks() -> Iterator[np.ndarray]:
            if n_stored:
                stored = self.features()
                for at in range(0, n_stored, BLOCK):
                    yield stored[at : min(at + BLOCK, n_stored)]
            for path, is_new in shards:
                yield np.load(path)[is_new]

        table = pa.concat_tables(keys)
        if len(table) > n_stored:
            write_vectors(self.features_file, blocks())
            sha256 = _features_sha256(self.features_file, len(table))
            with replacing(self.keys_file) as temporary:
                pq.write_table(
                    table.replace_schema_metadata({_SHA256: sha256}),
                    temporary,
                    write_page_checksum=True,
                )
        shutil.rmtree(self.part, ignore_errors=True)


def _features_sha256(path: Path, rows: int) -> bytes:
    """Return the SHA-256 of the first rows of an index, their width and metric; one process hashes
    a file once. A kill may leave more rows than keys."""
    status = path.stat()
    return _hash_rows(path, rows, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(16)
def _hash_rows(path: Path, rows: int, *stamp: int) -> bytes:
    vectors = read_vectors(path)
    digest = hashlib.sha256(f"{vectors.shape[1]} {vectors.index.metric_type}".encode())
    for at in range(0, rows, BLOCK):
        digest.update(vectors[at : min(at + BLOCK, rows)].data)
    return digest.hexdigest().encode()
