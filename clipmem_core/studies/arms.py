"""What an arm of a study changes → the config that its audit runs with."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipmem_core.audits.settings import check_config
from clipmem_core.audits.store import read_json, write_json
from clipmem_core.config import AuditConfig

# Arms share these, so that a seed splits, starts and draws alike in each of them and differences are paired.
SHARED_FIELDS = (
    *("preset", "source", "protocol", "folds", "members", "seeds", "seed", "plant_miscaptions", "drop_lookalikes"),
    *("captions", "cache_size", "resize_mode", "device", "threads", "cache_gb"),
)


@dataclass(frozen=True)
class Arm:
    """One setting of a study.

    `fields` are the config's that differ from the study's; `shown` is what tables say of it, its fields if empty.
    `model` is a model config of its own; `removed` are ids of pairs that no member of it trains on.
    """

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        shared = sorted(set(self.fields) & set(SHARED_FIELDS))
        if shared:
            raise ValueError(f"arm {self.name!r} must not set {', '.join(shared)}: differences would not be paired")

    @property
    def settings(self) -> dict[str, Any]:
        """What its row says it is."""
        removed = {"removed": len(self.removed)} if self.removed else {}
        return dict(self.shown or self.fields) | removed


def arm_config(arm: Arm, config: AuditConfig, models: Path) -> AuditConfig:
    """Return the config of an arm's audit; a model of its own is the file of its name in `models`."""
    own = {"model": str(models / f"{arm.name}.json")} if arm.model else {}
    return dataclasses.replace(config, **{**arm.fields, **own})


def check_arms(arms: Sequence[Arm], config: AuditConfig) -> None:
    """Refuse arms of which one cannot run, before any does.

    Raises:
        InputError: one line that names the field.
    """
    for arm in arms:
        check_config(dataclasses.replace(config, **arm.fields))


def write_models(arms: Sequence[Arm], models: Path) -> None:
    """Write the model configs of the arms that have one of their own."""
    for arm in arms:
        path = models / f"{arm.name}.json"
        if arm.model and not (path.is_file() and read_json(path) == arm.model):
            models.mkdir(parents=True, exist_ok=True)
            write_json(path, dict(arm.model))
