"""Features on disk: each input of a tower is computed once.

<folder>/<key of the tower>/
  features.faiss  float16 [n, dim]
  keys.parquet    the sha256 of each row's input
  .part/          while rows are computed: finished shards, <n>.feather, of key and features.
                  The next run adds the shards of a killed one
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import feather

from clipmem_core.config import data_folder, fingerprint
from clipmem_core.utils.embeddings import BLOCK, Vectors, read_vectors, write_vectors
from clipmem_core.utils.io import reading, replacing

KEY = "key"
FEATURES = "features"
DIGEST = pa.binary(32)
_REPAIR = "delete its folder, and the same command computes it again"

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

    def __init__(self, key: str) -> None:
        self.folder = data_folder() / "cache" / "features" / key
        self.features_file = self.folder / "features.faiss"
        self.keys_file = self.folder / "keys.parquet"
        self.part = self.folder / ".part"

    def keys(self) -> pa.Table:
        """Return the key of each stored row."""
        if not self.keys_file.is_file():
            return pa.table({KEY: pa.array([], DIGEST)})
        with reading(self.keys_file, repair=_REPAIR):
            return pq.read_table(self.keys_file, columns=[KEY])

    def find(self, keys: pa.Array) -> np.ndarray:
        """Return the row of each key, int64 [n]; -1 for a key that is missing."""
        rows = pc.index_in(keys, value_set=self.keys()[KEY])
        return pc.fill_null(rows, -1).to_numpy().astype(np.int64)

    def features(self) -> Vectors:
        """Map the stored features, float16 [n, dim]."""
        with reading(self.features_file, repair=_REPAIR):
            return read_vectors(self.features_file)

    def save_shard(self, number: int, keys: pa.Array, features: np.ndarray) -> None:
        """Write the features of some inputs, float16 [n, dim], as a finished shard."""
        self.part.mkdir(exist_ok=True)
        vectors = pa.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1])
        with replacing(self.part / f"{number}.feather") as temporary:
            feather.write_feather(pa.table({KEY: keys, FEATURES: vectors}), temporary)

    def add_shards(self) -> None:
        """Add the rows of the finished shards to the stored ones, and delete the shards."""
        paths = list(self.part.glob("[0-9]*.feather"))
        keys = [self.keys()]
        n_stored = len(keys[0])  # a kill may have left more features than keys

        def blocks() -> Iterator[np.ndarray]:
            for at in range(0, n_stored, BLOCK):
                yield self.features()[at : min(at + BLOCK, n_stored)]
            for path in paths:
                shard = feather.read_table(path, memory_map=False)
                keys.append(shard.select([KEY]))
                yield shard[FEATURES].combine_chunks().flatten().to_numpy().reshape(len(shard), -1)

        if paths:
            write_vectors(self.features_file, blocks())
            with replacing(self.keys_file) as temporary:
                pq.write_table(pa.concat_tables(keys), temporary)
        shutil.rmtree(self.part, ignore_errors=True)
