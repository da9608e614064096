"""The frozen configuration of an audit: its fields, presets and fingerprint."""

import dataclasses
import functools
import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from clipmem_core.mitigations import MitigationConfig
from clipmem_core.utils.io import InputError
from clipmem_core.utils.options import Affected, Option, Part, Slider, control, option

DATA_VARIABLE = "CLIPMEM_DATA"
AUTO = "auto"  # decided by the captions: the text tower, sentences
ENGLISH_TOWER = "all-MiniLM-L6-v2"
MULTILINGUAL_TOWER = "universal-sentence-encoder-multilingual-3"
MULTILINGUAL = "multilingual"  # its short name
SETS = "sets"  # the folder of data sets in the data folder


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return `; did you mean X?` with the most similar name, if any is similar."""
    similar = get_close_matches(word, names, n=1)
    return f"; did you mean {similar[0]!r}?" if similar else ""


# Fields by what they affect; the others affect training
data_option = functools.partial(option, affects=("data",))
member_option = functools.partial(option, affects=("members",))
evaluation_option = functools.partial(option, affects=("evaluation",))
machine_option = functools.partial(option, affects=("machine",))


@dataclass(frozen=True)
class SourceOptions:
    """How to read a data set. Names are open_clip's; an empty string means: detect it from the
    file."""

    csv_img_key: str = data_option(
        "", "column with the picture's path (table formats)", title="Picture column"
    )
    csv_caption_key: str = data_option(
        "", "column with the caption, a string or a list of strings", title="Caption column"
    )
    csv_label_key: str = data_option("", "column with the class label", title="Label column")
    csv_id_key: str = data_option(
        "", "column with a stable id; empty: the picture's path", title="Id column"
    )
    group_key: str = data_option(
        "",
        "column with a study or product: its pictures are trained on or held out together, and "
        "their captions are no decoys for each other",
        title="Group column",
    )
    csv_separator: str = data_option("", "one character", title="Separator")
    image_folder: str = data_option(
        "", "the folder that picture paths start in; absolute paths must lie in it"
    )
    caption_template: str = data_option(
        "", "folder: caption of pictures without one, as in `a photo of a {label}`"
    )
    split: str = data_option("train", "Hugging Face data sets")
    scenes_pairs: int = data_option(
        1100, "`scenes`: how many pairs are drawn", title="Pairs to draw"
    )
    scenes_seed: int = data_option(0, "`scenes`: the seed they are drawn from")


@dataclass(frozen=True)
class TrainingConfig:
    """The pairs, the model, and its training."""

    preset: str = option("small", "", affects=("data", "training"))
    source: SourceOptions = field(
        default_factory=SourceOptions, metadata={"facts": Option(affects=("data",))}
    )

    protocol: str = data_option(
        "ensemble", "ensemble | paper", choices=("ensemble", "paper"), must_match="protocol"
    )
    folds: int = data_option(
        2, "ensemble: parts a replicate is cut into; each member leaves one out", ge=2
    )
    halves: bool = data_option(
        False, "ensemble: half of a replicate's members leave a pair out, not one"
    )
    members: int = member_option(
        0, "ensemble: replicates × folds in all; 0 means two replicates", ge=0
    )
    rounds: str = member_option(
        "auto",
        "ensemble: with 2, members train a second time without the captions that are probably "
        "wrong, and misfit uses this second round; auto does so if at least a tenth of the "
        "captions are probably wrong",
        title="Rounds of training",
        choices=("auto", "1", "2"),
    )
    seeds: int = member_option(1, "paper: pairs of members f-s and g-s", ge=1)
    seed: int = option(
        0, "of splits, initialisation and draws", ge=0, affects=("data", "training", "evaluation")
    )
    inject_miscaptions: int = data_option(
        0, "this many pairs get another pair's captions", title="Injected wrong captions", ge=0
    )
    drop_near_duplicates: bool = data_option(
        False, "keep only the first of near-duplicate pictures", title="Drop near-duplicates"
    )
    captions: int = data_option(
        0, "used per pair; 0: all", title="Captions per pair (0: all)", ge=0
    )
    sentences: str = data_option(
        AUTO,
        "judge each sentence of a caption; auto: if most pairs have one caption, of two or more",
        title="Sentences of long captions",
        choices=(AUTO, "on", "off"),
    )
    sample: int = data_option(0, "audit a random sample of so many pairs; 0: all", ge=0)
    train_captions: int = option(
        0,
        "captions of a pair that training draws from, one at random each epoch; the more, the less "
        "a pair is memorized; 0 means all that are used",
        ge=0,
        group="Captions",
        **control("captions", "Captions per pair in training"),
    )

    model: str = option(
        "small", "one of ours, a name of open_clip's, or a JSON file", must_match="model"
    )
    pretrained: str = option(
        "", "start from this checkpoint or tag instead of from scratch", must_match="start"
    )
    lock_image: bool = option(
        False,
        "stays pretrained; members train a head on it",
        title="Lock image tower",
        must_match="locked image tower",
    )
    lock_text: bool = option(
        False,
        "the same for the text tower",
        title="Lock text tower",
        must_match="locked text tower",
    )
    image_tower: str = option(
        "",
        "locked: efficientnet-lite0 to 2, or timm's; empty: of --model",
        must_match="image tower",
    )
    text_tower: str = option(
        "",
        "locked: auto (by the captions' language) | all-MiniLM-L6-v2 (English) | multilingual, or "
        "of sentence-transformers; empty: that of --model",
        must_match="text tower",
    )
    unlock: int = option(
        0,
        "last blocks of each locked tower that members train, from their pretrained weights; the "
        "activations before them are computed once",
        title="Unlocked blocks",
        ge=0,
        must_match="unlocked blocks",
    )
    tower_size: int = option(0, "pixels that a locked image tower sees; 0 means its own", ge=0)
    features: str = data_option(
        "",
        "features computed elsewhere, also at a URL: a folder of clip-retrieval's, DataComp's "
        ".parquet with .npz, or a folder with image.npy and text.npy, a row for each of SOURCE's; "
        "needs both towers locked, and no picture",
        title="Features computed elsewhere",
    )
    loss: str = option("clip", "clip | siglip", choices=("clip", "siglip"), must_match="loss")
    image_size: int = option(0, "pixels the model sees; 0 means the model's own", ge=0, le=8192)
    cache_size: int = data_option(
        64, "pixels a picture is stored at; crops are cut from these", ge=8
    )
    resize_mode: str = data_option(
        "squash", "as in open_clip", choices=("shortest", "longest", "squash")
    )
    crop_scale: float = option(
        0.5,
        "smallest area share of a random crop; 1 turns image augmentation off",
        trained="image",
        gt=0,
        le=1,
        group="Pictures",
        **control("pictures", "Crop strength", Slider(0.05, 1.0, 0.05, 0.2)),
    )

    epochs: int = option(30, "", ge=1)
    batch_size: int = option(256, "", ge=2)
    lr: float = option(1e-3, "", title="Learning rate", gt=0)
    weight_decay: float = option(
        0.1,
        "how strongly weights are pulled towards 0 at every step",
        ge=0,
        group="Training",
        **control("length", "Weight decay", Slider(0.0, 1.0, 0.05, 0.3)),
    )
    beta1: float = option(0.9, "", ge=0, lt=1)
    beta2: float = option(0.98, "", ge=0, lt=1)
    eps: float = option(1e-6, "", title="Adam's epsilon", gt=0)
    warmup: int = option(50, "steps", ge=0)
    precision: str = machine_option(
        "auto", "auto (bf16 if fast) | fp32 | amp_bf16", choices=("auto", "fp32", "amp_bf16")
    )
    device: str = machine_option("auto", "auto | cpu | cuda", choices=("auto", "cpu", "cuda"))
    threads: int = machine_option(0, "processor threads of one member; 0 divides the cores", ge=0)


@dataclass(frozen=True)
class AuditConfig(MitigationConfig, TrainingConfig):
    """Everything the numbers of an audit depend on, apart from the data set's content."""

    views: int = evaluation_option(
        4, "augmented views a picture in evaluation", trained="image", ge=2
    )
    eval_crop_scale: float = evaluation_option(
        0.0, "crop scale of evaluation views; 0: as in training", trained="image", ge=0, le=1
    )
    eval_captions: int = evaluation_option(0, "captions of a pair in evaluation; 0: all used", ge=0)
    retrieval_apart: bool = option(
        False,
        "utility on half of the held-out pairs; the others centre alignments",
        title="Separate pairs for utility",
    )
    cache_gb: float = option(
        8.0, "above this, pictures stream from disk", title="Picture store (GB)", gt=0, affects=()
    )

    @property
    def trained_epochs(self) -> int:
        """How many epochs are trained."""
        return self.stop_epoch or self.epochs


