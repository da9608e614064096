"""An arm of a study: what it changes beside the reference arm, the text that says so, and the pairs it changes.

text_mask=0.3 removal=clipmem:100 lookalikes decisions equal_time
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

NONE, ALL, RANDOM, REMOVAL = "none", "all", "random", "removal"
SWITCHES = ("lookalikes", "decisions", "equal_time")
# What the pairs to take out first have: the highest value (1) or the lowest (−1).
DIRECTIONS = {name: score.direction for name, score in scores_in(RANKS_REMOVAL).items()}
RANKED_BY = (*DIRECTIONS, RANDOM)
RANKING_REPEATS = 2
LONGEST_NAME = 70  # fingerprints may follow
# Arms share these, so that a seed splits, starts and draws alike in each of them and differences are paired.
SHARED_FIELDS = (*affecting("data", "members", "machine"), *affecting())


@dataclass(frozen=True)
class Removal:
    """Take n of the shared pairs out of the training of f and g, the first of a ranking."""

    by: str  # of RANKED_BY
    n: int

    def __post_init__(self) -> None:
        if self.by not in RANKED_BY:
            raise ValueError(f"by must be one of {', '.join(RANKED_BY)}, not {self.by!r}")


@dataclass(frozen=True)
class Decided:
    """Ids of pairs to take out, and ids with the captions that they get instead of their own."""

    removed: frozenset[str] = frozenset()
    recaptioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.removed or self.recaptioned)

    @property
    def ids(self) -> frozenset[str]:
        """All pairs that are trained on otherwise than in other arms."""
        return self.removed | frozenset(self.recaptioned)

    @property
    def json(self) -> dict[str, Any]:
        return {
            "removed": sorted(self.removed),
            "recaptioned": {id_: list(captions) for id_, captions in sorted(self.recaptioned.items())},
        }


@dataclass(frozen=True)
class Arm:
    """What one arm of a study does beside the reference arm; what the reference itself does beside the study's config.

    `fields` are the config's that differ. `removal` takes pairs out by a ranking, `lookalikes` all but the first of
    near-duplicate pictures, and `decisions` those that a person decided to remove, and gives the recaptioned ones their
    new captions. `equal_time` trains for as many epochs as take as long as the reference does. `decided` is what was
    decided when the arm was added, and `epochs` the config's `epochs` and `stop_epoch` that take equally long.
    `model` is a model config of its own, `pairs` how many of its pairs a member trains on (0: all), and `shown` what
    tables say of it, what it does if empty.
    """

    name: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    removal: Removal | None = None
    lookalikes: bool = False
    decisions: bool = False
    equal_time: bool = False
    decided: Decided = Decided()
    epochs: Mapping[str, int] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    pairs: int = 0
    shown: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if shared := sorted(set(self.fields) & set(SHARED_FIELDS)):
            raise ValueError(f"arm {self.name!r} must not set {', '.join(shared)}: differences would not be paired")

    @property
    def text(self) -> str:
        """What it does, in one line and always in the same order; empty for the reference arm.

        Example:
            >>> fields = {"crop_scale": 0.2, "text_mask": 0.30}
            >>> Arm(fields=fields, removal=Removal("clipmem", 100), lookalikes=True).text
            'text_mask=0.3 crop_scale=0.2 removal=clipmem:100 lookalikes'
        """
        parts = [f"{name}={_shortest(self.fields[name])}" for name in ARM_FIELDS if name in self.fields]
        parts += [f"{REMOVAL}={self.removal.by}:{self.removal.n}"] if self.removal else []
        return " ".join([*parts, *(name for name in SWITCHES if getattr(self, name))])

    @property
    def folder_name(self) -> str:
        """Its text as a name for its folder.

        Example:
            >>> Arm(fields={"text_mask": 0.3}, removal=Removal("clipmem", 100)).folder_name
            'text_mask-0.3_removal-clipmem-100'
        """
        found = "_".join(re.sub(r"[^\w.]+", "-", part) for part in self.text.split()) or NONE
        return found if len(found) <= LONGEST_NAME else f"{found[:LONGEST_NAME]}-{fingerprint(self.text)[:6]}"

    def row(self, changes: Decided) -> dict[str, Any]:
        """Return what its row says it is.

        Args:
            changes: the pairs that it changes, as Context.changes returns them.
        """
        does = {**self.fields, **self.epochs}
        does |= {name: True for name in ("lookalikes", "decisions") if getattr(self, name)}
        does |= {"removed_by": self.removal.by} if self.removal else {}
        counts = {"removed": len(changes.removed), "recaptioned": len(changes.recaptioned)}
        return dict(self.shown or does) | {name: count for name, count in counts.items() if count}

    @property
    def json(self) -> dict[str, Any]:
        """What own.json says of it."""
        kept = self.decided.json | {"epochs": dict(self.epochs)}
        return {"name": self.name, "setting": self.text} | {name: value for name, value in kept.items() if value}


def arm_of(values: Mapping[str, Any]) -> Arm:
    """Return an arm from what own.json says of it."""
    arm = dataclasses.replace(parse_setting(values["setting"]), name=values["name"], epochs=values.get("epochs", {}))
    if not arm.decisions:
        return arm
    captions = {id_: tuple(own) for id_, own in values.get("recaptioned", {}).items()}
    return dataclasses.replace(arm, decided=Decided(frozenset(values.get("removed", ())), captions))


def parse_setting(text: str) -> Arm:
    """Read what an arm does from its text, the parts in any order.

    Raises:
        InputError: one line that says what was not understood and what can be said.

    Example:
        >>> parse_setting("decisions text_mask=.30").text
        'text_mask=0.3 decisions'
    """
    said: dict[str, Any] = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if name in said:
            raise InputError(f"a setting says {name} twice: once is enough")
        said[name] = _value(name, value, given=bool(equals))
    fields = {name: said.pop(name) for name in list(said) if name in ARM_FIELDS}
    return Arm(fields=fields, **said)


def normal(arm: Arm, config: AuditConfig) -> Arm:
    """Return an arm without what does nothing, so that equal trainings have equal texts.

    Args:
        arm: any.
        config: that of the reference arm.

    Example:
        >>> normal(parse_setting("text_noise=0 noise_place=before text_mask=0.3 removal=random:0"), AuditConfig()).text
        'text_mask=0.3'
    """
    values = _with_one_off(as_dict(config) | dict(arm.fields))
    on = set(switched_on(values))
    idle = {name for name, needs in MODIFIERS.items() if not on & set(needs)}
    usual = _with_one_off(as_dict(config))
    fields = {name: values[name] for name in ARM_FIELDS if name not in idle and values[name] != usual[name]}
    removal = arm.removal if arm.removal and arm.removal.n else None
    some = bool(fields or removal or arm.lookalikes or arm.decisions)
    return dataclasses.replace(arm, fields=fields, removal=removal, equal_time=arm.equal_time and some)


def text_of(arm: Arm, config: AuditConfig) -> str | None:
    """Return the normal text of an arm of a plan; None where no text can say it.

    Args:
        arm: with a model of its own, fewer pairs, pairs named one by one, or fields beyond ARM_FIELDS, it has none.
        config: that of the reference arm.
    """
    listed = arm.decided and not arm.decisions
    return None if arm.model or arm.pairs or listed or set(arm.fields) - set(ARM_FIELDS) else normal(arm, config).text


def taken_out(removal: Removal, scores: pd.DataFrame, pool: np.ndarray, *, seed: int) -> frozenset[str]:
    """Return the ids of the pairs that a removal takes out; equal scores are ordered by chance.

    A random removal draws from the same pairs as the others, those with scores, and a larger one holds a smaller.

    Args:
        removal: how many, and by what.
        scores: scores.parquet of an audit in which the pool was scored.
        pool: ids that may be taken out, [n_pool].
        seed: of what is left to chance.

    Raises:
        ValueError: fewer pairs have a score than are to be taken out.
    """
    value = c.CLIPMEM if removal.by == RANDOM else removal.by
    found = scores.loc[scores[c.PAIR_ID].isin(pool), [c.PAIR_ID, value]].dropna()
    if len(found) < removal.n:
        raise ValueError(f"{removal.n} pairs are to be taken out by {removal.by}, and {len(found)} have a score")
    chance = hashed(draw_keys(found[c.PAIR_ID].tolist()), seed)
    rank = np.zeros(len(found)) if removal.by == RANDOM else -DIRECTIONS[removal.by] * found[value].to_numpy()
    order = np.lexsort([chance, rank])
    return frozenset(found[c.PAIR_ID].to_numpy()[order[: removal.n]])


@dataclass(frozen=True, eq=False)
class Context:
    """What the arms of a study share on one split, and what turns an arm into a config and into pairs.

    `config` is the study's with the seed that draws this split, and `none` its reference arm; `planned` are the texts
    of all arms of its plan, None where no text can say one. `pairs`, their `group` and their `clusters` of look-alikes
    are in one order.
    """

    config: AuditConfig
    none: Arm
    planned: Mapping[str, str | None]
    pairs: pd.DataFrame
    group: np.ndarray
    clusters: np.ndarray
    splits: bool = False  # whether the study draws more than this one

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
        """Ids of the shared pairs that a ranking can take out: those that the audit that ranks scores."""
        drawn = draw_membership(self.clusters, self.ranking)
        return frozenset(self.pairs.loc[(drawn.group == c.SCORED) & (self.group == c.SHARED), c.PAIR_ID])

    @property
    def lookalikes(self) -> frozenset[str]:
        """Ids of all but the first of pictures that look alike, of pairs that somebody trains on."""
        later = (self.clusters != np.arange(len(self.clusters))) & (self.group != c.EXTERNAL)
        return frozenset(self.pairs.loc[later, c.PAIR_ID])

    def beyond(self, pairs: int) -> frozenset[str]:
        """Return ids to leave out so that a member trains on so many pairs: of candidates and of independent pairs at
        most half as many stay, and the rest are shared. Fewer pairs are always part of more."""
        ids = self.pairs[c.PAIR_ID].to_numpy()
        order = np.argsort(hashed(draw_keys(ids.tolist()), self.config.seed), kind="stable")
        of = {name: ids[order][(self.group == name)[order]] for name in (c.CANDIDATE, c.INDEPENDENT, c.SHARED)}
        own = min(pairs // 2, len(of[c.CANDIDATE]), len(of[c.INDEPENDENT]))
        left = {c.CANDIDATE: own, c.INDEPENDENT: own, c.SHARED: pairs - own}
        return frozenset(str(id_) for name, found in of.items() for id_ in found[left[name] :])

    def ids(self, group: str) -> frozenset[str]:
        """Return the ids of a group."""
        return frozenset(self.pairs.loc[self.group == group, c.PAIR_ID])

    def config_of(self, arm: Arm, models: Path | None = None) -> AuditConfig:
        """Return the config of an arm; a model of its own is the file of its name in `models`."""
        own = {"model": str(models / f"{arm.name}.json")} if arm.model and models else {}
        return dataclasses.replace(self.reference, **{**arm.fields, **arm.epochs, **own})

    def standing(self, decided: Decided) -> Decided:
        """Return of what was decided that which changes how members of this study train.

        Utility is measured on external pairs: they stay as they are, and other splits have others. Of new captions as
        many count as are used.
        """
        trained = self.pairs if self.splits else self.pairs[self.group != c.EXTERNAL]
        before = {id_: tuple(own) for id_, own in zip(trained[c.PAIR_ID], trained[c.CAPTIONS], strict=True)}
        used = self.config.captions or None
        after = {id_: tuple(own)[:used] for id_, own in decided.recaptioned.items()}
        changed = {id_: own for id_, own in after.items() if id_ in before and own != before[id_]}
        return Decided(decided.removed & frozenset(before), changed)

    def changes(self, arm: Arm, scores: pd.DataFrame | None = None) -> Decided:
        """Return the pairs that an arm takes out and recaptions.

        Args:
            arm: any.
            scores: of the audit that ranks; without them what a ranking takes out is left out.
        """
        kept = self.ids(c.EXTERNAL) if self.splits else frozenset[str]()
        fixed = (arm.decided.removed - kept) | (self.lookalikes if arm.lookalikes else frozenset())
        fixed |= self.beyond(arm.pairs) if arm.pairs else frozenset()
        captions = {id_: own for id_, own in arm.decided.recaptioned.items() if id_ not in fixed | kept}
        if arm.removal is None or scores is None:
            return Decided(fixed, captions)
        shared = self.pairs.loc[self.group == c.SHARED, c.PAIR_ID]
        pool = shared[~shared.isin(fixed)].to_numpy()
        return Decided(fixed | taken_out(arm.removal, scores, pool, seed=self.config.seed), captions)


def reference_config(study: StudyFolder) -> AuditConfig:
    """Return the config of a study's reference arm: what settings are told beside."""
    return dataclasses.replace(config_from(study.asked["config"]), **_reference_fields(study))


