"""A setting of a mitigation lab: overrides of an audit's config, the pairs that it changes, and its
text form.

    text_mask=0.3 removal=clipmem:5 near_duplicates decisions
"""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from clipmem_core.auditing.folder.store import PAIRS, Audit, read_prepared
from clipmem_core.config import (
    FIELDS,
    MODIFIERS,
    SETTING_FIELDS,
    AuditConfig,
    fingerprint,
    switched_on,
)
from clipmem_core.mitigations import ADAPTIVE
from clipmem_core.review.decisions import Decided
from clipmem_core.utils import columns as c
from clipmem_core.utils.draws import draw_keys, hashed
from clipmem_core.utils.io import InputError

BASELINE = "none"
AT_RANDOM = "random"
REMOVAL = "removal"
NEAR_DUPLICATES = "near_duplicates"
DECISIONS = "decisions"
CONTROL = "control"  # beside `decisions`: as many pairs at random in place of those
SWITCHES = {
    NEAR_DUPLICATES: "Without near-duplicates",
    DECISIONS: "With my decisions",
    CONTROL: "As many pairs removed at random",
}
RANKINGS = {c.CLIPMEM: "highest clipmem", c.P_WRONG: "highest p_wrong", AT_RANDOM: "at random"}
MOST_REMOVED = 50  # percent
LONGEST_NAME = 70  # without fingerprints


class Removal(NamedTuple):
    """Leave out of training the percentage of the scored pairs that rank highest."""

    by: str  # of RANKINGS
    percent: float

    def __str__(self) -> str:
        return f"{self.by}:{self.percent:g}"


@dataclass(frozen=True)
class Setting:
    """Overrides of the baseline: config fields, `removal` (a Removal), `near_duplicates` (train on
    the first of them only), `decisions` (apply those in `decided`) and `control` (remove as many
    pairs at random instead)."""

    overrides: Mapping[str, Any] = field(default_factory=dict)
    decided: Decided = Decided()

    @property
    def fields(self) -> dict[str, Any]:
        """The overrides of config fields, in a fixed order."""
        return {name: self.overrides[name] for name in SETTING_FIELDS if name in self.overrides}

    @property
    def removal(self) -> Removal | None:
        return self.overrides.get(REMOVAL)

    @property
    def switches(self) -> list[str]:
        return [name for name in SWITCHES if name in self.overrides]

    @property
    def text(self) -> str:
        """Its overrides in one line, in a fixed order; empty for the baseline."""
        names = [name for name in (*SETTING_FIELDS, REMOVAL) if name in self.overrides]
        parts = [f"{name}={self.overrides[name]}".removesuffix(".0") for name in names]
        return " ".join(parts + self.switches)

    @property
    def name(self) -> str:
        """The name of its folder and in tables: its text, and a fingerprint of the decisions."""
        name = "_".join(re.sub(r"[^\w.]+", "-", part) for part in self.text.split()) or BASELINE
        if len(name) > LONGEST_NAME:
            name = f"{name[:LONGEST_NAME]}-{fingerprint(self.text)[:6]}"
        return f"{name}-{self.decided.fingerprint}" if DECISIONS in self.overrides else name

    @property
    def title(self) -> str:
        """Its overrides in words."""
        parts = []
        for name, value in self.fields.items():
            shown = str(value).removesuffix(".0")
            if (name, shown) == ("train_captions", "0"):
                shown = "all"
            early = " for pairs memorized early" if name in ADAPTIVE else ""
            parts.append(f"{FIELDS[name].toggle or FIELDS[name].label} {shown}{early}")
        if self.removal:
            ranking = RANKINGS[self.removal.by]
            parts.append(f"Without {self.removal.percent:g} % of the pairs, {ranking}")
        switches = self.switches
        if CONTROL in switches:  # in place of the decisions
            switches.remove(DECISIONS)
        return " + ".join(parts + [SWITCHES[name] for name in switches]) or BASELINE

    @property
    def flags(self) -> list[str]:
        """The options of `python -m clipmem_core mitigate` that train it."""
        parts = [part.partition("=") for part in self.text.split() if part != CONTROL]
        return [f"--{name.replace('_', '-')}{equals}{value}" for name, equals, value in parts]


def parse_setting(text: str) -> Setting:
    """Parse a setting from its text, the parts in any order."""
    parts = [part.partition("=") for part in text.split()]
    return Setting({name: _parse_value(name, value) for name, _, value in parts})


def _parse_value(name: str, value: str) -> Any:
    if name in SWITCHES and not value:
        return True
    if name == REMOVAL:
        return parse_removal(value)
    if name not in SETTING_FIELDS:
        options = ", ".join((*SETTING_FIELDS, REMOVAL, *SWITCHES))
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
    with contextlib.suppress(ValueError):
        if by in RANKINGS and 0 < float(percent) <= MOST_REMOVED:
            return Removal(by, float(percent))
    rankings = ", ".join(RANKINGS)
    raise InputError(
        f"removal must be a ranking ({rankings}) and a percentage up to {MOST_REMOVED}, as in "
        f"clipmem:5, not {text[:40]!r}"
    )


