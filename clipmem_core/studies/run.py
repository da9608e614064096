"""A study from a data set to its table: arms × seeds, an f and a g each. The same call goes on where it stopped."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audits import settings
from clipmem_core.audits.frozen import check_same, differing_fields, grow, write_audit
from clipmem_core.audits.prepare import DataSet, draw_membership, leave_out, load_data_set, plant
from clipmem_core.audits.run import Screen, bring_to_end, counts
from clipmem_core.audits.store import CONFIG, Audit, hold
from clipmem_core.config import AuditConfig, InputError, as_dict, fingerprint
from clipmem_core.scores.membership import Membership
from clipmem_core.studies import shared
from clipmem_core.studies.arms import Arm, arm_config, check_arms, recaptioned, write_models
from clipmem_core.studies.estimate import left_over, seconds_by_arm, seconds_left
from clipmem_core.studies.plans import Study, find_study
from clipmem_core.studies.points import point, times
from clipmem_core.studies.ranking_audit import RANKING, bring_ranking, ranking_config, ranking_share
from clipmem_core.studies.rankings import taken_out
from clipmem_core.studies.store import ARMS, STUDY, TIMES, StudyFolder, study_folder


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """A study at work."""

    plan: Study
    source: str
    config: AuditConfig  # the reference of all arms, resolved, with all seeds
    folder: StudyFolder
    arms: Sequence[Arm]
    data_set: DataSet
    membership: Membership
    screen: Screen

    @property
    def snapshots(self) -> list[int]:
        return self.plan.epochs_kept(self.config.trained_epochs)

    @property
    def compared(self) -> np.ndarray:
        """Pairs that no arm leaves out or gives other captions, bool [n_pairs]."""
        changed = frozenset[str]().union(*(arm.changed for arm in self.arms))
        return ~self.data_set.pairs[c.PAIR_ID].isin(changed).to_numpy()

    @property
    def pool(self) -> np.ndarray:
        """Ids of the pairs that an arm may take out: those that f and g share."""
        return self.data_set.pairs[c.PAIR_ID].to_numpy()[self.membership.group == c.SHARED]

    def config_of(self, arm: Arm, seeds: int) -> AuditConfig:
        """Return the config of an arm's audit with so many seeds."""
        config = dataclasses.replace(self.config, seeds=seeds, members=2 * seeds)
        return arm_config(arm, config, self.folder.models)


def run_study(study: str, source: str, config: AuditConfig, *, name: str, screen: Screen) -> StudyFolder:
    """Run a study, or go on with it.

    Args:
        study: which one, by its name in plans.STUDIES.
        source: a path, a hub name or `scenes`.
        config: what all arms share; its seeds say how often each arm is trained.
        name: the study's folder.
        screen: where progress goes.

    Returns:
        The study's folder; every arm and seed has its row.

    Raises:
        InputError: something a person can mend. A setting out of range is found before anything is written.
    """
    plan, folder = find_study(study), study_folder(name)
    if config.protocol != "paper":
        raise InputError(f"a study runs --protocol paper, not {config.protocol}")
    config = settings.resolve(config)
    with hold(folder.folder, what="study"):
        run = _open(plan, source, config, folder, screen)
        _check_same_study(run, study)
        write_models(run.arms, folder.models)
        _say_estimate(run)
        if any(arm.removal for arm in run.arms):
            if not (folder.folder / STUDY).is_file():
                folder.write_asked(_asked(run, study))
            run = _with_removed(run)
        folder.write_asked(_ask(run, study))
        _finish(run)
    return folder


def _open(plan: Study, source: str, config: AuditConfig, folder: StudyFolder, screen: Screen) -> StudyRun:
    """Read the data set, draw what all arms share, and check every arm."""
    screen.say(f"reading {source}")
    data_set = load_data_set(source, config, progress=screen.pictures)
    membership = draw_membership(data_set.clusters, config)
    planted = dataclasses.replace(data_set, pairs=plant(data_set.pairs, membership, config))
    screen.say(counts(planted, membership))
    arms = plan.arms(config, planted.pairs.assign(**{c.GROUP: membership.group}))
    check_arms(arms, config)
    return StudyRun(plan, source, config, folder, arms, planted, membership, screen)


def _asked(run: StudyRun, study: str) -> dict[str, Any]:
    """Return the content of study.json."""
    return {
        "study": study,
        "source": run.source,
        "config": as_dict(run.config),
        "reference": run.plan.reference,
        "arms": {arm.name: arm.settings for arm in run.arms},
        "snapshots": run.snapshots,
        "compared": fingerprint(run.compared.tolist()),
        "machine": settings.machine(),
    }


