"""An arm of a study: its overrides, their text form, and the pairs they change on one split.

text_mask=0.3 removal=clipmem:100 near_duplicates decisions
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit.settings import config_from
from clipmem_core.audit.store import read_prepared
from clipmem_core.config import ARM_FIELDS, FIELDS, MODIFIERS, AuditConfig, InputError, fingerprint, switched_on
from clipmem_core.draws import draw_keys, hashed
from clipmem_core.scores.registry import REMOVAL as RANKS_REMOVAL
from clipmem_core.scores.registry import scores_in
from clipmem_core.studies.study_folder import StudyFolder

NONE, RANDOM = "none", "random"
REMOVAL, NEAR_DUPLICATES, DECISIONS = "removal", "near_duplicates", "decisions"
SWITCHES = (NEAR_DUPLICATES, DECISIONS)
# 1: the highest values are removed first; −1: the lowest.
DIRECTIONS = {name: score.direction for name, score in scores_in(RANKS_REMOVAL).items()}
RANKED_BY = (*DIRECTIONS, RANDOM)
LONGEST_NAME = 70  # without fingerprints


class Removal(NamedTuple):
    """Remove the first n shared pairs of a ranking from the training of f and g."""

    by: str  # of RANKED_BY
    n: int

    def __str__(self) -> str:
        return f"{self.by}:{self.n}"


@dataclass(frozen=True)
class Decided:
    """Decisions on pairs: ids to remove, and ids with new captions."""

    removed: frozenset[str] = frozenset()
    recaptioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.ids)

    @property
    def ids(self) -> frozenset[str]:
        return self.removed | frozenset(self.recaptioned)


@dataclass(frozen=True)
class Arm:
    """An arm as overrides of the reference arm, or, for the reference arm, of the study's config."""

    name: str = ""
    # Config fields and changes of the pairs: `removal` (a Removal), `near_duplicates` (only the first of them is used)
    # and `decisions` (the review's are applied)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    decided: Decided = Decided()  # at the time the arm was added
    shown: Mapping[str, Any] = field(default_factory=dict)  # replaces the overrides in tables

    @property
    def fields(self) -> dict[str, Any]:
        """The overrides of config fields."""
        return {name: value for name, value in self.overrides.items() if name in FIELDS}

    @property
    def removal(self) -> Removal | None:
        return self.overrides.get(REMOVAL)

    @property
    def text(self) -> str:
        """Its overrides in one line, in a fixed order; empty for the reference arm."""
        parts = []
        for name in (*ARM_FIELDS, REMOVAL):
            if name in self.overrides:
                value = self.overrides[name]
                parts.append(f"{name}={repr(value).removesuffix('.0') if isinstance(value, float) else value}")
        return " ".join(parts + [name for name in SWITCHES if self.overrides.get(name)])

    @property
    def folder_name(self) -> str:
        """A folder name from its text."""
        name = "_".join(re.sub(r"[^\w.]+", "-", part) for part in self.text.split()) or NONE
        return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{fingerprint(self.text)[:6]}"

    def row(self, changes: Decided) -> dict[str, Any]:
        """Return the arm's columns in tables, with the counts of the pairs it changes."""
        described = {name: value for name, value in self.overrides.items() if name != REMOVAL}
        described |= {"removed_by": self.removal.by} if self.removal else {}
        counts = {"removed": len(changes.removed), "recaptioned": len(changes.recaptioned)}
        return dict(self.shown or described) | {name: count for name, count in counts.items() if count}


def parse_setting(text: str) -> Arm:
    """Parse an arm from its text, the parts in any order."""
    parts = [part.partition("=") for part in text.split()]
    return Arm(overrides={name: _parse_value(name, value) for name, _, value in parts})


def _parse_value(name: str, value: str) -> Any:
    if name in SWITCHES and not value:
        return True
    if name == REMOVAL:
        by, _, count = value.partition(":")
        if by in RANKED_BY and re.fullmatch(r"[1-9][0-9]{0,8}", count):
            return Removal(by, int(count))
        rankings = f"rankings are {', '.join(RANKED_BY)}"
        raise InputError(f"removal must be a ranking and a number, as in clipmem:100, not {value[:40]!r}; {rankings}")
    if name not in ARM_FIELDS:
        options = ", ".join((*ARM_FIELDS, REMOVAL, *SWITCHES))
        raise InputError(f"setting {name[:40]!r} is unknown: choose from {options}")
    kind = type(FIELDS[name].default)
    try:
        return kind(value)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} must be {expected}, not {value[:40]!r}") from None


