"""Train one member: from pixels and tokens to a checkpoint and a trajectory. Killed at any step, it goes on from its
last saved state and ends with the same bits."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.loss import SigLipLoss
from torch import Tensor
from torch.nn import functional as F

from clipmem_core.config import AuditConfig, InputError
from clipmem_core.draws import CAPTION, ORDER, hashed
from clipmem_core.mitigations import Batch, can_cut_text, mitigations_of
from clipmem_core.training.model import (
    Model,
    autocast,
    encode_image,
    encode_text,
    image_features,
    text_features,
    text_input,
)
from clipmem_core.training.names import CHECKPOINT, LOG, STATE, TRAJECTORY
from clipmem_core.training.state import (
    HeldOutLevel,
    Log,
    Progress,
    load_state,
    peak_mb,
    save_array,
    save_atomically,
    save_state,
)
from clipmem_core.training.views import PixelSource, TrainingData, Views

SECONDS_BETWEEN_SAVES = 20.0
TRAINED_TO_SAVED = 20.0  # seconds of training to one of saving, at least
SECONDS_BETWEEN_LINES = 1.0
# A larger set may not fit into memory: its order is one of blocks of rows that lie together, and of the pairs among
# some blocks at a time. Pairs in one batch are then of these blocks.
SHUFFLED_UP_TO = 2_000_000
BLOCK, BLOCKS_AT_ONCE = 8_192, 32


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


def learning_rate(step: int, *, total: int, peak: float, warmup: int) -> float:
    """Return the rate of a step: linear warm-up over at most a tenth of the run, then half a cosine down to 0.

    Example:
        >>> learning_rate(100, total=100, peak=1.0, warmup=10)
        0.0
    """
    warmup = min(warmup, total // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.5 * peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def make_optimizer(model: Model, config: AuditConfig) -> torch.optim.AdamW:
    """Build AdamW; gains, biases and the logit scale are not decayed, as in open_clip."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    marks = ("bn", "ln", "bias", "logit_scale")
    exempt = [p for name, p in named if p.ndim < 2 or any(mark in name for mark in marks)]
    kept = {id(p) for p in exempt}
    groups = [
        {"params": exempt, "weight_decay": 0.0},
        {"params": [p for _, p in named if id(p) not in kept], "weight_decay": config.weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def partner_log_probability(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and in-batch log-probability of each true partner, both directions averaged, [n] each.

    Less the mean of the log-probabilities, which have gradients, is open_clip's ClipLoss. That multiplies pictures with
    captions once for each direction, and for the gradients twice each; here it is once, and twice for the gradients.

    Args:
        image: unit vectors [n, dim].
        text: unit vectors [n, dim].
        scale: the logit scale.

    Example:
        >>> unit = torch.eye(2)
        >>> cosine, log_probability = partner_log_probability(unit, unit, torch.tensor(0.0))
        >>> cosine.tolist(), log_probability.exp().round(decimals=4).tolist()  # at a scale of 0
        ([1.0, 1.0], [0.5, 0.5])
    """
    return _Partners.apply(image, text, scale)


class _Partners(torch.autograd.Function):
    """The log-probability of pair i, ½(log p_ii + log q_ii) with p and q the softmax of logits over captions and over
    pictures, changes with logit ij by ½(δ_ij − p_ij) and with logit ji by ½(δ_ij − q_ji)."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        cosines = image @ text.T
        logits = scale * cosines
        over_text, over_image = torch.log_softmax(logits, dim=1), torch.log_softmax(logits, dim=0)
        ctx.save_for_backward(image, text, scale, cosines, over_text, over_image)
        ctx.mark_non_differentiable(own := cosines.diagonal().clone())
        return own, (over_text.diagonal() + over_image.diagonal()) / 2

    @staticmethod
    def backward(ctx: Any, _: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image, text, scale, cosines, over_text, over_image = ctx.saved_tensors
        slope = over_text.exp().mul_(weight[:, None]).add_(over_image.exp().mul_(weight)).mul_(-0.5)
        slope.diagonal().add_(weight)
        by_scale = torch.dot(slope.view(-1), cosines.view(-1))
        slope *= scale
        return slope @ text, slope.T @ image, by_scale


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
        self.held_out = HeldOutLevel.of(config, len(data.keys))
        self.mitigations = mitigations_of(config)
        for each in self.mitigations:
            each.start(model, data.tokens)

    def batch(self, rows: np.ndarray, epoch: int) -> Batch:
        """Draw a caption for each pair and collect what mitigations need to know about a batch."""
        captions = chosen_captions(self.data, rows, seed=self.seed, epoch=epoch, first=self.config.train_captions)
        ahead = None if self.held_out is None else self.held_out.ahead[rows]
        return Batch(self.data.keys[rows], epoch, self.seed, captions, ahead)

    def inputs(self, batch: Batch, pixels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the views and captions of a batch: images [n, 3, size, size], tokens [n, context_length]."""
        images = self.views.training_images(pixels, batch.keys, batch.epoch, self.device)
        tokens = self.data.tokens[batch.captions]
        for each in self.mitigations:
            tokens = each.tokens(tokens, batch)
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
        loss, cosine, log_probability = self.forward_loss(rows, epoch, pixels)
        if not torch.isfinite(loss):
            raise InputError(f"the loss is {loss.item()} at step {progress.step}: try a lower --lr or --precision fp32")
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.after_step()
        progress.note(epoch, rows, cosine.cpu().numpy(), log_probability.cpu().numpy(), loss=float(loss.detach()))
        return float(loss.detach())

    def forward_loss(self, rows: np.ndarray, epoch: int, pixels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return a batch's loss, and for the trajectory each pair's cosine and log-probability of its partner, [n].

        Changed embeddings are in the loss alone: trajectory and held-out level are measured without mitigations.
        """
        batch = self.batch(rows, epoch)
        images, tokens = self.inputs(batch, pixels)
        with autocast(self.config.precision, self.device):
            image_out, text_out = image_features(self.model, images), text_features(self.model, tokens, cut=self.cut)
        image, text = F.normalize(image_out, dim=-1), F.normalize(text_out, dim=-1)
        scale = self.model.logit_scale.exp()
        cosine, log_probability = partner_log_probability(image, text, scale)
        changed = image_out, text_out
        weight: np.ndarray | None = None
        for each in self.mitigations:
            changed = each.embeddings(*changed, batch)
            own = each.weight(batch)
            weight = own if weight is None else weight if own is None else weight * own
        loss_image = image if changed[0] is image_out else F.normalize(changed[0], dim=-1)
        loss_text = text if changed[1] is text_out else F.normalize(changed[1], dim=-1)
        if self.config.loss == "siglip":
            loss = SigLipLoss()(loss_image, loss_text, scale, logit_bias=self.model.logit_bias)
        else:
            found = log_probability
            if loss_image is not image or loss_text is not text:
                found = partner_log_probability(loss_image, loss_text, scale)[1]
            if weight is not None:
                found = found * torch.from_numpy(weight.astype(np.float32)).to(self.device)
            loss = -found.mean()
        if self.held_out is not None:
            self.held_out.compare(rows, image.detach(), text.detach())
        return loss, cosine, log_probability.detach()

    def after_step(self) -> None:
        """Let mitigations change the weights after a step; the logit scale is clamped here."""
        for each in self.mitigations:
            each.after_step(self.model)

    @torch.no_grad()
    def measure_held_out(self, held_out: HeldOutLevel, epoch: int) -> None:
        """Set the held-out level from one view and one caption of each external pair, drawn as those of the epoch."""
        external = self.data.external
        if not len(external):
            return
        self.model.eval()
        found = []
        for rows in np.array_split(external, math.ceil(len(external) / self.config.batch_size)):
            images, tokens = self.inputs(self.batch(rows, epoch), self.data.pixels.gather(rows))
            with autocast(self.config.precision, self.device):
                found.append((encode_image(self.model, images), encode_text(self.model, tokens, cut=self.cut)))
        self.model.train()
        held_out.measure(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def shown(self) -> dict[str, float]:
        """Return what a line of the log says beside the loss."""
        held_out = self.held_out
        ahead = {} if held_out is None else {"ahead": round(float(held_out.ahead[self.data.rows].mean()), 4)}
        return {"logit_scale": round(float(self.model.logit_scale.detach().exp()), 3)} | ahead

    def steps(self, progress: Progress) -> Iterator[None]:
        """Run every step that is left, pausing after each."""
        while progress.step < self.total:
            epoch, first = divmod(progress.step, self.batches)
            if self.held_out is not None and not first and self.held_out.due(epoch):
                self.measure_held_out(self.held_out, epoch)
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
    held_out, n_pairs = trainer.held_out, len(trainer.data.caption_start) - 1
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
            loss, log_probability, count = progress.sums
            progress.sums = [0.0, 0.0, 0.0]
            log.add(
                step=progress.step,
                steps=trainer.total,
                epoch=round(progress.step / trainer.batches, 3),
                loss=round(loss / count, 5),
                log_probability=round(log_probability / count, 5),
                **trainer.shown(),
                samples_per_second=round(seen / max(now - last_line, 1e-9), 1),
                seconds=round(progress.seconds, 2),
                peak_mb=round(peak_mb(trainer.device), 1),
            )
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
