"""How fast a model trains and embeds on this machine, by a few real steps in this process."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from clipmem_core.audits.estimate import EPOCHS, Pace, undisturbed, waited
from clipmem_core.audits.member import EVALUATION, view_maker
from clipmem_core.config import AuditConfig
from clipmem_core.pairs.pixels import StreamedPixels
from clipmem_core.training.draws import draw_keys
from clipmem_core.training.embed import mean_image_embeddings, text_embeddings
from clipmem_core.training.loop import PixelSource, Trainer, TrainingData
from clipmem_core.training.model import build_model
from clipmem_core.training.state import Progress

WARM_STEPS = 2
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
    data = _training_data(config, tokens, root, images)
    model = build_model(
        config.model,
        loss=config.loss,
        seed=0,
        image_size=config.image_size,
        pretrained=config.pretrained,
        device=config.device,
    )
    model.train()
    trainer = Trainer(model, data, config, view_maker(model, config, 0), seed=0, device=config.device)
    steps = trainer.steps(Progress(0, np.full((EPOCHS, len(tokens), 2), np.nan, dtype=np.float16)))
    began = undisturbed()
    for _ in range(WARM_STEPS):
        next(steps)
    warm_up, waited_so_far = undisturbed() - began, waited()
    ready()
    step, busy = _seconds_a_step(steps)
    picture, caption = _embedding_seconds(trainer)
    return Pace(warm_up, waited_so_far, step, picture, caption, busy)


def _training_data(config: AuditConfig, tokens: np.ndarray, root: Path, images: list[str]) -> TrainingData:
    rows = np.arange(len(tokens))
    pixels: PixelSource = RandomPixels(len(rows), config.cache_size)
    if images:
        pixels = StreamedPixels(root, rows, config.cache_size, resize_mode=config.resize_mode, root=root, images=images)
    return TrainingData(
        pixels=pixels,
        tokens=tokens,
        caption_start=np.arange(len(tokens) + 1),
        keys=draw_keys([str(row) for row in rows]),
        rows=rows,
        external=rows[: len(rows) // 11],
    )


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


def _embedding_seconds(trainer: Trainer) -> tuple[float, float]:
    """Return the seconds of embedding one view of a picture, and one caption."""
    config, data = trainer.config, trainer.data
    how = {"precision": config.precision, "device": config.device}
    views = view_maker(trainer.model, config, EVALUATION)
    began = undisturbed()
    mean_image_embeddings(trainer.model, data, views, n_views=2, **how)
    between = undisturbed()
    text_embeddings(trainer.model, data.tokens, **how)
    return (between - began) / (2 * len(data.keys)), (undisturbed() - between) / len(data.tokens)
