"""The activations of a trained model's MLP units, counted pair by pair as they stream by.

A unit is a hidden unit of a transformer block's MLP, after its activation function. Its activation on a pair is the
mean over tokens and over the evaluation views of the picture (image encoder: every token, the class token among them)
or over the pair's captions (text encoder: tokens up to the end token, no padding). Below 0 it counts as 0, token by
token, as `UnitTally` explains.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from clipmem_core.config import AuditConfig, InputError
from clipmem_core.mitigations import can_cut_text
from clipmem_core.scores.encoders import UnitTally
from clipmem_core.training.model import Model, autocast, encode_text, mean_by_pair
from clipmem_core.training.views import TrainingData, ViewMaker

BATCH = 256
Seen = tuple[np.ndarray, np.ndarray, np.ndarray]  # pairs, their units above 0, and what lay below


class Layers(NamedTuple):
    """The blocks of one encoder, first to last."""

    activations: tuple[nn.Module, ...]
    widths: tuple[int, ...]  # units of each
    batch_first: bool  # tokens come as [batch, length, width]


def unit_layers(model: Model, tower: str) -> Layers:
    """Return the blocks of an encoder, `image` or `text`.

    Raises:
        InputError: it is no transformer of open_clip's own (a ResNet, a tower of timm or of the hub).
    """
    encoder: Any = model.visual if tower == "image" else getattr(model, "text", model)
    transformer: Any = getattr(encoder, "transformer", None)
    blocks = list(getattr(transformer, "resblocks", []))
    if not blocks or not all(hasattr(getattr(block, "mlp", None), "gelu") for block in blocks):
        kind = type(encoder).__name__
        raise InputError(f"UnitMem of the {tower} encoder needs a transformer of open_clip's own, and a {kind} is none")
    activations = tuple(block.mlp.gelu for block in blocks)
    return Layers(activations, tuple(block.mlp.c_proj.in_features for block in blocks), transformer.batch_first)


class UnitWatch(ExitStack):
    """Hooks on the units of an encoder: what they did in the last forward pass. Leaving the block removes them."""

    def __init__(self, model: Model, tower: str, config: AuditConfig, device: str) -> None:
        super().__init__()
        self.model, self.config, self.device = model, config, device
        self.layers = unit_layers(model, tower)
        self.mask: Tensor | None = None  # bool [n, length], the tokens that count; None: all
        self.above: list[Tensor] = [torch.empty(0)] * len(self.layers.activations)
        self.below = list(self.above)
        for place, module in enumerate(self.layers.activations):
            self.enter_context(module.register_forward_hook(partial(self._note, place)))

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

    def _seen(self) -> np.ndarray:
        """Return activations above 0 and what lay below, of all layers side by side, float32 [2, n, n_units]."""
        return torch.stack([torch.cat(self.above, dim=1), torch.cat(self.below, dim=1)]).cpu().numpy()

    def pictures(self, data: TrainingData, views: ViewMaker, rows: np.ndarray) -> Iterator[Seen]:
        """Pass the views of each pair's picture through the image encoder."""
        for start in range(0, len(rows), BATCH):
            block = rows[start : start + BATCH]
            pixels = data.pixels.gather(block)
            total = np.zeros((2, len(block), sum(self.layers.widths)), np.float32)
            for view in range(self.config.views):
                images = views.images(pixels, views.boxes(data.keys[block], view), self.device)
                with autocast(self.config.precision, self.device):
                    self.model.visual(images)
                total += self._seen()
            yield block, *(total / self.config.views)

    def captions(self, data: TrainingData, rows: np.ndarray) -> Iterator[Seen]:
        """Pass the captions of each pair, those that are evaluated, through the text encoder."""
        cut = can_cut_text(self.model)
        for block, captions, start in _caption_blocks(data, rows, self.config.eval_captions or len(data.tokens)):
            tokens = torch.from_numpy(data.tokens[captions].astype(np.int64)).to(self.device)
            self.mask = caption_mask(tokens)
            with autocast(self.config.precision, self.device):
                encode_text(self.model, tokens, cut=cut)
            above, below = self._seen()
            yield block, mean_by_pair(above, start), mean_by_pair(below, start)


@torch.inference_mode()
def count_units(
    model: Model,
    data: TrainingData,
    views: ViewMaker,
    tower: str,
    *,
    rows: np.ndarray,
    config: AuditConfig,
    device: str,
    report: Callable[[int], None] | None = None,
) -> UnitTally:
    """Count what every unit of an encoder does on each of the pairs.

    Args:
        model: anything with the encoder that is asked for.
        data: where pixels and tokens come from; its own `rows` are not used.
        views: the evaluation views.
        tower: `image`, over `config.views` views of each picture, or `text`, over the captions that are evaluated.
        rows: the pairs that are looked at, int64 [n].
        config: of the audit.
        device: cpu or cuda.
        report: is told how many pairs are done.
    """
    model.eval()
    with UnitWatch(model, tower, config, device) as watch:
        tally = UnitTally(sum(watch.layers.widths))
        for seen in watch.pictures(data, views, rows) if tower == "image" else watch.captions(data, rows):
            tally.add(*seen)
            if report:
                report(tally.count)
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
