"""Alignments of pairs that nobody trains on → which trained pairs run ahead of them, while a member trains.

Alignment grows for all pairs while a model learns to see and read. What it grows beyond that of pairs that are held
out is what is learned by heart. So every few epochs the external pairs are embedded, one view and one caption each,
and a quantile of their alignments is the level. A trained pair is ahead from the moment it is seen above that level
until it is seen below. Nothing but the external pairs is embedded for it: the trained pairs' embeddings are
those of the training step. Whoever uses this trains once.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipmem_core.columns import ALIGNMENT
from clipmem_core.scores.alignment import external_means, pair_terms

MIN_EXTERNAL = 2  # a pair leaves itself out of the means


class HeldOutLevel:
    """Knows which pairs are ahead. Its state is part of that of a run."""

    def __init__(self, n_pairs: int, quantile: float, every: int) -> None:
        self.quantile, self.every = quantile, every
        self.ahead = np.zeros(n_pairs, dtype=bool)
        self.level = math.inf  # no pair is ahead before the first look
        self.means: tuple[Tensor, Tensor] = (torch.zeros(0), torch.zeros(0))  # ν_I and ν_T, [dim] each

    def due(self, epoch: int) -> bool:
        """Tell whether the external pairs are looked at before this epoch; not before the first, nothing is learned."""
        return epoch > 0 and epoch % self.every == 0

    def look(self, image: Tensor, text: Tensor) -> None:
        """Set the level from the unit vectors of the external pairs' views and captions, [n_external, dim] each."""
        if len(image) < MIN_EXTERNAL:
            return
        own, other = image.float().cpu().numpy(), text.float().cpu().numpy()
        everyone = np.ones(len(own), dtype=bool)
        self.level = float(np.quantile(pair_terms(own, other, everyone)[ALIGNMENT], self.quantile))
        first, second = (torch.from_numpy(mean.astype(np.float32)) for mean in external_means(own, other, everyone))
        self.means = (first, second)

    def compare(self, rows: np.ndarray, image: Tensor, text: Tensor) -> None:
        """Note which pairs of a batch are ahead, from the unit vectors that a step has of them, [n, dim] each."""
        if math.isinf(self.level):
            return
        image_mean, text_mean = (mean.to(image.device) for mean in self.means)
        alignment = (image * text).sum(dim=1) - image @ text_mean - text @ image_mean
        self.ahead[rows] = (alignment > self.level).cpu().numpy()

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"ahead": torch.from_numpy(self.ahead), "level": self.level, "means": self.means}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.ahead, self.level = state["ahead"].cpu().numpy(), state["level"]
        self.means = tuple(state["means"])
