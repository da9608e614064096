"""Pictures and drawn factors → the same pictures brighter or darker, with more or less contrast and colour."""

import numpy as np
import torch
from torch import Tensor

from clipmem_core.draws import COLOUR, uniforms

GREY = (0.2989, 0.587, 0.114)  # of red, green and blue, as in torchvision


def draw_factors(keys: np.ndarray, strength: float, seed: int, turn: int) -> np.ndarray:
    """Draw brightness, contrast and saturation of each pair's view, each uniform in 1 ± strength, [n, 3]."""
    return 1 + strength * (2 * uniforms(keys, 3, seed, COLOUR, turn) - 1)


def jitter(pictures: Tensor, factors: np.ndarray) -> Tensor:
    """Change brightness, then contrast, then saturation, as torchvision's functions of these names do.

    torchvision's ColorJitter draws the order too, and one set of factors for all pictures of a batch.

    Args:
        pictures: float32 [n, 3, size, size], 0 … 255.
        factors: of each, as `draw_factors` returns, [n, 3].
    """
    brightness, contrast, saturation = torch.from_numpy(factors.T.astype(np.float32)).to(pictures.device)
    bright = _blend(pictures, torch.zeros_like(pictures), brightness)
    contrasted = _blend(bright, _grey(bright).mean(dim=(1, 2, 3), keepdim=True), contrast)
    return _blend(contrasted, _grey(contrasted), saturation)


def _blend(pictures: Tensor, plain: Tensor, factor: Tensor) -> Tensor:
    weight = factor.view(-1, 1, 1, 1)
    return (weight * pictures + (1 - weight) * plain).clamp(0, 255)


def _grey(pictures: Tensor) -> Tensor:
    weights = torch.tensor(GREY, device=pictures.device).view(1, 3, 1, 1)
    return (pictures * weights).sum(dim=1, keepdim=True)
