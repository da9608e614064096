"""The config of an audit: checks it, fills in its `auto` fields, compares it with another one, and
opens the locked towers that it names."""

import dataclasses
import functools
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from clipmem_core import config as configs
from clipmem_core.config import FIELDS, AuditConfig
from clipmem_core.scores.membership import MIN_PAIRS
from clipmem_core.training import model_config
from clipmem_core.utils.io import InputError
from clipmem_core.utils.io import cores as available_cores

if TYPE_CHECKING:  # torch, which only embedding needs
    from clipmem_core.features.towers import Tower

# Towers of the default preset, whose weights are installed with this program
_BUILT_IN = {"efficientnet-lite2", configs.AUTO, configs.MULTILINGUAL_TOWER}
REPLICATES = 2  # of an ensemble without --members
BY_CAPTIONS = ("text_tower", "sentences")  # the captions decide their `auto`
# Fields that may change when an audit resumes
MAY_DIFFER = (*configs.affecting("members"), *configs.affecting())
LIBRARIES = (
    "torch",
    "open_clip_torch",
    "faiss-cpu",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "pillow",
)


def audit_name(source: str, config: AuditConfig) -> str:
    """Name an audit after its source, and its protocol if that is not the default."""
    stem = re.sub(r"[^\w.]+", "-", Path(source).name.split(".")[0]).strip("-.") or "audit"
    return stem if config.protocol == "ensemble" else f"{stem}-{config.protocol}"


def resume_arguments(name: str, source: str, config: AuditConfig) -> list[str]:
    """Return the arguments of `audit`: source, name, preset, and the flags of the fields that
    differ from the preset, such as --batch-size=8 and --no-lock-text."""
    preset = configs.flat(configs.as_dict(configs.preset_config(config.preset)))
    flags = []
    for field, value in configs.flat(configs.as_dict(config)).items():
        if field == "preset" or value == preset[field]:
            continue
        flag = FIELDS[field].flag
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags.append(f"{flag}={value}")
    return [source, f"--name={name}", f"--preset={config.preset}", *flags]


def check_config(config: AuditConfig) -> None:
    """Refuse a config that cannot run."""
    try:
        _bounds().model_validate(vars(config))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        flag = FIELDS[str(fault["loc"][0])].flag
        valid = fault["msg"].removeprefix("Input should be ")
        raise InputError(f"{flag} must be {valid}, not {fault['input']!r}") from None
    low = config.min_logit_scale
    high = config.max_logit_scale
    _refuse(low > high, f"--min-logit-scale must be at most the cap of {high}, not {low}")
    _refuse(
        0 < config.sample < MIN_PAIRS, f"--sample must be at least {MIN_PAIRS} pairs, or 0 for all"
    )
    _refuse(
        config.stop_epoch > config.epochs,
        f"--stop-epoch must be one of the {config.epochs} epochs, or 0 for none",
    )
    _refuse(
        config.adaptive_rest and config.loss != "clip",
        f"--adaptive-rest works on --loss clip alone, not {config.loss}",
    )
    preset = configs.PRESETS.get(config.preset, {})
    if config.protocol == "ensemble":
        _refuse(
            config.seeds != 1, "--seeds belongs to --protocol paper; an ensemble grows by --members"
        )
        _refuse(
            config.members % config.folds,
            f"--members must be a multiple of --folds ({config.folds}), not {config.members}",
        )
        _refuse(
            config.halves and config.folds % 2,
            f"--folds must be even with --halves, not {config.folds}",
        )
    else:
        ensemble_only = "belongs to --protocol ensemble; the paper's protocol grows by --seeds"
        _refuse(config.members not in (0, 2 * config.seeds), f"--members {ensemble_only}")
        _refuse(config.halves and not preset.get("halves"), f"--halves {ensemble_only}")
        _refuse(config.rounds == "2", f"--rounds {ensemble_only}")
    _refuse(
        config.tower_size and not config.lock_image,
        "--tower-size is the picture size of a locked image tower: add --lock-image",
    )
    _refuse(
        config.unlock and not (config.lock_image or config.lock_text),
        "--unlock trains the last blocks of locked towers: add --lock-image or --lock-text",
    )
    _refuse(
        config.unlock and config.features,
        "--unlock needs the pictures: without them there are no activations, remove --features",
    )
    _refuse(
        config.features and config.sentences == "on",
        "--features are those of captions, not of sentences: set --sentences off",
    )
    _refuse(
        config.model == "locked" and config.lock_image != config.lock_text,
        "--model locked has two locked towers and none to train: use --model small",
    )
    for side in ("image", "text"):
        locked = getattr(config, f"lock_{side}")
        tower = getattr(config, f"{side}_tower")
        _refuse(
            tower and not locked,
            f"--{side}-tower {tower} is a locked tower: add --lock-{side}, or remove the tower",
        )
        _refuse(
            locked and not (tower or config.pretrained),
            f"--lock-{side} needs pretrained weights: set --{side}-tower or --pretrained",
        )
    model_config(config.model)
    for name, kind in configs.ineffective_fields(config).items():
        facts = FIELDS[name]
        if facts.part and getattr(config, name) not in (facts.default, preset.get(name)):
            raise InputError(
                f"{facts.flag} has no effect on a locked {kind} tower: remove it or --lock-{kind}"
            )


