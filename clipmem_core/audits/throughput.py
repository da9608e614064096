"""How fast a model trains and embeds on this machine, by a few real steps in this process."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipmem_core.audits.estimate import EPOCHS, Pace, undisturbed, waited
from clipmem_core.audits.locked import Towers, feature_views, towers_of
from clipmem_core.audits.member import EVALUATION, build_member, view_maker
from clipmem_core.config import AuditConfig
from clipmem_core.draws import draw_keys
from clipmem_core.features.embed import IMAGE_BATCH, TEXT_BATCH
from clipmem_core.features.towers import Tower
from clipmem_core.pairs.pixels import StreamedPixels
from clipmem_core.pairs.workers import cores
from clipmem_core.training.embed import mean_image_embeddings, text_embeddings
from clipmem_core.training.heads import FeatureRows
from clipmem_core.training.loop import PixelSource, Trainer, TrainingData, Views
from clipmem_core.training.model import Model
from clipmem_core.training.state import Progress

WARM_STEPS = 2
BATCHES = 3  # that each core passes through a locked tower
SECONDS, STEPS = 3.0, 8  # measured for at least this long and this many steps,
PATIENCE = 15.0  # unless the steps are so slow that two must do


class RandomPixels:
    """Noise in the place of stored pictures: a step takes as long on any."""

    def __init__(self, count: int, size: int) -> None:
        self.squares = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return uint8 [len(rows), size, size, 3]."""
        return self.squares[rows]


def measure(
    config: AuditConfig, tokens: np.ndarray, root: Path, images: list[str], *, ready: Callable[[], None]
) -> Pace:
    """Warm up, wait for the others, and measure.

    Args:
        config: a resolved one, of more epochs than are run.
        tokens: of a few batches of captions, one a pair: int [n_pairs, context].
        root: the folder that picture references are relative to.
        images: references, one a pair, where pictures are decoded at every use.
        ready: called once it is warm; returns when all are.
    """
    torch.set_num_threads(config.threads)
    towers = towers_of(config)
    data = _training_data(config, tokens, root, images, towers)
    model = build_member(config, towers, seed=0, pretrained=config.pretrained, device=config.device)
    model.train()
    trainer = Trainer(model, data, config, _views(model, config, towers, 0), seed=0, device=config.device)
    steps = trainer.steps(Progress(0, np.full((EPOCHS, len(tokens), 2), np.nan, dtype=np.float16)))
    began = undisturbed()
    for _ in range(WARM_STEPS):
        next(steps)
    warm_up, waited_so_far = undisturbed() - began, waited()
    ready()
    step, busy = _seconds_a_step(steps)
    picture, caption = _embedding_seconds(trainer, towers)
    return Pace(warm_up, waited_so_far, step, picture, caption, busy)


def _training_data(
    config: AuditConfig, tokens: np.ndarray, root: Path, images: list[str], towers: Towers
) -> TrainingData:
    rows = np.arange(len(tokens))
    pixels: PixelSource = RandomPixels(len(rows), config.cache_size)
    if towers.text:
        tokens = _noise(len(rows), towers.text.dim)
    if towers.image:
        pixels = FeatureRows(_noise(len(rows), towers.image.dim))
    elif images:
        pixels = StreamedPixels(root, rows, config.cache_size, resize_mode=config.resize_mode, root=root, images=images)
    return TrainingData(
        pixels=pixels,
        tokens=tokens,
        caption_start=np.arange(len(tokens) + 1),
        keys=draw_keys([str(row) for row in rows]),
        rows=rows,
        external=rows[: len(rows) // 11],
    )


def _noise(count: int, width: int) -> np.ndarray:
    """Return noise in the place of features, float16 [count, width]: a step takes as long on any."""
    return np.random.default_rng(0).standard_normal((count, width)).astype(np.float16)


def _views(model: Model, config: AuditConfig, towers: Towers, seed: int) -> Views:
    return feature_views(model, seed) if towers.image else view_maker(model, config, seed)


def features_seconds(config: AuditConfig, captions: Sequence[str], *, pictures: int, count: int) -> float:
    """Return how long a config's locked towers take on every core, when nothing else runs; decoding comes on top.

    Args:
        config: a resolved one.
        captions: some of the data set.
        pictures: that the data set has.
        count: of its captions.

    Raises:
        InputError: a tower cannot be had.
    """
    towers, seconds = towers_of(config), 0.0
    if towers.image:
        squares = np.random.default_rng(0).integers(0, 256, (IMAGE_BATCH, *[towers.image.size] * 2, 3), dtype=np.uint8)
        batches = [squares] * (BATCHES * cores())
        seconds += pictures * _core_seconds(towers.image, batches) / (len(batches) * IMAGE_BATCH) / cores()
    if towers.text and captions:
        ordered = sorted(captions, key=len)  # as long as their neighbours, as when all are embedded
        parts = [ordered[at : at + TEXT_BATCH] for at in range(0, len(ordered), TEXT_BATCH)]
        seconds += count * _core_seconds(towers.text, parts) / len(ordered) / cores()
    return seconds


def _core_seconds(tower: Tower, batches: Sequence[Any]) -> float:
    """Return the seconds of all cores together that a tower takes on some batches, after one that is not counted."""
    embed = tower.open().embed

    def timed(batch: Any) -> float:
        began = undisturbed()
        embed(batch)
        return undisturbed() - began

    with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(timed, batches[:1]))
        return sum(pool.map(timed, batches))


def _seconds_a_step(steps: Iterator[None]) -> tuple[float, float]:
    """Return the seconds of a step when nothing else runs, and how many times longer it takes now."""
    began, began_undisturbed, count = time.monotonic(), undisturbed(), 0
    for _ in steps:
        count += 1
        spent = time.monotonic() - began
        if (spent > SECONDS and count >= STEPS) or (spent > PATIENCE and count >= WARM_STEPS):
            break
    alone = max(undisturbed() - began_undisturbed, 1e-9)
    return alone / count, max(1.0, spent / alone)


def _embedding_seconds(trainer: Trainer, towers: Towers) -> tuple[float, float]:
    """Return the seconds of embedding one view of a picture, and one caption."""
    config, data = trainer.config, trainer.data
    how = {"precision": config.precision, "device": config.device}
    views = _views(trainer.model, config, towers, EVALUATION)
    began = undisturbed()
    mean_image_embeddings(trainer.model, data, views, n_views=2, **how)
    between = undisturbed()
    text_embeddings(trainer.model, data.tokens, **how)
    return (between - began) / (2 * len(data.keys)), (undisturbed() - between) / len(data.tokens)
