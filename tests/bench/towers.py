"""Features of drawn pictures and their captions, from files to the cache, against the bare passes through the towers.

Both sides are processor seconds of one run: the floor is the towers alone, on squares and captions that lie ready, in
the same batches and with as many threads. What comes on top is reading, checking, decoding, and writing.

Then seconds from files to .npy beside a loop like clip-retrieval's inference: a torch DataLoader whose workers decode,
batches of 256 through the same towers one after the other, float16 to numpy.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from clipmem_core import columns as c
from clipmem_core.audits.settings import Towers, resolve, towers_of
from clipmem_core.config import SourceOptions, data_folder, preset_config
from clipmem_core.features.embed import IMAGE_BATCH, TEXT_BATCH, image_features, text_features
from clipmem_core.features.towers import Tower
from clipmem_core.pairs.references import read_bytes
from clipmem_core.pairs.table import read_source
from clipmem_core.pairs.workers import cores
from tests.bench.report import Measure, Measures, console

TARGET = "at most 1.3"
BATCH, WORKERS = 256, 2  # of clip-retrieval's loop; so large a batch is its default


def measure(quick: bool, repeats: int) -> Measures:
    """Compute the features of each side once; `repeats` changes nothing."""
    config = resolve(preset_config("locked"))
    data_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=data_folder().resolve()) as temporary:
        count = 200 if quick else 800
        raw = read_source("scenes", SourceOptions(scenes_pairs=count), data=Path(temporary))
        pairs = raw.pairs.assign(**{c.SHA256: [_sha256(raw.root, image) for image in raw.pairs[c.IMAGE]]})
        captions = [list(own) for own in pairs[c.CAPTIONS]]
        texts = list(dict.fromkeys(text for own in captions for text in own))  # equal ones are computed once
        towers = towers_of(config)
        assert towers.image
        assert towers.text
        images, folder = towers.image, Path(temporary) / "cache"
        square = np.random.default_rng(0).integers(0, 256, (images.size, images.size, 3), dtype=np.uint8)
        by_length = sorted(texts, key=len)  # as they are embedded
        return [
            *_beside_floor(
                "picture",
                len(pairs),
                _bare(images, [np.stack([square] * len(part)) for part in _parts(pairs.index, IMAGE_BATCH)]),
                lambda: image_features(pairs, raw.root, images, folder=folder),
            ),
            *_beside_floor(
                "caption",
                len(texts),
                _bare(towers.text, _parts(by_length, TEXT_BATCH)),
                lambda: text_features(captions, towers.text, folder=folder),
            ),
            *_beside_loop(pairs, raw.root, towers, Path(temporary)),
        ]


def _parts(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [values[at : at + size] for at in range(0, len(values), size)]


def _bare(tower: Tower, batches: Sequence[Any]) -> float:
    """Return the seconds that a tower takes on some batches, of all cores together, after one that is not counted."""
    embed = tower.open().embed

    def timed(batch: Any) -> float:
        began = time.perf_counter()
        embed(batch)
        return time.perf_counter() - began

    with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(timed, batches[:1]))
        return sum(pool.map(timed, batches))


def _beside_loop(pairs: pd.DataFrame, root: Path, towers: Towers, folder: Path) -> Measures:
    """Compute the features of pairs, each with its first caption, once by ours and once by the loop."""
    assert towers.image
    assert towers.text
    captions = [own[0] for own in pairs[c.CAPTIONS]]
    began = time.perf_counter()
    image_features(pairs, root, towers.image, folder=folder / "ours")
    text_features([[caption] for caption in captions], towers.text, folder=folder / "ours")
    ours = time.perf_counter() - began
    began = time.perf_counter()
    _loop([root / image for image in pairs[c.IMAGE]], captions, towers.image, towers.text, folder)
    theirs = time.perf_counter() - began
    return [
        Measure(f"{len(pairs):,} pairs from files to .npy, ours (s)", ours),
        Measure(f"the same, a loop like clip-retrieval's with {WORKERS} workers (s)", theirs),
        Measure("loop / ours", ratio=theirs / ours, target="at least 1"),
    ]


class _Files(Dataset[tuple[np.ndarray, str]]):
    """Pictures as squares, and their captions."""

    def __init__(self, files: list[Path], captions: list[str], size: int) -> None:
        self.files, self.captions, self.size = files, captions, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[np.ndarray, str]:
        with Image.open(self.files[place]) as picture:
            square = picture.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(square), self.captions[place]


def _collate(batch: list[tuple[np.ndarray, str]]) -> tuple[np.ndarray, list[str]]:
    squares, captions = zip(*batch, strict=True)
    return np.stack(squares), list(captions)


def _loop(files: list[Path], captions: list[str], image: Tower, text: Tower, folder: Path) -> None:
    encode_image, encode_text, found = image.open().embed, text.open().embed, ([], [])
    data = _Files(files, captions, image.size)
    for squares, said in DataLoader(data, batch_size=BATCH, num_workers=WORKERS, collate_fn=_collate):
        for own, values in zip(found, (encode_image(squares), encode_text(said)), strict=True):
            own.append((values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16))
    for name, own in zip(("img_emb", "text_emb"), found, strict=True):
        np.save(folder / f"{name}.npy", np.concatenate(own))


def _beside_floor(what: str, count: int, bare: float, compute: Callable[[], object]) -> Measures:
    """Compute features, and set their price beside that of the bare tower, which took `bare` core seconds."""
    whole = _processor(compute)
    console.print(f"{count:,} {what}s: {whole:.1f} s of processors, the tower alone {bare:.1f} s")
    return [
        Measure(f"a {what} through the bare tower (ms of one core)", 1000 * bare / count),
        Measure(f"a {what}'s features, from its file or table to the cache (ms of one core)", 1000 * whole / count),
        Measure(f"features / bare tower, {what}s", ratio=whole / bare, target=TARGET),
    ]


def _sha256(root: Path, image: str) -> str:
    return hashlib.sha256(read_bytes(root, image)).hexdigest()


def _processor(work: Callable[[], object]) -> float:
    """Return the processor seconds of some work, those of the processes that it starts and ends among them."""
    before = os.times()
    work()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])