def _check_same_study(run: StudyRun, study: str) -> None:
    """Refuse to go on with a study under another config.

    Raises:
        InputError: there is a study of that name that asked for something else.
    """
    if not (run.folder.folder / STUDY).is_file():
        return
    stored = run.folder.asked
    differ = [] if stored["study"] == study else [f"it is study {stored['study']!r} there and {study!r} here"]
    differ += differing_fields(stored, run.source, run.config)
    if differ:
        raise InputError(f"study {run.folder.name!r} exists with another: {'; '.join(differ)}. Take another --name")


def _ask(run: StudyRun, study: str) -> dict[str, Any]:
    """Return the content of study.json; rows that compared other pairs are thrown away."""
    asked = _asked(run, study)
    if (run.folder.folder / STUDY).is_file() and run.folder.asked["compared"] != asked["compared"]:
        # Every row is read anew from members that are there already.
        (run.folder.folder / ARMS).unlink(missing_ok=True)
    return asked


def _say_estimate(run: StudyRun) -> None:
    """Say how long what is left takes. Measured with real steps, of models that are not there yet."""
    done = run.folder.done()
    left = left_over([arm.name for arm in run.arms], run.config.seeds, done)
    if not left:
        return
    run.screen.say("measuring a few steps of each model")
    configs = {arm.name: run.config_of(arm, 1) for arm in run.arms}
    by_arm = seconds_by_arm(configs, run.data_set, run.membership, snapshots=len(run.snapshots))
    seconds = seconds_left(by_arm, run.config.seeds, done) + _ranking_seconds(run, by_arm)
    run.screen.say(
        f"{len(run.arms)} arms × {run.config.seeds} seeds, {len(left)} f and g to train: "
        f"about {math.ceil(seconds / 60):,} min on this machine"
    )


def _ranking_seconds(run: StudyRun, by_arm: Mapping[str, float]) -> float:
    if run.folder.audit(RANKING).finished or not any(arm.removal for arm in run.arms):
        return 0.0
    return by_arm[run.plan.reference] * ranking_share(run.config)


def _with_removed(run: StudyRun) -> StudyRun:
    """Rank the pairs, and tell each arm which ones it takes out."""
    reference = next(arm for arm in run.arms if arm.name == run.plan.reference)
    config = ranking_config(arm_config(reference, run.config, run.folder.models))
    scores = bring_ranking(run.folder.audit(RANKING), run.source, config, run.data_set, screen=run.screen)
    arms = [
        dataclasses.replace(arm, removed=taken_out(arm.removal, scores, run.pool, seed=run.config.seed))
        if arm.removal
        else arm
        for arm in run.arms
    ]
    return dataclasses.replace(run, arms=arms)


def _finish(run: StudyRun) -> None:
    arms = {arm.name: arm for arm in run.arms}
    left = left_over(list(arms), run.config.seeds, run.folder.done())
    for place, (name, number) in enumerate(left, start=1):
        began = time.monotonic()
        run.screen.say(f"arm {name}, seed {number}: {place} of {len(left)}")
        audit = _bring_arm(run, arms[name], number)
        if run.snapshots:
            run.folder.add(TIMES, times(audit, number, run.compared))
        row = point(audit, number, arms[name].settings, run.compared)
        run.folder.add(ARMS, [row])
        run.screen.say(f"arm {name}, seed {number}: done in {time.monotonic() - began:,.0f} s")


def _bring_arm(run: StudyRun, arm: Arm, number: int) -> Audit:
    """Bring an arm's audit to where it has this seed; members that another study has trained are taken over."""
    audit = run.folder.audit(arm.name)
    if not (audit.folder / CONFIG).is_file():
        _begin_arm(run, arm, audit, number + 1)
    else:
        # A row may be gone while its members are there: never ask for fewer seeds than it has.
        config = run.config_of(arm, max(number + 1, audit.config["config"]["seeds"]))
        check_same(audit, run.source, config)
        grow(audit, config)
    names = audit.config["members"]
    if not audit.finished:
        for name in names:
            shared.take(audit, name)
    bring_to_end(audit, run.screen, fresh=False)
    for name in names:
        shared.give(audit, name)
    return audit


def _begin_arm(run: StudyRun, arm: Arm, audit: Audit, seeds: int) -> None:
    config = run.config_of(arm, seeds)
    membership = draw_membership(run.data_set.clusters, config)
    removed = run.data_set.pairs[c.PAIR_ID].isin(arm.removed).to_numpy()
    pairs = recaptioned(run.data_set.pairs, arm.recaptioned, membership.group)
    write_audit(
        audit,
        run.source,
        config,
        dataclasses.replace(run.data_set, pairs=pairs),
        pairs,
        leave_out(membership, removed),
        seconds=0.0,
        snapshots=run.snapshots,
    )
