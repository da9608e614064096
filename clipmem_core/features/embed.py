"""Features of a data set's pictures and captions; each distinct input is computed once."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from filelock import FileLock
from torch.nn import functional

from clipmem_core.dataset.containers import read_bytes
from clipmem_core.dataset.pictures import GAP, PictureError, decode, resize
from clipmem_core.features import cache
from clipmem_core.features.cache import FeatureStore, ReportCount
from clipmem_core.features.fast_ops import keep_memory
from clipmem_core.features.towers import Tower
from clipmem_core.utils import columns as c
from clipmem_core.utils.embeddings import Vectors
from clipmem_core.utils.io import InputError, cores, naming, shortage

SHARD = {"image": 1024, "text": 4096}  # inputs: ten seconds of one core
IMAGE_BATCH = {"fp32": 16, "amp_bf16": 8}  # pictures: larger batches leave the processor's caches
TEXT_BATCH = 64  # captions at most
_ENDS = 2  # tokens before and after those of a caption
TOKENS = 384  # of the captions of a batch, at most


def batch_size(tower: Tower, length: int = 0) -> int:
    """Return how many inputs of a length in tokens are computed at a time."""
    if tower.kind == "image":
        return IMAGE_BATCH[tower.precision]
    return min(TEXT_BATCH, max(1, TOKENS // max(length, 1)))


@dataclass(frozen=True)
class FeatureExtractor:
    """Computes and caches a locked tower's features.

    Attributes:
        tower: the locked tower.
        root: the folder of the pictures.
        progress: called with the numbers of finished and of all inputs.
    """

    tower: Tower
    root: Path = Path()
    progress: ReportCount = lambda done, total: None

    @property
    def store(self) -> FeatureStore:
        """The cache of the tower's features."""
        return FeatureStore(self.tower.key)

    def images(self, pairs: pd.DataFrame) -> Vectors:
        """Return the features of each pair's picture.

        Args:
            pairs: columns image, relative to `root`, and sha256, of the pictures' bytes.

        Returns:
            float16 [n_pairs, dim], mapped from the file.
        """
        keys = pa.array(map(bytes.fromhex, pairs[c.SHA256]), cache.DIGEST)
        return self._features(list(zip(pairs[c.IMAGE], pairs[c.SHA256], strict=True)), keys)

    def captions(self, texts: Sequence[str]) -> Vectors:
        """Return the features of captions, float16 [n_captions, dim], mapped from the file."""
        return self._features(texts, cache.text_keys(texts))

    def truncated(self, texts: Sequence[str]) -> np.ndarray:
        """Tell which captions are longer than the tower reads, bool [n]; the tower is opened only
        for captions that may be."""
        sizes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts])
        truncated = sizes > self.tower.context - _ENDS  # a token is at least one byte
        if truncated.any():
            lengths = self.tower.opened.lengths(list(compress(texts, truncated)))
            truncated[truncated] = lengths > self.tower.context
        return truncated

    def _features(self, inputs: Sequence[Any], keys: pa.Array) -> Vectors:
        """Return the features of inputs (a picture and its sha256, or a text), and compute missing
        ones."""
        if not len(keys):
            return np.empty((0, self.tower.dim), np.float16)  # type: ignore[return-value]
        store = self.store
        rows = store.find(keys)
        if (rows < 0).any():
            store.folder.mkdir(parents=True, exist_ok=True)
            # Two audits of one data set compute it once.
            with FileLock(store.folder / ".lock"), naming(store.folder):
                store.add_shards()
                is_first = pc.index_in(keys, value_set=keys).to_numpy() == np.arange(len(keys))
                missing = np.flatnonzero((store.find(keys) < 0) & is_first)
                if len(missing):
                    self._compute([inputs[row] for row in missing.tolist()], keys.take(missing))
                    store.add_shards()
            rows = store.find(keys)
        return store.features().take(rows)

    def _compute(self, inputs: Sequence[Any], keys: pa.Array) -> None:
        """Compute the features of inputs in shards, the shortest texts first.

        The shape of a batch depends on the length of its inputs alone, and one thread computes a
        batch: the last bits of a product depend on its shape, so the features of an input do not
        depend on the inputs that are computed with it.
        """
        tower = self.tower
        opened = tower.opened
        lengths = opened.lengths(inputs)
        order = np.argsort(lengths, kind="stable")
        lengths = np.minimum(lengths, tower.context)

        def compute(batch: np.ndarray) -> np.ndarray:
            items = [inputs[row] for row in batch]
            if tower.kind == "image":
                items = [self._square(*item) for item in items]
            size = batch_size(tower, lengths[batch[0]])
            items = [items[number % len(items)] for number in range(size)]
            values = opened.embed(np.stack(items) if tower.kind == "image" else items)
            with np.errstate(over="ignore"):
                return values[: len(batch)].astype(np.float16)

        keep_memory()
        threads = torch.get_num_threads()
        done = 0
        self.progress(done, len(inputs))
        try:
            with ThreadPoolExecutor(
                cores(), initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                for at in range(0, len(order), SHARD[tower.kind]):
                    rows = order[at : at + SHARD[tower.kind]]
                    features = []
                    for values in pool.map(compute, self._batches(rows, lengths)):
                        features.append(values)
                        done += len(values)
                        self.progress(done, len(inputs))
                    shard = np.concatenate(features)
                    unusable = rows[~np.isfinite(shard).all(axis=1)]
                    if len(unusable):
                        item = inputs[int(unusable[0])]
                        name = item if tower.kind == "text" else item[0]
                        raise InputError(
                            f"tower {tower.name} gives NaN or numbers too large for float16 for "
                            f"{tower.kind} {name[:200]!r}: choose another tower"
                        )
                    self.store.save_shard(at, keys.take(pa.array(rows)), shard)
        finally:
            torch.set_num_threads(threads)

    def _batches(self, rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        """Return the inputs of each batch, of one length each, from rows sorted by their length."""
        batches = []
        for same in np.split(rows, np.flatnonzero(np.diff(lengths[rows])) + 1):
            size = batch_size(self.tower, lengths[same[0]])
            batches += [same[at : at + size] for at in range(0, len(same), size)]
        return batches

    def _square(self, image: str, sha256: str) -> np.ndarray:
        """Decode a picture to a square, uint8 [size, size, 3]."""
        tower = self.tower
        try:
            data = read_bytes(self.root, image)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise PictureError("the file has changed since the data set was read")
            picture, _, box = decode(data, least=GAP * tower.size)
        except (OSError, ValueError) as error:
            if shortage(error):
                raise
            raise InputError(
                f"picture {image!r} can no longer be read ({error}): restore its file, or run the "
                "audit under another name"
            ) from None
        is_uncut = box == (0, 0, *picture.size)
        if not (tower.resize_mode == "squash" and is_uncut):
            return resize(picture, tower.size, tower.resize_mode, box)
        # torch resizes in a third of Pillow's time; the results differ by at most two grey levels
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        square = functional.interpolate(
            pixels, (tower.size, tower.size), mode="bicubic", antialias=True
        )
        return square[0].permute(1, 2, 0).numpy()