# All fields, the options of the source included
FIELDS: dict[str, Option] = {
    item.name: dataclasses.replace(item.metadata["facts"], name=item.name)
    for item in (*dataclasses.fields(AuditConfig), *dataclasses.fields(SourceOptions))
}
# The fields that a setting of a study may change, in the order of its text
SETTING_FIELDS = tuple(
    name for part in get_args(Part) for name, facts in FIELDS.items() if facts.part == part
)
# Fields without an effect of their own, and the fields they have an effect on
MODIFIERS = {name: facts.modifies for name, facts in FIELDS.items() if facts.modifies}


def affecting(*affected: Affected) -> tuple[str, ...]:
    """Return the fields that affect any of these; without arguments, the fields that affect no
    number."""
    return tuple(
        facts.name
        for facts in FIELDS.values()
        if set(affected) & set(facts.affects) or not (affected or facts.affects)
    )


def switched_on(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of (part of) a config that switch a mitigation on, and their modifiers."""
    changed = [
        facts for name, facts in FIELDS.items() if values.get(name, facts.default) != facts.default
    ]
    on = {
        facts.name
        for facts in changed
        if facts.mitigates and values[facts.name] != values.get(facts.off_at)
    }
    return {
        facts.name: values[facts.name]
        for facts in changed
        if facts.name in on or on & set(facts.modifies)
    }


DEFAULT_PRESET = "locked"  # of an audit; studies of encoders start from `AuditConfig.preset`
# The fields of each preset that differ from their defaults
PRESETS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("presets.toml").read_text(encoding="utf-8")
)


def preset_config(name: str) -> AuditConfig:
    """Return the config of a preset."""
    if name not in PRESETS:
        raise InputError(
            f"preset {name!r} is unknown: choose one of "
            f"{', '.join(PRESETS)}{did_you_mean(name, PRESETS)}"
        )
    return AuditConfig(preset=name, **PRESETS[name])


def configured(preset: str, changes: Mapping[str, Any]) -> AuditConfig:
    """Return the config of a preset with some fields changed, options of its source included."""
    others = dict(changes)
    names = {item.name for item in dataclasses.fields(SourceOptions)}
    source = SourceOptions(**{name: others.pop(name) for name in names & set(others)})
    return dataclasses.replace(preset_config(preset), source=source, **others)


def ineffective_fields(config: AuditConfig) -> dict[str, str]:
    """Return the fields that have no effect since their encoder is locked, with the encoder. With
    unlocked blocks these are the fields that change pictures or tokens themselves."""
    locked = {"image": config.lock_image, "text": config.lock_text}
    return {
        name: facts.trained
        for name, facts in FIELDS.items()
        if locked.get(facts.trained) and (facts.on_input or not config.unlock)
    }


def data_folder() -> Path:
    """Return the folder of sets, caches and audits: CLIPMEM_DATA, or `data/`."""
    return Path(os.environ.get(DATA_VARIABLE) or "data")


as_dict = dataclasses.asdict  # a config as plain JSON values, nested options included


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's fields in one level, the options of its source included."""
    return {key: value for key, value in values.items() if key != "source"} | values.get(
        "source", {}
    )


def fingerprint(values: Any) -> str:
    """Return 16 hex digits that change with any value: the key of caches and audits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