def context_of(study: StudyFolder) -> Context:
    """Return what the arms of a study share, out of its folder.

    Raises:
        InputError: its reference arm has not begun.
    """
    asked, own = study.asked, {arm["name"] for arm in study.own}
    audit = study.audit(asked["reference"])
    if not all((audit.folder / name).is_file() for name in (CONFIG, PAIRS, MEMBERSHIP, PREPARED)):
        raise InputError(
            f"arm {audit.name} of study {study.name!r} has not begun: wait until it trains, or run the study again"
        )
    texts = asked.get("settings", {})
    return Context(
        config_from(asked["config"]),
        Arm(audit.name, _reference_fields(study)),
        {name: texts.get(name) for name in {**asked["arms"], **texts} if name not in own},
        audit.pairs,
        audit.membership[c.GROUP].to_numpy(dtype=str),
        read_prepared(audit.folder).clusters,
        splits=study.seeds_per_split > 0,
    )


def _reference_fields(study: StudyFolder) -> dict[str, Any]:
    """Return the fields of the reference arm; where study.json is older than that, they are in its audit."""
    asked = study.asked
    audit = study.audit(asked["reference"])
    if "reference_fields" in asked or not audit.begun:
        return dict(asked.get("reference_fields", {}))
    found = as_dict(audit.record.config)
    return {name: found[name] for name in ARM_FIELDS if name in found and found[name] != asked["config"].get(name)}


