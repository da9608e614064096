"""What an arm of a study changes → the config that its audit runs with."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.settings import check_config
from clipmem_core.audits.store import write_json
from clipmem_core.config import AuditConfig, affecting
from clipmem_core.files import read_json
from clipmem_core.studies.rankings import Removal

# Arms share these, so that a seed splits, starts and draws alike in each of them and differences are paired.
SHARED_FIELDS = (*affecting("data", "members", "machine"), *affecting())


@dataclass(frozen=True)
class Arm:
    """One setting of a study.

    `fields` are the config's that differ from the study's; `shown` is what tables say of it, its fields if empty.
    `model` is a model config of its own; `removed` are ids of pairs that no member of it trains on, and `removal` is
    how they are to be found. `recaptioned` are ids with the captions that they get instead of their own.
    """

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    removal: Removal | None = None
    recaptioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shared = sorted(set(self.fields) & set(SHARED_FIELDS))
        if shared:
            raise ValueError(f"arm {self.name!r} must not set {', '.join(shared)}: differences would not be paired")

    @property
    def settings(self) -> dict[str, Any]:
        """What its row says it is."""
        counts = {"removed": len(self.removed), "recaptioned": len(self.recaptioned)}
        return dict(self.shown or self.fields) | {name: count for name, count in counts.items() if count}

    @property
    def changed(self) -> frozenset[str]:
        """Ids of the pairs that its members do not train on as those of other arms do."""
        return self.removed | frozenset(self.recaptioned)


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


def recaptioned(pairs: pd.DataFrame, captions: Mapping[str, tuple[str, ...]], group: np.ndarray) -> pd.DataFrame:
    """Return the pairs with other captions where an arm gives some; external pairs, that utility is measured on, keep
    theirs.

    Args:
        pairs: columns.PAIR_COLUMNS.
        captions: new ones by pair id.
        group: of each pair, [n_pairs].
    """
    ids = pairs[c.PAIR_ID].where(group != c.EXTERNAL, "")
    texts = [list(captions[id_]) if id_ in captions else own for id_, own in zip(ids, pairs[c.CAPTIONS], strict=True)]
    found = pairs.copy()
    found[c.CAPTIONS] = texts
    return found
