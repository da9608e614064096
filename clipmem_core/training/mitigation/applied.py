"""A member's config → what its mitigations do to the captions, the embeddings and the loss of each batch.

What is off does nothing at all: without any, a step is bit for bit that of plain training. All draws are functions
of seed, epoch and pair.
"""

import numpy as np
import torch
from torch import Tensor

from clipmem_core.config import MODIFIERS, AuditConfig
from clipmem_core.draws import IMAGE_NOISE, TEXT_NOISE
from clipmem_core.training.mitigation.adaptive import HeldOutLevel
from clipmem_core.training.mitigation.masking import Masking
from clipmem_core.training.mitigation.noise import draw_noise, noisy
from clipmem_core.training.model import Model


class Mitigation:
    """What one member does against memorization.

    Args:
        model: the member's.
        config: says which are on.
        tokens: of all captions, int32 [n_captions, context_length].
        keys: what draws depend on, uint64 [n_pairs].
        seed: the member's.

    Raises:
        InputError: the model cannot be trained so.
    """

    def __init__(self, model: Model, config: AuditConfig, tokens: np.ndarray, keys: np.ndarray, *, seed: int) -> None:
        self.config, self.keys, self.seed = config, keys, seed
        masks = config.text_mask or config.adaptive_mask
        self.masking = Masking(model, tokens, seed=seed) if masks else None
        adaptive = any(getattr(config, name) for name in MODIFIERS["adaptive_every"])
        self.held_out = HeldOutLevel(len(keys), config.adaptive_quantile, config.adaptive_every) if adaptive else None

    def tokens(self, tokens: np.ndarray, captions: np.ndarray, rows: np.ndarray, epoch: int) -> np.ndarray:
        """Leave words out of a batch's captions, [n, context_length]; `captions` are their numbers."""
        if self.masking is None:
            return tokens
        share = self._strength(rows, self.config.text_mask, self.config.adaptive_mask)
        return self.masking.masked(tokens, captions, self.keys[rows], share, epoch)

    def image(self, features: Tensor, unit: Tensor, rows: np.ndarray, epoch: int) -> Tensor:
        """Return what the loss sees of a batch's views: the unit vectors as they are, or with noise, [n, dim]."""
        return self._noisy(features, unit, rows, epoch, IMAGE_NOISE, self._strength(rows, self.config.image_noise, 0))

    def text(self, features: Tensor, unit: Tensor, rows: np.ndarray, epoch: int) -> Tensor:
        """Return what the loss sees of a batch's captions, [n, dim]."""
        strength = self._strength(rows, self.config.text_noise, self.config.adaptive_noise)
        return self._noisy(features, unit, rows, epoch, TEXT_NOISE, strength)

    def weight(self, rows: np.ndarray) -> Tensor | None:
        """Return how much each pair of a batch counts in the loss, [n]; None where all count alike."""
        if self.held_out is None or not self.config.adaptive_rest:
            return None
        return torch.from_numpy(1 - self._strength(rows, 0, self.config.adaptive_rest).astype(np.float32))

    def compare(self, rows: np.ndarray, image: Tensor, text: Tensor) -> None:
        """Note which pairs of a batch are ahead of the held-out level, for the next time they come up."""
        if self.held_out is not None:
            self.held_out.compare(rows, image, text)

    def _strength(self, rows: np.ndarray, always: float, ahead: float) -> np.ndarray:
        """Return the setting of each pair, [n]: pairs that are ahead have the larger of the two."""
        if self.held_out is None:
            return np.full(len(rows), always)
        return np.where(self.held_out.ahead[rows], max(always, ahead), always)

    def _noisy(
        self, features: Tensor, unit: Tensor, rows: np.ndarray, epoch: int, stream: int, strength: np.ndarray
    ) -> Tensor:
        if not strength.any():
            return unit
        noise = draw_noise(self.keys[rows], strength, features.shape[1], self.seed, stream, epoch)
        return noisy(features, noise, place=self.config.noise_place)
