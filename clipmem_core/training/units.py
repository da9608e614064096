"""From a trained model to the activations of its MLP units, counted pair by pair as they stream by.

A unit is a hidden unit of a transformer block's MLP, after its activation function. Its activation on a pair is the
mean over tokens and over the evaluation views of the picture (image encoder: every token, the class token among them)
or over the pair's captions (text encoder: tokens up to the end token, no padding). Below 0 it counts as 0, token by
token, as `UnitTally` explains.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from clipmem_core.config import InputError
from clipmem_core.scores.units import UnitTally
from clipmem_core.training.embed import mean_by_pair
from clipmem_core.training.loop import TrainingData
from clipmem_core.training.model import Model, autocast, can_cut_text, encode_text
from clipmem_core.training.views import ViewMaker

BATCH = 256
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Layers:
    """The blocks of one encoder, first to last."""

    activations: tuple[nn.Module, ...]
    widths: tuple[int, ...]  # units of each
    batch_first: bool  # tokens come as [batch, length, width]


def image_layers(model: Model) -> Layers:
    """Return the blocks of the image encoder.

    Raises:
        InputError: it is no transformer of open_clip's own (a ResNet, a tower of timm).
    """
    return _layers(model.visual, "image")


def text_layers(model: Model) -> Layers:
    """Return the blocks of the text encoder.

    Raises:
        InputError: it is no transformer of open_clip's own (a tower of the hub).
    """
    return _layers(getattr(model, "text", model), "text")


def _layers(tower: Any, name: str) -> Layers:
    transformer: Any = getattr(tower, "transformer", None)
    blocks = list(getattr(transformer, "resblocks", []))
    if not blocks or not all(hasattr(getattr(block, "mlp", None), "gelu") for block in blocks):
        kind = type(tower).__name__
        raise InputError(f"UnitMem of the {name} encoder needs a transformer of open_clip's own, and a {kind} is none")
    activations = tuple(block.mlp.gelu for block in blocks)
    return Layers(activations, tuple(block.mlp.c_proj.in_features for block in blocks), transformer.batch_first)


class UnitWatch:
    """Hooks on the units of an encoder: what they did in the last forward pass. Leaving the block removes them."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.mask: Tensor | None = None  # bool [n, length], the tokens that count; None: all
        self.handles: list[Any] = []
        self.above: list[Tensor] = [torch.empty(0)] * len(layers.activations)
        self.below = list(self.above)

    def __enter__(self) -> Self:
        for place, module in enumerate(self.layers.activations):
            self.handles.append(module.register_forward_hook(partial(self._note, place)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self.handles:
            handle.remove()

    def _note(self, place: int, _module: nn.Module, _inputs: Any, activation: Tensor) -> None:
        if not self.layers.batch_first:
            activation = activation.transpose(0, 1)
        weights = self._weights(activation)
        # A mean over tokens as a product: on a CPU it takes half as long, but never in bfloat16.
        with torch.autocast(activation.device.type, enabled=False):
            signed = activation.float()
            mean = torch.matmul(weights, signed).squeeze(1)
            self.above[place] = torch.matmul(weights, signed.clamp(min=0)).squeeze(1)
        self.below[place] = self.above[place] - mean

    def _weights(self, activation: Tensor) -> Tensor:
        """Return what each token of [n, length, width] counts in the mean, float32 [n or 1, 1, length]."""
        length = activation.shape[1]
        if self.mask is None:
            return torch.full((1, 1, length), 1 / length, device=activation.device)
        if length > self.mask.shape[1]:
            raise InputError(f"UnitMem cannot tell which of {length} tokens are those of a caption")
        mask = self.mask[:, None, :length].float()
        return mask / mask.sum(dim=2, keepdim=True)

    def seen(self) -> np.ndarray:
        """Return activations above 0 and what lay below, of all layers side by side, float32 [2, n, n_units]."""
        return torch.stack([torch.cat(self.above, dim=1), torch.cat(self.below, dim=1)]).cpu().numpy()


@torch.inference_mode()
def image_units(
    model: Model,
    data: TrainingData,
    views: ViewMaker,
    *,
    rows: np.ndarray,
    n_views: int,
    precision: str,
    device: str,
    report: Report | None = None,
) -> UnitTally:
    """Count what every unit of the image encoder does on each of the pairs, over `n_views` views of its picture.

    Args:
        model: anything with an open_clip image tower as `visual`.
        data: where pixels come from; its own `rows` are not used.
        views: the evaluation views.
        rows: the pairs that are looked at, int64 [n].
        n_views: views of each picture.
        precision: as in the config.
        device: cpu or cuda.
        report: is told how many pairs are done, and of how many.
    """
    layers = image_layers(model)
    tally = UnitTally(sum(layers.widths))
    model.eval()
    with UnitWatch(layers) as watch:
        for start in range(0, len(rows), BATCH):
            block = rows[start : start + BATCH]
            pixels = data.pixels.gather(block)
            total = np.zeros((2, len(block), sum(layers.widths)), np.float32)
            for view in range(n_views):
                images = views.images(pixels, views.boxes(data.keys[block], view), device)
                with autocast(precision, device):
                    model.visual(images)
                total += watch.seen()
            tally.add(block, *(total / n_views))
            if report:
                report(start + len(block), len(rows))
    return tally


@torch.inference_mode()
def text_units(
    model: Model,
    data: TrainingData,
    *,
    rows: np.ndarray,
    first: int = 0,
    precision: str,
    device: str,
    report: Report | None = None,
) -> UnitTally:
    """Count what every unit of the text encoder does on each of the pairs, over its `first` captions or (0) all.

    Else as `image_units`.
    """
    layers, cut = text_layers(model), can_cut_text(model)
    tally, done = UnitTally(sum(layers.widths)), 0
    model.eval()
    with UnitWatch(layers) as watch:
        for block, captions, start in _caption_blocks(data, rows, first or len(data.tokens)):
            tokens = torch.from_numpy(data.tokens[captions].astype(np.int64)).to(device)
            watch.mask = caption_mask(tokens)
            with autocast(precision, device):
                encode_text(model, tokens, cut=cut)
            above, below = watch.seen()
            tally.add(block, mean_by_pair(above, start), mean_by_pair(below, start))
            done += len(block)
            if report:
                report(done, len(rows))
    return tally


def caption_mask(tokens: Tensor) -> Tensor:
    """Tell which tokens are a caption's: all up to its end token, the last one that is not 0; bool [n, length].

    Token 0 pads, but within a caption it is a word.

    Example:
        >>> caption_mask(torch.tensor([[5, 0, 9, 0]])).tolist()
        [[True, True, True, False]]
    """
    places = torch.arange(tokens.shape[1], device=tokens.device)
    last = torch.where(tokens != 0, places, 0).amax(dim=1)
    return places <= last[:, None]


def _caption_blocks(
    data: TrainingData, rows: np.ndarray, most: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield pairs whose longest captions are of like length: pairs, caption numbers, and where each pair's begin."""
    lengths = np.maximum.reduceat((data.tokens != 0).sum(axis=1), data.caption_start[:-1])
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    counts = np.minimum(data.caption_start[rows + 1] - data.caption_start[rows], most)
    ends, done = np.cumsum(counts), 0
    while done < len(rows):
        before = ends[done] - counts[done]
        last = max(done + 1, int(np.searchsorted(ends, before + BATCH, side="right")))
        block, start = rows[done:last], np.concatenate([[0], ends[done:last] - before])
        captions = np.repeat(data.caption_start[block] - start[:-1], counts[done:last]) + np.arange(start[-1])
        yield block, captions, start
        done = last
