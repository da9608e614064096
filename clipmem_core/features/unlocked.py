"""Cuts a pretrained tower in two. Its lower part stays locked, and the activations at the cut are
cached as features; members train the upper part, which starts with the pretrained weights.

Activations are flat, [n, positions · width]: the first positions of a picture are class tokens, the
others its map, row by row; those of a text are its tokens, and zeros fill the end.
"""

import copy
import dataclasses
import threading
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clipmem_core.features.towers import Opened, Tower
from clipmem_core.utils.io import InputError

TOKENS = 64  # of a caption, whose activations are cached
_LEAST_COSINE = 0.99  # of features that both parts give with those of the tower


class Upper(nn.Module):
    """The part of a tower above the cut.

    Attributes:
        positions, width: of the activations at the cut, for one sample.
        side: of the square map of a picture; 0 for texts.
        units: the modules whose outputs are activations of hidden units, [n, positions, width] or
            [n, width, side, side], first to last.
    """

    def __init__(
        self, network: nn.Module, shape: tuple[int, int], side: int, units: list[nn.Module]
    ) -> None:
        positions, width = shape
        super().__init__()
        self.network = network
        self.positions = positions
        self.width = width
        self.side = side
        self.units = tuple(units)

    def train(self, mode: bool = True) -> "Upper":
        """Keep batch norm and dropout as in evaluation."""
        return super().train(False)

    def forward(self, activations: Tensor) -> Tensor:
        """Map activations at the cut to the tower's features, float32 [n, dim]."""
        x = activations.flatten(1).unflatten(1, (-1, self.width))
        return self.features(x).float()

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
        x = x.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        return self.network(x)


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
        x = network.transformer(x, attn_mask=network.attn_mask[: x.shape[1], : x.shape[1]])
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
    exact = dataclasses.replace(tower, precision="fp32").opened  # of which members train a copy
    sample: Any = ["a picture"]
    if tower.kind == "image":
        sample = np.full((1, tower.size, tower.size, 3), 127, np.uint8)
        sample[:, : tower.size // 2] = 0
    try:
        at, make_upper = _cut(tower.kind, exact.network, blocks)
        lower = _lower(exact, at, tower.kind)
        activations = lower(sample)
        upper = make_upper(activations.shape[1:])
        with torch.inference_mode():
            found = upper(_flat(activations, tower)).numpy()[0]
        expected = exact.embed(sample)[0]
        cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{_refusal(tower, blocks)}: {error}") from None
    if not cosine > _LEAST_COSINE:
        raise InputError(_refusal(tower, blocks))
    positions = TOKENS if tower.kind == "text" else activations.shape[1]

    def load(cut: Tower) -> Opened:
        opened = exact if tower.precision == "fp32" else tower.opened
        at = _cut(tower.kind, opened.network, blocks)[0]
        lower = _lower(opened, at, tower.kind)
        return Opened(lambda batch: _flat(lower(batch), tower).numpy(), opened.lengths)

    return dataclasses.replace(
        tower,
        unlocked=blocks,
        upper=upper,
        dim=positions * upper.width,
        context=min(tower.context, TOKENS),
        load=load,
    )


def _refusal(tower: Tower, blocks: int) -> str:
    return (
        f"--unlock {blocks}: the {tower.kind} tower {tower.name} cannot be cut there; choose an "
        "EfficientNet or vision transformer of timm, a BERT of sentence-transformers or a CLIP of "
        "open_clip, or fewer blocks"
    )


def _flat(activations: np.ndarray, tower: Tower) -> Tensor:
    """Flatten activations [n, positions, width]; zeros fill those of texts up to `TOKENS`."""
    if tower.kind == "text":
        padding = ((0, 0), (0, max(0, TOKENS - activations.shape[1])), (0, 0))
        activations = np.pad(activations[:, :TOKENS], padding)
    return torch.from_numpy(activations).flatten(1)


def _lower(opened: Opened, at: nn.Module, kind: str) -> Callable[[Any], np.ndarray]:
    """Return a function that maps a batch to the input of a module of the network, float32 [n,
    positions, width]. The texts of a batch have one length in tokens."""
    seen = threading.local()  # the batches of several threads go through the network at once

    def note(_: nn.Module, args: Any, kwargs: Any) -> None:
        seen.value = args[0] if args else kwargs["hidden_states"]

    at.register_forward_pre_hook(note, with_kwargs=True)

    def embed(batch: Any) -> np.ndarray:
        opened.embed(batch)
        x = seen.value.float()
        if x.ndim == 4:
            x = x.permute(0, 2, 3, 1).flatten(1, 2)
        if kind == "text":
            x = x[:, : int(opened.lengths(batch).max())]
        return x.cpu().numpy()

    return embed


def _cut(kind: str, network: Any, blocks: int) -> tuple[nn.Module, Callable[[Any], Upper]]:
    """Return the first module above the cut, and what makes the upper part for a shape
    (positions, width) of activations."""
    if kind == "text" and hasattr(network, "tokenizer"):  # of sentence-transformers
        layers = list(network[0].auto_model.encoder.layer)
        chosen = _last(layers, blocks)

        def make_sentences(shape: tuple[int, int]) -> Upper:
            upper: Any = copy.deepcopy(nn.ModuleList([nn.ModuleList(chosen), *list(network)[1:]]))
            units = [layer.intermediate for layer in upper[0]]
            return _finish(_Sentences(upper, shape, 0, units))

        return chosen[0], make_sentences
    if kind == "text":  # open_clip's
        chosen = _last(list(network.transformer.resblocks), blocks)

        def make_clip_text(shape: tuple[int, int]) -> Upper:
            upper = nn.Module()
            for name in ("transformer", "ln_final", "text_projection", "attn_mask"):
                value = copy.deepcopy(getattr(network, name))
                if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                    upper.register_buffer(name, value, persistent=False)
                else:
                    setattr(upper, name, value)
            own: Any = upper
            own.transformer.resblocks = own.transformer.resblocks[-blocks:]
            units = [block.mlp.gelu for block in own.transformer.resblocks]
            return _finish(_ClipText(upper, shape, 0, units))

        return chosen[0], make_clip_text
    visual = getattr(network, "visual", network)
    if hasattr(visual, "conv_head"):  # timm's EfficientNet
        chosen = _last(list(chain.from_iterable(visual.blocks)), blocks)

        def make_map(shape: tuple[int, int]) -> Upper:
            upper = copy.deepcopy(visual)
            own: Any = upper
            own.conv_stem = own.bn1 = nn.Identity()
            own.blocks = nn.Sequential(*list(chain.from_iterable(own.blocks))[-blocks:])
            units = [*(block.bn2 for block in own.blocks), own.bn2]
            return _finish(_Map(upper, shape, round(shape[0] ** 0.5), units))

        return chosen[0], make_map
    is_timm = hasattr(visual, "patch_embed")
    chosen = _last(list(visual.blocks if is_timm else visual.transformer.resblocks), blocks)

    def make_tokens(shape: tuple[int, int]) -> Upper:
        upper = copy.deepcopy(visual)
        own: Any = upper
        if is_timm:
            own.patch_embed = own.patch_drop = own.norm_pre = nn.Identity()
            vars(own)["_pos_embed"] = nn.Identity()  # in place of the method
            own.blocks = own.blocks[-blocks:]
            units = [block.mlp.act for block in own.blocks]
        else:
            vars(own)["_embeds"] = nn.Identity()
            own.transformer.resblocks = own.transformer.resblocks[-blocks:]
            units = [block.mlp.gelu for block in own.transformer.resblocks]
        return _finish(Upper(upper, shape, int(shape[0] ** 0.5), units))

    return chosen[0], make_tokens


def _last(blocks: list[nn.Module], n: int) -> list[nn.Module]:
    """Return the last n blocks."""
    if n > len(blocks):
        raise ValueError(f"it has {len(blocks)} blocks")
    return blocks[-n:]


def _finish(upper: Upper) -> Upper:
    """Return an upper part in full precision, ready for evaluation."""
    return upper.float().eval().requires_grad_(True)
