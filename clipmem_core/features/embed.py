"""Features of a data set's pictures and captions; each distinct input is computed once."""

import hashlib
import json
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from filelock import FileLock
from torch.nn import functional

from clipmem_core import columns as c
from clipmem_core.dataset.pictures import GAP, PictureError, decode, resize
from clipmem_core.dataset.readers.containers import read_bytes
from clipmem_core.dataset.workers import cores
from clipmem_core.embeddings import Vectors
from clipmem_core.features import cache
from clipmem_core.features.cache import ComputeShards, FeatureStore
from clipmem_core.features.towers import Opened, Tower, image_tower, text_tower
from clipmem_core.io import (
    InputError,
    keep_memory,
    naming,
    read_json,
    replacing,
    save_array,
    shortage,
)
from clipmem_core.scores.alignment import unit

IMAGE_BATCH = {"fp32": 16, "amp_bf16": 8}  # pictures: larger batches leave the processor's caches
# captions, and their tokens, at most
TEXT_BATCH = 64
TOKENS = 384
_TEXT = "text"
ENGINE = "engine.json"
TORCH = "torch"
ONNX = "ONNX Runtime"
COMPILED_FROM = 64  # batches: fewer are computed by torch in less time than an export takes
SAME = 1e-3  # 1 − cosine of the features of both engines, at most; measured: 1e-6

# With these instructions torch resizes in a third of Pillow's time; the results differ by at most
# two grey levels.
_SIMD = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")

Progress = Callable[[int, int], None]
Say = Callable[[str], None]
Embed = Callable[[Any], np.ndarray]
Inputs = Mapping[str, Sequence[Any]]  # image and sha256, or text; in a shard also length


