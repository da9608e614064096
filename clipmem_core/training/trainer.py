"""Train one member. A killed run continues from its last saved state and ends with the same
weights."""

import io
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipmem_core.config import AuditConfig
from clipmem_core.errors import misfit
from clipmem_core.features.towers import autocast
from clipmem_core.mitigations import Batch, can_cut_text, mitigations_of
from clipmem_core.scores.alignment import held_out_means, pair_components
from clipmem_core.training import CHECKPOINT, LOG, STATE, TRAJECTORY, model_config
from clipmem_core.training.augmentation import TrainingData, Views
from clipmem_core.training.model import UPPER, Model, text_input, text_outputs
from clipmem_core.utils import draws
from clipmem_core.utils.columns import ALIGNMENT
from clipmem_core.utils.io import InputError, replacing, save_array

SECONDS_BETWEEN_SAVES = 60.0  # a killed run trains at most a minute again
_SECONDS_BETWEEN_LINES = 1.0
# Attributes of a `Trainer` in its saved state
_COUNTS = ("done", "seconds", "logged")
_MODULES = ("model", "optimizer")
RATE = "rate"  # of a group of parameters, the share of the learning rate
# of unlocked blocks, which start with pretrained weights, as in fine-tuning
PRETRAINED_RATE = 0.1
# The features of more pairs may not fit into memory. Then blocks of neighbouring rows are shuffled,
# and pairs only within a few blocks, so that a batch reads few parts of the file.
SHUFFLED_UP_TO = 2_000_000
SHUFFLED_ROWS = 8_192  # of a block
BLOCKS_AT_ONCE = 32


