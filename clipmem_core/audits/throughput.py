"""How fast a model trains and embeds on this machine, by a few real steps in this process."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipmem_core.audits.estimate import EPOCHS, Pace, undisturbed, waited
from clipmem_core.audits.locked import Towers, build_locked, feature_views, towers_of
from clipmem_core.audits.member import EVALUATION, view_maker
from clipmem_core.config import AuditConfig
from clipmem_core.pairs.pixels import StreamedPixels
from clipmem_core.training.draws import draw_keys
from clipmem_core.training.embed import mean_image_embeddings, text_embeddings
from clipmem_core.training.heads import FeatureRows
from clipmem_core.training.loop import PixelSource, Trainer, TrainingData, Views
from clipmem_core.training.model import Model, build_model, tokenize
from clipmem_core.training.state import Progress

WARM_STEPS = 2
SECONDS, STEPS = 3.0, 8  # measured for at least this long and this many steps,
PATIENCE = 15.0  # unless the steps are so slow that two must do
TOWER_BATCHES, TOWER_BATCH = 3, 16  # that a locked tower embeds, the first to warm up


class RandomPixels:
    """Noise in the place of stored pictures: a step takes as long on any."""

    def __init__(self, count: int, size: int) -> None:
        self.squares = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return uint8 [len(rows), size, size, 3]."""
        return self.squares[rows]


def measure(
    config: AuditConfig, captions: list[str], root: Path, images: list[str], *, ready: Callable[[], None]
) -> Pace:
    """Warm up, wait for the others, and measure.

    Args:
        config: a resolved one, of more epochs than are run.
        captions: of a few batches, one a pair.
        root: the folder that picture references are relative to.
        images: references, one a pair, where pictures are decoded at every use.
        ready: called once it is warm; returns when all are.

    Raises:
        InputError: the model or a locked tower cannot be had.
    """
    torch.set_num_threads(config.threads)
    towers = towers_of(config)
    data = _training_data(config, towers, captions, root, images)
    model = _model(config, towers)
    model.train()
    trainer = Trainer(model, data, config, _views(model, config, towers, 0), seed=0, device=config.device)
    steps = trainer.steps(Progress(0, np.full((EPOCHS, len(captions), 2), np.nan, dtype=np.float16)))
    began = undisturbed()
    for _ in range(WARM_STEPS):
        next(steps)
    warm_up, waited_so_far = undisturbed() - began, waited()
    ready()
    step, busy = _seconds_a_step(steps)
    picture, caption = _embedding_seconds(trainer, _views(model, config, towers, EVALUATION))
    return Pace(warm_up, waited_so_far, step, picture, caption, busy, *_tower_seconds(towers, captions))


def _model(config: AuditConfig, towers: Towers) -> Model:
    if towers.image or towers.text:
        return build_locked(towers, config, seed=0, pretrained=config.pretrained)
    return build_model(
        config.model,
        loss=config.loss,
        seed=0,
        image_size=config.image_size,
        pretrained=config.pretrained,
        device=config.device,
    )


def _views(model: Model, config: AuditConfig, towers: Towers, seed: int) -> Views:
    return feature_views(model, seed) if towers.image else view_maker(model, config, seed)


def _training_data(
    config: AuditConfig, towers: Towers, captions: list[str], root: Path, images: list[str]
) -> TrainingData:
    """Return pairs to train on; features of locked towers are noise, a step takes as long on any."""
    rows, noise = np.arange(len(captions)), np.random.default_rng(0)
    pixels: PixelSource
    if towers.image:
        pixels = FeatureRows(noise.standard_normal((len(rows), towers.image.dim), np.float32).astype(np.float16))
    elif images:
        pixels = StreamedPixels(root, rows, config.cache_size, resize_mode=config.resize_mode, root=root, images=images)
    else:
        pixels = RandomPixels(len(rows), config.cache_size)
    if towers.text:
        read = noise.standard_normal((len(rows), towers.text.dim), np.float32).astype(np.float16)
    else:
        read = tokenize(config.model, captions)
    return TrainingData(
        pixels=pixels,
        tokens=read,
        caption_start=np.arange(len(rows) + 1),
        keys=draw_keys([str(row) for row in rows]),
        rows=rows,
        external=rows[: len(rows) // 11],
    )


def _tower_seconds(towers: Towers, captions: list[str]) -> tuple[float, float]:
    """Return the seconds that a locked tower takes for a picture, and for a caption; 0 where it is not locked."""
    picture = caption = 0.0
    if towers.image:
        size = towers.image.size
        noise = np.random.default_rng(0).integers(0, 256, (TOWER_BATCH, size, size, 3), dtype=np.uint8)
        picture = _seconds_a_batch(towers.image.open().embed, [noise] * TOWER_BATCHES)
    if towers.text:
        batches = [captions[at : at + TOWER_BATCH] for at in range(0, TOWER_BATCH * TOWER_BATCHES, TOWER_BATCH)]
        caption = _seconds_a_batch(towers.text.open().embed, [batch or captions[:TOWER_BATCH] for batch in batches])
    return picture, caption


def _seconds_a_batch(embed: Callable[[Any], np.ndarray], batches: list[Any]) -> float:
    """Return the seconds for one of what batches hold, after the first of them."""
    embed(batches[0])
    began = undisturbed()
    for batch in batches[1:]:
        embed(batch)
    return (undisturbed() - began) / sum(map(len, batches[1:]))


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


def _embedding_seconds(trainer: Trainer, views: Views) -> tuple[float, float]:
    """Return the seconds of embedding one view of a picture, and one caption."""
    config, data = trainer.config, trainer.data
    how = {"precision": config.precision, "device": config.device}
    began = undisturbed()
    mean_image_embeddings(trainer.model, data, views, n_views=2, **how)
    between = undisturbed()
    text_embeddings(trainer.model, data.tokens, **how)
    return (between - began) / (2 * len(data.keys)), (undisturbed() - between) / len(data.tokens)
