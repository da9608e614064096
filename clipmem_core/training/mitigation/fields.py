"""The config's fields that mitigate memorization: which are on, and whether they are in range. Without torch."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from clipmem_core.config import AuditConfig, InputError

NOISE = ("text_noise", "image_noise", "adaptive_noise")
SHARES = ("text_mask", "adaptive_mask", "colour", "adaptive_rest")
ADAPTIVE = ("adaptive_noise", "adaptive_mask", "adaptive_rest")
FORGET = "text_forget_df"  # changes what a member is judged on, and nothing of its training
MIN_DF = ("text_min_df", FORGET)
OTHERS = (*MIN_DF, "min_logit_scale", "max_logit_scale", "stop_epoch")
# What changes nothing by itself, and what gives it a meaning.
MODIFIERS = {"noise_place": NOISE, "adaptive_quantile": ADAPTIVE, "adaptive_every": ADAPTIVE}
_OFF = {field.name: field.default for field in dataclasses.fields(AuditConfig)}


def switched_on(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mitigating fields of a config that make a run differ from one without any.

    Args:
        values: a config's fields, some of them or all.

    Example:
        >>> switched_on({"epochs": 9, "text_noise": 0.1, "noise_place": "before", "text_mask": 0.0, "stop_epoch": 9})
        {'text_noise': 0.1, 'noise_place': 'before'}
    """
    names = [*dict.fromkeys((*NOISE, *SHARES, *OTHERS))]
    on = {name: values[name] for name in names if name in values and values[name] != _OFF[name]}
    if on.get("stop_epoch") == values.get("epochs"):
        on.pop("stop_epoch", None)
    return on | {
        name: values[name]
        for name, needs in MODIFIERS.items()
        if name in values and values[name] != _OFF[name] and set(needs) & set(on)
    }


def without_idle(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's fields without those mitigations that are off: what a member's bits depend on."""
    known, on = {*NOISE, *SHARES, *OTHERS, *MODIFIERS}, switched_on(values)
    return {name: value for name, value in values.items() if name not in known or name in on}


def check_mitigations(config: AuditConfig) -> None:
    """Refuse settings out of range.

    Raises:
        InputError: one line that names the field, what was wanted and what was given.
    """
    for name in NOISE:
        if not 0 <= getattr(config, name) < math.inf:
            raise InputError(f"{_flag(name)} must be at least 0, not {getattr(config, name)}")
    for name in SHARES:
        if not 0 <= getattr(config, name) <= 1:
            raise InputError(f"{_flag(name)} is a share: it must be in [0, 1], not {getattr(config, name)}")
    for name in ("text_mask", "adaptive_mask"):
        if getattr(config, name) == 1:
            raise InputError(f"{_flag(name)} must leave something of a caption: below 1, not {getattr(config, name)}")
    for name in MIN_DF:
        if getattr(config, name) < 0:
            raise InputError(f"{_flag(name)} is a number of pairs: it must be at least 0, not {getattr(config, name)}")
    for name in ("min_logit_scale", "max_logit_scale"):
        if not 1 <= getattr(config, name) < math.inf:
            raise InputError(f"{_flag(name)} must be at least 1, not {getattr(config, name)}")
    if config.min_logit_scale > config.max_logit_scale:
        raise InputError(
            f"--min-logit-scale must be at most the cap of {config.max_logit_scale}, not {config.min_logit_scale}"
        )
    if not 0 <= config.stop_epoch <= config.epochs:
        raise InputError(
            f"--stop-epoch must be one of the {config.epochs} epochs, or 0 for none, not {config.stop_epoch}"
        )
    _check_adaptive(config)


def _check_adaptive(config: AuditConfig) -> None:
    if not 0 < config.adaptive_quantile < 1:
        raise InputError(f"--adaptive-quantile must be between 0 and 1, not {config.adaptive_quantile}")
    if config.adaptive_every < 1:
        raise InputError(f"--adaptive-every must be at least 1 epoch, not {config.adaptive_every}")
    if config.adaptive_rest and config.loss != "clip":
        raise InputError(f"--adaptive-rest works on --loss clip alone, not {config.loss}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
