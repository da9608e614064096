"""The name of a study, its source and a config → what all of its arms share, and what study.json says of it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audits import settings
from clipmem_core.audits.prepare import DataSet, draw_membership, load_data_set, plant
from clipmem_core.audits.run import Screen, counts
from clipmem_core.audits.setup import differing_fields
from clipmem_core.config import AuditConfig, InputError, as_dict, fingerprint
from clipmem_core.scores.membership import Membership
from clipmem_core.studies.arms import Arm, arm_config, check_arms
from clipmem_core.studies.basis import Basis
from clipmem_core.studies.own import arm_from, read_own
from clipmem_core.studies.plans import Study, find_study
from clipmem_core.studies.setting import setting_of
from clipmem_core.studies.store import STUDY, StudyFolder


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """A study at work."""

    study: str  # its name in plans.STUDIES
    source: str
    config: AuditConfig  # the reference of all arms, resolved, with all seeds
    folder: StudyFolder
    planned: Sequence[Arm]
    own: Sequence[Arm]  # that a person added
    data_set: DataSet  # with what is planted
    dataset_fingerprint: str  # before anything was planted, as audits of it have it
    membership: Membership
    screen: Screen
    equal_time: bool = False  # whether arms with equal time were asked for
    only: frozenset[str] = frozenset()  # names of the arms that are trained now; none means all

    @property
    def plan(self) -> Study:
        return find_study(self.study)

    @property
    def arms(self) -> list[Arm]:
        """All arms, those of the plan first."""
        return [*self.planned, *self.own]

    @property
    def trained(self) -> list[Arm]:
        """The arms that are trained now: all, or those asked for beside the reference arm."""
        named = self.only | {self.plan.reference}
        return [arm for arm in self.arms if not self.only or arm.name in named]

    @property
    def left(self) -> list[tuple[str, int]]:
        """What is to be trained now: seed by seed over the arms, so that soon every arm has a point."""
        done = self.folder.done()
        return [
            (arm.name, seed)
            for seed in range(self.config.seeds)
            for arm in self.trained
            if (arm.name, seed) not in done
        ]

    @property
    def reference(self) -> Arm:
        """The arm that others are compared with."""
        return next(arm for arm in self.planned if arm.name == self.plan.reference)

    @property
    def basis(self) -> Basis:
        """What arms that a person adds are made from."""
        found = {arm.name: setting_of(arm, self.reference, self.config) for arm in self.planned}
        return Basis(
            self.config,
            self.reference,
            frozenset(found),
            {name: setting.text for name, setting in found.items() if setting is not None},
            self.data_set.pairs,
            self.membership.group,
            self.data_set.clusters,
        )

    @property
    def compared(self) -> np.ndarray:
        """All but the candidates and independent pairs that an arm leaves out or gives other captions, [n_pairs].

        Memorization is not measured on shared pairs, so that it does not matter which of them an arm trains on.
        """
        changed = frozenset[str]().union(*(arm.changed for arm in self.arms))
        judged = np.isin(self.membership.group, c.SCORED_GROUPS)
        return ~(judged & self.data_set.pairs[c.PAIR_ID].isin(changed).to_numpy())

    def config_of(self, arm: Arm, seeds: int) -> AuditConfig:
        """Return the config of an arm's audit with so many seeds."""
        config = dataclasses.replace(self.config, seeds=seeds, members=2 * seeds)
        return arm_config(arm, config, self.folder.models)

    def snapshots_of(self, arm: Arm) -> list[int]:
        """Return the epochs after which an arm's members keep their embeddings."""
        return self.plan.epochs_kept(self.config_of(arm, 1).trained_epochs)


def start(study: str, source: str, config: AuditConfig, folder: StudyFolder, screen: Screen) -> StudyRun:
    """Read the data set, draw what all arms share, and check every arm.

    Args:
        study: which one, by its name in plans.STUDIES.
        source: a path, a hub name or `scenes`.
        config: resolved, with all seeds.
        folder: the study's, there or not.
        screen: where progress goes.

    Raises:
        InputError: an arm cannot run, or there is a study of that name that asked for something else.
    """
    screen.say(f"reading {source}")
    data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
    membership = draw_membership(data_set.clusters, config)
    planted = dataclasses.replace(data_set, pairs=plant(data_set.pairs, membership, config))
    screen.say(counts(planted, membership))
    arms = find_study(study).arms(config, planted.pairs.assign(**{c.GROUP: membership.group}))
    check_arms(arms, config)
    run = StudyRun(study, source, config, folder, arms, [], planted, data_set.fingerprint, membership, screen)
    _check_same_study(run)
    return run


def with_own(run: StudyRun) -> StudyRun:
    """Return the study with the arms that were added to its folder up to now."""
    basis = run.basis
    return dataclasses.replace(run, own=[arm_from(own, basis) for own in read_own(run.folder)])


def check_only(run: StudyRun) -> None:
    """Refuse to train only arms that the study does not have.

    Raises:
        InputError: one is unknown; the message lists those there are.
    """
    arms = [arm.name for arm in run.arms]
    for name in sorted(run.only.difference(arms)):
        raise InputError(f"study {run.study} has no arm {name!r} to train only: choose from {', '.join(arms)}")


def asked_of(run: StudyRun) -> dict[str, Any]:
    """Return the content of study.json."""
    names = {arm.name for arm in run.arms}
    asked_before = run.folder.asked if (run.folder.folder / STUDY).is_file() else {}
    own = {arm.name: arm.setting.text for arm in read_own(run.folder) if arm.name in names}
    return {
        "study": run.study,
        "source": run.source,
        "config": as_dict(run.config),
        "reference": run.plan.reference,
        "reference_fields": dict(run.reference.fields),
        "arms": {arm.name: arm.settings for arm in run.arms},
        "settings": {**run.basis.settings, **own},
        "equal_time": run.equal_time or asked_before.get("equal_time", False),
        "snapshots": run.snapshots_of(run.reference),
        "compared": fingerprint(run.compared.tolist()),
        "dataset_fingerprint": run.dataset_fingerprint,
        "machine": settings.machine(),
    }


def _check_same_study(run: StudyRun) -> None:
    """Refuse to go on with a study under another config.

    Raises:
        InputError: there is a study of that name that asked for something else.
    """
    if not (run.folder.folder / STUDY).is_file():
        return
    stored = run.folder.asked
    differ = [] if stored["study"] == run.study else [f"it is study {stored['study']!r} there and {run.study!r} here"]
    differ += differing_fields(stored["source"], settings.config_from(stored["config"]), run.source, run.config)
    if differ:
        raise InputError(f"study {run.folder.name!r} exists with another: {'; '.join(differ)}. Take another --name")
