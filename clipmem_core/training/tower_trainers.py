"""Train a model's image encoder without captions: on labels, or on another view of the same picture."""

from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.losses import SelfSupervisedLoss, SupConLoss
from torch import Tensor, nn
from torch.nn import functional as F

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


class TowerTrainer(Trainer):
    """Trains with the steps of `Trainer` and the same views: on labels with cross-entropy, else as SimCLR.

    In SimCLR (Chen et al., ICML 2020) the two views of a picture are positives within the batch. With two views the
    library's SupConLoss is NT-Xent. Views are crops, without SimCLR's colours and blur. The head is linear for labels,
    and SimCLR's projection otherwise: a hidden layer as wide as the encoder's output, and 128 numbers.
    """

    def __init__(self, model: Model, *args: Any, seed: int, labels: np.ndarray | None = None, **kwargs: Any) -> None:
        widths = (model.visual.output_dim, PROJECTION) if labels is None else (int(labels.max()) + 1,)
        super().__init__(HeadedTower(model, *widths, seed=seed), *args, seed=seed, **kwargs)
        self.labels = labels  # int64 [n_pairs]
        self.loss = SelfSupervisedLoss(SupConLoss(temperature=TEMPERATURE))

    def outputs(self, pixels: np.ndarray, rows: np.ndarray, turn: int) -> Tensor:
        """Return the head's outputs for a view of some pictures, float32 [n, widths[-1]]."""
        images = self.views.training_images(pixels, self.data.keys[rows], turn, self.device)
        with autocast(self.config.precision, self.device):
            return self.model(images)

    def forward_loss(self, rows: np.ndarray, epoch: int, pixels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and two numbers for each picture, [n] each.

        With labels these are 1 if the label was predicted, and its log-probability. Without labels they are the cosine
        of both views, and the mean log-probability of one view given the other among all views of the batch.
        """
        if self.labels is not None:
            log_probabilities = F.log_softmax(self.outputs(pixels, rows, epoch), dim=1)
            labels = torch.from_numpy(self.labels[rows]).to(self.device)
            log_probability = log_probabilities.gather(1, labels[:, None])[:, 0]
            correct = log_probabilities.argmax(dim=1) == labels
            return -log_probability.mean(), correct.float(), log_probability.detach()
        first, second = (
            F.normalize(self.outputs(pixels, rows, turn), dim=1) for turn in (epoch, epoch + self.config.epochs)
        )
        both = torch.cat([first.detach(), second.detach()])
        logits = (both @ both.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(both), device=both.device).roll(len(first))
        log_probability = F.log_softmax(logits, dim=1).gather(1, partner[:, None])[:, 0]
        cosine = (first.detach() * second.detach()).sum(dim=1)
        return self.loss(first, second), cosine, log_probability.view(2, -1).mean(dim=0)
