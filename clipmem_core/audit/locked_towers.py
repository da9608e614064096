"""An audit's locked towers, by name, and the features that they give to its pairs, computed once
and cached, or precomputed."""

import dataclasses
import functools
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.audit import prepare, store
from clipmem_core.audit.executor import Executor, Task, TaskEvents, program_of
from clipmem_core.audit.settings import Towers, config_from, towers_of
from clipmem_core.audit.status import Screen
from clipmem_core.audit.store import Audit, Record
from clipmem_core.config import AuditConfig, as_dict
from clipmem_core.features import towers
from clipmem_core.features.cache import ComputeShards
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.features.towers import LITE, MINILM, Opened, Precision, Tower
from clipmem_core.io import InputError, read_json
from clipmem_core.mitigations import can_cut_text
from clipmem_core.training.model import (
    Standard,
    build_model,
    open_tokenizer,
    text_outputs,
    tokenize,
)
from clipmem_core.training.names import model_config, model_names

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
        return towers.efficientnet_lite(name, size=size, precision=precision, device=device)
    if _is_open_clip(name):
        return open_clip_towers(
            name, pretrained=pretrained, size=size, precision=precision, device=device
        )[0]
    return towers.timm_tower(
        name, size=size, checkpoint=pretrained, precision=precision, device=device
    )


def text_tower(
    name: str, *, pretrained: str = "", precision: Precision = "fp32", device: str = "cpu"
) -> Tower:
    """Return a locked text tower.

    Args:
        name: the built-in tower, a name for `--model` (with `pretrained`), or a model of
            sentence-transformers or transformers, as a folder or by its name on the hub.
        pretrained: an open_clip tag or a checkpoint file.
        precision: of the matrix products.
        device: cpu or cuda.
    """
    if name == MINILM.tower:
        return towers.minilm(precision=precision, device=device)
    if _is_open_clip(name):
        return open_clip_towers(name, pretrained=pretrained, precision=precision, device=device)[1]
    return towers.sentence_tower(name, precision=precision, device=device)


def _is_open_clip(name: str) -> bool:
    return name in model_names() or name.endswith(".json")


