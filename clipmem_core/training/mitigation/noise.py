"""Embeddings of a batch and how strong the noise is → unit vectors with Gaussian noise, for the loss alone."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipmem_core.draws import normals


def draw_noise(keys: np.ndarray, strength: np.ndarray, dim: int, *parts: int) -> Tensor:
    """Draw Gaussian noise for each pair of a batch, float32 [n, dim].

    Its numbers are independent with standard deviation σ, so a pair's noise is about σ·√dim long: at σ = 0.15 1.7
    with 128 numbers and 3.4 with the 512 of a ViT-B, beside a unit vector's 1. The paper names σ alone.

    Args:
        keys: what draws depend on, uint64 [n].
        strength: σ of each pair, [n].
        dim: of the embedding.
        parts: seed, stream and epoch.
    """
    drawn = normals(keys, dim, *parts)
    return torch.from_numpy(drawn * strength.astype(np.float32)[:, None])


def noisy(features: Tensor, noise: Tensor, *, place: str) -> Tensor:
    """Add noise to embeddings and return unit vectors, float32 [n, dim].

    The paper does not say where its noise goes. Read here as: onto the unit vector, which is then made a unit vector
    again (`after`), since what the loss takes is a cosine; or onto what the encoder gives (`before`), where σ is
    in the units of that.

    Args:
        features: what the encoder gives, not normalised, float32 [n, dim].
        noise: to add, float32 [n, dim].
        place: before | after the embedding is made a unit vector.
    """
    clean = features if place == "before" else F.normalize(features, dim=-1)
    return F.normalize(clean + noise.to(features.device), dim=-1)
