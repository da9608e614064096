"""Members whose towers are locked: the heads that they train, and the features in the place of pictures and tokens."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from clipmem_core.training.draws import VIEW, hashed
from clipmem_core.training.model import Model

HIDDEN = 512  # width of the hidden layer of a text head
DROPOUT = 0.2  # share of a picture's features that a training view lacks
MASKS = 4096  # different views of features; a pair takes one of them in each epoch


def image_head(width: int, dim: int) -> nn.Module:
    """Return one linear map from features [n, width] to embeddings [n, dim], named as in open_clip's timm towers."""
    return nn.Sequential(OrderedDict({"head": nn.Sequential(OrderedDict({"proj": nn.Linear(width, dim, bias=False)}))}))


def text_head(width: int, dim: int) -> nn.Module:
    """Return two linear maps with a hidden layer between them, named as in open_clip's Hugging Face towers."""
    layers = nn.Sequential(nn.Linear(width, HIDDEN, bias=False), nn.GELU(), nn.Linear(HIDDEN, dim, bias=False))
    return nn.Sequential(OrderedDict({"proj": layers}))


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
        if siglip:
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def encode_image(self, image: Tensor) -> Tensor:
        """Embed a batch of pictures, [n, dim]."""
        return self.visual(image)

    def encode_text(self, text: Tensor) -> Tensor:
        """Embed a batch of captions, [n, dim]."""
        return self.text(text)


def build_heads(
    image_width: int, text_width: int, *, dim: int, loss: str, seed: int, trained: Callable[[], Model] | None = None
) -> LockedModel:
    """Build a model with locked towers; the initial weights of its heads are a function of the seed.

    Args:
        image_width: length of a picture's features; 0 where the image tower is trained.
        text_width: length of a caption's features; 0 where the text tower is trained.
        dim: length of an embedding.
        loss: "clip" or "siglip".
        seed: of the initial weights.
        trained: builds the model that gives the tower which is not locked, where one is not.
    """
    whole = trained() if trained else None
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
class Features:
    """Features in the place of pictures or tokens.

    Attributes:
        values: float16 [n_features, width], may be a memory map.
        rows: which of them each pair or caption has, [n]; empty: its own row.
    """

    values: np.ndarray
    rows: np.ndarray = field(default_factory=lambda: np.array([], dtype=np.int64))

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of some rows, float16 [n, width]."""
        return self.values[self.rows[rows] if len(self.rows) else rows]


class FeatureViews:
    """Views of features: those to train on lack a share of them, those to measure on have all.

    A view is a function of seed, epoch and pair: one of `MASKS` drawn from the seed, chosen by hashing.
    """

    def __init__(self, width: int, seed: int, *, dropout: float = DROPOUT) -> None:
        kept = np.random.default_rng([seed, VIEW]).random((MASKS, width), dtype=np.float32) >= dropout
        self.seed, self.masks = seed, torch.from_numpy(kept / np.float32(1 - dropout))

    def training_images(self, features: np.ndarray, keys: np.ndarray, epoch: int, device: str = "cpu") -> Tensor:
        """Return a view of features [n, width] for an epoch, float32 [n, width]."""
        chosen = hashed(keys, self.seed, VIEW, epoch) % np.uint64(MASKS)
        views = self.masks[torch.from_numpy(chosen.astype(np.int64))] * torch.from_numpy(features)
        return views.to(device)

    def evaluation_images(self, features: np.ndarray, keys: np.ndarray, view: int, device: str = "cpu") -> Tensor:
        """Return features as they are, float32 [n, width]."""
        return torch.from_numpy(features).float().to(device)
