"""Features of a data set's pictures and captions; each distinct input is computed once."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from filelock import FileLock
from torch.nn import functional

from clipmem_core.dataset.pictures import GAP, PictureError, decode, resize
from clipmem_core.dataset.readers.containers import read_bytes
from clipmem_core.dataset.readers.remote import reason_of
from clipmem_core.features import cache
from clipmem_core.features.cache import FeatureStore, ReportCount, ReportLine
from clipmem_core.features.towers import Opened, Tower
from clipmem_core.utils import columns as c
from clipmem_core.utils.embeddings import Vectors, unit
from clipmem_core.utils.io import (
    InputError,
    cores,
    keep_memory,
    naming,
    read_json,
    replacing,
    save_array,
    shortage,
)

IMAGE_BATCH = {"fp32": 16, "amp_bf16": 8}  # pictures: larger batches leave the processor's caches
TEXT_BATCH = 64  # captions at most
TOKENS = 384  # of the captions of a batch, at most
_TEXT = "text"
ENGINE = "engine.json"
TORCH = "torch"
ONNX = "ONNX Runtime"
COMPILED_FROM = 64  # batches: fewer are computed by torch in less time than an export takes
SAME = 1e-3  # 1 − cosine of the features of both engines, at most; measured: 1e-6

Embed = Callable[[Any], np.ndarray]  # as `Opened.embed`


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
        say: called with a line about the engine.
    """

    tower: Tower
    root: Path = Path()
    progress: ReportCount = lambda done, total: None
    say: ReportLine = lambda line: None

    @property
    def store(self) -> FeatureStore:
        """The cache of the tower's features."""
        return FeatureStore(self.tower.key, self.say)

    def images(self, pairs: pd.DataFrame) -> Vectors:
        """Return the features of each pair's picture.

        Args:
            pairs: columns image, relative to `root`, and sha256, of the pictures' bytes.

        Returns:
            float16 [n_pairs, dim], mapped from the file.
        """
        inputs = {name: pairs[name].tolist() for name in (c.IMAGE, c.SHA256)}
        keys = pa.array(map(bytes.fromhex, inputs[c.SHA256]), cache.DIGEST)
        return self._features(inputs, keys)

    def captions(self, texts: Sequence[str]) -> Vectors:
        """Return the features of captions, float16 [n_captions, dim], mapped from the file."""
        return self._features({_TEXT: texts}, cache.text_keys(texts))

    def truncated(self, texts: Sequence[str]) -> np.ndarray:
        """Tell which captions are longer than the tower reads, bool [n]; the tower is opened only
        for captions whose features are not cached."""
        rows = self.store.find(cache.text_keys(texts))
        missing = np.flatnonzero(rows < 0)
        truncated = np.zeros(len(texts), bool)
        truncated[rows >= 0] = self.store.keys()[cache.TRUNCATED].to_numpy()[rows[rows >= 0]]
        if len(missing):
            lengths = self.tower.opened.lengths([texts[row] for row in missing.tolist()])
            truncated[missing] = lengths > self.tower.context
        return truncated

    def _features(self, inputs: Mapping[str, Sequence[Any]], keys: pa.Array) -> Vectors:
        """Return the features of inputs (image and sha256, or text), and compute missing ones."""
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
                    self._compute(self._table(inputs, keys, missing))
                    store.add_shards()
            rows = store.find(keys)
        return store.features().take(rows)

    def _table(
        self, inputs: Mapping[str, Sequence[Any]], keys: pa.Array, rows: np.ndarray
    ) -> pa.Table:
        """Return the inputs to compute with their keys and lengths, the shortest first."""
        columns = {name: [values[row] for row in rows] for name, values in inputs.items()}
        lengths = np.zeros(len(rows), np.int32)
        if self.tower.kind == "text":
            lengths = self.tower.opened.lengths(columns[_TEXT])
        facts = {
            cache.KEY: keys.take(pa.array(rows)),
            cache.LENGTH: np.minimum(lengths, self.tower.context),
            cache.TRUNCATED: lengths > self.tower.context,
        }
        texts = {name: pa.array(values, pa.large_string()) for name, values in columns.items()}
        return pa.table(facts | texts).take(pa.array(np.argsort(lengths, kind="stable")))

    def _compute(self, table: pa.Table) -> None:
        """Compute the features of a table's inputs in shards, which a killed run leaves whole."""
        tower = self.tower
        store = self.store
        total = len(table)
        store.begin(tower.kind, table)
        self.progress(0, total)
        embed = tower.opened.embed
        if total >= COMPILED_FROM * batch_size(tower):
            first = table.slice(0, batch_size(tower)).to_pydict()
            sample = self._load(first, np.arange(len(first[cache.LENGTH])))
            embed = faster_engine(tower.opened, sample, store.folder, self.say)
        done = 0
        for path, inputs in store.missing_shards():
            features = np.empty((len(inputs[cache.LENGTH]), tower.dim), np.float16)
            for batch, values in self._embed(embed, inputs):
                features[batch] = values
                done += len(batch)
                self.progress(done, total)
            save_array(features, path)

    def _embed(
        self, embed: Embed, inputs: dict[str, list[Any]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows of a batch and their features, float16 [n, dim].

        One thread reads and computes a batch, so that features do not depend on the number of
        threads.
        """
        keep_memory()
        batches = self._batches(np.asarray(inputs[cache.LENGTH]))
        threads = torch.get_num_threads()

        def compute(batch: np.ndarray) -> np.ndarray:
            with np.errstate(over="ignore"):
                return embed(self._load(inputs, batch))[: len(batch)].astype(np.float16)

        try:
            with ThreadPoolExecutor(
                cores(), initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                for batch, features in zip(batches, pool.map(compute, batches), strict=True):
                    unusable = np.flatnonzero(~np.isfinite(features).all(axis=1))
                    if len(unusable):
                        row = batch[unusable[0]]
                        name = inputs[c.IMAGE if c.IMAGE in inputs else _TEXT][row]
                        raise InputError(
                            f"tower {self.tower.name} gives NaN or numbers too large for float16 "
                            f"for {self.tower.kind} {name[:200]!r}: choose another tower"
                        )
                    yield batch, features
        finally:
            torch.set_num_threads(threads)

    def _batches(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Return the inputs of each batch: of one length, and as many as that length allows."""
        batches = []
        for length in np.unique(lengths):
            places = np.flatnonzero(lengths == length)
            size = batch_size(self.tower, int(length))
            batches += [places[at : at + size] for at in range(0, len(places), size)]
        return batches

    def _load(self, inputs: dict[str, list[Any]], batch: np.ndarray) -> Any:
        """Return the decoded pictures, or the captions, of a batch, repeated up to the size of the
        batch.

        The shape of a batch then depends on the length of its inputs alone. The last bits of a
        product depend on its shape, so the features of an input do not depend on the inputs that
        are computed with it.
        """
        size = batch_size(self.tower, inputs[cache.LENGTH][batch[0]])
        if self.tower.kind == "text":
            return [inputs[_TEXT][row] for row in np.resize(batch, size)]
        squares = np.stack(
            [self._square(inputs[c.IMAGE][row], inputs[c.SHA256][row]) for row in batch]
        )
        return squares[np.resize(np.arange(len(batch)), size)]

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


def faster_engine(opened: Opened, batch: Any, folder: Path, say: ReportLine) -> Embed:
    """Return the tower's function run by torch or by ONNX Runtime, whichever is faster on a batch.

    The choice is measured once and stored beside the features, so that a resumed run uses the same
    engine.

    Args:
        opened: the tower.
        batch: an input of `Opened.embed`.
        folder: where the choice is stored.
        say: called with a line about the choice.
    """
    path = folder / ENGINE
    stored = read_json(path, str, repair="delete it") if path.is_file() else None
    if opened.compile is None or stored == TORCH:
        return opened.embed
    try:
        compiled = opened.compile(batch)
    except Exception as error:  # the exporter and the runtime each raise their own kinds
        say(f"note: {ONNX} cannot run the tower ({reason_of(error)})")
        return opened.embed
    if stored is None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        features = []
        seconds = []
        for embed in (opened.embed, compiled):
            features.append(unit(embed(batch)))  # the first call prepares the engine
            began = time.perf_counter()
            embed(batch)
            seconds.append((time.perf_counter() - began) / len(batch))
        torch.set_num_threads(threads)
        is_same = np.vecdot(*features).min() > 1 - SAME
        stored = ONNX if is_same and seconds[1] < seconds[0] else TORCH
        say(
            f"computing features by {stored} ({TORCH} {1000 * seconds[0]:.1f} ms each on a core, "
            f"{ONNX} {1000 * seconds[1]:.1f} ms)"
        )
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(stored), encoding="utf-8")
    return compiled if stored == ONNX else opened.embed