def control_of(setting: Setting) -> Setting | None:
    """Return the setting to compare decisions with: as many pairs removed at random; None for other
    settings, and where no pair is removed."""
    if [*setting.overrides] != [DECISIONS] or not setting.decided.removed:
        return None
    return replace(setting, overrides={DECISIONS: True, CONTROL: True})


def without_idle(setting: Setting, config: AuditConfig) -> Setting:
    """Return a setting without overrides that change nothing in a config, so that equal trainings
    have equal names."""
    values = vars(config)
    on = set(switched_on(values | setting.fields))
    idle = {name for name, needs in MODIFIERS.items() if not on & set(needs)}
    overrides = {
        name: value
        for name, value in setting.overrides.items()
        if name not in idle and values.get(name) != value
    }
    return replace(setting, overrides=overrides)


@dataclass(frozen=True, eq=False)
class PairChanges:
    """The pairs that a setting removes from training, bool [n_pairs], and the new captions of
    others by their row."""

    removed: np.ndarray
    captions: Mapping[int, tuple[str, ...]]

    @property
    def compared(self) -> np.ndarray:
        """The pairs on which the setting is compared with the baseline, bool [n_pairs]."""
        compared = ~self.removed
        compared[list(self.captions)] = False
        return compared


def changes_of(audit: Audit, setting: Setting) -> PairChanges:
    """Return the pairs, none held-out, that a setting changes in a finished audit."""
    table = audit.scores
    config = audit.record.config
    ids = table[c.PAIR_ID]
    scored = (table[c.GROUP] != c.HELD_OUT).to_numpy()
    removal = setting.removal
    new = setting.decided.recaptioned
    removed = scored & ids.isin(setting.decided.removed).to_numpy()
    if NEAR_DUPLICATES in setting.overrides:
        removed |= scored & later_near_duplicates(audit)
    if CONTROL in setting.overrides:
        removal = Removal(AT_RANDOM, 100 * removed.sum() / scored.sum())
        removed[:] = False
        new = {}
    if removal:
        # The pairs that rank highest; ties are broken at random
        chance = hashed(draw_keys(ids.tolist()), config.seed, "removal")
        values = chance if removal.by == AT_RANDOM else -table[removal.by].to_numpy()
        ranked = np.flatnonzero(scored & np.isfinite(values))
        order = ranked[np.lexsort([chance[ranked], values[ranked]])]
        removed[order[: round(removal.percent / 100 * len(ranked))]] = True
    before = audit.read_columns(PAIRS, c.CAPTIONS)[c.CAPTIONS]
    captions = {}
    for row in np.flatnonzero(ids.isin(new.keys()) & scored & ~removed).tolist():
        texts = tuple(new[ids[row]])[: config.captions or None]
        if texts != tuple(before[row]):
            captions[row] = texts
    return PairChanges(removed, captions)


def later_near_duplicates(audit: Audit) -> np.ndarray:
    """Return the pairs that are near-duplicates of an earlier pair, bool [n_pairs]."""
    clusters = read_prepared(audit.folder).clusters
    return clusters != np.arange(len(clusters))


# --- The built-in studies

# The config fields that studies set unless the command does
DEFAULTS: dict[str, Any] = {
    "protocol": "paper",
    # Adaptive mitigations read some held-out pairs; utility is measured on the others.
    "retrieval_apart": True,
    # A setting is evaluated on whole pictures and one caption, which all settings train on.
    "eval_crop_scale": 1.0,
    "eval_captions": 1,
    "views": 2,
}
# The paper's levels of noise on the text embedding
TEXT_NOISE = [f"text_noise={level}" for level in (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)]
# Each mitigation at one setting, and some combinations; {early} stands for two thirds of the epochs
COMBINED = [
    "text_noise=0.15",
    "image_noise=0.15",
    "text_mask=0.15",
    "text_mask=0.3",
    "crop_scale=0.2 colour=0.4",
    "weight_decay=1",  # ten times the presets'
    "max_logit_scale=10",
    "min_logit_scale=30",  # open_clip starts at 14.3
    "text_min_df=5",
    "text_min_df=10",
    "adaptive_noise=0.15",
    "adaptive_mask=0.6",
    # At the median, half of all pairs that are not memorized would rest, and nothing is learned.
    "adaptive_rest=1 adaptive_quantile=0.95",
    "text_min_df=10 min_logit_scale=30",
    "text_mask=0.15 text_noise=0.05",
    "text_mask=0.15 crop_scale=0.2 colour=0.4",
    "adaptive_mask=0.6 crop_scale=0.2 colour=0.4",
    "stop_epoch={early}",
    "train_captions=0",
    "train_captions=0 text_mask=0.15",
    "train_captions=0 adaptive_mask=0.6",
]
OWN = "settings"  # the study of the settings that a person adds
# The settings of each study, as texts
STUDIES = {
    "captions": [f"train_captions={count}" for count in (2, 3, 4, 5, 0)],
    "text-noise": TEXT_NOISE,
    # Growing shares of removed pairs in percent, by each ranking. The paper removes candidates from
    # the training of f. Here all members lose the same pairs, and memorization is compared on the
    # others.
    "removal": [f"removal={by}:{percent}" for percent in (1, 2, 5, 10, 20) for by in RANKINGS],
    "combined": COMBINED,
    OWN: [],
}
