"""Train one member with the gradients of whole batches where a batch is too large for one process, or for its memory.

Each process embeds its share of a batch, is given the embeddings of all others, and computes the loss of the whole
batch, as open_clip's ClipLoss without `local_loss` does. A share can be cut further: its parts are embedded without
what gradients need, and a second time, one after the other, once the gradient of each embedding is known (open_clip's
--accum-freq; Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021). Either way a
pair is told apart from all of its batch, and the member is the one that a single process trains, up to rounding.
Dropout inside a tower, where a model has it, is another draw.

Run on processors with gloo; cuda, with NCCL, follows torch's documentation and has not been run.
"""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from clipmem_core.config import AuditConfig, InputError
from clipmem_core.training.loop import PixelSource, Trainer, TrainingData, Views, last_progress
from clipmem_core.training.model import Model, autocast, image_features, text_features


class ParallelTrainer(Trainer):
    """Runs the steps of one member in this process and those of its group, or in parts of a batch.

    Args:
        accum_freq: parts that a process cuts its share of a batch into.
        grad_checkpointing: compute what the gradients need of a tower a second time instead of keeping it.
        The others are those of `Trainer`.

    Raises:
        InputError: a batch, or the model, cannot be cut so.
    """

    def __init__(
        self,
        model: Model,
        data: TrainingData,
        config: AuditConfig,
        views: Views,
        *,
        seed: int,
        device: str,
        accum_freq: int = 1,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__(model, data, config, views, seed=seed, device=device)
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.accum_freq, cuts = accum_freq, self.world * accum_freq
        self.source = _Share(data.pixels, self.share)
        if not 1 <= cuts <= len(data.rows) // self.batches:
            raise InputError(
                f"{self.world} processes × --accum-freq {accum_freq} cannot share a batch of "
                f"{len(data.rows) // self.batches} pairs: at least one part, and a pair for each"
            )
        if cuts > 1 and any(isinstance(part, _BatchNorm) for part in model.modules()):
            raise InputError(
                f"model {config.model!r} normalises by the statistics of a batch, which parts of it have not: "
                "train it in one process, without --accum-freq"
            )
        if grad_checkpointing:
            keep_less(model)
        encoders = _Encoders(model, cut=self.cut)
        self.encoders: Any = encoders if self.world == 1 else _distributed(encoders, device)

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Return what of a batch's rows this process embeds; shares differ by one pair at most."""
        return np.array_split(rows, self.world)[self.rank]

    def look(self, rows: np.ndarray, epoch: int, pixels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the whole batch tells, as in one process; `pixels` are those of this process's share."""
        share, drawn = self.share(rows), self.generator.initial_seed()
        self.parts: list[Callable[[], tuple[Tensor, Tensor]]] = []
        for number, part in enumerate(np.array_split(np.arange(len(share)), self.accum_freq)):
            inputs = self.inputs(share[part], epoch, pixels[part])  # once: what is drawn may hang on what is seen now
            # Dropout is drawn anew for each part, and twice the same; the first part draws as a single process.
            place = self.rank * self.accum_freq + number
            self.parts.append(functools.partial(self._embed, *inputs, (drawn + place * 1_000_000_007) % 2**63))
        with torch.set_grad_enabled(self.accum_freq == 1):
            found = [part() for part in self.parts]
        if self.accum_freq == 1:
            self.parts = [lambda: found[0]]
        self.leaves = [self._gathered(torch.cat(side).detach(), rows) for side in zip(*found, strict=True)]
        return self.judged(self.leaves[0], self.leaves[1], rows, epoch)

    def backward(self, loss: Tensor) -> None:
        """Add the whole batch's gradients to those of the weights, the same in every process."""
        scales = [scale for scale in (self.model.logit_scale, self.model.logit_bias) if scale is not None]
        *slopes, image, text = torch.autograd.grad(loss, [*scales, *self.leaves])
        # Processes are averaged over, and each has the gradients of its share of the embeddings alone.
        own = [side.tensor_split(self.world)[self.rank] * self.world for side in (image, text)]
        cut = [side.tensor_split(self.accum_freq) for side in own]
        for number, (part, *sides) in enumerate(zip(self.parts, *cut, strict=True), start=1):
            waits = self.world > 1 and number < self.accum_freq
            with self.encoders.no_sync() if waits else contextlib.nullcontext():
                torch.autograd.backward(part(), sides)
        for scale, slope in zip(scales, slopes, strict=True):
            if self.world > 1:
                dist.broadcast(slope, 0)
            scale.grad = slope

    def _embed(self, images: Tensor, tokens: Tensor, drawn: int) -> tuple[Tensor, Tensor]:
        self.generator.manual_seed(drawn)
        with autocast(self.config.precision, self.device):
            return self.encoders(images, tokens)

    def _gathered(self, own: Tensor, rows: np.ndarray) -> Tensor:
        """Return the embeddings of a whole batch, [n, dim], from those of this process's share."""
        if self.world > 1:
            sizes = [len(share) for share in np.array_split(rows, self.world)]
            padded = own.new_zeros(max(sizes), own.shape[1])
            padded[: len(own)] = own
            found = [torch.empty_like(padded) for _ in sizes]
            dist.all_gather(found, padded)
            own = torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)])
        return own.requires_grad_()


class _Encoders(nn.Module):
    """Both encoders behind one call, which is what DistributedDataParallel looks on at."""

    def __init__(self, model: Model, *, cut: bool) -> None:
        super().__init__()
        self.model, self.cut = model, cut

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings as the encoders give them, float32 [n, dim] each."""
        return image_features(self.model, images), text_features(self.model, tokens, cut=self.cut)


class _Share:
    """Of a batch the pictures that this process embeds: no process reads those of another."""

    def __init__(self, pixels: PixelSource, share: Callable[[np.ndarray], np.ndarray]) -> None:
        self.pixels, self.share = pixels, share

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels.gather(self.share(rows))


def _distributed(encoders: _Encoders, device: str) -> DistributedDataParallel:
    own = [torch.cuda.current_device()] if device == "cuda" else None
    # Embeddings do not depend on the logit scale, which `backward` looks after.
    return DistributedDataParallel(encoders, device_ids=own, find_unused_parameters=True)


def keep_less(model: Model) -> None:
    """Have the towers of a model compute twice what gradients need instead of keeping it.

    Raises:
        InputError: no tower of it can.
    """
    towers = [part for part in model.modules() if hasattr(part, "grad_checkpointing")]
    if not towers:
        raise InputError("--grad-checkpointing is for transformer towers that are trained: leave it out")
    for tower in towers:
        tower.grad_checkpointing = True


def follow(trainer: Trainer, folder: Path, *, after_epoch: object = None) -> None:
    """Take the steps of a member that another process of the group writes: `train` without a file."""
    progress = last_progress(trainer, folder)
    trainer.model.train()
    for _ in trainer.steps(progress):
        pass
