"""A setting: overrides of an audit's config, their text form, and the pairs they change; the
built-in studies and their settings.

text_mask=0.3 removal=clipmem:5 near_duplicates decisions

The baseline of a study trains on one caption a pair, as in the paper, but for the study `settings`.
All settings are evaluated on that caption and on uncropped pictures, which every setting trains on.
"""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from clipmem_core.auditing.folder.store import Audit, read_prepared
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
            shown = value if isinstance(value, str) else f"{value:g}"
            if (name, value) == ("train_captions", 0):
                shown = "all"
            early = " for pairs memorized early" if name in ADAPTIVE else ""
            parts.append(f"{FIELDS[name].toggle or FIELDS[name].label} {shown}{early}")
        if self.removal:
            ranking = RANKINGS[self.removal.by]
            parts.append(f"Without {self.removal.percent:g} % of the pairs, {ranking}")
        switches = self.switches
        if CONTROL in switches:  # in place of the decisions
            switches.remove(DECISIONS)
        parts += [SWITCHES[name] for name in switches]
        title = ", ".join([*parts[:1], *(part[:1].lower() + part[1:] for part in parts[1:])])
        return title or BASELINE

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
    if setting.switches != [DECISIONS] or len(setting.overrides) > 1 or not setting.decided.removed:
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

    def __bool__(self) -> bool:
        return bool(self.removed.any() or self.captions)

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
    removed = scored & ids.isin(setting.decided.removed).to_numpy()
    if NEAR_DUPLICATES in setting.overrides:
        removed |= scored & later_near_duplicates(audit)
    chance = hashed(draw_keys(ids.tolist()), config.seed, "removal")
    if CONTROL in setting.overrides:
        some = np.flatnonzero(scored)
        count = int(removed.sum())
        removed = np.zeros(len(table), bool)
        removed[some[np.argsort(chance[some], kind="stable")[:count]]] = True
        return PairChanges(removed, {})
    if setting.removal:
        # Those that rank highest; ties are broken at random
        by, percent = setting.removal
        values = np.zeros(len(table)) if by == AT_RANDOM else table[by].to_numpy()
        ranked = np.flatnonzero(scored & np.isfinite(values))
        order = ranked[np.lexsort([chance[ranked], -values[ranked]])]
        removed[order[: round(percent / 100 * len(ranked))]] = True
    new = setting.decided.recaptioned
    captions = {
        row: tuple(new[ids[row]])[: config.captions or None]
        for row in np.flatnonzero(ids.isin(new.keys()) & scored & ~removed).tolist()
    }
    if captions:
        before = audit.pairs[c.CAPTIONS]
        captions = {row: texts for row, texts in captions.items() if texts != tuple(before[row])}
    return PairChanges(removed, captions)


def later_near_duplicates(audit: Audit) -> np.ndarray:
    """Return the pairs that are near-duplicates of an earlier pair, bool [n_pairs]."""
    clusters = read_prepared(audit.folder).clusters
    return clusters != np.arange(len(clusters))


# The config fields that studies set unless they are typed
DEFAULTS: dict[str, Any] = {
    "protocol": "paper",
    # Held-out pairs that control adaptive mitigations are not used for utility.
    "retrieval_apart": True,
    # Otherwise a setting is evaluated on crops or captions it did not train on.
    "eval_crop_scale": 1.0,
    "eval_captions": 1,
    "views": 2,
}
MOST_CAPTIONS = 5
# The paper's levels of noise on the text embedding
TEXT_NOISE = [f"text_noise={level}" for level in (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)]
# Growing shares of removed pairs in percent, by each ranking. The paper removes candidates from the
# training of f. Here all members lose the same pairs, and memorization is compared on the others.
REMOVALS = [f"removal={by}:{percent}" for percent in (1, 2, 5, 10, 20) for by in RANKINGS]
# Each mitigation at one setting, and some combinations
COMBINED = (
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
)
ALL_CAPTIONS = (
    "train_captions=0",
    "train_captions=0 text_mask=0.15",
    "train_captions=0 adaptive_mask=0.6",
)


def captions_settings(config: AuditConfig, most: int) -> list[str]:
    """Return two captions a pair, three, up to five, and all if there are more."""
    if most < 2:
        raise InputError(
            "study captions needs pairs with several captions, and this source has none"
        )
    counts = [*range(2, min(most, MOST_CAPTIONS) + 1), *([0] if most > MOST_CAPTIONS else [])]
    return [f"train_captions={count}" for count in counts]


def combined_settings(config: AuditConfig, most: int) -> list[str]:
    """Return each mitigation at one setting, and some combinations."""
    early_stop = max(1, round(config.epochs * 2 / 3))
    return [*COMBINED, f"stop_epoch={early_stop}", *(ALL_CAPTIONS if most > 1 else ())]


OWN = "settings"  # the study of the settings that a person adds
# The settings of each study, as texts, from the config and the most captions of a pair
STUDIES: dict[str, Callable[[AuditConfig, int], list[str]]] = {
    "captions": captions_settings,
    "text-noise": lambda config, most: TEXT_NOISE,
    "removal": lambda config, most: REMOVALS,
    "combined": combined_settings,
    OWN: lambda config, most: [],
}
