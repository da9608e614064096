"""The frozen configuration of an audit: its fields, presets and fingerprint."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from clipmem_core.facts import Affected, Facts, InputError, Part, Slider, option
from clipmem_core.mitigations import MitigationConfig

DATA_VARIABLE = "CLIPMEM_DATA"
SETS = "sets"  # the folder in the data folder that data sets are drawn, fetched and written into


def meant(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` with the most similar of some words, or nothing."""
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True)
class SourceOptions:
    """How to read a data set. Names are open_clip's; an empty string means: find it out from the file."""

    csv_img_key: str = option("", "column with the picture's path (table formats)", title="Picture column")
    csv_caption_key: str = option("", "column with the caption, a string or a list of strings", title="Caption column")
    csv_label_key: str = option("", "column with the class label", title="Label column")
    csv_id_key: str = option("", "column with a stable id; otherwise the picture's path is the id", title="Id column")
    csv_separator: str = option("", "one character", title="Separator")
    image_folder: str = option("", "the folder that picture paths start in; absolute paths must lie in it")
    caption_template: str = option(
        "",
        "a folder: the caption of pictures that have none, from the name of their class folder: `a photo of a {label}`",
    )
    split: str = option("train", "Hugging Face data sets")
    scenes_pairs: int = option(1100, "`scenes`: how many pairs are drawn", title="Pairs to draw")
    scenes_seed: int = option(0, "`scenes`: the seed they are drawn from")


