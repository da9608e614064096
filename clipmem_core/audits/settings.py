"""From what a person asked for to a config that can run: checked, and with nothing left on `auto`."""

import contextlib
import dataclasses
import math
import platform
import re
from collections.abc import Mapping
from dataclasses import MISSING
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clipmem_core.audits.probe_folder import probe_folders
from clipmem_core.config import AuditConfig, InputError, SourceOptions, as_dict, preset_config
from clipmem_core.pairs.pixel_cache.workers import cores as available_cores
from clipmem_core.training.mitigation.fields import check_mitigations
from clipmem_core.training.names import check_model_fields, parameters

PROTOCOLS = ("ensemble", "paper")
CHOICES = {
    "protocol": PROTOCOLS,
    "loss": ("clip", "siglip"),
    "resize_mode": ("shortest", "longest", "squash"),
    "precision": ("auto", "fp32", "amp_bf16"),
    "device": ("auto", "cpu", "cuda"),
    "noise_place": ("before", "after"),
}
AT_LEAST = {
    "folds": 2,
    "members": 0,
    "seeds": 1,
    "seed": 0,
    "plant_miscaptions": 0,
    "captions": 0,
    "train_captions": 0,
    "eval_captions": 0,
    "eval_crop_scale": 0,
    "image_size": 0,
    "cache_size": 8,
    "epochs": 1,
    "batch_size": 2,
    "warmup": 0,
    "weight_decay": 0,
    "threads": 0,
    "views": 2,
}
BYTES = 4  # of a weight
TRAINED = 4 * BYTES  # with its gradient and the two moments of AdamW
ABOVE_ZERO = ("lr", "eps", "cache_gb", "crop_scale")
LIBRARIES = ("torch", "open_clip_torch", "faiss-cpu", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "pillow")


def audit_name(source: str, config: AuditConfig) -> str:
    """Name an audit after its source, and its protocol where that is not the default.

    Example:
        >>> audit_name("data/sets/openclipart/", AuditConfig(protocol="paper"))
        'openclipart-paper'
    """
    stem = re.sub(r"[^\w.]+", "-", Path(source).name.split(".")[0]).strip("-.") or "audit"
    return stem if config.protocol == "ensemble" else f"{stem}-{config.protocol}"


def config_from(values: dict[str, Any]) -> AuditConfig:
    """Rebuild a config from the JSON it was stored as."""
    source = SourceOptions(**_known(SourceOptions, values["source"]))
    return AuditConfig(**_known(AuditConfig, values) | {"source": source})