def epoch_batches(
    data: TrainingData, *, seed: int, epoch: int, batch_size: int
) -> list[np.ndarray]:
    """Cut an epoch's order into batches of equal size (±1), none larger than `batch_size`.

    Args:
        data: pairs, of which `rows` are trained on.
        seed, epoch: of the order.
        batch_size: pairs.

    Returns:
        The rows of each batch, int64 [n] each.
    """
    n_pairs = len(data.keys)
    size = SHUFFLED_ROWS if n_pairs > SHUFFLED_UP_TO else n_pairs
    blocks = np.arange(math.ceil(n_pairs / size), dtype=np.uint64)
    rank = draws.hashed(blocks, seed, "order", epoch).argsort().argsort() // BLOCKS_AT_ONCE
    draw = draws.hashed(data.keys[data.rows], seed, "order", epoch)
    order = np.lexsort([draw, rank[data.rows // size]])
    return np.array_split(data.rows[order], math.ceil(len(data.rows) / batch_size))


def chosen_captions(
    data: TrainingData, rows: np.ndarray, *, seed: int, epoch: int, first: int = 0
) -> np.ndarray:
    """Draw a caption for each pair.

    Args:
        data: pairs.
        rows: of the pairs, int64 [n].
        seed, epoch: of the draw.
        first: captions of a pair that are drawn from; 0: all.

    Returns:
        Numbers of captions, int64 [n].
    """
    counts = data.captions.counts[rows]
    counts = np.minimum(counts, first or counts.max(initial=1))
    drawn = draws.hashed(data.keys[rows], seed, "caption", epoch) % counts.astype(np.uint64)
    return data.captions.start[rows] + drawn.astype(np.int64)


def learned_captions(
    trajectory: np.ndarray, data: TrainingData, *, seed: int, first: int
) -> np.ndarray:
    """Return how well a member learned each caption, [n_captions]; NaN where no epoch drew it.

    Args: its trajectory, [n_epochs, n_pairs, 2]; the pairs it trained on; its seed; captions of a
    pair that it drew from, 0: all.
    """
    drawn = [
        chosen_captions(data, data.rows, seed=seed, epoch=epoch, first=first)
        for epoch in range(len(trajectory))
    ]
    log_probability = trajectory[:, :, misfit.LOG_PROBABILITY]
    return misfit.learned_by_caption(log_probability, data.rows, drawn, data.captions.n_items)


def learning_rate(step: int, *, total: int, peak: float, warmup: int) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine down to 0.

    Args:
        step: from 0.
        total: steps.
        peak: the highest rate.
        warmup: steps of warm-up, at most a tenth of all.
    """
    warmup = min(warmup, total // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.5 * peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def make_optimizer(model: Model, config: AuditConfig) -> torch.optim.AdamW:
    """Build AdamW; gains, biases and the logit scale have no weight decay, as in open_clip, and
    unlocked blocks `PRETRAINED_RATE` of the learning rate."""
    groups = []
    for name, parameter in model.named_parameters():
        marked = any(mark in name for mark in ("bn", "ln", "bias", "logit_scale"))
        decay = 0.0 if marked or parameter.ndim < 2 else config.weight_decay
        rate = PRETRAINED_RATE if f".{UPPER}." in name else 1.0
        groups.append({"params": parameter, "weight_decay": decay, RATE: rate})
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)


def contrast(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine of each true partner, without a gradient, and its in-batch log-probability,
    both directions averaged, [n] each.

    Minus the mean of the log-probabilities is open_clip's ClipLoss, with one matrix product in
    place of two. Both `image` and `text` are unit vectors [n, dim].
    """
    cosines = image @ text.T
    logits = scale * cosines
    by_image, by_text = (logits.log_softmax(dim).diagonal() for dim in (1, 0))
    return cosines.diagonal().detach(), (by_image + by_text) / 2


class Trainer:
    """Runs the steps of one member."""

    def __init__(
        self, model: Model, data: TrainingData, config: AuditConfig, views: Views, *, seed: int
    ) -> None:
        self.model = model
        self.data = data
        self.config = config
        self.views = views
        self.seed = seed
        self.device = config.device
        self.n_pairs = len(data.keys)
        self.n_held_out = len(data.held_out)
        self.cut = can_cut_text(model)
        upper = getattr(getattr(model, "text", None), UPPER, None)
        self.token_width = upper.width if upper else 0  # of activations; 0: tokens or features
        self.optimizer = make_optimizer(model, config)
        self.batches = math.ceil(len(data.rows) / config.batch_size)  # of an epoch
        self.total = config.trained_epochs * self.batches
        self.done = 0  # steps
        self.seconds = 0.0
        self.logged = 0  # bytes of the log at the last save
        self.means = (math.nan, math.nan)  # loss and log-probability of the last step
        self.trajectory = np.full((config.epochs, self.n_pairs, 2), np.nan, dtype=np.float16)
        self.model_config = model_config(config.model)
        self.mitigations = mitigations_of(config)
        for mitigation in self.mitigations:
            mitigation.start(self)

    def batch(self, rows: np.ndarray, epoch: int) -> Batch:
        """Return the pairs of a step as mitigations read them."""
        batch = Batch(rows, self.data.keys[rows], epoch, self.seed, self.model_config)
        for mitigation in self.mitigations:
            mitigation.before_step(batch)
        return batch

    def images(self, batch: Batch) -> Tensor:
        """Return the views of a batch, [n, 3, size, size]."""
        pixels = self.data.pixels.gather(batch.rows)
        return self.views.training_images(pixels, batch, self.device, self.mitigations)

    def tokens(self, batch: Batch) -> Tensor:
        """Return a caption of each pair of a batch, [n, context_length]."""
        first = self.config.train_captions
        captions = chosen_captions(
            self.data, batch.rows, seed=self.seed, epoch=batch.epoch, first=first
        )
        tokens = self.data.tokens[captions]
        if self.token_width:
            tokens = tokens.reshape(len(tokens), -1, self.token_width)
        for mitigation in self.mitigations:
            tokens = mitigation.tokens(tokens, batch)
        return text_input(tokens).to(self.device)

    def outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encode a batch without normalisation, float32 [n, dim] each."""
        images = self.images(batch)
        tokens = self.tokens(batch)
        with autocast(self.config.precision, self.device):
            image = self.model.encode_image(images).float()
            return image, text_outputs(self.model, tokens, cut=self.cut)

    def step(self, rows: np.ndarray) -> float:
        """Train on one batch, write its pairs into the trajectory, and return the loss."""
        epoch = self.done // self.batches
        schedule = self.config.epochs * self.batches  # steps until the learning rate is 0
        rate = learning_rate(
            self.done, total=schedule, peak=self.config.lr, warmup=self.config.warmup
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group[RATE]
        # Dropout inside a tower must not depend on the step a run resumes at.
        torch.manual_seed(draws.whole_number(self.seed, "dropout", self.done))
        loss, cosine, log_probability = self.forward_loss(rows, epoch)
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss is {loss.item()} at step {self.done}: try a lower --lr or "
                "--precision fp32"
            )
        loss.backward()
        self.optimizer.step()
        self.model.zero_grad()
        for mitigation in self.mitigations:
            mitigation.after_step(self.model)
        self.trajectory[epoch, rows] = torch.stack([cosine, log_probability], dim=1).cpu().numpy()
        self.means = loss.item(), log_probability.mean().item()
        self.done += 1
        return loss.item()

    def forward_loss(self, rows: np.ndarray, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of a batch, which mitigations change, and the cosine and in-batch
        log-probability of each pair without mitigations of embeddings, [n]."""
        batch = self.batch(rows, epoch)
        outputs = self.outputs(batch)
        changed = outputs
        weight = np.ones(len(rows))
        for mitigation in self.mitigations:
            weight = weight * mitigation.weight(batch)
            changed = mitigation.embeddings(*changed, batch)
        scale = self.model.logit_scale.exp()
        image, text = (F.normalize(output, dim=-1) for output in outputs)
        cosine, log_probability = contrast(image, text, scale)
        terms = log_probability
        if any(after is not before for after, before in zip(changed, outputs, strict=True)):
            image, text = (F.normalize(output, dim=-1) for output in changed)
            terms = contrast(image, text, scale)[1]
        loss = -(terms * torch.from_numpy(weight).to(terms)).mean()
        if self.config.loss == "siglip":
            from open_clip.loss import SigLipLoss  # slow to import

            loss = SigLipLoss()(image, text, scale, logit_bias=self.model.logit_bias)
        return loss, cosine, log_probability.detach()

    @torch.no_grad()
    def held_out_alignment(self, epoch: int) -> tuple[np.ndarray, Tensor]:
        """Embed one view and one caption of each held-out pair, drawn as in this epoch.

        Returns:
            Their alignments, float64 [n_held_out], and the means of their image and text
            embeddings, float32 [2, dim].
        """
        self.model.eval()
        rows = self.data.held_out
        parts = np.array_split(rows, math.ceil(len(rows) / self.config.batch_size))
        outputs = [self.outputs(self.batch(part, epoch)) for part in parts]
        self.model.train()
        image, text = (
            F.normalize(torch.cat(part), dim=-1).cpu().numpy()
            for part in zip(*outputs, strict=True)
        )
        held_out = np.ones(len(rows), dtype=bool)
        means = torch.from_numpy(held_out_means(image, text, held_out).astype(np.float32))
        return pair_components(image, text, held_out)[ALIGNMENT], means.to(self.device)

    def steps(self) -> Iterator[None]:
        """Run all remaining steps, one per iteration."""
        while self.done < self.total:
            epoch, first = divmod(self.done, self.batches)
            if not first:
                for mitigation in self.mitigations:
                    mitigation.before_epoch(self, epoch)
            batches = epoch_batches(
                self.data, seed=self.seed, epoch=epoch, batch_size=self.config.batch_size
            )
            for rows in batches[first:]:
                self.step(rows)
                yield

    def log_line(self) -> str:
        """Return a line of the log: loss and log-probability of the last step, and the rate so
        far."""
        loss, log_probability = self.means
        epoch = self.done / self.batches
        values = {
            "step": self.done,
            "steps": self.total,
            "epoch": round(epoch, 3),
            "loss": round(loss, 5),
            "log_probability": round(log_probability, 5),
            "seconds": round(self.seconds, 2),
            "samples_per_second": round(epoch * len(self.data.rows) / max(self.seconds, 1e-9), 1),
        }
        return json.dumps(values) + "\n"

    def save(self, folder: Path) -> None:
        """Save the state that a killed run resumes from."""
        state = {name: getattr(self, name) for name in _COUNTS}
        state["trajectory"] = torch.from_numpy(self.trajectory)
        state |= {name: getattr(self, name).state_dict() for name in _MODULES}
        state["mitigations"] = [mitigation.state for mitigation in self.mitigations]
        save_atomically(state, folder / STATE)

    def resume(self, folder: Path) -> None:
        """Load the last saved state, if it exists."""
        if not (folder / STATE).is_file():
            return
        state = torch.load(folder / STATE, map_location=self.device, weights_only=True)
        for name in _COUNTS:
            setattr(self, name, state[name])
        self.trajectory = state["trajectory"].cpu().numpy()
        for name in _MODULES:
            getattr(self, name).load_state_dict(state[name])
        for mitigation, values in zip(self.mitigations, state["mitigations"], strict=True):
            mitigation.state.update(values)


def train(trainer: Trainer, folder: Path) -> None:
    """Train a member and write checkpoint.pt, trajectory.npy and log.jsonl."""
    trainer.resume(folder)
    last_line = last_save = time.monotonic()
    began = last_line - trainer.seconds
    trainer.model.train()
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.truncate(trainer.logged)  # without the lines after the saved state
        log.seek(trainer.logged)
        for _ in trainer.steps():
            now = time.monotonic()
            trainer.seconds = now - began
            if now - last_line > _SECONDS_BETWEEN_LINES or trainer.done % trainer.batches == 0:
                log.write(trainer.log_line())
                log.flush()
                last_line = now
            if now - last_save > SECONDS_BETWEEN_SAVES and trainer.done < trainer.total:
                trainer.logged = log.tell()
                trainer.save(folder)
                last_save = time.monotonic()
    save_array(trainer.trajectory, folder / TRAJECTORY)
    # The checkpoint is written last: it marks the member as trained.
    save_atomically(trainer.model.state_dict(), folder / CHECKPOINT)
    (folder / STATE).unlink(missing_ok=True)


def save_atomically(value: Any, path: Path) -> None:
    """Write a torch value under a temporary name and rename it."""
    buffer = io.BytesIO()  # torch writes the file's name into the file
    torch.save(value, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
