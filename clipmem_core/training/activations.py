"""Activations of a trained model's MLP units on each pair.

A unit is a hidden unit of a transformer block's MLP, after its activation function. Its activation on a pair is the
mean over tokens and evaluation views of the picture (image encoder: all tokens, with the class token) or over the
pair's captions (text encoder: tokens up to the end token). Values below 0 count as 0; see `UnitTally`.
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
from clipmem_core.training.model import Model, autocast, batched, encode_text, mean_by_pair
from clipmem_core.training.views import TrainingData, ViewMaker


class Layers(NamedTuple):
    """The blocks of one encoder, first to last."""

    activations: tuple[nn.Module, ...]
    widths: tuple[int, ...]  # units of each
    batch_first: bool  # tokens come as [batch, length, width]


def unit_layers(model: Model, tower: str) -> Layers:
    """Return the blocks of an encoder, `image` or `text`."""
    encoder: Any = model.visual if tower == "image" else getattr(model, "text", model)
    transformer: Any = getattr(encoder, "transformer", None)
    blocks = list(getattr(transformer, "resblocks", []))
    if not blocks or not all(hasattr(getattr(block, "mlp", None), "gelu") for block in blocks):
        kind = type(encoder).__name__
        raise InputError(f"UnitMem of the {tower} encoder needs a transformer of open_clip's, not a {kind}")
    activations = tuple(block.mlp.gelu for block in blocks)
    return Layers(activations, tuple(block.mlp.c_proj.in_features for block in blocks), transformer.batch_first)


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
    report: Callable[[int], None],
) -> UnitTally:
    """Compute the activation of every unit of an encoder, `image` or `text`, on some pairs, rows int64 [n].

    Over `config.views` views of a picture, or the evaluated captions. `report` gets the number of finished pairs.
    """
    model.eval()
    layers = unit_layers(model, tower)
    tally = UnitTally(sum(layers.widths))
    means: list[Tensor] = [torch.empty(0)] * len(layers.widths)  # of each layer, above 0 and below, [2, n, width]
    mask: Tensor | None = None  # bool [n, length], the tokens to average; None: all

    def note(layer: int, _module: nn.Module, _inputs: Any, activation: Tensor) -> None:
        signed = (activation if layers.batch_first else activation.transpose(0, 1)).float()
        counted = torch.ones(1, signed.shape[1], device=signed.device) if mask is None else mask.float()
        if signed.shape[1] > counted.shape[1]:
            raise InputError(f"UnitMem cannot find the caption's tokens among {signed.shape[1]}")
        weights = counted[:, None, : signed.shape[1]] / counted.sum(dim=1)[:, None, None]
        # A mean over tokens as a product: on a CPU it takes half as long, but never in bfloat16.
        with torch.autocast(signed.device.type, enabled=False):
            above, mean = (torch.matmul(weights, part).squeeze(1) for part in (signed.clamp(min=0), signed))
        means[layer] = torch.stack([above, above - mean])

    with ExitStack() as hooks:
        for layer, module in enumerate(layers.activations):
            handle = module.register_forward_hook(partial(note, layer))
            hooks.callback(handle.remove)
        if tower == "image":
            for block in batched(rows):
                pixels, total = data.pixels.gather(block), np.zeros((2, len(block), sum(layers.widths)), np.float32)
                for view in range(config.views):
                    images = views.images(pixels, views.boxes(data.keys[block], view), device)
                    with autocast(config.precision, device):
                        model.visual(images)
                    total += torch.cat(means, dim=2).cpu().numpy()
                tally.add(block, *(total / config.views))
                report(tally.count)
        else:
            cut = can_cut_text(model)
            for block, captions, start in _caption_batches(data, rows, config.eval_captions):
                tokens = torch.from_numpy(data.tokens[captions].astype(np.int64)).to(device)
                # All up to the end token, the last that is not 0: token 0 is padding, but also a word ("!")
                places = torch.arange(tokens.shape[1], device=device)
                mask = places <= torch.where(tokens != 0, places, 0).amax(dim=1)[:, None]
                with autocast(config.precision, device):
                    encode_text(model, tokens, cut=cut)
                tally.add(block, *(mean_by_pair(part.cpu().numpy(), start) for part in torch.cat(means, dim=2)))
                report(tally.count)
    return tally


def _caption_batches(
    data: TrainingData, rows: np.ndarray, first: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield batches of pairs with captions of similar length: pairs, caption numbers, and the offsets of the pairs."""
    longest = np.maximum.reduceat((data.tokens != 0).sum(axis=1), data.caption_start[:-1])
    counts = np.diff(data.caption_start)
    counts = np.minimum(counts, first) if first else counts
    for block in batched(rows[np.argsort(longest[rows], kind="stable")]):
        start = np.concatenate([[0], np.cumsum(counts[block])])
        yield block, np.repeat(data.caption_start[block] - start[:-1], counts[block]) + np.arange(start[-1]), start
