"""Train one member: from pixels and tokens to a checkpoint and a trajectory. Killed at any step, it goes on from its
last saved state and ends with the same bits."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from open_clip.loss import SigLipLoss
from torch import Tensor
from torch.nn import functional as F

from clipmem_core.config import AuditConfig, InputError
from clipmem_core.draws import CAPTION, ORDER, hashed
from clipmem_core.training.files import CHECKPOINT, LOG, STATE, TRAJECTORY
from clipmem_core.training.losses import partner_log_probability
from clipmem_core.training.mitigation.applied import Mitigation
from clipmem_core.training.model import (
    Model,
    autocast,
    can_cut_text,
    encode_image,
    encode_text,
    image_features,
    text_features,
    text_input,
)
from clipmem_core.training.optimizer import learning_rate, make_optimizer
from clipmem_core.training.state import Log, Progress, load_state, peak_mb, save_array, save_atomically, save_state

SECONDS_BETWEEN_SAVES = 20.0
TRAINED_TO_SAVED = 20.0  # seconds of training to one of saving, at least
SECONDS_BETWEEN_LINES = 1.0
# A larger set may not fit into memory: its order is one of blocks of rows that lie together, and of the pairs among
# some blocks at a time. Pairs in one batch are then of these blocks.
SHUFFLED_UP_TO = 2_000_000
BLOCK, BLOCKS_AT_ONCE = 8_192, 32


class PixelSource(Protocol):
    """Stored pictures by row, or the features that a locked tower gives of them."""

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return uint8 [n, size, size, 3], or float16 [n, width]."""


class Views(Protocol):
    """What of a stored picture, or of its features, a member sees."""

    def training_images(self, pixels: np.ndarray, keys: np.ndarray, epoch: int, device: str) -> Tensor:
        """Return what it is trained on in an epoch, float32 [n, …]."""

    def evaluation_images(self, pixels: np.ndarray, keys: np.ndarray, view: int, device: str) -> Tensor:
        """Return what it is measured on, float32 [n, …]."""


@dataclass(frozen=True)
class TrainingData:
    """What a member may see. Rows are those of the pair table."""

    pixels: PixelSource
    tokens: np.ndarray  # int32 [n_captions, context_length]; float16 [n_captions, width] where the text tower is locked
    caption_start: np.ndarray  # int64 [n_pairs + 1]: captions of pair i are rows start[i] … start[i + 1] - 1
    keys: np.ndarray  # uint64 [n_pairs], what draws depend on
    rows: np.ndarray  # int64 [n_trained], the pairs this member trains on, ascending
    # int64 [n_external], pairs that no member trains on; looked at by what holds trained pairs against them
    external: np.ndarray = field(default_factory=lambda: np.array([], dtype=np.int64))


def epoch_batches(data: TrainingData, *, seed: int, epoch: int, batch_size: int) -> list[np.ndarray]:
    """Cut an epoch's order into batches of equal size (±1), none larger than batch_size and none dropped."""
    parts = [data.rows] if len(data.keys) <= SHUFFLED_UP_TO else blocks_at_once(data, seed=seed, epoch=epoch)
    order = np.concatenate(
        [rows[np.argsort(hashed(data.keys[rows], seed, ORDER, epoch), kind="stable")] for rows in parts]
    )
    return np.array_split(order, math.ceil(len(order) / batch_size))