def _with_one_off(values: dict[str, Any]) -> dict[str, Any]:
    """Say the default where another value is off as well: 0, where training is to stop after the last epoch."""
    off = {name: own.default for name, own in FIELDS.items() if own.off_at and values[name] == values[own.off_at]}
    return values | off


def _shortest(value: Any) -> str:
    """Write a value with as few digits as say it."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _value(name: str, value: str, *, given: bool) -> Any:
    if name in SWITCHES and not given:
        return True
    if name == REMOVAL:
        return _removal(value)
    if name in ARM_FIELDS and given:
        return _field(name, value)
    if name in ARM_FIELDS:
        raise InputError(f"a setting gives {name} a value, as in {name}=…")
    if name in SWITCHES:
        raise InputError(f"in a setting {name} stands alone, without a value")
    known = ", ".join((*ARM_FIELDS, REMOVAL, *SWITCHES))
    raise InputError(f"a setting does not know {name[:40]!r}: say one of {known}, as in 'text_mask=0.3 {SWITCHES[0]}'")


def _removal(value: str) -> Removal:
    by, _, count = value.partition(":")
    if by not in RANKED_BY or not re.fullmatch(r"[0-9]{1,9}", count):
        raise InputError(
            f"removal must name a ranking and a number of pairs, as in removal=clipmem:100, not {value[:40]!r}; "
            f"rankings are {', '.join(RANKED_BY)}"
        )
    return Removal(by, int(count))


def _field(name: str, value: str) -> Any:
    kind, choices = type(FIELDS[name].default), FIELDS[name].choices
    try:
        found = kind(value)
        known = found in choices if choices else math.isfinite(found)
    except (ValueError, OverflowError):
        known = False
    if not known:
        number = f"a {'whole ' if kind is int else ''}number"
        wanted = f"one of {', '.join(choices)}" if choices else number
        raise InputError(f"{name} must be {wanted}, not {value[:40]!r}")
    return found
