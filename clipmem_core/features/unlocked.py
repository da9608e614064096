"""Cuts a pretrained tower in two. Its lower part stays locked, and the activations at the cut are
cached as features; members train the upper part, which starts with the pretrained weights.

Activations are flat, [n, positions · width]: the first positions of a picture are class tokens, the
others its map, row by row; those of a text are its tokens, and zeros fill the end.
"""

import copy
import dataclasses
import math
import threading
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipmem_core.features.towers import Opened, Tower
from clipmem_core.utils.io import InputError

TOKENS = 64  # of a caption, whose activations are cached
# Cosine between the features of both parts together and those of the tower; set by hand, rounding
# changes it by far less
_LEAST_COSINE = 0.99


class Upper(nn.Module):
    """The part of a tower above the cut.

    Attributes:
        positions, width: of the activations at the cut, for one sample.
        side: of the square map of a picture; 0 for texts.
        units: the modules whose outputs are activations of hidden units, [n, positions, width] or
            [n, width, side, side], first to last.
    """

    positions = 0
    width = 0
    side = 0

    def __init__(self, network: nn.Module, units: Sequence[nn.Module]) -> None:
        super().__init__()
        self.network = network
        self.units = tuple(units)

    def train(self, mode: bool = True) -> "Upper":
        """Keep batch norm and dropout as in evaluation."""
        return super().train(False)

    def forward(self, activations: Tensor) -> Tensor:
        """Map activations at the cut to the tower's features, float32 [n, dim]."""
        return self.features(activations.reshape(len(activations), -1, self.width)).float()

    def features(self, x: Tensor) -> Tensor:
        """Map activations [n, positions, width] to features [n, dim]."""
        return self.network(x)

    @torch.inference_mode()
    def unit_widths(self) -> tuple[int, ...]:
        """Return the number of units of each module in `units`."""
        widths = []

        def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            widths.append(output.shape[1 if output.ndim == 4 else -1])

        hooks = [unit.register_forward_hook(note) for unit in self.units]
        self(torch.ones(1, self.positions, self.width, device=next(self.parameters()).device))
        for hook in hooks:
            hook.remove()
        return tuple(widths)


class _Map(Upper):
    """A convolutional network above the cut."""

    def features(self, x: Tensor) -> Tensor:
        return self.network(x.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2))


class _Sentences(Upper):
    """The last layers of a sentence-transformers model, and its pooling."""

    def features(self, x: Tensor) -> Tensor:
        x, mask = _without_padding(x)
        bias = torch.zeros(mask.shape, device=x.device).masked_fill(~mask, -1e9)[:, None, None]
        layers, *poolers = self.network.children()
        for layer in layers.children():
            x = layer(x, bias)
            x = x[0] if isinstance(x, tuple) else x
        values: Any = {"token_embeddings": x.float(), "attention_mask": mask.long()}
        for pooler in poolers:
            values = pooler(values)
        return values["sentence_embedding"]


