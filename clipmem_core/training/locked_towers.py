"""Locked towers by name: built-in ones, both towers of an open_clip model, and other libraries'
models."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipmem_core.config import AUTO, ENGLISH_TOWER, MULTILINGUAL_TOWER
from clipmem_core.features import towers
from clipmem_core.features.towers import LITE, Opened, Precision, Tower
from clipmem_core.mitigations import can_cut_text
from clipmem_core.training import model_config, model_names
from clipmem_core.training.model import (
    build_model,
    is_byte_pair,
    open_tokenizer,
    text_input,
    text_outputs,
    tokenize,
)
from clipmem_core.utils.io import InputError

_LONGEST = 20_000  # characters of a caption, for counting tokens


def image_tower(
    name: str,
    *,
    pretrained: str = "",
    size: int = 0,
    precision: Precision = "fp32",
    device: str = "cpu",
) -> Tower:
    """Return a locked image tower.

    Args:
        name: a built-in tower, a name for `--model` (with `pretrained`), or a timm model.
        pretrained: an open_clip tag or a checkpoint file; for timm a checkpoint file, or empty for
            its own weights.
        size: side of the square that pictures are resized to, in pixels; 0 for the tower's own.
        precision: of the matrix products.
        device: cpu or cuda.
    """
    if name in LITE:
        tower = towers.built_in_tower(name, size=size)
    elif _is_open_clip(name):
        tower = open_clip_towers(name, pretrained=pretrained, size=size, device=device)[0]
    else:
        tower = towers.timm_tower(name, size=size, checkpoint=pretrained)
    return dataclasses.replace(tower, precision=precision, device=device)


def text_tower(
    name: str, *, pretrained: str = "", precision: Precision = "fp32", device: str = "cpu"
) -> Tower:
    """Return a locked text tower.

    Args:
        name: a built-in tower, a name for `--model` (with `pretrained`), or a model of
            sentence-transformers or transformers, as a folder or by its name on the hub.
        pretrained: an open_clip tag or a checkpoint file.
        precision: of the matrix products.
        device: cpu or cuda.
    """
    if name == MULTILINGUAL_TOWER:
        return towers.built_in_tower(name)  # numpy in full precision
    if name in (AUTO, ENGLISH_TOWER):  # `auto` until the captions are read
        tower = towers.built_in_tower(ENGLISH_TOWER)
    elif _is_open_clip(name):
        tower = open_clip_towers(name, pretrained=pretrained, device=device)[1]
    else:
        tower = towers.sentence_tower(name, device=device)
    return dataclasses.replace(tower, precision=precision, device=device)


def _is_open_clip(name: str) -> bool:
    return name in model_names() or name.endswith(".json")


def open_clip_towers(
    name: str, *, pretrained: str, size: int = 0, device: str = "cpu"
) -> tuple[Tower, Tower]:
    """Return both towers of an open_clip model: features are its embeddings before
    normalisation."""
    import open_clip

    if not pretrained:
        raise InputError(
            f"model {name!r} has random weights: name a tag or a checkpoint with --pretrained to "
            "lock it"
        )
    build = functools.partial(
        build_model, name, seed=0, image_size=size, pretrained=pretrained, device=device
    )
    try:
        model = build(loss="clip").eval()
    except InputError:
        model = build(loss="siglip").eval()  # its checkpoint has a bias
    preprocess = open_clip.get_model_preprocess_cfg(model)
    mean, deviation = (255 * np.array(preprocess[key]) for key in ("mean", "std"))
    config = model_config(name)
    cut = can_cut_text(model)
    side = preprocess["size"]

    def load_image(tower: Tower) -> Opened:
        embed = towers.open_pictures(tower, model.encode_image, mean, deviation)
        return Opened(embed, network=model)

    def load_text(tower: Tower) -> Opened:
        tokenizer = open_tokenizer(name)

        def encode(captions: Sequence[str]) -> torch.Tensor:
            tokens = text_input(tokenize(name, captions)).to(tower.device)
            return text_outputs(model, tokens, cut=cut)

        return Opened(
            towers.in_inference(tower, encode),
            lambda captions: open_clip_lengths(tokenizer, captions),
            network=model,
        )

    image = Tower(
        name=name,
        kind="image",
        version=Path(pretrained).name if Path(pretrained).is_file() else pretrained,
        licence="",
        sha256=towers.weights_sha256(model),
        dim=int(config["embed_dim"]),
        size=side if isinstance(side, int) else side[0],
        resize_mode=preprocess["resize_mode"],
        libraries=("torch", "open_clip_torch", "pillow"),
        load=load_image,
    )
    context = int(config["text_cfg"].get("context_length", 77))
    text = dataclasses.replace(
        image, kind="text", size=0, resize_mode="squash", context=context, load=load_text
    )
    return image, text


def open_clip_lengths(tokenizer: Any, captions: Sequence[str]) -> np.ndarray:
    """Count the tokens of captions before truncation with a tokenizer of open_clip's, int32 [n]."""
    if is_byte_pair(tokenizer):  # byte-pair encoding is slow on a very long word
        counts = [len(tokenizer.encode(caption[:_LONGEST])) + 2 for caption in captions]
    else:
        counts = [len(ids) for ids in tokenizer.tokenizer(list(captions))["input_ids"]]
    return np.array(counts, np.int32)