def open_clip_towers(
    name: str, *, pretrained: str, size: int = 0, precision: Precision = "fp32", device: str = "cpu"
) -> tuple[Tower, Tower]:
    """Return both towers of an open_clip model: features are its embeddings before
    normalisation."""
    import open_clip  # slow to import

    if not pretrained:
        raise InputError(
            f"model {name!r} has random weights: name a tag or a checkpoint with --pretrained to "
            "lock it"
        )
    options: dict[str, Any] = {
        "seed": 0,
        "image_size": size,
        "pretrained": pretrained,
        "device": device,
    }
    try:
        model = build_model(name, loss="clip", **options).eval()
    except InputError:
        model = build_model(name, loss="siglip", **options).eval()  # its checkpoint has a bias
    preprocess = open_clip.get_model_preprocess_cfg(model)
    mean, deviation = (
        torch.tensor(preprocess[key], device=device).reshape(3, 1, 1) for key in ("mean", "std")
    )
    config = model_config(name)
    cut = can_cut_text(model)

    def load_image(tower: Tower) -> Opened:
        @torch.inference_mode()
        def embed(squares: np.ndarray) -> np.ndarray:
            pixels = torch.from_numpy(squares).permute(0, 3, 1, 2).to(device).float() / 255
            with towers.autocast(tower):
                return model.encode_image((pixels - mean) / deviation).float().cpu().numpy()

        return Opened(embed)

    def load_text(tower: Tower) -> Opened:
        tokenizer = open_tokenizer(name)

        @torch.inference_mode()
        def embed(captions: Sequence[str]) -> np.ndarray:
            tokens = torch.from_numpy(tokenize(name, captions).astype(np.int64)).to(device)
            with towers.autocast(tower):
                return text_outputs(model, tokens, cut=cut).cpu().numpy()

        return Opened(embed, lambda captions: open_clip_lengths(tokenizer, captions))

    side = preprocess["size"]
    image = Tower(
        name=name,
        kind="image",
        version=Path(pretrained).name if Path(pretrained).is_file() else pretrained,
        licence="",
        sha256=towers.weights_sha256(model),
        dim=int(config["embed_dim"]),
        size=side if isinstance(side, int) else side[0],
        resize_mode=preprocess["resize_mode"],
        precision=precision,
        device=device,
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
    from open_clip import SimpleTokenizer

    if isinstance(tokenizer, SimpleTokenizer):  # byte-pair encoding is slow on a very long word
        counts = [len(tokenizer.encode(caption[:_LONGEST])) + 2 for caption in captions]
    else:
        counts = [len(ids) for ids in tokenizer.tokenizer(list(captions))["input_ids"]]
    return np.array(counts, np.int32)


PROMPT = "a picture of {}"
_SHARDS = 8  # of features per task, whose process loads the tower once
_REQUEST = "request.json"  # the config and the folder of the pictures


@dataclass(frozen=True, eq=False)
class Features:
    """The output of locked towers for an audit's pairs; None for a tower that members train."""

    image: np.ndarray | None  # mapped, float16 [n_pairs, width]
    text: np.ndarray | None  # float16 [n_captions, width]

    @functools.cached_property
    def standards(self) -> dict[str, Standard]:
        """Mean and standard deviation of the features of all pairs, by side."""
        sides = {"image": self.image, "text": self.text}
        return {side: Standard.of(values) for side, values in sides.items() if values is not None}


def caption_texts(pairs: pd.DataFrame) -> list[str]:
    """Return the captions of all pairs, in order."""
    return [caption for captions in pairs[c.CAPTIONS] for caption in captions]


def prompts(pairs: pd.DataFrame) -> list[str]:
    """Return the prompt of each class, in order."""
    labels = pairs[c.LABEL].dropna().to_numpy().astype(str)
    return [PROMPT.format(name) for name in np.unique(labels)]


def compute_features(
    towers: Towers,
    pairs: pd.DataFrame,
    root: Path,
    screen: Screen,
    *,
    compute: ComputeShards | None = None,
) -> int:
    """Compute and cache the features of pairs and of their classes' prompts, and return the number
    of captions that the text tower truncates; `compute` runs shards in other processes."""
    if towers.image:
        FeatureExtractor(towers.image, root, compute, screen.pictures, screen.say).images(pairs)
    if not towers.text:
        return 0
    texts = caption_texts(pairs)
    extractor = FeatureExtractor(towers.text, root, compute, screen.captions, screen.say)
    extractor.captions(texts)
    # Members do not open the tower.
    FeatureExtractor(towers.text, root, compute).captions(prompts(pairs))
    truncated = extractor.count_truncated(texts)
    if truncated:
        screen.say(
            f"{truncated:,} of {len(texts):,} captions are longer than the {towers.text.context} "
            f"tokens that {towers.text.name} reads"
        )
    return truncated


def shards_by(executor: Executor | None, config: AuditConfig, root: Path) -> ComputeShards | None:
    """Return a function that computes shards of features as tasks of an executor; None to use this
    process."""
    if executor is None:
        return None

    def compute(part: Path, names: Sequence[str]) -> TaskEvents:
        request = {"config": as_dict(config), "root": str(root.absolute())}
        store.write_json(part / _REQUEST, request)
        for name in names:
            (part / name).mkdir(exist_ok=True)
        program = program_of("clipmem_core.audit.locked_towers:run_shards", part)
        groups = [tuple(names[start : start + _SHARDS]) for start in range(0, len(names), _SHARDS)]
        tasks = [
            Task(tuple(part / name for name in group), program, group, config.threads, "shard")
            for group in groups
        ]
        return executor(tasks)

    return compute


def run_shards(part: Path, names: Sequence[str]) -> None:
    """Compute shards of a tower's features in this process. The work of a task."""
    request = read_json(part / _REQUEST)
    towers = towers_of(config_from(request["config"]))
    for tower in filter(None, towers):
        if tower.key == part.parent.name:
            FeatureExtractor(tower, Path(request["root"])).run_shards(names)
            return
    raise InputError(
        f"no tower on {platform.node()} gives the features {part.parent.name}: install the same "
        "weights and libraries on all machines"
    )


def open_features(audit: Audit, record: Record, pairs: pd.DataFrame) -> tuple[Towers, Features]:
    """Return the locked towers of an audit, and their cached features or the precomputed ones."""
    path = record.config.features
    if not path:
        towers = towers_of(record.config)
        return towers, Features(
            FeatureExtractor(towers.image, record.pictures).images(pairs) if towers.image else None,
            FeatureExtractor(towers.text).captions(caption_texts(pairs)) if towers.text else None,
        )
    image, text = prepare.precomputed_features(audit)

    def refuse(_: Tower) -> Opened:
        raise InputError(f"the features in {path} are precomputed: nothing new can be embedded")

    image_tower = Tower(
        name=path, kind="image", version="", licence="", sha256="", dim=image.shape[1], load=refuse
    )
    text_tower = dataclasses.replace(image_tower, kind="text", dim=text.shape[1])
    return Towers(image_tower, text_tower), Features(image, text)
