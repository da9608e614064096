"""Members whose towers are locked: the heads that they train, and the features in the place of pictures and tokens."""

import functools
import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from clipmem_core.draws import VIEW, hashed
from clipmem_core.training.model import Model

HIDDEN = 512  # width of the hidden layer of a text head
DROPOUT = 0.2  # share of a picture's features that a training view lacks
BLOCK = 65_536  # features that are read at a time
MOST_STANDARD = 2_000_000  # features that mean and scale are taken from; of more, blocks evenly spaced
MASKS = 4096  # different views of features; a pair takes one of them in each epoch


class Standard(nn.Module):
    """Features moved and scaled to a mean of 0 in each number and a mean square of 1 over all; not trained."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Map features [n, width] to standard ones, [n, width]."""
        return (features - self.mean) / self.scale

    @classmethod
    @torch.no_grad()
    def of(cls, features: np.ndarray) -> "Standard":
        """Take mean and scale from features, [n, width]; they may be a memory map."""
        total, square, count = np.zeros(features.shape[1]), 0.0, 0
        for start in range(0, len(features), BLOCK * -(-len(features) // MOST_STANDARD)):
            block = features[start : start + BLOCK].astype(np.float64)
            total += block.sum(axis=0)
            square += float((block**2).sum())
            count += len(block)
        mean = total / count
        spread = max(square / (count * features.shape[1]) - float((mean**2).mean()), 0.0) ** 0.5
        standard = cls(features.shape[1])
        standard.mean.copy_(torch.from_numpy(mean))
        standard.scale.fill_(spread or 1.0)
        return standard


def image_head(width: int, dim: int) -> nn.Module:
    """Return one linear map from features [n, width] to embeddings [n, dim], named as in open_clip's timm towers."""
    head = nn.Sequential(OrderedDict({"proj": nn.Linear(width, dim, bias=False)}))
    return nn.Sequential(OrderedDict({"standard": Standard(width), "head": head}))


def text_head(width: int, dim: int) -> nn.Module:
    """Return two linear maps with a hidden layer between them, named as in open_clip's Hugging Face towers."""
    layers = nn.Sequential(nn.Linear(width, HIDDEN, bias=False), nn.GELU(), nn.Linear(HIDDEN, dim, bias=False))
    return nn.Sequential(OrderedDict({"standard": Standard(width), "proj": layers}))


class LockedModel(nn.Module):
    """A CLIP model of which one tower or both are locked: what is locked is given as features, and a head reads them.

    `encode_image` takes features [n, width] where the image tower is locked, else images; `encode_text` features or
    tokens. Its weights have the names that open_clip gives them; those of locked towers are not among them.
    """

    def __init__(self, visual: nn.Module, text: nn.Module, *, loss: str) -> None:
        super().__init__()
        self.visual, self.text = visual, text
        siglip = loss == "siglip"
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10 if siglip else 1 / 0.07)))
        # open_clip's loader of checkpoints asks for the bias of any model.
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if siglip else None

    def encode_image(self, image: Tensor) -> Tensor:
        """Embed a batch of pictures, [n, dim]."""
        return self.visual(image)

    def encode_text(self, text: Tensor) -> Tensor:
        """Embed a batch of captions, [n, dim]."""
        return self.text(text)


def locked_model(
    image_width: int, text_width: int, *, dim: int, loss: str, seed: int, whole: Model | None = None
) -> LockedModel:
    """Build a model with locked towers; the initial weights of its heads are a function of the seed.

    Args:
        image_width: length of a picture's features; 0 where the image tower is trained.
        text_width: length of a caption's features; 0 where the text tower is trained.
        dim: length of an embedding.
        loss: "clip" or "siglip".
        seed: of the initial weights.
        whole: the model that gives the tower which is not locked, where one is not.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        visual = image_head(image_width, dim) if image_width or whole is None else whole.visual
        text = text_head(text_width, dim) if text_width or whole is None else _TextTower(whole)
    return LockedModel(visual, text, loss=loss)


class _TextTower(nn.Module):
    """The text tower of an open_clip model."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        model.visual = None

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


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
