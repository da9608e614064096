"""An arm of a study: its overrides, the text that describes them, and the pairs they change on one split.

text_mask=0.3 removal=clipmem:100 lookalikes decisions
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.prepare import draw_membership
from clipmem_core.audits.settings import config_from
from clipmem_core.audits.store import CONFIG, MEMBERSHIP, PAIRS, PREPARED, read_prepared
from clipmem_core.config import (
    ARM_FIELDS,
    FIELDS,
    MODIFIERS,
    AuditConfig,
    InputError,
    affecting,
    as_dict,
    fingerprint,
    switched_on,
)
from clipmem_core.draws import draw_keys, hashed
from clipmem_core.scores.registry import REMOVAL as RANKS_REMOVAL
from clipmem_core.scores.registry import scores_in
from clipmem_core.studies.store import StudyFolder

NONE, ALL, RANDOM = "none", "all", "random"
REMOVAL, LOOKALIKES, DECISIONS, PAIRS_KEPT = "removal", "lookalikes", "decisions", "pairs"
SWITCHES = (LOOKALIKES, DECISIONS)
# What the pairs to remove first have: the highest value (1) or the lowest (−1).
DIRECTIONS = {name: score.direction for name, score in scores_in(RANKS_REMOVAL).items()}
RANKED_BY = (*DIRECTIONS, RANDOM)
RANKING_REPEATS = 2
LONGEST_NAME = 70  # fingerprints may follow
# Arms share these, so that a seed splits, starts and draws alike in each of them and differences are paired.
SHARED_FIELDS = (*affecting("data", "members", "machine"), *affecting())


class Removal(NamedTuple):
    """Remove n of the shared pairs from the training of f and g, the first of a ranking."""

    by: str  # of RANKED_BY
    n: int

    def __str__(self) -> str:
        return f"{self.by}:{self.n}"


@dataclass(frozen=True)
class Decided:
    """Ids of pairs to remove, and ids with their new captions."""

    removed: frozenset[str] = frozenset()
    recaptioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.removed or self.recaptioned)

    @property
    def ids(self) -> frozenset[str]:
        return self.removed | frozenset(self.recaptioned)


@dataclass(frozen=True)
class Arm:
    """What one arm of a study changes beside the reference arm; for the reference, beside the study's config.

    `overrides` are config fields, and changes of the pairs: `removal` (a Removal), `lookalikes` (all but the first of
    near-duplicate pictures are removed), `decisions` (a person's decisions are applied) and `pairs` (a member trains on
    so many). `decided` holds the decisions at the time the arm was added. `model` is a model config of the arm's own.
    `shown` replaces the overrides in tables.
    """

    name: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    decided: Decided = Decided()
    model: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if shared := sorted(set(self.overrides) & set(SHARED_FIELDS)):
            raise ValueError(f"arm {self.name!r} must not set {', '.join(shared)}: differences would not be paired")

    @property
    def fields(self) -> dict[str, Any]:
        """The overrides of the config."""
        return {name: value for name, value in self.overrides.items() if name in FIELDS}

    @property
    def removal(self) -> Removal | None:
        return self.overrides.get(REMOVAL)

    @property
    def text(self) -> str:
        """Its overrides in one line, always in the same order; empty for the reference arm.

        Example:
            >>> Arm(overrides={"lookalikes": True, "crop_scale": 0.2, "removal": Removal("clipmem", 9)}).text
            'crop_scale=0.2 removal=clipmem:9 lookalikes'
        """
        named = {name: self.overrides[name] for name in (*ARM_FIELDS, REMOVAL) if name in self.overrides}
        # As few digits as needed.
        values = {name: repr(own).removesuffix(".0") if isinstance(own, float) else own for name, own in named.items()}
        return " ".join(
            [f"{name}={own}" for name, own in values.items()] + [name for name in SWITCHES if self.overrides.get(name)]
        )

    @property
    def folder_name(self) -> str:
        """Its text as a name for its folder.

        Example:
            >>> Arm(overrides={"text_mask": 0.3, "removal": Removal("clipmem", 100)}).folder_name
            'text_mask-0.3_removal-clipmem-100'
        """
        found = "_".join(re.sub(r"[^\w.]+", "-", part) for part in self.text.split()) or NONE
        return found if len(found) <= LONGEST_NAME else f"{found[:LONGEST_NAME]}-{fingerprint(self.text)[:6]}"

    def row(self, changes: Decided) -> dict[str, Any]:
        """Return the columns that describe the arm in tables.

        Args:
            changes: the pairs that it changes, from Split.changes.
        """
        does = {name: value for name, value in self.overrides.items() if name != REMOVAL}
        does |= {"removed_by": self.removal.by} if self.removal else {}
        counts = {"removed": len(changes.removed), "recaptioned": len(changes.recaptioned)}
        return dict(self.shown or does) | {name: count for name, count in counts.items() if count}


def parse_setting(text: str) -> Arm:
    """Read an arm from its text, the parts in any order.

    Raises:
        InputError: one line that says what is wrong and what is possible.

    Example:
        >>> parse_setting("decisions text_mask=.30").text
        'text_mask=0.3 decisions'
    """
    overrides: dict[str, Any] = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if name in overrides:
            raise InputError(f"a setting says {name} twice: once is enough")
        overrides[name] = _parse_value(name, value, given=bool(equals))
    return Arm(overrides=overrides)


def _parse_value(name: str, value: str, *, given: bool) -> Any:
    if name in SWITCHES:
        if given:
            raise InputError(f"in a setting {name} stands alone, without a value")
        return True
    if name == REMOVAL:
        by, _, count = value.partition(":")
        if by not in RANKED_BY or not re.fullmatch(r"[0-9]{1,9}", count):
            raise InputError(
                f"removal must name a ranking and a number of pairs, as in removal=clipmem:100, not {value[:40]!r}; "
                f"rankings are {', '.join(RANKED_BY)}"
            )
        return Removal(by, int(count))
    if name not in ARM_FIELDS:
        known = ", ".join((*ARM_FIELDS, REMOVAL, *SWITCHES))
        raise InputError(f"a setting does not know {name[:40]!r}: say one of {known}, as in 'text_mask=0.3 decisions'")
    if not given:
        raise InputError(f"a setting gives {name} a value, as in {name}=…")
    kind, choices = type(FIELDS[name].default), FIELDS[name].choices
    try:
        found = kind(value)
        known_value = found in choices if choices else math.isfinite(found)
    except (ValueError, OverflowError):
        known_value = False
    if not known_value:
        number = f"a {'whole ' if kind is int else ''}number"
        wanted = f"one of {', '.join(choices)}" if choices else number
        raise InputError(f"{name} must be {wanted}, not {value[:40]!r}")
    return found


def normal(arm: Arm, config: AuditConfig) -> Arm:
    """Return an arm without overrides that have no effect, so that equal trainings have equal texts.

    Args:
        arm: any.
        config: that of the reference arm.

    Example:
        >>> normal(parse_setting("text_noise=0 noise_place=before text_mask=0.3 removal=random:0"), AuditConfig()).text
        'text_mask=0.3'
    """
    usual, values = (_with_one_off(as_dict(config) | own) for own in ({}, arm.fields))
    on = set(switched_on(values))
    idle = {name for name, needs in MODIFIERS.items() if not on & set(needs)}
    fields = {name: values[name] for name in ARM_FIELDS if name not in idle and values[name] != usual[name]}
    removal = {REMOVAL: arm.removal} if arm.removal and arm.removal.n else {}
    switches = {name: True for name in SWITCHES if arm.overrides.get(name)}
    return dataclasses.replace(arm, overrides=fields | removal | switches)


def _with_one_off(values: dict[str, Any]) -> dict[str, Any]:
    """Write the default in the place of other values that turn a field off: 0 in the place of the last epoch."""
    off = {name: own.default for name, own in FIELDS.items() if own.off_at and values[name] == values[own.off_at]}
    return values | off


def text_of(arm: Arm, config: AuditConfig) -> str | None:
    """Return the normal text of an arm of a plan; None if it has overrides that no text describes.

    Args:
        arm: of a plan.
        config: that of the reference arm.
    """
    described = set(arm.overrides) <= {*ARM_FIELDS, REMOVAL, *SWITCHES}
    return normal(arm, config).text if described and not arm.model else None


def removed_by(removal: Removal, scores: pd.DataFrame, pool: np.ndarray, *, seed: int) -> frozenset[str]:
    """Return the ids of the pairs that a removal removes; equal scores are ordered by chance.

    A random removal draws from the same pairs as the others, those with scores, and a larger one holds a smaller.

    Args:
        removal: how many, and by what.
        scores: scores.parquet of an audit in which the pool was scored.
        pool: ids that may be removed, [n_pool].
        seed: of the random order.

    Raises:
        ValueError: fewer pairs have a score than are to be removed.
    """
    value = c.CLIPMEM if removal.by == RANDOM else removal.by
    found = scores.loc[scores[c.PAIR_ID].isin(pool), [c.PAIR_ID, value]].dropna()
    if len(found) < removal.n:
        raise ValueError(f"{removal.n} pairs are to be removed by {removal.by}, and {len(found)} have a score")
    chance = hashed(draw_keys(found[c.PAIR_ID].tolist()), seed)
    rank = np.zeros(len(found)) if removal.by == RANDOM else -DIRECTIONS[removal.by] * found[value].to_numpy()
    order = np.lexsort([chance, rank])
    return frozenset(found[c.PAIR_ID].to_numpy()[order[: removal.n]])


@dataclass(frozen=True, eq=False)
class Split:
    """One split of the pairs: turns an arm into a config and into the pairs that it changes.

    `config` is the study's with the seed that draws this split, and `none` its reference arm; `planned` are the texts
    of all arms of its plan, None where no text describes one. `pairs`, their `group` and their `clusters` of
    near-duplicates are in one order. `scores` are those that removals rank by, once they are there.
    """

    config: AuditConfig
    none: Arm
    planned: Mapping[str, str | None]
    pairs: pd.DataFrame
    group: np.ndarray
    clusters: np.ndarray
    one_of_several: bool = False  # whether the study draws more splits than this one
    scores: pd.DataFrame | None = None

    @property
    def reference(self) -> AuditConfig:
        """The config of the reference arm."""
        return dataclasses.replace(self.config, **self.none.fields)

    @property
    def ranking(self) -> AuditConfig:
        """The config of the audit that ranks pairs: the reference arm's, with each pair left out of some members.

        In the paper's protocol a shared pair has no member that never saw it, so that it has no score; here all but the
        external pairs of a split of its own have one.
        """
        members = RANKING_REPEATS * self.config.folds
        return dataclasses.replace(self.reference, protocol="ensemble", seeds=1, members=members)

    @property
    def ranked(self) -> frozenset[str]:
        """Ids of the shared pairs that the audit that ranks scores."""
        drawn = draw_membership(self.clusters, self.ranking)
        return frozenset(self.pairs.loc[(drawn.group == c.SCORED) & (self.group == c.SHARED), c.PAIR_ID])

    @property
    def lookalikes(self) -> frozenset[str]:
        """Ids of all but the first of near-duplicate pictures, without external pairs."""
        later = (self.clusters != np.arange(len(self.clusters))) & (self.group != c.EXTERNAL)
        return frozenset(self.pairs.loc[later, c.PAIR_ID])

    def ids(self, group: str) -> frozenset[str]:
        """Return the ids of a group."""
        return frozenset(self.pairs.loc[self.group == group, c.PAIR_ID])

    def config_of(self, arm: Arm, models: Path | None = None) -> AuditConfig:
        """Return the config of an arm; a model of its own is the file of its name in `models`."""
        own = {"model": str(models / f"{arm.name}.json")} if arm.model and models else {}
        return dataclasses.replace(self.reference, **(arm.fields | own))

    def applicable(self, decided: Decided) -> Decided:
        """Return the decisions that change how members of this study train.

        Utility is measured on external pairs: they stay as they are, and other splits have others. New captions count
        up to the number that is used.
        """
        trained = self.pairs if self.one_of_several else self.pairs[self.group != c.EXTERNAL]
        before = {id_: tuple(own) for id_, own in zip(trained[c.PAIR_ID], trained[c.CAPTIONS], strict=True)}
        after = {id_: tuple(own)[: self.config.captions or None] for id_, own in decided.recaptioned.items()}
        changed = {id_: own for id_, own in after.items() if id_ in before and own != before[id_]}
        return Decided(decided.removed & frozenset(before), changed)

    def changes(self, arm: Arm) -> Decided:
        """Return the pairs that an arm removes and recaptions; without scores, none by a ranking."""
        external = self.ids(c.EXTERNAL) if self.one_of_several else frozenset[str]()
        removed = arm.decided.removed - external
        if arm.overrides.get(LOOKALIKES):
            removed |= self.lookalikes
        if PAIRS_KEPT in arm.overrides:
            removed |= self._beyond(arm.overrides[PAIRS_KEPT])
        captions = {id_: own for id_, own in arm.decided.recaptioned.items() if id_ not in removed | external}
        if arm.removal and self.scores is not None:
            shared = self.pairs.loc[self.group == c.SHARED, c.PAIR_ID]
            pool = shared[~shared.isin(removed)].to_numpy()
            removed |= removed_by(arm.removal, self.scores, pool, seed=self.config.seed)
        return Decided(removed, captions)

    def _beyond(self, pairs: int) -> frozenset[str]:
        """Return ids to remove so that a member trains on so many pairs: of candidates and of independent pairs at
        most half as many stay, and the rest are shared. Fewer pairs are always part of more."""
        ids = self.pairs[c.PAIR_ID].to_numpy()
        order = np.argsort(hashed(draw_keys(ids.tolist()), self.config.seed), kind="stable")
        of = {name: ids[order][(self.group == name)[order]] for name in (c.CANDIDATE, c.INDEPENDENT, c.SHARED)}
        own = min(pairs // 2, len(of[c.CANDIDATE]), len(of[c.INDEPENDENT]))
        left = {c.CANDIDATE: own, c.INDEPENDENT: own, c.SHARED: pairs - own}
        return frozenset(str(id_) for name, found in of.items() for id_ in found[left[name] :])


def reference_config(study: StudyFolder) -> AuditConfig:
    """Return the config of a study's reference arm, which settings change."""
    asked = study.asked
    return dataclasses.replace(config_from(asked["config"]), **asked["reference_fields"])


def first_split(study: StudyFolder) -> Split:
    """Return the first split of a study, from its folder.

    Raises:
        InputError: its reference arm has not begun.
    """
    asked, own = study.asked, {arm["name"] for arm in study.own}
    audit = study.audit(asked["reference"])
    if not all((audit.folder / name).is_file() for name in (CONFIG, PAIRS, MEMBERSHIP, PREPARED)):
        raise InputError(
            f"arm {audit.name} of study {study.name!r} has not begun: wait until it trains, or run the study again"
        )
    return Split(
        config_from(asked["config"]),
        Arm(audit.name, dict(asked["reference_fields"])),
        {name: asked["settings"].get(name) for name in asked["arms"] if name not in own},
        audit.pairs,
        audit.membership[c.GROUP].to_numpy(dtype=str),
        read_prepared(audit.folder).clusters,
        one_of_several=study.seeds_per_split > 0,
    )