def _known(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are fields of a dataclass."""
    return {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's fields with the options of its source beside the others, as its flags are.

    Example:
        >>> flat({"seed": 0, "source": {"split": "train"}})
        {'seed': 0, 'split': 'train'}
    """
    return {key: value for key, value in values.items() if key != "source"} | values.get("source", {})


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a stored config that somebody typed beside its preset: those the preset sets otherwise."""
    usual = flat(as_dict(preset_config(values.get("preset", AuditConfig.preset))))
    return {key: value for key, value in flat(values).items() if key != "preset" and value != usual.get(key, MISSING)}


def check_config(config: AuditConfig) -> None:
    """Refuse a config that cannot run.

    Raises:
        InputError: one line that names the field, what was wanted and what was given.
    """
    check_fields(config)
    _check_members(config)
    check_model_fields(config.model, image_size=config.image_size)
    if config.probe_data:
        probe_folders(config.probe_data)


def check_fields(config: AuditConfig) -> AuditConfig:
    """Return a config whose fields are in their bounds.

    Raises:
        InputError: one line that names the field, what was wanted and what was given.
    """
    for name, choices in CHOICES.items():
        if getattr(config, name) not in choices:
            raise InputError(f"{flag(name)} must be one of {', '.join(choices)}, not {getattr(config, name)!r}")
    for name, least in AT_LEAST.items():
        if not least <= getattr(config, name) < math.inf:
            raise InputError(f"{flag(name)} must be at least {least}, not {getattr(config, name)}")
    for name in ABOVE_ZERO:
        if not 0 < getattr(config, name) < math.inf:
            raise InputError(f"{flag(name)} must be a number above 0, not {getattr(config, name)}")
    for name in ("crop_scale", "eval_crop_scale"):
        if getattr(config, name) > 1:
            raise InputError(f"{flag(name)} is a share of the picture: at most 1, not {getattr(config, name)}")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(config, name) < 1:
            raise InputError(f"{flag(name)} must be in [0, 1), not {getattr(config, name)}")
    check_mitigations(config)
    return config


def flag(name: str) -> str:
    """Return a field's command-line flag."""
    return "--" + name.replace("_", "-")


def typed_flags(given: Mapping[str, Any], *, joint: str = " ") -> list[str]:
    """Return what is typed for some fields of a config: a flag and its value each, a switch without.

    Args:
        given: field → value.
        joint: what stands between a flag and its value.

    Example:
        >>> typed_flags({"batch_size": 8, "drop_lookalikes": True}, joint="=")
        ['--batch-size=8', '--drop-lookalikes']
    """
    return [flag(name) if value is True else f"{flag(name)}{joint}{value}" for name, value in given.items()]


def _check_members(config: AuditConfig) -> None:
    if config.protocol == "ensemble" and config.seeds != 1:
        raise InputError("--seeds belongs to --protocol paper; an ensemble grows by --members")
    if config.protocol == "paper" and config.members not in (0, 2 * config.seeds):
        raise InputError("--members belongs to --protocol ensemble; the paper's protocol grows by --seeds")
    if config.protocol == "ensemble" and config.members % config.folds:
        raise InputError(
            f"--members must be a multiple of --folds ({config.folds}), not {config.members}: "
            "each repeat trains one member a fold"
        )


def resolve(config: AuditConfig, *, trains: bool = True) -> AuditConfig:
    """Fill in every `auto` and 0 that depends on the machine or the protocol.

    Raises:
        InputError: the config cannot run, here or anywhere; `trains` is false where checkpoints are only scored.
    """
    check_config(config)
    device = resolve_device(config.device)
    _check_memory(config, TRAINED if trains and device == "cpu" else BYTES)
    members = 2 * config.seeds if config.protocol == "paper" else config.members or 2 * config.folds
    config = dataclasses.replace(config, device=device, members=members, precision=_precision(config.precision, device))
    if not config.threads:
        config = dataclasses.replace(config, threads=max(1, available_cores() // side_by_side(config)))
    return config


def _check_memory(config: AuditConfig, each: int) -> None:
    """Refuse a model whose weights alone, of so many bytes each, do not fit into the memory that is free now."""
    count, free = parameters(config.model, image_size=config.image_size), _free_memory()
    if count * each > free:
        raise InputError(
            f"model {config.model!r} has about {count / 1e6:,.0f} million weights: one member of it takes "
            f"{count * each / 1e9:,.1f} GB of memory and {free / 1e9:,.1f} GB are free: take a smaller model"
        )


def _free_memory() -> float:
    """Return the bytes that this machine, or the container that this runs in, can still give; infinity if not known."""
    free = math.inf
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), math.inf)
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        free = min(free, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return free


def side_by_side(config: AuditConfig) -> int:
    """Return how many members train at once: one a core, but one at a time on a GPU."""
    if config.device == "cuda":
        return 1
    return max(1, min(config.members, available_cores() // max(1, config.threads)))


def resolve_device(device: str) -> str:
    """Return cpu or cuda. torch is loaded only where the machine has a GPU's device file."""
    has_gpu = Path("/dev/nvidiactl").exists() or platform.system() == "Windows"
    if device == "cpu" or (device == "auto" and not has_gpu):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise InputError("--device cuda: this machine has no GPU that torch can use; take --device cpu")
    return "cpu"


def _precision(precision: str, device: str) -> str:
    if precision != "auto":
        return precision
    if device == "cuda":
        return "amp_bf16"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "fp32"
    return "amp_bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "fp32"


def versions() -> dict[str, str]:
    """Return the version of everything that computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def machine() -> dict[str, Any]:
    """Return what the times of an audit were measured on."""
    return {"processor": _processor(), "cores": available_cores(), "system": platform.platform()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
