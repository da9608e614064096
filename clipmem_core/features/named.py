"""Locked towers by their names: the built-in ones, those of an open_clip model, and any of timm's or of the hub's."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import nn

from clipmem_core.config import InputError
from clipmem_core.features.towers import (
    BUILT_IN,
    SIZE,
    Opened,
    Precision,
    Tower,
    efficientnet_lite,
    images,
    minilm,
    sentences,
)
from clipmem_core.pairs.readers.hub import hub_answers
from clipmem_core.training.model import Model, autocast, build_model, can_cut_text, text_features, tokenize
from clipmem_core.training.names import known_models, model_config, model_file

_UNKNOWN = "Nothing is known here of what it was trained on: a pair of yours may have been part of it."
_LONGEST = 20_000  # characters of a caption that are counted


def image_tower(
    name: str, *, size: int = 0, pretrained: str = "", precision: Precision = "fp32", device: str = "cpu"
) -> Tower:
    """Return the locked image tower of this name.

    Args:
        name: built in, a model of open_clip's or ours (with `pretrained`), or a model of timm's.
        size: pixels it sees; 0 means its own, for a built-in tower `SIZE`.
        pretrained: a tag of open_clip's, or a checkpoint file; for timm's a checkpoint file, or empty for its own.
        precision: amp_bf16 where the processor has it, else fp32.
        device: cpu or cuda.

    Raises:
        InputError: there is no such tower, or its weights cannot be had; one line says what to do.
    """
    how: dict[str, Any] = {"size": size, "precision": precision, "device": device}
    if name in BUILT_IN["image"]:
        tower = efficientnet_lite(name, **how | {"size": size or SIZE})
    elif name in known_models() or name.endswith(".json"):
        tower = open_clip_towers(name, pretrained=pretrained, **how)[0]
    else:
        tower = _timm_tower(name, checkpoint=pretrained, **how)
    return dataclasses.replace(tower, asked=(("name", name), ("pretrained", pretrained), *how.items()))


def text_tower(name: str, *, pretrained: str = "", precision: Precision = "fp32", device: str = "cpu") -> Tower:
    """Return the locked text tower of this name.

    Args:
        name: built in, a model of open_clip's or ours (with `pretrained`), or one of sentence-transformers' or of
            transformers', as a folder or by its name on the hub.
        pretrained, precision, device: as for an image tower.

    Raises:
        InputError: there is no such tower, or its weights cannot be had; one line says what to do.
    """
    how: dict[str, Any] = {"precision": precision, "device": device}
    if name in BUILT_IN["text"]:
        tower = minilm(**how)
    elif name in known_models() or name.endswith(".json"):
        tower = open_clip_towers(name, pretrained=pretrained, **how)[1]
    else:
        tower = _sentence_tower(name, **how)
    return dataclasses.replace(tower, asked=(("name", name), ("pretrained", pretrained), *how.items()))


def open_clip_towers(
    name: str, *, pretrained: str, size: int = 0, precision: Precision = "fp32", device: str = "cpu"
) -> tuple[Tower, Tower]:
    """Return both towers of an open_clip model: their features are its own embeddings, as they are before normalising.

    Raises:
        InputError: no weights are named, or the model cannot be built from them.
    """
    if not pretrained:
        raise InputError(f"model {name!r} has random weights: name a tag or a checkpoint with --pretrained to lock it")
    how: dict[str, Any] = {"seed": 0, "image_size": size, "pretrained": pretrained, "device": device}
    try:
        model = build_model(name, loss="clip", **how).eval()
    except InputError:
        model = build_model(name, loss="siglip", **how).eval()  # its checkpoint has a bias
    shown = open_clip.get_model_preprocess_cfg(model)
    facts: dict[str, Any] = {
        "version": Path(pretrained).name if Path(pretrained).is_file() else pretrained,
        "licence": "",
        "sha256": _weights_sha256(model),
        "dim": int(model_config(name)["embed_dim"]),
        "precision": precision,
        "device": device,
        "seen": _UNKNOWN,
        "libraries": ("torch", "open_clip_torch", "pillow"),
    }
    side = shown["size"] if isinstance(shown["size"], int) else shown["size"][0]
    image = Tower(
        name=name,
        kind="image",
        size=side,
        resize_mode=shown["resize_mode"],
        open=lambda: _open_image(model, shown, precision, device),
        **facts,
    )
    context = int(model_config(name)["text_cfg"].get("context_length", 77))
    text = Tower(
        name=name, kind="text", context=context, open=lambda: _open_text(name, model, precision, device), **facts
    )
    return image, text


def _open_image(model: Model, shown: dict[str, Any], precision: Precision, device: str) -> Opened:
    centre, spread = (torch.tensor(shown[key], device=device).reshape(3, 1, 1) for key in ("mean", "std"))

    @torch.inference_mode()
    def embed(squares: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(squares).permute(0, 3, 1, 2).to(device).float() / 255
        with autocast(precision, device):
            return model.encode_image((pixels - centre) / spread).float().cpu().numpy()

    return Opened(embed)


def _open_text(name: str, model: Model, precision: Precision, device: str) -> Opened:
    cut = can_cut_text(model)

    @torch.inference_mode()
    def embed(captions: Sequence[str]) -> np.ndarray:
        tokens = torch.from_numpy(tokenize(name, captions).astype(np.int64)).to(device)
        with autocast(precision, device):
            return text_features(model, tokens, cut=cut).cpu().numpy()

    return Opened(embed, functools.partial(open_clip_lengths, open_clip.get_tokenizer(model_file(name).stem)))


def open_clip_lengths(tokenizer: Any, captions: Sequence[str]) -> np.ndarray:
    """Count the tokens of captions with a tokenizer of open_clip's, none of them cut off, int32 [n]."""
    if isinstance(tokenizer, open_clip.SimpleTokenizer):  # byte pairs take long for what one goes on and on
        return np.array([len(tokenizer.encode(caption[:_LONGEST])) + 2 for caption in captions], np.int32)
    return np.array([len(ids) for ids in tokenizer.tokenizer(list(captions))["input_ids"]], np.int32)