@dataclass(frozen=True)
class TrainingConfig:
    """Which pairs there are, which model is trained on them, and how."""

    preset: str = option("small", "", affects=("data", "training"), own_widget=True)
    source: SourceOptions = field(default_factory=SourceOptions, metadata={"facts": Facts(affects=("data",))})

    protocol: str = option(
        "ensemble",
        "ensemble | paper",
        choices=("ensemble", "paper"),
        affects=("data",),
        alike="protocol",
        own_widget=True,
    )
    folds: int = option(2, "ensemble: parts a repeat is cut into; each member leaves one out", ge=2, affects=("data",))
    halves: bool = option(
        False,
        "ensemble: each pair is left out by half of the members of a repeat, drawn at random, instead of by one",
        affects=("data",),
    )
    members: int = option(
        0, "ensemble: repeats × folds in all; 0 means two repeats", ge=0, affects=("members",), own_widget=True
    )
    stable: float = option(
        0.0,
        "ensemble: stop before --members once the ranking by clipmem has this reliability; 0 trains all of them",
        ge=0,
        lt=1,
        affects=("members",),
    )
    rounds: str = option(
        "auto",
        "ensemble: with 2, members train a second time without the captions that are probably wrong, and misfit uses "
        "this second round; auto does so if at least a tenth of the captions are probably wrong",
        title="Rounds of training",
        choices=("auto", "1", "2"),
        affects=("members",),
    )
    seeds: int = option(1, "paper: pairs of members f-s and g-s", ge=1, affects=("members",), own_widget=True)
    seed: int = option(
        0,
        "splits, initialisation and every draw start here",
        ge=0,
        affects=("data", "training", "evaluation"),
        embeds=7,
        main=6,
    )
    plant_miscaptions: int = option(
        0, "this many pairs get another pair's captions", title="Planted mis-captions", ge=0, affects=("data",), main=4
    )
    drop_lookalikes: bool = option(
        False, "keep only the first of near-duplicate pictures", title="Drop look-alikes", affects=("data",), main=5
    )
    captions: int = option(
        0, "captions used per pair; 0 means all", title="Captions per pair (0: all)", ge=0, affects=("data",), main=3
    )
    sample: int = option(
        0,
        "audit a random sample of this many pairs, and estimate the counts of the whole set; 0 means all pairs",
        title="Sample of pairs (0: all)",
        ge=0,
        affects=("data",),
    )
    train_captions: int = option(
        0,
        "captions of a pair that training draws from, one at random each epoch; 0 means all that are used",
        ge=0,
        part="captions",
        group="Captions",
        toggle="More captions per pair",
    )

    model: str = option("small", "one of ours, a name of open_clip's, or a JSON file", alike="model", embeds=1)
    pretrained: str = option("", "start from this checkpoint or tag instead of from scratch", alike="start")
    lock_image: bool = option(
        False,
        "the image tower is pretrained and not trained: its features are computed once, and members train a head on it",
        title="Lock image tower",
        alike="locked image tower",
        own_widget=True,
    )
    lock_text: bool = option(
        False, "the same of the text tower", title="Lock text tower", alike="locked text tower", own_widget=True
    )
    image_tower: str = option(
        "",
        "locked image tower: built in (efficientnet-lite0 to 2) or one of timm's; empty takes that of --model",
        alike="image tower",
        own_widget=True,
    )
    text_tower: str = option(
        "",
        "locked text tower: built in (all-MiniLM-L6-v2) or of sentence-transformers; empty takes that of --model",
        alike="text tower",
        own_widget=True,
    )
    tower_size: int = option(0, "pixels that a locked image tower sees; 0 means its own", ge=0)
    features: str = option(
        "",
        "features computed elsewhere, also at a URL: a folder of clip-retrieval's, DataComp's .parquet with .npz, or a "
        "folder with image.npy and text.npy, a row for each of SOURCE's; needs both towers locked, and no picture",
        title="Features computed elsewhere",
        affects=("data",),
        own_widget=True,
    )
    loss: str = option("clip", "clip | siglip", choices=("clip", "siglip"), alike="loss")
    image_size: int = option(0, "pixels the model sees; 0 means the model's own", ge=0, le=8192, embeds=2)
    cache_size: int = option(
        64, "pixels a picture is stored at; crops are cut from these", ge=8, affects=("data",), embeds=3
    )
    resize_mode: str = option(
        "squash",
        "shortest | longest | squash, as in open_clip",
        choices=("shortest", "longest", "squash"),
        affects=("data",),
        embeds=4,
    )
    crop_scale: float = option(
        0.5,
        "smallest area share of a random crop; 1 turns image augmentation off",
        trained="image",
        gt=0,
        le=1,
        part="pictures",
        slider=Slider(0.05, 1.0, 0.05, 0.2),
        group="Pictures",
        toggle="Crops of another strength",
        embeds=8,
    )

    epochs: int = option(30, "", ge=1, main=1)
    batch_size: int = option(256, "", ge=2, main=2)
    lr: float = option(1e-3, "", title="Learning rate", gt=0)
    weight_decay: float = option(
        0.1,
        "how strongly weights are pulled towards 0 at every step",
        ge=0,
        part="length",
        slider=Slider(0.0, 1.0, 0.05, 0.3),
        group="Training",
        toggle="Another weight decay",
    )
    beta1: float = option(0.9, "", ge=0, lt=1)
    beta2: float = option(0.98, "", ge=0, lt=1)
    eps: float = option(1e-6, "", title="Adam's epsilon", gt=0)
    warmup: int = option(50, "steps", ge=0)
    precision: str = option(
        "auto",
        "auto | fp32 | amp_bf16; auto is bf16 where the processor has it",
        choices=("auto", "fp32", "amp_bf16"),
        affects=("machine",),
        embeds=5,
    )
    device: str = option("auto", "auto | cpu | cuda", choices=("auto", "cpu", "cuda"), affects=("machine",))
    threads: int = option(0, "processor threads of one member; 0 divides the cores", ge=0, affects=("machine",))


@dataclass(frozen=True)
class AuditConfig(MitigationConfig, TrainingConfig):
    """Everything the numbers of an audit depend on, apart from the data set's content."""

    views: int = option(
        4,
        "augmented views per picture in evaluation, at least 2",
        trained="image",
        ge=2,
        affects=("evaluation",),
        embeds=6,
    )
    eval_crop_scale: float = option(
        0.0,
        "smallest area share of an evaluation view; 0 means that of training",
        trained="image",
        ge=0,
        le=1,
        affects=("evaluation",),
        embeds=9,
    )
    eval_captions: int = option(
        0,
        "captions of a pair that memorization is measured on; 0 means all that are used",
        ge=0,
        affects=("evaluation",),
        embeds=10,
    )
    retrieval_apart: bool = option(
        False,
        "utility is measured on half of the external pairs, which then neither centre alignments nor steer adaptive_*",
        title="Utility on pairs of its own",
    )
    cache_gb: float = option(8.0, "above this, pictures stream from disk", title="Picture store (GB)", gt=0, affects=())
    probe_data: str = option("", "a torchvision ImageFolder for the linear probe", affects=("evaluation",))

    @property
    def trained_epochs(self) -> int:
        """How many epochs are trained."""
        return self.stop_epoch or self.epochs