def blocks_at_once(data: TrainingData, *, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Yield the trained rows, int64 [n], of some blocks at a time; the order of blocks is drawn for each epoch."""
    starts = np.searchsorted(data.rows, np.arange(0, len(data.keys) + BLOCK, BLOCK))
    blocks = np.arange(len(starts) - 1)
    order = np.argsort(hashed(blocks.astype(np.uint64), seed, ORDER, epoch), kind="stable")
    for at in range(0, len(order), BLOCKS_AT_ONCE):
        yield np.concatenate(
            [data.rows[starts[block] : starts[block + 1]] for block in order[at : at + BLOCKS_AT_ONCE]]
        )


def chosen_captions(data: TrainingData, rows: np.ndarray, *, seed: int, epoch: int, first: int = 0) -> np.ndarray:
    """Draw one caption for each row, of its `first` captions or (0) of all: caption numbers int64 [n]."""
    counts = data.caption_start[rows + 1] - data.caption_start[rows]
    counts = np.minimum(counts, first) if first else counts
    drawn = hashed(data.keys[rows], seed, CAPTION, epoch) % counts.astype(np.uint64)
    return data.caption_start[rows] + drawn.astype(np.int64)


class Trainer:
    """Runs the steps of one member."""

    def __init__(
        self, model: Model, data: TrainingData, config: AuditConfig, views: Views, *, seed: int, device: str
    ) -> None:
        self.model, self.data, self.config, self.views = model, data, config, views
        self.seed, self.device = seed, device
        self.cut = can_cut_text(model)
        self.generator = torch.cuda.default_generators[0] if device == "cuda" else torch.default_generator
        self.optimizer = make_optimizer(model, config)
        self.batches = math.ceil(len(data.rows) / config.batch_size)
        self.schedule = config.epochs * self.batches  # steps until the learning rate is 0
        self.total = config.trained_epochs * self.batches
        self.mitigation = Mitigation(model, config, data.tokens, data.keys, seed=seed)

    def inputs(self, rows: np.ndarray, epoch: int, pixels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Draw a view and a caption for each pair: images [n, 3, size, size], tokens [n, context_length]."""
        images = self.views.training_images(pixels, self.data.keys[rows], epoch, self.device)
        captions = chosen_captions(self.data, rows, seed=self.seed, epoch=epoch, first=self.config.train_captions)
        tokens = self.mitigation.tokens(self.data.tokens[captions], captions, rows, epoch)
        return images, text_input(tokens).to(self.device)

    def step(self, rows: np.ndarray, progress: Progress, pixels: np.ndarray | None = None) -> float:
        """Train on one batch, note the trajectory of its pairs, and return the loss; reads `pixels` if not given."""
        epoch = progress.step // self.batches
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                progress.step, total=self.schedule, peak=self.config.lr, warmup=self.config.warmup
            )
        # Dropout inside a tower, where a model has it, must not depend on where a run was resumed.
        self.generator.manual_seed((self.seed * 1_000_003 + progress.step) % 2**63)
        pixels = self.data.pixels.gather(rows) if pixels is None else pixels
        loss, cosine, log_probability = self.look(rows, epoch, pixels)
        if not torch.isfinite(loss):
            raise InputError(f"the loss is {loss.item()} at step {progress.step}: try a lower --lr or --precision fp32")
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.settle()
        progress.note(epoch, rows, cosine.cpu().numpy(), log_probability.cpu().numpy(), loss=float(loss.detach()))
        return float(loss.detach())

    def look(self, rows: np.ndarray, epoch: int, pixels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return a batch's loss, and for the trajectory each pair's cosine and log-probability of its partner, [n].

        Noise is in the loss alone: trajectory and held-out level are measured on the embeddings without it.
        """
        images, tokens = self.inputs(rows, epoch, pixels)
        with autocast(self.config.precision, self.device):
            seen, read = image_features(self.model, images), text_features(self.model, tokens, cut=self.cut)
        image, text = F.normalize(seen, dim=-1), F.normalize(read, dim=-1)
        scale = self.model.logit_scale.exp()
        cosine, log_probability = partner_log_probability(image, text, scale)
        noisy = self.mitigation.image(seen, image, rows, epoch), self.mitigation.text(read, text, rows, epoch)
        clean = noisy[0] is image and noisy[1] is text
        loss = self._loss(*noisy, scale, rows, log_probability if clean else None)
        self.mitigation.compare(rows, image.detach(), text.detach())
        return loss, cosine, log_probability.detach()

    def _loss(self, image: Tensor, text: Tensor, scale: Tensor, rows: np.ndarray, known: Tensor | None) -> Tensor:
        """Return the loss; `known` are the log-probabilities of partners that it is made of, where they are."""
        if self.config.loss == "siglip":
            return SigLipLoss()(image, text, scale, logit_bias=self.model.logit_bias)
        found = partner_log_probability(image, text, scale)[1] if known is None else known
        weight = self.mitigation.weight(rows)
        return -(found if weight is None else found * weight.to(self.device)).mean()

    @torch.no_grad()
    def look_at_external(self, epoch: int) -> None:
        """Measure where the external pairs stand, by one view and one caption of each, drawn as those of the epoch."""
        assert self.mitigation.held_out is not None
        external = self.data.external
        self.model.eval()
        found = []
        for rows in (
            np.array_split(external, math.ceil(len(external) / self.config.batch_size)) if len(external) else []
        ):
            images, tokens = self.inputs(rows, epoch, self.data.pixels.gather(rows))
            with autocast(self.config.precision, self.device):
                found.append((encode_image(self.model, images), encode_text(self.model, tokens, cut=self.cut)))
        self.model.train()
        if found:
            self.mitigation.held_out.look(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def settle(self) -> None:
        """Bring the weights back to where they are allowed to be, after a step."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(math.log(self.config.min_logit_scale), math.log(self.config.max_logit_scale))

    def shown(self) -> dict[str, float]:
        """Return what a line of the log says beside the loss."""
        held_out = self.mitigation.held_out
        ahead = {} if held_out is None else {"ahead": round(float(held_out.ahead[self.data.rows].mean()), 4)}
        return {"logit_scale": round(float(self.model.logit_scale.detach().exp()), 3)} | ahead

    def steps(self, progress: Progress) -> Iterator[None]:
        """Run every step that is left, pausing after each."""
        while progress.step < self.total:
            epoch, first = divmod(progress.step, self.batches)
            held_out = self.mitigation.held_out
            if held_out is not None and not first and held_out.due(epoch):
                self.look_at_external(epoch)
            batches = epoch_batches(self.data, seed=self.seed, epoch=epoch, batch_size=self.config.batch_size)
            for rows, pixels in read_ahead(self.data.pixels, batches[first:]):
                self.step(rows, progress, pixels)
                progress.step += 1
                yield


def read_ahead(pixels: PixelSource, batches: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each batch with its pixels, reading the next while this one is trained on: matters when they stream."""
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(pixels.gather, rows) for rows in batches[:1]]
        for place, rows in enumerate(batches):
            ready = ahead.pop().result()
            ahead = [pool.submit(pixels.gather, rows) for rows in batches[place + 1 : place + 2]]
            yield rows, ready


def train(trainer: Trainer, folder: Path, *, after_epoch: Callable[[int], None] | None = None) -> None:
    """Train a member to its end and leave checkpoint.pt, trajectory.npy and log.jsonl in its folder.

    Args:
        trainer: of the member.
        folder: the member's.
        after_epoch: called with the number of each epoch that ended, from 1; may look at the model, but not change it.
    """
    held_out, n_pairs = trainer.mitigation.held_out, len(trainer.data.caption_start) - 1
    progress = load_state(trainer.model, trainer.optimizer, folder, device=trainer.device, held_out=held_out)
    if progress is None:
        progress = Progress(0, np.full((trainer.config.epochs, n_pairs, 2), np.nan, dtype=np.float16))
    log = Log(folder / LOG, progress.step)
    began = time.monotonic() - progress.seconds
    last_line, last_step, last_save, pause = time.monotonic(), progress.step, time.monotonic(), SECONDS_BETWEEN_SAVES
    trainer.model.train()
    for _ in trainer.steps(progress):
        now = time.monotonic()
        progress.seconds = now - began
        if now - last_line > SECONDS_BETWEEN_LINES or progress.step % trainer.batches == 0:
            seen = (progress.step - last_step) * len(trainer.data.rows) / trainer.batches
            log.add(**_line(trainer, progress, seen / max(now - last_line, 1e-9)))
            last_line, last_step = now, progress.step
        if after_epoch is not None and progress.step % trainer.batches == 0:
            after_epoch(progress.step // trainer.batches)
            trainer.model.train()
        if now - last_save > pause and progress.step < trainer.total:
            save_state(trainer.model, trainer.optimizer, progress, folder, held_out=held_out)
            last_save = time.monotonic()
            pause = max(SECONDS_BETWEEN_SAVES, TRAINED_TO_SAVED * (last_save - now))
    save_array(progress.trajectory, folder / TRAJECTORY)
    # Last, since a member with a checkpoint is not trained again.
    save_atomically(trainer.model.state_dict(), folder / CHECKPOINT)
    (folder / STATE).unlink(missing_ok=True)


def _line(trainer: Trainer, progress: Progress, rate: float) -> dict[str, Any]:
    loss, log_probability, count = progress.sums
    progress.sums = [0.0, 0.0, 0.0]
    return {
        "step": progress.step,
        "steps": trainer.total,
        "epoch": round(progress.step / trainer.batches, 3),
        "loss": round(loss / count, 5),
        "log_probability": round(log_probability / count, 5),
        **trainer.shown(),
        "samples_per_second": round(rate, 1),
        "seconds": round(progress.seconds, 2),
        "peak_mb": round(peak_mb(trainer.device), 1),
    }