class _ClipText(Upper):
    """The last blocks of open_clip's causal text tower, which pools at the last token."""

    def features(self, x: Tensor) -> Tensor:
        x, mask = _without_padding(x)
        network: Any = self.network
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1], x.device)
        x = network.transformer(x, attn_mask=causal)
        x = network.ln_final(x)[torch.arange(len(x)), mask.sum(dim=1) - 1]
        projection = network.text_projection
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def _without_padding(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return activations up to the longest text, and which are of a token, bool [n, length]."""
    mask = (x != 0).any(dim=-1)
    length = max(1, int(mask.sum(dim=1).max()))
    return x[:, :length], mask[:, :length]


def unlock(tower: Tower, blocks: int) -> Tower:
    """Return a tower whose features are the activations before its last blocks, and whose `upper`
    maps them to the features of the tower.

    Args:
        tower: EfficientNet or a vision transformer of timm, sentence-transformers' BERT, or
            open_clip's CLIP.
        blocks: how many of its last blocks are above the cut.
    """
    # Members train a copy of its upper part.
    exact = dataclasses.replace(tower, precision="fp32").opened
    sample: Any = ["a picture"]
    if tower.kind == "image":
        sample = np.full((1, tower.size, tower.size, 3), 127, np.uint8)
        sample[:, : tower.size // 2] = 0
    try:
        first_above, upper = _cut(tower.kind, exact.network, blocks)
        upper = copy.deepcopy(upper).cpu().float().eval().requires_grad_(True)
        activations = _lower(exact, first_above, tower.kind)(sample)
        upper.positions, upper.width = activations.shape[1:]
        upper.side = math.isqrt(upper.positions) if tower.kind == "image" else 0
        with torch.inference_mode():
            features = [*upper(torch.from_numpy(activations)).numpy(), *exact.embed(sample)]
        cosine = np.vecdot(*(values / np.linalg.norm(values) for values in features))
        if not cosine > _LEAST_COSINE:
            raise ValueError("both parts together do not give its features")
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--unlock {blocks}: the {tower.kind} tower {tower.name} cannot be cut there "
            f"({error}); choose an EfficientNet or vision transformer of timm, a BERT of "
            "sentence-transformers or a CLIP of open_clip, or fewer blocks"
        ) from None

    def load(cut: Tower) -> Opened:
        opened = exact if tower.precision == "fp32" else tower.opened
        lower = _lower(opened, _cut(tower.kind, opened.network, blocks)[0], tower.kind)
        return Opened(lambda batch: lower(batch).reshape(-1, cut.dim), opened.lengths)

    return dataclasses.replace(
        tower,
        unlocked=blocks,
        upper=upper,
        dim=upper.positions * upper.width,
        context=min(tower.context, TOKENS),
        load=load,
    )


def _lower(opened: Opened, first_above: nn.Module, kind: str) -> Callable[[Any], np.ndarray]:
    """Return a function that maps a batch to the input of a module of the network, float32 [n,
    positions, width]. The texts of a batch have one length in tokens; zeros fill their activations
    up to `TOKENS`."""
    inputs = threading.local()  # the batches of several threads go through the network at once

    def note(_: nn.Module, args: Any, kwargs: Any) -> None:
        inputs.value = args[0] if args else kwargs["hidden_states"]

    first_above.register_forward_pre_hook(note, with_kwargs=True)

    def embed(batch: Any) -> np.ndarray:
        opened.embed(batch)
        x = inputs.value.float()
        if x.ndim == 4:
            x = x.permute(0, 2, 3, 1).flatten(1, 2)
        if kind == "text":
            x = x[:, : min(TOKENS, int(opened.lengths(batch).max()))]
            x = F.pad(x, (0, 0, 0, TOKENS - x.shape[1]))
        return x.cpu().numpy()

    return embed


def _cut(kind: str, network: Any, blocks: int) -> tuple[nn.Module, Upper]:
    """Return the first module above the cut, and the part above it, which may share modules with
    the network."""
    if kind == "text" and hasattr(network, "tokenizer"):  # of sentence-transformers
        layers = network[0].auto_model.encoder.layer
        top: Any = nn.ModuleList([layers[-blocks:], *list(network)[1:]])
        return layers[-blocks], _Sentences(top, [layer.intermediate for layer in top[0]])
    if kind == "text":  # open_clip's
        top = nn.Module()
        for name in ("transformer", "ln_final", "text_projection"):
            setattr(top, name, copy.deepcopy(getattr(network, name)))
        top.transformer.resblocks = top.transformer.resblocks[-blocks:]
        units = [block.mlp.gelu for block in top.transformer.resblocks]
        return network.transformer.resblocks[-blocks], _ClipText(top, units)
    visual = getattr(network, "visual", network)
    if hasattr(visual, "conv_head"):  # timm's EfficientNet
        layers = list(chain.from_iterable(visual.blocks))
        above = layers[-blocks:]
        top = nn.Sequential(*above, visual.conv_head, visual.bn2, visual.global_pool)
        return layers[-blocks], _Map(top, [*(block.bn2 for block in above), visual.bn2])
    top = copy.deepcopy(visual)
    if hasattr(visual, "patch_embed"):  # timm's vision transformer
        top.patch_embed = top.patch_drop = top.norm_pre = nn.Identity()
        vars(top)["_pos_embed"] = nn.Identity()  # in place of the method
        top.blocks = top.blocks[-blocks:]
        return visual.blocks[-blocks], Upper(top, [block.mlp.act for block in top.blocks])
    vars(top)["_embeds"] = nn.Identity()
    top.transformer.resblocks = top.transformer.resblocks[-blocks:]
    units = [block.mlp.gelu for block in top.transformer.resblocks]
    return visual.transformer.resblocks[-blocks], Upper(top, units)
