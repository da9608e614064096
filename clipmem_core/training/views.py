"""From stored pixels to augmented, normalised model input, a whole batch at once."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipmem_core.draws import VIEW, uniforms
from clipmem_core.training.mitigation.colour import draw_factors, jitter

ASPECT = (3 / 4, 4 / 3)  # torchvision's default for a random resized crop


@dataclass(frozen=True)
class ViewMaker:
    """Cuts random resized crops: area share uniform in [crop_scale, 1], aspect log-uniform in 3/4 … 4/3.

    Views to train on change their colours too, by up to `colour`; views to measure on never do.
    """

    image_size: int
    crop_scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    colour: float = 0.0

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
        factors = draw_factors(keys, self.colour, self.seed, epoch) if self.colour else None
        return self.images(pixels, self.boxes(keys, epoch), device, factors=factors)

    def evaluation_images(self, pixels: np.ndarray, keys: np.ndarray, view: int, device: str = "cpu") -> Tensor:
        """Draw an evaluation view of uint8 pixels [n, size, size, 3]: float32 [n, 3, image_size, image_size]."""
        return self.images(pixels, self.boxes(keys, view), device)

    def images(
        self, pixels: np.ndarray, boxes: np.ndarray, device: str = "cpu", *, factors: np.ndarray | None = None
    ) -> Tensor:
        """Cut boxes [n, 4] out of uint8 pixels [n, size, size, 3]: float32 images [n, 3, image_size, image_size].

        `factors` are of brightness, contrast and saturation, [n, 3].
        """
        stored = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
        centre = 2 * (boxes[:, :2] + boxes[:, 2:] / 2) - 1
        theta = np.zeros((len(boxes), 2, 3), dtype=np.float32)
        theta[:, 0, 0], theta[:, 1, 1] = boxes[:, 2], boxes[:, 3]
        theta[:, :, 2] = centre
        size = [len(boxes), 3, self.image_size, self.image_size]
        grid = F.affine_grid(torch.from_numpy(theta).to(device), size, align_corners=False)
        images = F.grid_sample(stored, grid, mode="bilinear", padding_mode="border", align_corners=False)
        images = images if factors is None else jitter(images, factors)
        mean = torch.tensor(self.mean, device=device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=device).view(1, 3, 1, 1) * 255
        return (images - mean) / std
