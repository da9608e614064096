"""What a member may see of its pairs, and the views of pictures and features it is trained and measured on."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipmem_core.draws import VIEW, hashed, uniforms
from clipmem_core.mitigations import Batch, Mitigation

ASPECT = (3 / 4, 4 / 3)  # torchvision's default for a random resized crop
DROPOUT = 0.2  # share of a picture's features that a training view lacks
MASKS = 4096  # different views of features; a pair takes one of them in each epoch


class PixelSource(Protocol):
    """Stored pictures by row, or the features that a locked tower gives of them."""

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return uint8 [n, size, size, 3], or float16 [n, width]."""


class Views(Protocol):
    """What of a stored picture, or of its features, a member sees."""

    def training_images(self, pixels: np.ndarray, keys: np.ndarray, epoch: int, device: str) -> Tensor:
        """Return what it is trained on in an epoch, float32 [n, …]."""

    def evaluation_images(self, pixels: np.ndarray, keys: np.ndarray, view: int, device: str) -> Tensor:
        """Return what it is measured on, float32 [n, …]."""


@dataclass(frozen=True)
class TrainingData:
    """What a member may see. Rows are those of the pair table."""

    pixels: PixelSource
    tokens: np.ndarray  # int32 [n_captions, context_length]; float16 [n_captions, width] where the text tower is locked
    caption_start: np.ndarray  # int64 [n_pairs + 1]: captions of pair i are rows start[i] … start[i + 1] - 1
    keys: np.ndarray  # uint64 [n_pairs], what draws depend on
    rows: np.ndarray  # int64 [n_trained], the pairs this member trains on, ascending
    # int64 [n_external], pairs that no member trains on; looked at by what holds trained pairs against them
    external: np.ndarray = field(default_factory=lambda: np.array([], dtype=np.int64))


@dataclass(frozen=True)
class ViewMaker:
    """Cuts random resized crops: area share uniform in [crop_scale, 1], aspect log-uniform in 3/4 … 4/3.

    Views to train on are changed by mitigations too; views to measure on never are.
    """

    image_size: int
    crop_scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    mitigations: Sequence[Mitigation] = ()

    def boxes(self, keys: np.ndarray, turn: int) -> np.ndarray:
        """Draw one box a pair for an epoch or evaluation view: (x, y, width, height) as shares of the picture, [n, 4].

        At crop_scale 1 every box is the whole picture.
        """
        if self.crop_scale >= 1:
            return np.tile([0.0, 0.0, 1.0, 1.0], (len(keys), 1))
        draws = uniforms(keys, 4, self.seed, VIEW, turn)
        area = self.crop_scale + (1 - self.crop_scale) * draws[:, 0]
        aspect = np.exp(np.log(ASPECT[0]) + np.log(ASPECT[1] / ASPECT[0]) * draws[:, 1])
        width = np.minimum(np.sqrt(area * aspect), 1)
        height = np.minimum(np.sqrt(area / aspect), 1)
        return np.stack([draws[:, 2] * (1 - width), draws[:, 3] * (1 - height), width, height], axis=1)

    def training_images(self, pixels: np.ndarray, keys: np.ndarray, epoch: int, device: str = "cpu") -> Tensor:
        """Draw a view of uint8 pixels [n, size, size, 3] for an epoch: float32 [n, 3, image_size, image_size]."""
        return self.images(pixels, self.boxes(keys, epoch), device, batch=Batch(keys, epoch, self.seed))

    def evaluation_images(self, pixels: np.ndarray, keys: np.ndarray, view: int, device: str = "cpu") -> Tensor:
        """Draw an evaluation view of uint8 pixels [n, size, size, 3]: float32 [n, 3, image_size, image_size]."""
        return self.images(pixels, self.boxes(keys, view), device)

    def images(
        self, pixels: np.ndarray, boxes: np.ndarray, device: str = "cpu", *, batch: Batch | None = None
    ) -> Tensor:
        """Cut boxes [n, 4] out of uint8 pixels [n, size, size, 3]: float32 images [n, 3, image_size, image_size].

        With `batch` they are training views, which mitigations change.
        """
        stored = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
        centre = 2 * (boxes[:, :2] + boxes[:, 2:] / 2) - 1
        theta = np.zeros((len(boxes), 2, 3), dtype=np.float32)
        theta[:, 0, 0], theta[:, 1, 1] = boxes[:, 2], boxes[:, 3]
        theta[:, :, 2] = centre
        size = [len(boxes), 3, self.image_size, self.image_size]
        grid = F.affine_grid(torch.from_numpy(theta).to(device), size, align_corners=False)
        images = F.grid_sample(stored, grid, mode="bilinear", padding_mode="border", align_corners=False)
        if batch is not None:
            for each in self.mitigations:
                images = each.images(images, batch)
        mean = torch.tensor(self.mean, device=device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=device).view(1, 3, 1, 1) * 255
        return (images - mean) / std


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """Features of pictures in the place of their pixels: float16 [n_pairs, width], may be a memory map."""

    values: np.ndarray

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return those of some pairs, float16 [n, width]."""
        return self.values[rows]


class FeatureViews:
    """Views of features: in those to train on a share of the numbers is at its mean, those to measure on have all.

    A view is a function of seed, epoch and pair: one of `MASKS` drawn from the seed, chosen by hashing.
    """

    def __init__(self, mean: Tensor, seed: int, *, dropout: float = DROPOUT) -> None:
        self.mean, self.seed, self.dropout = mean, seed, dropout

    @functools.cached_property
    def masks(self) -> Tensor:
        """What numbers are multiplied by, float32 [MASKS, width]; drawn once a view is asked for."""
        drawn = np.random.default_rng([self.seed, VIEW]).random((MASKS, len(self.mean)), dtype=np.float32)
        return torch.from_numpy((drawn >= self.dropout) / np.float32(1 - self.dropout))

    def training_images(self, features: np.ndarray, keys: np.ndarray, epoch: int, device: str = "cpu") -> Tensor:
        """Return a view of features [n, width] for an epoch, float32 [n, width]."""
        chosen = hashed(keys, self.seed, VIEW, epoch) % np.uint64(MASKS)
        masks = self.masks[torch.from_numpy(chosen.astype(np.int64))].to(device)
        return self.mean + (self.evaluation_images(features, keys, 0, device) - self.mean) * masks

    def evaluation_images(self, features: np.ndarray, keys: np.ndarray, view: int, device: str = "cpu") -> Tensor:
        """Return features as they are, float32 [n, width]."""
        return torch.from_numpy(features).to(device).float()
