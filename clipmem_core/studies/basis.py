"""A study → what arms that a person adds to it are made from: the reference arm, the pairs, and how they are drawn."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.prepare import draw_membership
from clipmem_core.audits.settings import config_from
from clipmem_core.audits.store import CONFIG, MEMBERSHIP, PAIRS, PREPARED, read_prepared
from clipmem_core.config import ARM_FIELDS, AuditConfig, InputError, as_dict
from clipmem_core.studies.arms import Arm
from clipmem_core.studies.ranking_audit import ranking_config
from clipmem_core.studies.store import StudyFolder


@dataclass(frozen=True)
class Decided:
    """What a person decided: ids of pairs to take out, and ids with the captions that they get instead of their own."""

    removed: frozenset[str] = frozenset()
    recaptioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.removed or self.recaptioned)


@dataclass(frozen=True, eq=False)
class Basis:
    """What the arms of a study share.

    `config` is the study's and `none` its reference arm; `names` are those of all arms of its plan, and `settings` the
    texts of those that a setting can say. `pairs`, their `group` and their `clusters` of look-alikes are in one order.
    """

    config: AuditConfig
    none: Arm
    names: frozenset[str]
    settings: Mapping[str, str]
    pairs: pd.DataFrame
    group: np.ndarray
    clusters: np.ndarray

    @property
    def reference(self) -> AuditConfig:
        """The config of the reference arm."""
        return dataclasses.replace(self.config, **self.none.fields)

    @property
    def lookalikes(self) -> frozenset[str]:
        """Ids of all but the first of pictures that look alike, of pairs that somebody trains on."""
        later = (self.clusters != np.arange(len(self.clusters))) & (self.group != c.EXTERNAL)
        return frozenset(self.pairs.loc[later, c.PAIR_ID])

    @property
    def ranked(self) -> frozenset[str]:
        """Ids of the shared pairs that a ranking can take out: those that the audit that ranks scores."""
        drawn = draw_membership(self.clusters, ranking_config(self.reference))
        return frozenset(self.pairs.loc[(drawn.group == c.SCORED) & (self.group == c.SHARED), c.PAIR_ID])

    def ids(self, group: str) -> frozenset[str]:
        """Return the ids of a group."""
        return frozenset(self.pairs.loc[self.group == group, c.PAIR_ID])

    def standing(self, decided: Decided) -> Decided:
        """Return of what was decided that which changes how members of this study train.

        Utility is measured on external pairs: they stay as they are. Of new captions as many count as are used.
        """
        trained = self.pairs[self.group != c.EXTERNAL]
        before = {id_: tuple(own) for id_, own in zip(trained[c.PAIR_ID], trained[c.CAPTIONS], strict=True)}
        used = self.config.captions or None
        after = {id_: tuple(own)[:used] for id_, own in decided.recaptioned.items()}
        changed = {id_: own for id_, own in after.items() if id_ in before and own != before[id_]}
        return Decided(decided.removed & frozenset(before), changed)


def reference_config(study: StudyFolder) -> AuditConfig:
    """Return the config of a study's reference arm: what settings are told beside."""
    asked = study.asked
    return dataclasses.replace(config_from(asked["config"]), **_reference_fields(study))


def basis_of(study: StudyFolder) -> Basis:
    """Return what arms of a study are made from, out of its folder.

    Raises:
        InputError: its reference arm has not begun.
    """
    asked, own = study.asked, {arm["name"] for arm in study.own}
    audit = study.audit(asked["reference"])
    if not all((audit.folder / name).is_file() for name in (CONFIG, PAIRS, MEMBERSHIP, PREPARED)):
        raise InputError(
            f"arm {audit.name} of study {study.name!r} has not begun: wait until it trains, or run the study again"
        )
    settings = asked.get("settings", {})
    return Basis(
        config_from(asked["config"]),
        Arm(audit.name, _reference_fields(study)),
        frozenset(asked["arms"]) - own,
        {name: text for name, text in settings.items() if name not in own},
        audit.pairs,
        audit.membership[c.GROUP].to_numpy(dtype=str),
        read_prepared(audit.folder).clusters,
    )


def _reference_fields(study: StudyFolder) -> dict[str, Any]:
    """Return the fields of the reference arm; where study.json is older than that, they are in its audit."""
    asked = study.asked
    audit = study.audit(asked["reference"])
    if "reference_fields" in asked or not (audit.folder / CONFIG).is_file():
        return dict(asked.get("reference_fields", {}))
    found = as_dict(audit.record.config)
    return {name: found[name] for name in ARM_FIELDS if name in found and found[name] != asked["config"].get(name)}
