"""What a study at work is: its arms, the splits of the pairs, what each arm trains on; and how it begins."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.executor import Executor
from clipmem_core.audits.prepare import DataSet, draw_membership, load_data_set, plant
from clipmem_core.audits.run import Screen, counts
from clipmem_core.audits.settings import check_config, config_from
from clipmem_core.audits.setup import differing_fields
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.scores.membership import Membership
from clipmem_core.studies.arm import Arm, Context, Decided, text_of
from clipmem_core.studies.plans import Study, find_study, with_meaning
from clipmem_core.studies.store import StudyFolder


@dataclass(frozen=True, eq=False)
class Drawn:
    """One split of the pairs, drawn from a seed of its own."""

    data_set: DataSet  # with what is planted
    membership: Membership
    context: Context
    scores: pd.DataFrame | None = None  # that removals are ranked by, once they are there


@dataclass(frozen=True, eq=False)
class StudyRun:
    """A study at work."""

    study: str  # its name in plans.STUDIES
    source: str
    folder: StudyFolder
    planned: Sequence[Arm]
    dataset_fingerprint: str  # before anything was planted, as audits of it have it
    config: AuditConfig  # of all arms, resolved, with all seeds
    splits: Sequence[Drawn]
    seeds_per_split: int  # 0: all seeds share one split
    screen: Screen
    equal_time: bool = False  # whether arms with equal time were asked for
    at: int = 0  # pairs that it is extrapolated to
    only: frozenset[str] = frozenset()  # names of the arms that are trained now; none means all
    own: Sequence[Arm] = ()  # that a person added
    executor: Executor | None = None  # what runs members side by side; None means this machine, an arm at a time

    @property
    def plan(self) -> Study:
        return find_study(self.study)

    @property
    def context(self) -> Context:
        """What arms share on the first split."""
        return self.splits[0].context

    @property
    def arms(self) -> dict[str, Arm]:
        """All arms by their names, those of the plan first."""
        return {arm.name: arm for arm in (*self.planned, *self.own)}

    @property
    def trained(self) -> list[str]:
        """The arms that are trained now: all, or those asked for beside the reference arm."""
        named = self.only | {self.plan.reference}
        return [name for name in self.arms if not self.only or name in named]

    @property
    def left(self) -> list[tuple[str, int]]:
        """What is to be trained now: seed by seed over the arms, so that soon every arm has a point."""
        done = self.folder.done()
        return [(arm, seed) for seed in range(self.config.seeds) for arm in self.trained if (arm, seed) not in done]

    def place(self, seed: int) -> tuple[int, int]:
        """Return the split that a seed of the study trains on, and its number among the seeds of that split."""
        return divmod(seed, self.seeds_per_split) if self.seeds_per_split else (0, seed)

    @functools.cached_property
    def changes(self) -> list[dict[str, Decided]]:
        """The pairs that each arm takes out and recaptions, split by split."""
        return [
            {name: split.context.changes(arm, split.scores) for name, arm in self.arms.items()} for split in self.splits
        ]

    @functools.cached_property
    def compared(self) -> list[np.ndarray]:
        """Of each split all but the candidates and independent pairs that an arm leaves out or gives other captions,
        [n_pairs].

        Memorization is not measured on shared pairs, so that it does not matter which of them an arm trains on.
        """
        return [_compared(split, changes.values()) for split, changes in zip(self.splits, self.changes, strict=True)]

    def config_of(self, arm: str, seeds: int, split: int = 0) -> AuditConfig:
        """Return the config of an arm's audit of a split with so many seeds."""
        config = self.splits[split].context.config_of(self.arms[arm], self.folder.models)
        return dataclasses.replace(config, seeds=seeds, members=2 * seeds)

    def snapshots_of(self, arm: str) -> list[int]:
        """Return the epochs after which an arm's members keep their embeddings."""
        return self.plan.epochs_kept(self.config_of(arm, 1).trained_epochs)


def _compared(split: Drawn, changes: Iterable[Decided]) -> np.ndarray:
    changed = frozenset[str]().union(*(one.ids for one in changes))
    judged = np.isin(split.membership.group, c.SCORED_GROUPS)
    return ~(judged & split.data_set.pairs[c.PAIR_ID].isin(changed).to_numpy())


def start(
    study: str, source: str, config: AuditConfig, folder: StudyFolder, screen: Screen, *, seeds_per_split: int = 0
) -> StudyRun:
    """Read the data set, draw what all arms share, and check every arm.

    Args:
        study: which one, by its name in plans.STUDIES.
        source: a path, a hub name or `scenes`.
        config: resolved, with all seeds.
        folder: the study's, there or not.
        screen: where progress goes.
        seeds_per_split: as of `run_study`.

    Raises:
        InputError: an arm cannot run, or there is a study of that name that asked for something else.
    """
    screen.say(f"reading {source}")
    data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
    membership, planted = _draw(data_set, config)
    screen.say(counts(planted, membership))
    plan = find_study(study)
    arms, out = with_meaning(plan.arms(config, planted.pairs.assign(**{c.GROUP: membership.group})), config)
    if out:
        screen.say(f"left out, since they mean nothing where a tower is locked: {', '.join(out)}")
    none = next(arm for arm in arms if arm.name == plan.reference)
    reference = dataclasses.replace(config, **none.fields)
    texts = {arm.name: text_of(arm, reference) for arm in arms}
    context = Context(
        config, none, texts, planted.pairs, membership.group, planted.clusters, splits=seeds_per_split > 0
    )
    for arm in arms:
        check_config(context.config_of(arm))
    _check_same_study(folder, study, source, config)
    splits = [Drawn(planted, membership, context)]
    # Rows of more seeds than are asked for now may be read anew.
    seeds = max([config.seeds, *(seed + 1 for _, seed in folder.done())])
    for number in range(1, math.ceil(seeds / seeds_per_split) if seeds_per_split else 1):
        splits.append(_another(splits[0], data_set, seed=config.seed + number * seeds_per_split))
    return StudyRun(study, source, folder, arms, data_set.fingerprint, config, splits, seeds_per_split, screen)


def _draw(data_set: DataSet, config: AuditConfig) -> tuple[Membership, DataSet]:
    """Draw who trains on what, and plant what the config asks for."""
    membership = draw_membership(data_set.clusters, config)
    return membership, dataclasses.replace(data_set, pairs=plant(data_set.pairs, membership, config))


def _another(first: Drawn, data_set: DataSet, *, seed: int) -> Drawn:
    """Draw a split from another seed."""
    config = dataclasses.replace(first.context.config, seed=seed)
    membership, planted = _draw(data_set, config)
    context = dataclasses.replace(first.context, config=config, pairs=planted.pairs, group=membership.group)
    return Drawn(planted, membership, context)


def _check_same_study(folder: StudyFolder, study: str, source: str, config: AuditConfig) -> None:
    """Refuse to go on with a study under another config.

    Raises:
        InputError: there is a study of that name that asked for something else.
    """
    if not folder.begun:
        return
    stored = folder.asked
    differ = [] if stored["study"] == study else [f"it is study {stored['study']!r} there and {study!r} here"]
    differ += differing_fields(stored["source"], config_from(stored["config"]), source, config)
    if differ:
        raise InputError(f"study {folder.name!r} exists with another: {'; '.join(differ)}. Take another --name")
