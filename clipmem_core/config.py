"""The frozen configuration of an audit: its fields, presets and fingerprint. Everything a result depends on is here."""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA_VARIABLE = "CLIPMEM_DATA"


class InputError(ValueError):
    """What a person got wrong: one line that names it and says what to do. The command line ends with exit code 2."""


@dataclass(frozen=True)
class SourceOptions:
    """How to read a data set. Names are open_clip's; an empty string means: find it out from the file."""

    csv_img_key: str = ""  # column with the picture's path (table formats)
    csv_caption_key: str = ""  # column with the caption, a string or a list of strings
    csv_label_key: str = ""  # column with the class label
    csv_id_key: str = ""  # column with a stable id; otherwise the picture's path is the id
    csv_separator: str = ""  # one character
    image_folder: str = ""  # the folder that picture paths start in; absolute paths must lie in it
    split: str = "train"  # Hugging Face data sets
    scenes_pairs: int = 1100  # `scenes`: how many pairs are drawn
    scenes_seed: int = 0  # `scenes`: the seed they are drawn from


@dataclass(frozen=True)
class AuditConfig:
    """Everything the numbers of an audit depend on, apart from the data set's content."""

    preset: str = "small"
    source: SourceOptions = field(default_factory=SourceOptions)

    protocol: str = "ensemble"  # ensemble | paper
    folds: int = 2  # ensemble: parts a repeat is cut into; each member leaves one out
    members: int = 0  # ensemble: repeats × folds in all; 0 means two repeats
    seeds: int = 1  # paper: pairs of members f-s and g-s
    seed: int = 0  # splits, initialisation and every draw start here
    plant_miscaptions: int = 0  # this many pairs get another pair's captions
    drop_lookalikes: bool = False  # keep only the first of near-duplicate pictures
    captions: int = 0  # captions used per pair; 0 means all
    train_captions: int = 0  # captions of a pair that training draws from; 0 means all that are used

    model: str = "small"  # one of ours, a name of open_clip's, or a JSON file
    pretrained: str = ""  # start from this checkpoint or tag instead of from scratch
    loss: str = "clip"  # clip | siglip
    image_size: int = 0  # pixels the model sees; 0 means the model's own
    cache_size: int = 64  # pixels a picture is stored at; crops are cut from these
    resize_mode: str = "squash"  # shortest | longest | squash, as in open_clip
    crop_scale: float = 0.5  # smallest area share of a random crop; 1 turns image augmentation off

    epochs: int = 30
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    warmup: int = 50  # steps
    precision: str = "auto"  # auto | fp32 | amp_bf16; auto is bf16 where the processor has it
    device: str = "auto"  # auto | cpu | cuda
    threads: int = 0  # processor threads of one member; 0 divides the cores

    # What is done against memorization; each is off as it stands here, and they combine.
    text_noise: float = 0.0  # SD of the Gaussian noise on each number of a text embedding; it is SD·√dim long
    image_noise: float = 0.0  # the same on the image embedding
    noise_place: str = "after"  # before | after an embedding is made a unit vector (after: it is made one again)
    text_mask: float = 0.0  # share of a caption's words left out, drawn anew each epoch; what is left moves up
    text_min_df: int = 0  # tokens that fewer trained pairs than this have are never read, in training or after
    text_forget_df: int = 0  # tokens of fewer pairs than this are not read after training; checkpoint.pt keeps them
    colour: float = 0.0  # brightness, contrast and saturation of a training view change by up to this share
    min_logit_scale: float = 1.0  # the logit scale is held at or above this
    max_logit_scale: float = 100.0  # the logit scale is held at or below this
    stop_epoch: int = 0  # training ends after this epoch, the learning rate on its way as without; 0 means the last
    adaptive_noise: float = 0.0  # text_noise for pairs that run ahead of the external pairs
    adaptive_mask: float = 0.0  # text_mask for pairs that run ahead of the external pairs
    adaptive_rest: float = 0.0  # pairs that run ahead of the external pairs count this much less in the loss
    adaptive_quantile: float = 0.5  # a pair is ahead when its alignment is above this quantile of the external pairs'
    adaptive_every: int = 2  # epochs between two looks at the external pairs

    views: int = 4  # augmented views per picture in evaluation, at least 2
    eval_crop_scale: float = 0.0  # smallest area share of an evaluation view; 0 means that of training
    eval_captions: int = 0  # captions of a pair that memorization is measured on; 0 means all that are used
    cache_gb: float = 8.0  # above this, pictures stream from disk
    probe_data: str = ""  # a torchvision ImageFolder for the linear probe

    @property
    def trained_epochs(self) -> int:
        """How many epochs are trained."""
        return self.stop_epoch or self.epochs


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "model": "tiny",
        "cache_size": 40,
        "epochs": 80,
        "batch_size": 64,
        "lr": 2e-3,
        "warmup": 20,
        "views": 2,
    },
    "small": {},
    "base": {
        "model": "ViT-B-32",
        "cache_size": 256,
        "resize_mode": "shortest",
        "crop_scale": 0.9,
        "epochs": 100,
        "batch_size": 128,
        "lr": 5e-4,
        "weight_decay": 0.2,
        "warmup": 2000,
    },
}


def preset_config(name: str) -> AuditConfig:
    """Return the config of a preset.

    Raises:
        InputError: the preset is unknown; the message lists the known ones.

    Example:
        >>> preset_config("tiny").batch_size
        64
    """
    if name not in PRESETS:
        raise InputError(f"preset {name!r} is unknown: choose one of {', '.join(PRESETS)}")
    return AuditConfig(preset=name, **PRESETS[name])


def data_folder() -> Path:
    """Return the folder that sets, caches and audits live in: `data/`, or what CLIPMEM_DATA says."""
    return Path(os.environ.get(DATA_VARIABLE) or "data")


def as_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain JSON values, nested options included."""
    return dataclasses.asdict(config)


def fingerprint(values: Any) -> str:
    """Return 16 hex digits that change with any value: the key of caches and audits.

    Example:
        >>> fingerprint({"a": 1}) == fingerprint({"a": 1.5})
        False
    """
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
