"""Checks a config and fills in the fields left on `auto`."""

import dataclasses
import functools
import platform
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from clipmem_core.config import (
    FIELDS,
    PRESETS,
    AuditConfig,
    InputError,
    SourceOptions,
    as_dict,
    flat,
    ineffective_fields,
    preset_config,
)
from clipmem_core.pairs.workers import cores as available_cores
from clipmem_core.scores.membership import MIN_PAIRS
from clipmem_core.training.names import model_config

if TYPE_CHECKING:  # torch, which only embedding needs
    from clipmem_core.features.towers import Opened, Tower

REPEATS, STABLE_REPEATS = 2, 4  # of an ensemble where no members are asked for; at most with --stable
LIBRARIES = ("torch", "open_clip_torch", "faiss-cpu", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "pillow")


def audit_name(source: str, config: AuditConfig) -> str:
    """Name an audit after its source, and its protocol if that is not the default.

    Example:
        >>> audit_name("data/sets/openclipart/", AuditConfig(protocol="paper"))
        'openclipart-paper'
    """
    stem = re.sub(r"[^\w.]+", "-", Path(source).name.split(".")[0]).strip("-.") or "audit"
    return stem if config.protocol == "ensemble" else f"{stem}-{config.protocol}"


def config_from(values: dict[str, Any]) -> AuditConfig:
    """Rebuild a config from its stored JSON."""
    return AuditConfig(**values | {"source": SourceOptions(**values["source"])})


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a stored config that differ from its preset."""
    usual = flat(as_dict(preset_config(values.get("preset", AuditConfig.preset))))
    return {key: value for key, value in flat(values).items() if key != "preset" and value != usual.get(key, MISSING)}


def typed_flags(values: Mapping[str, Any], *, joint: str = " ") -> list[str]:
    """Return the flags that set fields of a config: ['--batch-size 8', '--drop-lookalikes', '--no-lock-text']."""
    flags = []
    for name, value in values.items():
        flag = FIELDS[name].flag
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags.append(f"{flag}{joint}{value}" if value != "" or joint == "=" else f"{flag}{joint}''")
    return flags


def check_config(config: AuditConfig) -> None:
    """Refuse a config that cannot run."""
    check_fields(config)
    _check_protocol(config)
    model_config(config.model)
    _check_locks(config)


def check_fields(config: AuditConfig) -> AuditConfig:
    """Return a config whose fields are within their bounds."""
    try:
        _bounds().model_validate(vars(config))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = FIELDS[str(fault["loc"][0])]
        wanted = field.requirement or fault["msg"].removeprefix("Input should be ")
        raise InputError(f"{field.flag} must be {wanted}, not {fault['input']!r}") from None
    if config.min_logit_scale > config.max_logit_scale:
        raise InputError(
            f"--min-logit-scale must be at most the cap of {config.max_logit_scale}, not {config.min_logit_scale}"
        )
    if 0 < config.sample < MIN_PAIRS:
        raise InputError(f"--sample must be at least {MIN_PAIRS} pairs, or 0 for all, not {config.sample}")
    if config.stop_epoch > config.epochs:
        raise InputError(
            f"--stop-epoch must be one of the {config.epochs} epochs, or 0 for none, not {config.stop_epoch}"
        )
    if config.adaptive_rest and config.loss != "clip":
        raise InputError(f"--adaptive-rest works on --loss clip alone, not {config.loss}")
    return config


@functools.cache
def _bounds() -> type[BaseModel]:
    kinds: dict[str, Any] = {}
    for own in (FIELDS[field.name] for field in dataclasses.fields(AuditConfig) if field.name != "source"):
        kind = Literal[own.choices] if own.choices else type(own.default)
        kinds[own.name] = (kind, Field(ge=own.ge, gt=own.gt, le=own.le, lt=own.lt))
    return create_model("Bounds", __config__=ConfigDict(allow_inf_nan=False), **kinds)


def _check_protocol(config: AuditConfig) -> None:
    if config.protocol == "ensemble":
        if config.seeds != 1:
            raise InputError("--seeds belongs to --protocol paper; an ensemble grows by --members")
        if config.members % config.folds:
            raise InputError(
                f"--members must be a multiple of --folds ({config.folds}), not {config.members}: "
                "each repeat trains one member a fold"
            )
        if config.halves and config.folds % 2:
            raise InputError(f"--folds must be even with --halves, not {config.folds}")
        return
    wrong = {
        "members": config.members not in (0, 2 * config.seeds),
        "halves": config.halves and not PRESETS.get(config.preset, {}).get("halves"),
        "stable": config.stable,
        "rounds": config.rounds == "2",
    }
    for name in (name for name, given in wrong.items() if given):
        raise InputError(f"--{name} belongs to --protocol ensemble; the paper's protocol grows by --seeds")


def _check_locks(config: AuditConfig) -> None:
    """Refuse locks and towers that do not go together, and fields that have no effect on a locked encoder."""
    kinds = (("image", config.lock_image, config.image_tower), ("text", config.lock_text, config.text_tower))
    for kind, locked, tower in kinds:
        if tower and not locked:
            raise InputError(f"--{kind}-tower {tower} is a locked tower: add --lock-{kind}, or say --{kind}-tower ''")
        if locked and not (tower or config.pretrained):
            raise InputError(
                f"--lock-{kind} needs pretrained weights: name a tower with --{kind}-tower, "
                f"or those of model {config.model!r} with --pretrained"
            )
    if config.tower_size and not config.lock_image:
        raise InputError("--tower-size is the picture size of a locked image tower: add --lock-image")
    if config.model == "locked" and config.lock_image != config.lock_text:
        raise InputError("--model locked has two locked towers and none to train: take --model small")
    for name, kind in ineffective_fields(config).items():
        usual = (FIELDS[name].default, PRESETS.get(config.preset, {}).get(name))
        if FIELDS[name].part and getattr(config, name) not in usual:
            raise InputError(
                f"{FIELDS[name].flag} means nothing with --lock-{kind}: a locked {kind} tower sees each "
                f"{'picture' if kind == 'image' else 'caption'} once, as it is"
            )


def resolve(config: AuditConfig) -> AuditConfig:
    """Fill in every `auto` and 0 that depends on the machine or the protocol."""
    check_config(config)
    device = resolve_device(config.device)
    repeats = STABLE_REPEATS if config.stable else REPEATS
    members = 2 * config.seeds if config.protocol == "paper" else config.members or repeats * config.folds
    precision = config.precision
    if precision == "auto":
        has_bf16 = device == "cuda" or any(flag in _cpu_info() for flag in ("avx512_bf16", "amx_bf16"))
        precision = "amp_bf16" if has_bf16 else "fp32"
    config = dataclasses.replace(config, device=device, members=members, precision=precision)
    if not config.threads:
        config = dataclasses.replace(config, threads=max(1, available_cores() // side_by_side(config)))
    if opens_towers(config):
        checked_towers(config)
    return config


def shares_process(config: AuditConfig) -> bool:
    """Tell whether each process trains several members: a head takes seconds, as long as starting a process."""
    return config.lock_image and config.lock_text


def has_locked_tower(config: AuditConfig) -> bool:
    """Tell whether members train on the features of a locked tower."""
    return config.lock_image or config.lock_text


def opens_towers(config: AuditConfig) -> bool:
    """Tell whether locked towers compute features here."""
    return has_locked_tower(config) and not config.features


def side_by_side(config: AuditConfig) -> int:
    """Return how many members train at once: one per core, or one on a GPU."""
    if config.device == "cuda":
        return 1
    return max(1, min(config.members, available_cores() // max(1, config.threads)))


def resolve_device(device: str) -> str:
    """Return cpu or cuda; torch is imported only if the machine has a GPU's device file."""
    has_gpu = Path("/dev/nvidiactl").exists() or platform.system() == "Windows"
    if device == "cpu" or (device == "auto" and not has_gpu):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise InputError("--device cuda: this machine has no GPU that torch can use; take --device cpu")
    return "cpu"


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """Return the version of every library that computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def machine() -> dict[str, Any]:
    """Return the machine that an audit's times were measured on."""
    found = re.search(r"^model name\s*:\s*(.*?)\s*$", _cpu_info(), re.MULTILINE)
    processor = found[1] if found else platform.processor()
    return {"processor": processor, "cores": available_cores(), "system": platform.platform()}