def normal(arm: Arm, config: AuditConfig) -> Arm:
    """Return an arm without overrides that have no effect, so that equal trainings have equal texts."""
    usual = vars(config)
    values = usual | arm.fields
    on = set(switched_on(values))
    idle = {name for name, needs in MODIFIERS.items() if not on & set(needs)}
    overrides = {name: values[name] for name in ARM_FIELDS if name not in idle and values[name] != usual[name]}
    overrides |= {name: arm.overrides[name] for name in (REMOVAL, *SWITCHES) if arm.overrides.get(name)}
    return dataclasses.replace(arm, overrides=overrides)


def removed_by(removal: Removal, scores: pd.DataFrame, pool: np.ndarray, *, seed: int) -> frozenset[str]:
    """Return the ids that a removal removes from a pool of ids; a larger random removal includes a smaller one."""
    value = c.CLIPMEM if removal.by == RANDOM else removal.by
    scored = scores.loc[scores[c.PAIR_ID].isin(pool), [c.PAIR_ID, value]].dropna()
    chance = hashed(draw_keys(scored[c.PAIR_ID].tolist()), seed)
    rank = np.zeros(len(scored)) if removal.by == RANDOM else -DIRECTIONS[removal.by] * scored[value].to_numpy()
    order = np.lexsort([chance, rank])
    return frozenset(scored[c.PAIR_ID].to_numpy()[order[: removal.n]])


@dataclass(frozen=True, eq=False)
class Split:
    """One split of the pairs, which turns an arm into a config and the pairs it changes."""

    config: AuditConfig  # the study's with the seed of this split
    none: Arm  # the reference arm
    planned: Mapping[str, str]  # the text of each planned arm
    pairs: pd.DataFrame
    group: np.ndarray  # of the pairs, in their order
    clusters: np.ndarray  # of near-duplicates among them
    scores: pd.DataFrame | None = None  # that removals rank by, once they are computed

    @property
    def reference(self) -> AuditConfig:
        """The config of the reference arm."""
        return dataclasses.replace(self.config, **self.none.fields)

    @property
    def near_duplicates(self) -> frozenset[str]:
        """Ids of non-external pairs that are near-duplicates of an earlier pair."""
        later = (self.clusters != np.arange(len(self.clusters))) & (self.group != c.EXTERNAL)
        return frozenset(self.pairs.loc[later, c.PAIR_ID])

    def ids(self, group: str) -> frozenset[str]:
        return frozenset(self.pairs.loc[self.group == group, c.PAIR_ID])

    def config_of(self, arm: Arm) -> AuditConfig:
        """Return the config of an arm."""
        return dataclasses.replace(self.reference, **arm.fields)

    def applicable(self, decided: Decided) -> Decided:
        """Return the decisions that change a pair of this study, with at most `config.captions` new captions."""
        before = self.pairs.set_index(c.PAIR_ID)[c.CAPTIONS].map(tuple).to_dict()
        after = {id_: tuple(captions)[: self.config.captions or None] for id_, captions in decided.recaptioned.items()}
        changed = {id_: captions for id_, captions in after.items() if id_ in before and captions != before[id_]}
        return Decided(decided.removed & frozenset(before), changed)

    def changes(self, arm: Arm) -> Decided:
        """Return the pairs (none external) that an arm removes and recaptions; without scores, none by a ranking."""
        external = self.ids(c.EXTERNAL)
        removed = arm.decided.removed - external
        if arm.overrides.get(NEAR_DUPLICATES):
            removed |= self.near_duplicates
        captions = {id_: words for id_, words in arm.decided.recaptioned.items() if id_ not in removed | external}
        if arm.removal and self.scores is not None:
            shared = self.pairs.loc[self.group == c.SHARED, c.PAIR_ID]
            pool = shared[~shared.isin(removed)].to_numpy()
            removed |= removed_by(arm.removal, self.scores, pool, seed=self.config.seed)
        return Decided(removed, captions)


def reference_config(study: StudyFolder) -> AuditConfig:
    """Return the config of a study's reference arm."""
    request = study.request
    return dataclasses.replace(config_from(request["config"]), **request["reference_fields"])


def first_split(study: StudyFolder) -> Split:
    """Return the first split of a study, from its folder."""
    request, added_names = study.request, {arm["name"] for arm in study.added}
    audit = study.audit(NONE)
    if not audit.begun:
        raise InputError(f"arm {audit.name} of study {study.name!r} has not started: wait, or run the study again")
    return Split(
        config_from(request["config"]),
        Arm(audit.name, dict(request["reference_fields"])),
        {name: request["settings"].get(name) for name in request["arms"] if name not in added_names},
        audit.pairs,
        audit.membership[c.GROUP].to_numpy(dtype=str),
        read_prepared(audit.folder).clusters,
    )