def _facts_of(kind: Any) -> dict[str, Facts]:
    return {own.name: dataclasses.replace(own.metadata["facts"], name=own.name) for own in dataclasses.fields(kind)}


# Of every field, those of the source beside the others as its flags are.
FIELDS = _facts_of(AuditConfig) | {
    name: dataclasses.replace(own, affects=("data",)) for name, own in _facts_of(SourceOptions).items()
}
# What an arm of a study may change beside the reference arm, in the order that its text says it in.
ARM_FIELDS = tuple(name for part in get_args(Part) for name, own in FIELDS.items() if own.part == part)
# What changes nothing by itself, and what gives it a meaning.
MODIFIERS = {name: own.modifies for name, own in FIELDS.items() if own.modifies}


def affecting(*affected: Affected) -> tuple[str, ...]:
    """Return the fields that one of these depends on; without any, the fields that no number depends on."""
    found = [own for own in FIELDS.values() if set(affected) & set(own.affects) or not (affected or own.affects)]
    return tuple(own.name for own in found)


def switched_on(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mitigating fields, of some or all of a config's, that make a run differ from one without any."""
    changed = {name: value for name, value in values.items() if name in FIELDS and value != FIELDS[name].default}
    on = {
        name for name, value in changed.items() if FIELDS[name].mitigates and value != values.get(FIELDS[name].off_at)
    }
    return {name: value for name, value in changed.items() if name in on or on & set(FIELDS[name].modifies)}


DEFAULT_PRESET = "locked"  # of an audit; what compares or judges trained encoders starts from `AuditConfig.preset`
PRESETS: dict[str, dict[str, Any]] = {
    "locked": {
        "model": "locked",
        "lock_image": True,
        "lock_text": True,
        "image_tower": "efficientnet-lite2",
        "text_tower": "all-MiniLM-L6-v2",
        "halves": True,
        "folds": 8,
        "epochs": 12,
        "batch_size": 512,
        "lr": 2e-3,
        "warmup": 200,
        "views": 2,
    },
    "tiny": {"model": "tiny", "cache_size": 40, "epochs": 80, "batch_size": 64, "lr": 2e-3, "warmup": 20, "views": 2},
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
    """Return the config of a preset."""
    if name not in PRESETS:
        raise InputError(f"preset {name!r} is unknown: choose one of {', '.join(PRESETS)}{meant(name, PRESETS)}")
    return AuditConfig(preset=name, **PRESETS[name])


def without_meaning(config: AuditConfig) -> dict[str, str]:
    """Return the fields that change nothing in a config since their encoder is locked, with the encoder."""
    locked = {"image": config.lock_image, "text": config.lock_text}
    return {name: own.trained for name, own in FIELDS.items() if locked.get(own.trained, False)}


def data_folder() -> Path:
    """Return the folder that sets, caches and audits live in: `data/`, or what CLIPMEM_DATA says."""
    return Path(os.environ.get(DATA_VARIABLE) or "data")


def as_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain JSON values, nested options included."""
    return dataclasses.asdict(config)


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's fields with the options of its source beside the others, as its flags are."""
    return {key: value for key, value in values.items() if key != "source"} | values.get("source", {})


def fingerprint(values: Any) -> str:
    """Return 16 hex digits that change with any value: the key of caches and audits."""
    return hashlib.sha256(_json(values).encode()).hexdigest()[:16]


def fingerprint_rows(rows: Iterable[Any], *, beside: Sequence[Any] = ()) -> str:
    """Return the fingerprint of the list of rows, or of `[*beside, rows]`, without holding all of them as text."""
    opening, closing = (f"{_json(list(beside))[:-1]}, [", "]]") if beside else ("[", "]")
    digest, left = hashlib.sha256(opening.encode()), iter(rows)
    separator = ""
    while part := list(islice(left, 1024)):
        digest.update(f"{separator}{_json(part)[1:-1]}".encode())
        separator = ", "
    digest.update(closing.encode())
    return digest.hexdigest()[:16]


def _json(values: Any) -> str:
    return json.dumps(values, sort_keys=True, default=str)