def _refuse(is_wrong: object, message: str) -> None:
    if is_wrong:
        raise InputError(message)


@functools.cache
def _bounds() -> type[BaseModel]:
    kinds: dict[str, Any] = {}
    names = [field.name for field in dataclasses.fields(AuditConfig) if field.name != "source"]
    for name in names:
        field = FIELDS[name]
        kind = Literal[field.choices] if field.choices else type(field.default)
        kinds[name] = (kind, Field(ge=field.ge, gt=field.gt, le=field.le, lt=field.lt))
    return create_model("Bounds", __config__=ConfigDict(allow_inf_nan=False), **kinds)


def resolve(config: AuditConfig) -> AuditConfig:
    """Fill in every `auto` and 0 that depends on the machine or the protocol."""
    check_config(config)
    device = resolve_device(config.device)
    members = config.members or REPLICATES * config.folds
    if config.protocol == "paper":
        members = 2 * config.seeds
    precision = config.precision
    if precision == "auto":
        has_bf16 = device == "cuda" or re.search("avx512_bf16|amx_bf16", _cpu_info())
        precision = "amp_bf16" if has_bf16 else "fp32"
    text_tower = config.text_tower
    if text_tower == configs.MULTILINGUAL:
        text_tower = configs.MULTILINGUAL_TOWER
    config = dataclasses.replace(
        config, device=device, members=members, precision=precision, text_tower=text_tower
    )
    if not config.threads:
        threads = max(1, available_cores() // side_by_side(config))
        config = dataclasses.replace(config, threads=threads)
    if opens_towers(config) and not {config.image_tower, config.text_tower} <= _BUILT_IN:
        towers_of(config)  # their names and files are checked before pictures are read
    return config


def shares_process(config: AuditConfig) -> bool:
    """Tell whether each process trains several members: a head trains as fast as Python starts."""
    return config.lock_image and config.lock_text


def opens_towers(config: AuditConfig) -> bool:
    """Tell whether features have to be computed by locked towers."""
    return (config.lock_image or config.lock_text) and not config.features


def side_by_side(config: AuditConfig) -> int:
    """Return how many members train at once: one per core, or one on a GPU."""
    if config.device == "cuda":
        return 1
    return max(1, min(config.members, available_cores() // max(1, config.threads)))


def resolve_device(device: str) -> str:
    """Return cpu or cuda; torch is imported only if the machine has a GPU's device file."""
    if device == "cpu" or (device == "auto" and not Path("/dev/nvidiactl").exists()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise InputError(
            "--device cuda: this machine has no GPU that torch can use; set --device cpu"
        )
    return "cpu"


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def library_versions() -> dict[str, str]:
    """Return the version of every library that computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def machine() -> dict[str, Any]:
    """Return the machine that an audit's times were measured on."""
    model = re.search(r"^model name\s*:\s*(.*?)\s*$", _cpu_info(), re.MULTILINE)
    processor = model[1] if model else platform.processor()
    return {"processor": processor, "cores": available_cores(), "system": platform.platform()}


class Towers(NamedTuple):
    """The locked towers of an audit; None if members train that encoder."""

    image: "Tower | None"
    text: "Tower | None"

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """The record of each tower in config.json, by kind."""
        return {tower.kind: tower.record() for tower in self if tower}


# Building an open_clip model takes time; a page may compare two audits
@functools.lru_cache(maxsize=4)
def towers_of(config: AuditConfig) -> Towers:
    """Return the towers that a resolved config locks."""
    from clipmem_core.training.locked_towers import image_tower, text_tower

    options: dict[str, Any] = {"precision": config.precision, "device": config.device}
    image = text = None
    if config.lock_image:
        name = config.image_tower or config.model
        pretrained = "" if config.image_tower else config.pretrained
        image = image_tower(name, pretrained=pretrained, size=config.tower_size, **options)
    if config.lock_text:
        name = config.text_tower or config.model
        pretrained = "" if config.text_tower else config.pretrained
        text = text_tower(name, pretrained=pretrained, **options)
    return Towers(image, text)


@functools.lru_cache(maxsize=2)
def member_towers(config: AuditConfig) -> Towers:
    """Return the towers whose features members train on: the locked ones, cut below the blocks that
    a resolved config unlocks."""
    towers = towers_of(config)
    if not config.unlock:
        return towers
    from clipmem_core.features.unlocked import unlock

    return Towers(*(tower and unlock(tower, config.unlock) for tower in towers))


def differing_fields(
    source_then: str,
    config_then: AuditConfig,
    source: str,
    config: AuditConfig,
    *,
    may_differ: Sequence[str] = MAY_DIFFER,
) -> list[str]:
    """Describe how the source and config of an audit, a study or a benchmark differ from the
    requested ones."""
    now = configs.flat(configs.as_dict(config))
    then = configs.flat(configs.as_dict(config_then))
    # `threads`: another machine may resume. The captions have decided the `auto` fields.
    free = {*may_differ, "threads", *(key for key in BY_CAPTIONS if now[key] == configs.AUTO)}
    differ = [
        f"{FIELDS[key].flag} is {then[key]!r} there and {now[key]!r} here"
        for key in now
        if key not in free and now[key] != then[key]
    ]
    if source_then != source and Path(source_then).resolve() != Path(source).resolve():
        differ.insert(0, f"the source is {source_then!r} there and {source!r} here")
    return differ