def _timm_tower(name: str, *, size: int, checkpoint: str, precision: Precision, device: str) -> Tower:
    """Return a model of timm's: its features are what its classifier would read."""
    import timm

    if not timm.is_model(name):
        near = ", ".join([*BUILT_IN["image"], *timm.list_models(f"{name[:5]}*")[:5]])
        raise InputError(f"image tower {name!r} is unknown: take {near}, … or a model of open_clip's with --pretrained")
    if checkpoint and not Path(checkpoint).is_file():
        raise InputError(f"checkpoint {checkpoint!r} is not a file: give the weights of {name}")
    own: dict[str, Any] = {"pretrained_cfg_overlay": {"file": checkpoint}} if checkpoint else {}
    if not checkpoint:
        hub_answers()
    try:
        model: Any = timm.create_model(name, pretrained=True, num_classes=0, **own)
    except Exception as error:  # timm, torch and the hub's client each raise their own kinds
        raise InputError(f"the weights of image tower {name!r} cannot be had: {_one_line(error)}") from None
    shown = timm.data.resolve_model_data_config(model)
    mean, deviation = (np.array(shown[key], np.float32) * 255 for key in ("mean", "std"))
    return Tower(
        name=name,
        kind="image",
        version=Path(checkpoint).name if checkpoint else str(model.pretrained_cfg.get("tag", "")),
        licence=str(model.pretrained_cfg.get("license") or ""),
        sha256=_weights_sha256(model),
        dim=int(model.num_features),
        size=size or int(shown["input_size"][1]),
        precision=precision,
        device=device,
        seen=_UNKNOWN,
        libraries=("torch", "timm", "pillow"),
        open=lambda: Opened(images(model, mean=mean, deviation=deviation, precision=precision, device=device)),
    )


def _sentence_tower(name: str, *, precision: Precision, device: str) -> Tower:
    """Return a model of sentence-transformers' or transformers': its features are sentence embeddings."""
    if not Path(name).is_dir() and not hub_answers():
        known = ", ".join(BUILT_IN["text"])
        raise InputError(f"text tower {name!r} is no folder, and the hub does not answer: take {known}")
    try:
        opened, model = sentences(name, precision=precision, device=device)
    except Exception as error:  # transformers and the hub's client each raise their own kinds
        raise InputError(f"text tower {name!r} cannot be loaded: {_one_line(error)}") from None
    return Tower(
        name=Path(name).name,
        kind="text",
        version="",
        licence="",
        sha256=_weights_sha256(model),
        dim=opened.embed(["a"]).shape[1],
        context=int(model.max_seq_length),
        precision=precision,
        device=device,
        seen=_UNKNOWN,
        libraries=("torch", "sentence-transformers", "transformers", "tokenizers"),
        open=lambda: opened,
    )


def _weights_sha256(model: nn.Module) -> str:
    """Return a hash of a model's tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
