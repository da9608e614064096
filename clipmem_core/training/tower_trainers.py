"""Trainers of a model's image encoder without captions: on labels, or on another view of the same picture.

Both run the steps of `Trainer`: the same order of pictures, views, optimiser and schedule.
"""

from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.losses import SelfSupervisedLoss, SupConLoss
from torch import Tensor, nn
from torch.nn import functional as F

from clipmem_core.config import InputError
from clipmem_core.training.model import Model, autocast
from clipmem_core.training.trainer import Trainer

PROJECTION = 128  # width of SimCLR's projection, as in its paper
TEMPERATURE = 0.5  # SimCLR's for small data and batches


class HeadedTower(nn.Module):
    """The image encoder of a model with a head on its output; weights of the head are a function of the seed."""

    def __init__(self, model: Model, *widths: int, seed: int) -> None:
        super().__init__()
        self.visual = model.visual
        layers, before = [], self.visual.output_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for width in widths:
                layers += [nn.Linear(before, width), nn.ReLU()]
                before = width
        self.head = nn.Sequential(*layers[:-1]).to(next(model.visual.parameters()).device)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images [n, 3, size, size] without the head, [n, dim]."""
        return self.visual(images)

    def forward(self, images: Tensor) -> Tensor:
        """Pass images [n, 3, size, size] through encoder and head, float32 [n, widths[-1]]."""
        return self.head(self.visual(images)).float()


def classifier(model: Model, classes: int, *, seed: int) -> HeadedTower:
    """Put a linear head on the image encoder, one output a class."""
    return HeadedTower(model, classes, seed=seed)


def projector(model: Model, *, seed: int) -> HeadedTower:
    """Put SimCLR's projection on the image encoder: a hidden layer as wide as its output, and 128 numbers."""
    return HeadedTower(model, model.visual.output_dim, PROJECTION, seed=seed)


class _TowerTrainer(Trainer):
    def outputs(self, pixels: np.ndarray, rows: np.ndarray, turn: int) -> Tensor:
        images = self.views.training_images(pixels, self.data.keys[rows], turn, self.device)
        with autocast(self.config.precision, self.device):
            return self.model(images)


class SupervisedTrainer(_TowerTrainer):
    """Trains on labels with cross-entropy."""

    def __init__(self, *args: Any, labels: np.ndarray, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.labels = labels  # int64 [n_pairs]

    def forward_loss(self, rows: np.ndarray, epoch: int, pixels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, 1 for each picture whose label was predicted, and the label's log-probability."""
        log_probabilities = F.log_softmax(self.outputs(pixels, rows, epoch), dim=1)
        labels = torch.from_numpy(self.labels[rows]).to(self.device)
        log_probability = log_probabilities.gather(1, labels[:, None])[:, 0]
        correct = log_probabilities.argmax(dim=1) == labels
        return -log_probability.mean(), correct.float(), log_probability.detach()


class SelfSupervisedTrainer(_TowerTrainer):
    """Trains as SimCLR (Chen et al., ICML 2020): the two views of a picture are positives within the batch.

    With two views of a picture the library's SupConLoss is NT-Xent. The first view is that of the other paradigms.
    Views are crops, without SimCLR's colours and blur.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.config.crop_scale >= 1:
            raise InputError("self-supervised training needs views that differ: crop_scale must be below 1")
        self.loss = SelfSupervisedLoss(SupConLoss(temperature=TEMPERATURE))

    def forward_loss(self, rows: np.ndarray, epoch: int, pixels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, the cosine of each picture's two views, and the mean log-probability of one view given the
        other among all views of the batch."""
        first, second = (
            F.normalize(self.outputs(pixels, rows, turn), dim=1) for turn in (epoch, epoch + self.config.epochs)
        )
        both = torch.cat([first.detach(), second.detach()])
        logits = (both @ both.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(both), device=both.device).roll(len(first))
        log_probability = F.log_softmax(logits, dim=1).gather(1, partner[:, None])[:, 0]
        cosine = (first.detach() * second.detach()).sum(dim=1)
        return self.loss(first, second), cosine, log_probability.view(2, -1).mean(dim=0)