@dataclass(frozen=True)
class Towers:
    """The locked towers of an audit; None if members train that encoder."""

    image: "Tower | None"
    text: "Tower | None"

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """What config.json says of them, by kind."""
        return {tower.kind: tower.record() for tower in (self.image, self.text) if tower}


def towers_of(config: AuditConfig) -> Towers:
    """Return the towers that a resolved config locks."""
    image, text = (
        (name or config.model, "" if name else config.pretrained) if locked else None
        for name, locked in ((config.image_tower, config.lock_image), (config.text_tower, config.lock_text))
    )
    return _towers(image, text, size=config.tower_size, precision=config.precision, device=config.device)


@functools.lru_cache(maxsize=2)  # building an open_clip model takes time; a page may compare two audits
def _towers(
    image: tuple[str, str] | None, text: tuple[str, str] | None, *, size: int, precision: str, device: str
) -> Towers:
    from clipmem_core.features.towers import image_tower, text_tower

    how: dict[str, Any] = {"precision": precision, "device": device}
    return Towers(
        image_tower(image[0], pretrained=image[1], size=size, **how) if image else None,
        text_tower(text[0], pretrained=text[1], **how) if text else None,
    )


@functools.lru_cache(maxsize=1)
def opened(tower: "Tower") -> "Opened":
    """Load a tower and cache it for the next member or search of this process."""
    return tower.open()


def checked_towers(config: AuditConfig, known: Mapping[str, Mapping[str, Any]] | None = None) -> Towers:
    """Return the towers that a resolved config locks after a check that their weights have not changed."""
    towers = towers_of(config)
    for tower in (tower for tower in (towers.image, towers.text) if tower):
        began = (known or {}).get(tower.kind, {}).get("sha256", tower.sha256)
        if began != tower.sha256:
            raise InputError(
                f"the {tower.kind} tower {tower.name} has weights of sha256 {tower.sha256[:12]}…, and the audit began "
                f"with {began[:12]}…: put those back, or take another --name"
            )
        tower.check()
    return towers
