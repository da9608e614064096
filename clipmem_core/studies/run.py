"""A study from a data set to its table: arms × seeds, an f and a g each. The same call goes on where it stopped."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from clipmem_core import columns as c
from clipmem_core.audits import settings
from clipmem_core.audits.lock import hold
from clipmem_core.audits.prepare import draw_membership, leave_out
from clipmem_core.audits.run import Screen, bring_to_end
from clipmem_core.audits.setup import check_same, grow, write_audit
from clipmem_core.audits.store import CONFIG, Audit
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.studies import shared
from clipmem_core.studies.arms import Arm, arm_config, recaptioned, write_models
from clipmem_core.studies.basis import Decided
from clipmem_core.studies.estimate import seconds_by_arm
from clipmem_core.studies.own import Wanted, add_all, equal_times, read_own
from clipmem_core.studies.plans import check_takes_settings, find_study
from clipmem_core.studies.points import point, times
from clipmem_core.studies.ranking_audit import RANKING, bring_ranking, ranking_config, ranking_share
from clipmem_core.studies.rankings import taken_out
from clipmem_core.studies.setting import Setting
from clipmem_core.studies.start import StudyRun, asked_of, check_only, start, with_own
from clipmem_core.studies.store import ARMS, STUDY, TIMES, StudyFolder, study_folder


def run_study(
    study: str,
    source: str,
    config: AuditConfig,
    *,
    name: str,
    screen: Screen,
    also: Sequence[Setting] = (),
    equal_time: bool = False,
    only: Sequence[str] = (),
    decisions: Callable[[str, pa.Table], Decided] = lambda *_: Decided(),
) -> StudyFolder:
    """Run a study, or go on with it.

    Args:
        study: which one, by its name in plans.STUDIES.
        source: a path, a hub name or `scenes`.
        config: what all arms share; its seeds say how often each arm is trained.
        name: the study's folder.
        screen: where progress goes.
        also: settings to add to the arms of the plan; what is to have equal time runs without it first.
        equal_time: whether to add each arm that takes another time than the reference arm once more, with equal time.
        only: arms that are trained now, the reference arm with them; the others keep the rows they have. None named
            means all.
        decisions: from a data set's fingerprint and its pairs, pair_id and captions, to what was decided on these.

    Returns:
        The study's folder; every arm and seed that was to be trained has its row.

    Raises:
        InputError: something a person can mend. A setting out of range is found before anything is written.
    """
    find_study(study)
    if also or equal_time:
        check_takes_settings(study)
    folder = study_folder(name)
    if config.protocol != "paper":
        raise InputError(f"a study runs --protocol paper, not {config.protocol}")
    with hold(folder.folder, what="study"):
        run = start(study, source, settings.resolve(config), folder, screen)
        run = dataclasses.replace(run, equal_time=equal_time, only=frozenset(only))
        wanted = with_decisions(run, also, decisions)
        add_all(folder, run.basis, [(dataclasses.replace(one, equal_time=False), decided) for one, decided in wanted])
        run = with_own(run)
        check_only(run)
        _bring(run)
        later = [(one, decided) for one, decided in wanted if one.equal_time]
        more = equal_times(folder, run.basis) if equal_time else []
        add_all(folder, run.basis, [*later, *more])
        # Some may have been added from the dashboard too while others were trained.
        while len(read_own(folder)) > len(run.own):
            run = with_own(run)
            _bring(run)
    return folder


def with_decisions(
    run: StudyRun, also: Sequence[Setting], decisions: Callable[[str, pa.Table], Decided]
) -> list[Wanted]:
    """Return settings with what is decided now."""
    decided = None
    if any(one.decisions for one in also):
        pairs = pa.Table.from_pandas(run.data_set.pairs[[c.PAIR_ID, c.CAPTIONS]], preserve_index=False)
        decided = decisions(run.dataset_fingerprint, pairs)
    return [(one, decided if one.decisions else None) for one in also]


def _bring(run: StudyRun) -> None:
    """Bring every arm and seed to its row."""
    write_models(run.arms, run.folder.models)
    _say_estimate(run)
    if any(arm.removal for arm in run.arms):
        if not (run.folder.folder / STUDY).is_file():
            run.folder.write_asked(asked_of(run))
        run = _with_removed(run)
    asked = asked_of(run)
    if (run.folder.folder / STUDY).is_file() and run.folder.asked["compared"] != asked["compared"]:
        _read_anew(run)
    run.folder.write_asked(asked)
    _finish(run)


def _read_anew(run: StudyRun) -> None:
    """Make the rows that are there once more, from members that are there, where other pairs are compared than did."""
    arms = {arm.name: arm for arm in run.arms}
    done = [(name, number) for name, number in run.folder.done_in_order() if name in arms]
    if not done:
        return
    run.screen.say(f"other pairs are compared now: reading {len(done)} rows anew")
    found = [_rows(run, arms[name], number) for name, number in done]
    if any(after for _, after in found):
        run.folder.write_rows(TIMES, [row for _, after in found for row in after])
    run.folder.write_rows(ARMS, [row for row, _ in found])


def _say_estimate(run: StudyRun) -> None:
    """Say how long what is left takes. Measured with real steps, of models that are not there yet."""
    left = run.left
    if not left:
        return
    run.screen.say("measuring a few steps of each model")
    configs = {arm.name: run.config_of(arm, 1) for arm in run.trained}
    by_arm = seconds_by_arm(configs, run.data_set, run.membership, snapshots=len(run.snapshots_of(run.reference)))
    seconds = math.fsum(by_arm[arm] for arm, _ in left) + _ranking_seconds(run, by_arm)
    run.screen.say(
        f"{len(run.trained)} arms × {run.config.seeds} seeds, {len(left)} f and g to train: "
        f"about {math.ceil(seconds / 60):,} min on this machine"
    )


def _ranking_seconds(run: StudyRun, by_arm: Mapping[str, float]) -> float:
    if run.folder.audit(RANKING).finished or not any(arm.removal for arm in run.arms):
        return 0.0
    return by_arm[run.plan.reference] * ranking_share(run.config)


def _with_removed(run: StudyRun) -> StudyRun:
    """Rank the pairs, and tell each arm which of those that f and g share it takes out."""
    config = ranking_config(arm_config(run.reference, run.config, run.folder.models))
    scores = bring_ranking(run.folder.audit(RANKING), run.source, config, run.data_set, screen=run.screen)
    shared_ids = run.data_set.pairs[c.PAIR_ID][run.membership.group == c.SHARED]

    def told(arm: Arm) -> Arm:
        if arm.removal is None:
            return arm
        pool = shared_ids[~shared_ids.isin(arm.removed)].to_numpy()
        first = taken_out(arm.removal, scores, pool, seed=run.config.seed)
        return dataclasses.replace(arm, removed=arm.removed | first)

    return dataclasses.replace(run, planned=[told(arm) for arm in run.planned], own=[told(arm) for arm in run.own])


def _finish(run: StudyRun) -> None:
    arms, left = {arm.name: arm for arm in run.arms}, run.left
    for place, (name, number) in enumerate(left, start=1):
        began = time.monotonic()
        run.screen.say(f"arm {name}, seed {number}: {place} of {len(left)}")
        row, after = _rows(run, arms[name], number)
        if after:
            run.folder.add(TIMES, after)
        run.folder.add(ARMS, [row])
        run.screen.say(f"arm {name}, seed {number}: done in {time.monotonic() - began:,.0f} s")


def _rows(run: StudyRun, arm: Arm, number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the row of an arm and seed, and those after each epoch that was kept."""
    audit = _bring_arm(run, arm, number)
    after = times(audit, number, run.compared) if run.snapshots_of(arm) else []
    return point(audit, number, arm.settings, run.compared), after


def _bring_arm(run: StudyRun, arm: Arm, number: int) -> Audit:
    """Bring an arm's audit to where it has this seed; members that another study has trained are taken over."""
    audit = run.folder.audit(arm.name)
    if not (audit.folder / CONFIG).is_file():
        _begin_arm(run, arm, audit, number + 1)
    else:
        # A row may be gone while its members are there: never ask for fewer seeds than it has.
        config = run.config_of(arm, max(number + 1, len(audit.record.members) // 2))
        check_same(audit, run.source, config)
        grow(audit, config)
    names = audit.record.members
    if not audit.finished:
        for name in names:
            shared.take(audit, name, say=run.screen.say)
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
        snapshots=run.snapshots_of(arm),
    )
