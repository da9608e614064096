"""The data of a member, and the views of pictures and features it is trained and evaluated on."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipmem_core.dataset.pictures import Pixels
from clipmem_core.mitigations import Batch, Mitigation
from clipmem_core.utils import draws
from clipmem_core.utils.ragged import Ragged

ASPECT = (3 / 4, 4 / 3)  # torchvision's default for a random resized crop
DROPOUT = 0.2  # share of features replaced by their mean in a training view
MASKS = 4096  # dropout masks; a pair uses one in each epoch


@dataclass(frozen=True)
class TrainingData:
    """The pairs of a member. Rows are those of the pair table."""

    pixels: "PixelSource"  # stored pictures by row, or the features of a locked tower
    # int32 [n_captions, context_length]; float16 [n_captions, width] if the text tower is locked
    tokens: np.ndarray
    captions: Ragged  # of each pair
    keys: np.ndarray  # uint64 [n_pairs], seeds of the random draws
    rows: np.ndarray  # int64 [n_trained], the pairs this member trains on, ascending
    # int64 [n_held_out], pairs that no member trains on; adaptive mitigations compare trained pairs
    # with them
    held_out: np.ndarray = field(default_factory=lambda: np.array([], dtype=np.int64))


@dataclass(frozen=True)
class ViewMaker:
    """Random resized crops: area in [crop_scale, 1], aspect log-uniform."""

    image_size: int
    crop_scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int

    def boxes(self, keys: np.ndarray, turn: int) -> np.ndarray:
        """Draw a box a pair for an epoch or evaluation view: x, y, width, height as shares of the
        picture, [n, 4]."""
        if self.crop_scale >= 1:
            return np.tile([0.0, 0.0, 1.0, 1.0], (len(keys), 1))
        shares = draws.uniforms(keys, 4, self.seed, "view", turn)
        area = self.crop_scale + (1 - self.crop_scale) * shares[:, 0]
        aspect = np.exp(np.log(ASPECT[0]) + np.log(ASPECT[1] / ASPECT[0]) * shares[:, 1])
        width = np.minimum(np.sqrt(area * aspect), 1)
        height = np.minimum(np.sqrt(area / aspect), 1)
        return np.stack(
            [shares[:, 2] * (1 - width), shares[:, 3] * (1 - height), width, height], axis=1
        )

    def training_images(
        self, pixels: np.ndarray, batch: Batch, device: str, mitigations: Sequence[Mitigation]
    ) -> Tensor:
        """Draw the views of a batch, changed by mitigations, from its uint8 pixels [n, size, size,
        3]: float32 [n, 3, image_size, image_size]."""
        images = self.crop(pixels, self.boxes(batch.keys, batch.epoch), device)
        for mitigation in mitigations:
            images = mitigation.images(images, batch)
        return self.normalise(images)

    def evaluation_images(
        self, pixels: np.ndarray, keys: np.ndarray, view: int, device: str
    ) -> Tensor:
        """Draw an evaluation view, as `training_images` without mitigations."""
        return self.normalise(self.crop(pixels, self.boxes(keys, view), device))

    def crop(self, pixels: np.ndarray, boxes: np.ndarray, device: str) -> Tensor:
        """Cut boxes [n, 4] out of pixels [n, size, size, 3], float32 [n, 3, image_size,
        image_size], 0 … 255; or out of maps of activations."""
        stored = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
        theta = np.zeros((len(boxes), 2, 3), dtype=np.float32)
        theta[:, 0, 0] = boxes[:, 2]
        theta[:, 1, 1] = boxes[:, 3]
        theta[:, :, 2] = 2 * (boxes[:, :2] + boxes[:, 2:] / 2) - 1  # the centre
        size = [len(boxes), stored.shape[1], self.image_size, self.image_size]
        grid = F.affine_grid(torch.from_numpy(theta).to(device), size, align_corners=False)
        return F.grid_sample(
            stored, grid, mode="bilinear", padding_mode="border", align_corners=False
        )

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract the mean of each channel, and divide by its deviation."""
        mean, std = (
            torch.tensor(value, device=images.device).view(1, 3, 1, 1) * 255
            for value in (self.mean, self.std)
        )
        return (images - mean) / std


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """Features of pictures in place of their pixels: float16 [n_pairs, width], may be a memory
    map."""

    values: np.ndarray

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of some pairs, float16 [n, width]."""
        return self.values[rows]


@functools.lru_cache(maxsize=1)  # members of a replicate share the seed
def dropout_masks(seed: int, width: int) -> Tensor:
    """Return masks of features, 0 or 1 / (1 − `DROPOUT`), float32 [`MASKS`, width]."""
    drawn = draws.rng(seed, "dropout masks").random((MASKS, width), dtype=np.float32)
    return torch.from_numpy((drawn >= DROPOUT) / np.float32(1 - DROPOUT))


@dataclass(frozen=True, eq=False)
class FeatureViews:
    """Views of features. A training view replaces features by their mean, by one of `MASKS` dropout
    masks; an evaluation view changes nothing."""

    mean: Tensor
    seed: int

    def training_images(
        self, features: np.ndarray, batch: Batch, device: str, mitigations: Sequence[Mitigation]
    ) -> Tensor:
        """Return a view of the features of a batch [n, width], float32 [n, width]; `images` of
        mitigations does not change features."""
        chosen = draws.hashed(batch.keys, self.seed, "view", batch.epoch) % np.uint64(MASKS)
        masks = dropout_masks(self.seed, len(self.mean))
        masks = masks[torch.from_numpy(chosen.astype(np.int64))].to(device)
        return torch.addcmul(
            self.mean, self.evaluation_images(features, batch.keys, 0, device) - self.mean, masks
        )

    def evaluation_images(
        self, features: np.ndarray, keys: np.ndarray, view: int, device: str
    ) -> Tensor:
        """Return features unchanged, float32 [n, width]."""
        return torch.from_numpy(features).to(device).float()


@dataclass(frozen=True)
class ActivationViews:
    """Views of activations where a tower is cut: crops of their map, resized to its size."""

    width: int
    crops: ViewMaker  # its size is that of the map

    def training_images(
        self, values: np.ndarray, batch: Batch, device: str, mitigations: Sequence[Mitigation]
    ) -> Tensor:
        """Return a view of the activations of a batch [n, positions · width], float32; `images` of
        mitigations does not change activations."""
        return self.evaluation_images(values, batch.keys, batch.epoch, device)

    def evaluation_images(
        self, values: np.ndarray, keys: np.ndarray, view: int, device: str
    ) -> Tensor:
        """Return a view of activations, float32 [n, positions · width]."""
        tokens = values.reshape(len(values), -1, self.width)
        side = self.crops.image_size
        n_class = tokens.shape[1] - side * side
        maps = tokens[:, n_class:].reshape(-1, side, side, self.width)
        cut = self.crops.crop(maps, self.crops.boxes(keys, view), device)
        classes = torch.from_numpy(tokens[:, :n_class]).to(device).float()
        return torch.cat([classes, cut.flatten(2).transpose(1, 2)], dim=1).flatten(1)


Views = ViewMaker | FeatureViews | ActivationViews
PixelSource = Pixels | FeatureRows
