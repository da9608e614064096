"""Trainers of a model's image encoder without captions: on labels, or on another view of the same picture.

Both trainers run the steps of `Trainer`: the same order of pictures, views, optimiser and schedule.
"""

import numpy as np
import torch
from pytorch_metric_learning.losses import SelfSupervisedLoss, SupConLoss
from torch import Tensor, nn
from torch.nn import functional as F

from clipmem_core.config import AuditConfig, InputError
from clipmem_core.training.model import Model, autocast
from clipmem_core.training.trainer import Trainer
from clipmem_core.training.views import TrainingData, ViewMaker

PROJECTION = 128  # width of what SimCLR compares, as in its paper
TEMPERATURE = 0.5  # SimCLR's for small data and batches


class HeadedTower(nn.Module):
    """The image encoder of a model with a head on its output; weights of the head are a function of the seed."""

    def __init__(self, model: Model, widths: tuple[int, ...], *, seed: int) -> None:
        super().__init__()
        self.visual = model.visual
        device = next(model.visual.parameters()).device
        sizes = (self.visual.output_dim, *widths)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            for before, after in zip(sizes[:-1], sizes[1:], strict=True):
                layers += [nn.ReLU()] * bool(layers) + [nn.Linear(before, after)]
        self.head = nn.Sequential(*layers).to(device)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images [n, 3, size, size] without the head, [n, dim]."""
        return self.visual(images)

    def forward(self, images: Tensor) -> Tensor:
        """Pass images [n, 3, size, size] through encoder and head, float32 [n, widths[-1]]."""
        return self.head(self.visual(images)).float()


def classifier(model: Model, classes: int, *, seed: int) -> HeadedTower:
    """Put a linear head on the image encoder, one output a class."""
    return HeadedTower(model, (classes,), seed=seed)


def projector(model: Model, *, seed: int) -> HeadedTower:
    """Put SimCLR's projection on the image encoder: a hidden layer as wide as its output, and 128 numbers."""
    return HeadedTower(model, (model.visual.output_dim, PROJECTION), seed=seed)


class _TowerTrainer(Trainer):
    """What both have in common: no logit scale."""

    model: HeadedTower

    def after_step(self) -> None:
        """Leave the weights as they are: there is no logit scale to clamp."""

    def shown(self) -> dict[str, float]:
        """Say nothing beside the loss."""
        return {}

    def outputs(self, pixels: np.ndarray, rows: np.ndarray, turn: int) -> Tensor:
        """Pass a view of each picture through encoder and head, float32 [n, width]."""
        images = self.views.training_images(pixels, self.data.keys[rows], turn, self.device)
        with autocast(self.config.precision, self.device):
            return self.model(images)


class SupervisedTrainer(_TowerTrainer):
    """Trains on labels with cross-entropy; notes 1 where a label was right, and its log-probability."""

    def __init__(
        self,
        model: HeadedTower,
        data: TrainingData,
        config: AuditConfig,
        views: ViewMaker,
        *,
        labels: np.ndarray,
        seed: int,
        device: str,
    ) -> None:
        super().__init__(model, data, config, views, seed=seed, device=device)
        if (labels[data.rows] < 0).any():
            raise ValueError("labels must hold a class of every pair that is trained on")
        self.labels = labels

    def forward_loss(self, rows: np.ndarray, epoch: int, pixels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, whether each label was right, and its log-probability."""
        log_probabilities = F.log_softmax(self.outputs(pixels, rows, epoch), dim=1)
        labels = torch.from_numpy(self.labels[rows]).to(self.device)
        own = log_probabilities.gather(1, labels[:, None])[:, 0]
        right = log_probabilities.argmax(dim=1) == labels
        return -own.mean(), right.float(), own.detach()


class SelfSupervisedTrainer(_TowerTrainer):
    """Trains as SimCLR (Chen et al., ICML 2020): two views of a picture find each other among those of the batch.

    With two views of a picture the library's SupConLoss is NT-Xent, term by term, without the table of pairs times
    negatives that its NTXentLoss builds. One view is that of the other paradigms; the second comes from turns that no
    epoch uses. Views are crops alone, as in all of them: SimCLR's colours and blur are left out.

    Raises:
        InputError: views are whole pictures, so that two of them are the same.
    """

    def __init__(
        self,
        model: HeadedTower,
        data: TrainingData,
        config: AuditConfig,
        views: ViewMaker,
        *,
        seed: int,
        device: str,
    ) -> None:
        super().__init__(model, data, config, views, seed=seed, device=device)
        if views.crop_scale >= 1:
            raise InputError("self-supervised training needs views that differ: crop_scale must be below 1")
        self.loss = SelfSupervisedLoss(SupConLoss(temperature=TEMPERATURE))

    def forward_loss(self, rows: np.ndarray, epoch: int, pixels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and of each picture's two views the cosine and the log-probability that they are found."""
        one, other = (
            F.normalize(self.outputs(pixels, rows, turn), dim=1) for turn in (epoch, epoch + self.config.epochs)
        )
        found = partner_among_all(one.detach(), other.detach())
        return self.loss(one, other), *found


def partner_among_all(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine of two views' unit vectors [n, width] and the mean log-probability that each finds the other
    among all others of the batch, [n] each."""
    both = torch.cat([one, other])
    logits = (both @ both.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(both), device=both.device).roll(len(one))
    found = F.log_softmax(logits, dim=1).gather(1, partner[:, None])[:, 0]
    return (one * other).sum(dim=1), found.view(2, -1).mean(dim=0)