def image_features(
    pairs: pd.DataFrame,
    root: Path,
    tower: Tower,
    *,
    compute: ComputeShards | None = None,
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> Vectors:
    """Return the features of each pair's picture, float16 [n_pairs, dim], mapped from the file.

    `pairs` has the columns image, relative to `root`, and sha256, of the pictures' bytes. `compute`
    computes shards in other processes. `progress` is called with (finished, all) pictures, `say`
    with a line about the engine.
    """
    inputs = {name: pairs[name].tolist() for name in (c.IMAGE, c.SHA256)}
    keys = pa.array(map(bytes.fromhex, inputs[c.SHA256]), cache.DIGEST)
    return _cached(tower, inputs, keys, root, compute, progress, say)[0]


def text_features(
    captions: Sequence[Sequence[str]],
    tower: Tower,
    *,
    compute: ComputeShards | None = None,
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> tuple[Vectors, int]:
    """Return the features of each pair's captions, float16 [n_captions, dim], and the number of
    truncated captions.

    The arguments are those of `image_features`; `say` is also called with a line if captions are
    truncated.
    """
    texts = [caption for pair in captions for caption in pair]
    features, cut = _cached(
        tower, {_TEXT: texts}, cache.text_keys(texts), Path(), compute, progress, say
    )
    if cut:
        say(
            f"{cut:,} of {len(texts):,} captions are longer than the {tower.context} tokens that "
            f"{tower.name} reads"
        )
    return features, cut


def batch_size(tower: Tower, length: int = 0) -> int:
    """Return how many inputs of a length in tokens are computed at a time."""
    if tower.kind == "image":
        return IMAGE_BATCH[tower.precision]
    return min(TEXT_BATCH, max(1, TOKENS // max(length, 1)))


def _cached(
    tower: Tower,
    inputs: Inputs,
    keys: pa.Array,
    root: Path,
    compute: ComputeShards | None,
    progress: Progress | None,
    say: Say,
) -> tuple[Vectors, int]:
    """Return the features of the inputs, computing missing ones, and the number of truncated
    inputs."""
    if not len(keys):
        return np.empty((0, tower.dim), np.float16), 0  # type: ignore[return-value]  # used as an array
    store = FeatureStore(tower.key)
    store.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(store.folder / ".lock")  # two audits of one data set compute it once
    rows = store.find(keys)
    if (rows < 0).any():
        with lock, naming(store.folder):
            store.add_shards()
            first = pc.index_in(keys, value_set=keys).to_numpy()  # of equal inputs
            missing = np.flatnonzero((store.find(keys) < 0) & (first == np.arange(len(keys))))
            if len(missing):
                _compute(
                    tower, store, _table(tower, inputs, keys, missing), root, compute, progress, say
                )
                store.add_shards()
        rows = store.find(keys)
    return store.features().take(rows), int(store.keys()[cache.CUT][rows].sum())


def _table(tower: Tower, inputs: Inputs, keys: pa.Array, rows: np.ndarray) -> pa.Table:
    """Return the inputs to compute with their keys and lengths, the shortest first."""
    lengths = np.zeros(len(rows), np.int32)
    if tower.kind == "text":
        lengths = tower.open().lengths([inputs[_TEXT][row] for row in rows])
    order = np.argsort(lengths, kind="stable")
    columns = {
        name: pa.array([values[row] for row in rows], pa.large_string())
        for name, values in inputs.items()
    }
    read = np.minimum(lengths, tower.context)
    facts = {
        cache.KEY: keys.take(pa.array(rows)),
        cache.LENGTH: read,
        cache.CUT: lengths > tower.context,
    }
    return pa.table(facts | columns).take(pa.array(order))


def _compute(
    tower: Tower,
    store: FeatureStore,
    table: pa.Table,
    root: Path,
    compute: ComputeShards | None,
    progress: Progress | None,
    say: Say,
) -> None:
    """Compute the features of a table's inputs in shards, here or in other processes."""
    request = {"kind": tower.kind, "tower": dict(tower.arguments), "root": str(root.absolute())}
    shards = store.begin(request, table)
    report = progress or (lambda done, total: None)
    report(0, len(table))
    if compute is not None:
        with closing(compute(store.part, shards)) as running:
            for _ in running:
                report(
                    min(store.finished_shards() * cache.SHARD[tower.kind], len(table)), len(table)
                )
        report(len(table), len(table))
        return
    done = 0
    embed = tower.open().embed
    if len(table) >= COMPILED_FROM * batch_size(tower):
        first = table.slice(0, batch_size(tower)).to_pydict()
        sample = _load(tower, first, np.arange(len(first[cache.LENGTH])), root)
        embed = faster(tower.open(), sample, store.folder, say)
    for count in _compute_shards(tower, embed, store.part, shards, root, cores()):
        done += count
        report(done, len(table))


def run_shards(part: Path, names: Sequence[str]) -> None:
    """Compute shards of a folder in this process."""
    request = read_json(part / "request.json")
    tower = {"image": image_tower, "text": text_tower}[request["kind"]](**request["tower"])
    if tower.key != part.parent.name:
        raise InputError(
            f"the {tower.kind} tower {tower.name} on {platform.node()} is {tower.key} and not "
            f"{part.parent.name}: "
            "install the same weights and libraries on all machines"
        )
    for _ in _compute_shards(
        tower, tower.open().embed, part, names, Path(request["root"]), torch.get_num_threads()
    ):
        pass


def _compute_shards(
    tower: Tower, embed: Embed, part: Path, names: Sequence[str], root: Path, workers: int
) -> Iterator[int]:
    """Compute and write shards; yield how many inputs each batch has."""
    for path, inputs in cache.missing_shards(part, names):
        features = np.empty((len(inputs[cache.LENGTH]), tower.dim), np.float16)
        for batch, values in _embed(tower, embed, inputs, root, workers):
            features[batch] = values
            yield len(batch)
        save_array(features, path)


def faster(opened: Opened, batch: Any, folder: Path, say: Say) -> Embed:
    """Return the tower's function run by torch or by ONNX Runtime, whichever is faster on a batch.

    The choice is measured once and stored beside the features, so that a resumed run uses the same
    engine.
    """
    path = folder / ENGINE
    stored = read_json(path, str) if path.is_file() else None
    if opened.compile is None or stored == TORCH:
        return opened.embed
    try:
        compiled = opened.compile(batch)
    except Exception as error:  # the exporter and the runtime each raise their own kinds
        say(f"note: {ONNX} cannot run the tower ({' '.join(str(error).split())[:200]})")
        return opened.embed
    if stored is None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        seconds = []
        found = [unit(embed(batch)) for embed in (opened.embed, compiled)]
        for embed in (opened.embed, compiled):
            began = time.perf_counter()
            embed(batch)
            seconds.append(1000 * (time.perf_counter() - began) / len(batch))
        torch.set_num_threads(threads)
        stored = ONNX if seconds[1] < seconds[0] and np.vecdot(*found).min() > 1 - SAME else TORCH
        say(
            f"computing features by {stored} ({TORCH} {seconds[0]:.1f} ms each on a core, {ONNX} "
            f"{seconds[1]:.1f} ms)"
        )
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(stored), encoding="utf-8")
    return compiled if stored == ONNX else opened.embed


def _batches(tower: Tower, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the inputs of each batch: of one length, and as many as that length allows."""
    for length in np.unique(lengths):
        places = np.flatnonzero(lengths == length)
        size = batch_size(tower, int(length))
        yield from (places[at : at + size] for at in range(0, len(places), size))


def _load(tower: Tower, inputs: Inputs, batch: np.ndarray, root: Path) -> Any:
    """Return the decoded pictures, or the captions, of a batch, repeated up to the size of the
    batch.

    The shape of a batch then depends on the length of its inputs alone. The last bits of a product
    depend on its shape, so the features of an input do not depend on the inputs that are computed
    with it.
    """
    padded = np.resize(batch, batch_size(tower, inputs[cache.LENGTH][batch[0]]))
    if tower.kind == "text":
        return [inputs[_TEXT][row] for row in padded]
    return _squares(tower, inputs, batch, root)[np.resize(np.arange(len(batch)), len(padded))]


def _embed(
    tower: Tower, embed: Embed, inputs: Inputs, root: Path, workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows of a batch and their features, float16 [n, dim].

    One thread reads and computes a batch, so that features do not depend on the number of threads.
    """
    keep_memory()
    waiting = deque[tuple[np.ndarray, Future[np.ndarray]]]()
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))

    def first() -> tuple[np.ndarray, np.ndarray]:
        batch_rows, future = waiting.popleft()
        features = future.result()[: len(batch_rows)]
        with np.errstate(over="ignore"):
            halves = features.astype(np.float16)
        bad = np.flatnonzero(~np.isfinite(halves).all(axis=1))
        if len(bad):
            row = int(batch_rows[bad[0]])
            source = (
                f"picture {inputs[c.IMAGE][row]!r}"
                if c.IMAGE in inputs
                else f"caption {inputs[_TEXT][row][:60]!r}"
            )
            fault = (
                "numbers too large for float16"
                if np.isfinite(features[bad[0]]).all()
                else "NaN or infinity"
            )
            raise InputError(f"tower {tower.name} gives {fault} for {source}: choose another tower")
        return batch_rows, halves

    try:
        for batch in _batches(tower, np.asarray(inputs[cache.LENGTH])):
            waiting.append(
                (batch, pool.submit(lambda batch: embed(_load(tower, inputs, batch, root)), batch))
            )
            if len(waiting) > 2 * workers:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _squares(tower: Tower, inputs: Inputs, rows: np.ndarray, root: Path) -> np.ndarray:
    """Decode pictures to squares, uint8 [n, size, size, 3]."""
    squares = []
    for row in rows:
        try:
            data = read_bytes(root, inputs[c.IMAGE][row])
            if hashlib.sha256(data).hexdigest() != inputs[c.SHA256][row]:
                raise PictureError("the file has changed since the data set was read")
            picture, _, box = decode(data, least=GAP * tower.size)
        except (OSError, ValueError) as error:
            if shortage(error):
                raise
            raise InputError(
                f"picture {inputs[c.IMAGE][row]!r} can no longer be read ({error}): restore its "
                "file, "
                "or run the audit under another name"
            ) from None
        if tower.resize_mode == "squash" and box == (0, 0, *picture.size) and _SIMD:
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
            small = functional.interpolate(
                pixels, (tower.size, tower.size), mode="bicubic", antialias=True
            )
            squares.append(small[0].permute(1, 2, 0).numpy())
        else:
            squares.append(resize(picture, tower.size, tower.resize_mode, box))
    return np.stack(squares)
