"""An arm: overrides of an audit's config, their text form, and the pairs they change.

text_mask=0.3 removal=clipmem:5 near_duplicates decisions
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audit.store import Audit, read_prepared
from clipmem_core.config import ARM_FIELDS, FIELDS, MODIFIERS, AuditConfig, fingerprint, switched_on
from clipmem_core.draws import draw_keys, hashed
from clipmem_core.io import InputError
from clipmem_core.mitigations import ADAPTIVE

NONE = "none"
RANDOM = "random"
REMOVAL = "removal"
NEAR_DUPLICATES = "near_duplicates"
DECISIONS = "decisions"
SWITCHES = (NEAR_DUPLICATES, DECISIONS)
RANKINGS = {c.CLIPMEM: "highest clipmem", c.P_WRONG: "highest p_wrong", RANDOM: "at random"}
MOST_REMOVED = 50  # percent
LONGEST_NAME = 70  # without fingerprints


class Removal(NamedTuple):
    """Leave out of training the percentage of the scored pairs that rank highest."""

    by: str  # of RANKINGS
    percent: float

    def __str__(self) -> str:
        return f"{self.by}:{self.percent:g}"


@dataclass(frozen=True)
class Decided:
    """Decisions on pairs: ids to remove, and ids with new captions."""

    removed: frozenset[str] = frozenset()
    recaptioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.removed or self.recaptioned)

    @property
    def values(self) -> dict[str, Any]:
        """The decisions as JSON values."""
        recaptioned = {id_: list(captions) for id_, captions in sorted(self.recaptioned.items())}
        return {"removed": sorted(self.removed), "recaptioned": recaptioned}


@dataclass(frozen=True)
class Arm:
    """Overrides of the baseline: config fields, `removal` (a Removal), `near_duplicates` (only the
    first of them is trained on) and `decisions` (those in `decided` are applied)."""

    overrides: Mapping[str, Any] = field(default_factory=dict)
    decided: Decided = Decided()

    @property
    def fields(self) -> dict[str, Any]:
        """The overrides of config fields."""
        return {name: value for name, value in self.overrides.items() if name in FIELDS}

    @property
    def removal(self) -> Removal | None:
        return self.overrides.get(REMOVAL)

    @property
    def text(self) -> str:
        """Its overrides in one line, in a fixed order; empty for the baseline."""
        parts = []
        for name in (*ARM_FIELDS, REMOVAL):
            if name in self.overrides:
                value = self.overrides[name]
                shown = repr(value).removesuffix(".0") if isinstance(value, float) else value
                parts.append(f"{name}={shown}")
        return " ".join(parts + [name for name in SWITCHES if self.overrides.get(name)])

    @property
    def name(self) -> str:
        """The name of its folder and in tables: its text, and a fingerprint of the decisions."""
        name = "_".join(re.sub(r"[^\w.]+", "-", part) for part in self.text.split()) or NONE
        if len(name) > LONGEST_NAME:
            name = f"{name[:LONGEST_NAME]}-{fingerprint(self.text)[:6]}"
        return (
            f"{name}-{fingerprint(self.decided.values)[:6]}"
            if self.overrides.get(DECISIONS)
            else name
        )

    @property
    def title(self) -> str:
        """Its overrides in words."""
        parts = []
        for name, value in self.fields.items():
            number = f"{value:g}" if isinstance(value, (int, float)) else str(value)
            shown = "all" if (name, value) == ("train_captions", 0) else number
            early = " for pairs memorized early" if name in ADAPTIVE else ""
            parts.append(f"{FIELDS[name].toggle or FIELDS[name].label} {shown}{early}")
        if self.removal:
            parts.append(
                f"Without {self.removal.percent:g} % of the pairs, {RANKINGS[self.removal.by]}"
            )
        titles = {NEAR_DUPLICATES: "Without near-duplicates", DECISIONS: "With my decisions"}
        parts += [title for name, title in titles.items() if self.overrides.get(name)]
        return ", ".join([*parts[:1], *(part[:1].lower() + part[1:] for part in parts[1:])]) or NONE

    @property
    def flags(self) -> list[str]:
        """The options of `python -m clipmem_core mitigate` that train it."""
        valued = {name: value for name, value in self.overrides.items() if name not in SWITCHES}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in valued.items()]
        return flags + [
            f"--{name.replace('_', '-')}" for name in SWITCHES if self.overrides.get(name)
        ]


def parse_arm(text: str) -> Arm:
    """Parse an arm from its text, the parts in any order."""
    parts = [part.partition("=") for part in text.split()]
    return Arm({name: _parse_value(name, value) for name, _, value in parts})


def _parse_value(name: str, value: str) -> Any:
    if name in SWITCHES and not value:
        return True
    if name == REMOVAL:
        return parse_removal(value)
    if name not in ARM_FIELDS:
        options = ", ".join((*ARM_FIELDS, REMOVAL, *SWITCHES))
        raise InputError(f"setting {name[:40]!r} is unknown: choose from {options}")
    kind = type(FIELDS[name].default)
    try:
        return kind(value)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} must be {expected}, not {value[:40]!r}") from None


def parse_removal(text: str) -> Removal:
    """Parse a ranking and a percentage of the scored pairs."""
    by, _, percent = text.partition(":")
    if (
        by not in RANKINGS
        or not re.fullmatch(r"\d{1,3}(\.\d{1,3})?", percent)
        or not 0 < float(percent) <= MOST_REMOVED
    ):
        options = (
            f"a ranking ({', '.join(RANKINGS)}) and a percentage up to {MOST_REMOVED}, as "
            "in clipmem:5"
        )
        raise InputError(f"removal must be {options}, not {text[:40]!r}")
    return Removal(by, float(percent))


def without_idle(arm: Arm, config: AuditConfig) -> Arm:
    """Return an arm without overrides that change nothing in a config, so that equal trainings have
    equal names."""
    values = vars(config) | arm.fields
    on = set(switched_on(values))
    idle = {name for name, needs in MODIFIERS.items() if not on & set(needs)}
    overrides = {
        name: values[name]
        for name in ARM_FIELDS
        if name not in idle and values[name] != vars(config)[name]
    }
    overrides |= {
        name: arm.overrides[name] for name in (REMOVAL, *SWITCHES) if arm.overrides.get(name)
    }
    return dataclasses.replace(arm, overrides=overrides)


@dataclass(frozen=True, eq=False)
class Changes:
    """The pairs that an arm removes from training, bool [n_pairs], and the new captions of others
    by their row."""

    removed: np.ndarray
    captions: Mapping[int, tuple[str, ...]]

    @property
    def compared(self) -> np.ndarray:
        """The pairs on which the arm is compared with the baseline, bool [n_pairs]."""
        compared = ~self.removed
        compared[list(self.captions)] = False
        return compared


def changes_of(audit: Audit, arm: Arm) -> Changes:
    """Return the pairs, none external, that an arm changes in a finished audit."""
    table = audit.scores
    ids = table[c.PAIR_ID].to_numpy(dtype=str)
    scored = (table[c.GROUP] != c.EXTERNAL).to_numpy()
    removed = np.isin(ids, list(arm.decided.removed)) & scored
    if arm.overrides.get(NEAR_DUPLICATES):
        removed |= later_near_duplicates(audit) & scored
    captions: dict[int, tuple[str, ...]] = {}
    if arm.decided.recaptioned:
        most = audit.record.config.captions or None
        before = audit.pairs[c.CAPTIONS]
        for row in np.flatnonzero(
            np.isin(ids, list(arm.decided.recaptioned)) & scored & ~removed
        ).tolist():
            after = tuple(arm.decided.recaptioned[ids[row]])[:most]
            if after != tuple(before.iloc[row]):
                captions[row] = after
    if arm.removal:
        chance = hashed(draw_keys(ids.tolist()), audit.record.config.seed)
        rank = np.zeros(len(ids)) if arm.removal.by == RANDOM else -table[arm.removal.by].to_numpy()
        rank = np.where(scored & np.isfinite(rank), rank, np.inf)
        count = round(arm.removal.percent / 100 * int(np.isfinite(rank).sum()))
        removed[np.lexsort([chance, rank])[:count]] = True
    return Changes(removed, {row: texts for row, texts in captions.items() if not removed[row]})


def later_near_duplicates(audit: Audit) -> np.ndarray:
    """Return the pairs that are near-duplicates of an earlier pair, bool [n_pairs]."""
    clusters = read_prepared(audit.folder).clusters
    return clusters != np.arange(len(clusters))
