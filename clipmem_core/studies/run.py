"""A study from a data set to its table: arms × seeds, an f and a g each. The same call goes on where it stopped."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from clipmem_core import columns as c
from clipmem_core.audits import settings
from clipmem_core.audits.executor import Executor, in_this_process, member_tasks, run_member_tasks
from clipmem_core.audits.given import with_features
from clipmem_core.audits.prepare import draw_membership, leave_out
from clipmem_core.audits.progress import LEFT, seconds_left
from clipmem_core.audits.run import Screen, bring_to_end, ensure_features, ensure_pixels
from clipmem_core.audits.settings import config_from
from clipmem_core.audits.setup import check_same, grow, write_audit
from clipmem_core.audits.store import Audit, acquire_lock, write_json, write_table
from clipmem_core.config import AuditConfig, InputError, as_dict, fingerprint
from clipmem_core.files import read_json
from clipmem_core.studies import shared
from clipmem_core.studies.arm import Arm, Decided
from clipmem_core.studies.arm_rows import point, times
from clipmem_core.studies.attacked import COLUMNS, Trained, attack_arm, stale
from clipmem_core.studies.begin import Drawn, StudyRun, start
from clipmem_core.studies.custom_arms import add_all, equal_times, read_own
from clipmem_core.studies.plans import check_takes_settings, find_study
from clipmem_core.studies.rare_words import by_rarity
from clipmem_core.studies.store import ARM, ARMS, RANKING, SEED, SPLIT, TIMES, StudyFolder, study_folder
from clipmem_core.training.names import CHECKPOINT

Decisions = Callable[[str, pa.Table], Decided]


def run_study(
    study: str,
    source: str,
    config: AuditConfig,
    *,
    name: str,
    screen: Screen,
    also: Sequence[Arm] = (),
    equal_time: bool = False,
    only: Sequence[str] = (),
    seeds_per_split: int = 0,
    at: int = 0,
    decisions: Decisions = lambda *_: Decided(),
    executor: Executor | None = None,
) -> StudyFolder:
    """Run a study, or go on with it.

    Args:
        study: which one, by its name in plans.STUDIES.
        source: a path, a hub name or `scenes`.
        config: what all arms share; its seeds say how often each arm is trained.
        name: the study's folder.
        screen: where progress goes.
        also: arms to add to those of the plan; what is to have equal time runs without it first.
        equal_time: whether to add each arm that takes another time than the reference arm once more, with equal time.
        only: arms that are trained now, the reference arm with them; the others keep the rows they have. None named
            means all.
        seeds_per_split: how many seeds train on one split of the pairs before another is drawn; 0 lets all share one.
            A study from before splits varied goes on with its one.
        at: pairs that a study that can be extrapolated is to tell of; 0 leaves it as it was.
        decisions: from a data set's fingerprint and its pairs, pair_id and captions, to what was decided on these.
        executor: what runs members; this process and others of this machine unless it is given.

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
    if seeds_per_split < 0 or (seeds_per_split and config.seeds % seeds_per_split):
        raise InputError(
            f"--seeds must be a multiple of --seeds-per-split ({seeds_per_split}), not {config.seeds}: "
            "each split has as many"
        )
    with acquire_lock(folder.folder, what="study"):
        config, seeds_per_split = _as_begun(folder, with_features(source, config), seeds_per_split, screen)
        run = start(study, source, settings.resolve(config), folder, screen, seeds_per_split=seeds_per_split)
        run = dataclasses.replace(run, equal_time=equal_time, only=frozenset(only), at=at, executor=executor)
        wanted = with_decisions(run, also, decisions)
        add_all(folder, run.context, [dataclasses.replace(arm, equal_time=False) for arm in wanted])
        run = _with_own(run)
        if unknown := sorted(run.only.difference(run.arms)):
            known = ", ".join(run.arms)
            raise InputError(f"study {study} has no arm {unknown[0]!r} to train only: choose from {known}")
        _bring(run)
        later = equal_times(folder, run.context) if equal_time else []
        add_all(folder, run.context, [*(arm for arm in wanted if arm.equal_time), *later])
        # Some may have been added from the dashboard too while others were trained.
        while len(read_own(folder)) > len(run.own):
            run = _with_own(run)
            _bring(run)
    return folder


def _as_begun(
    folder: StudyFolder, config: AuditConfig, seeds_per_split: int, screen: Screen
) -> tuple[AuditConfig, int]:
    """Return the config and the seeds of a split of a study that may be from before splits varied.

    Raises:
        InputError: it was begun with another number of seeds a split.
    """
    if not folder.begun or folder.seeds_per_split == seeds_per_split:
        return config, seeds_per_split
    if "seeds_per_split" in folder.asked:
        raise InputError(
            f"study {folder.name!r} exists with another: --seeds-per-split is {folder.seeds_per_split} there and "
            f"{seeds_per_split} here. Take another --name"
        )
    screen.say("this study was begun with one split of the pairs for all its seeds: it goes on with that")
    return dataclasses.replace(config, retrieval_apart=config_from(folder.asked["config"]).retrieval_apart), 0


def with_decisions(run: StudyRun, also: Sequence[Arm], decisions: Decisions) -> list[Arm]:
    """Return arms with what is decided now."""
    if not any(arm.decisions for arm in also):
        return list(also)
    pairs = pa.Table.from_pandas(run.splits[0].data_set.pairs[[c.PAIR_ID, c.CAPTIONS]], preserve_index=False)
    decided = decisions(run.dataset_fingerprint, pairs)
    return [dataclasses.replace(arm, decided=decided) if arm.decisions else arm for arm in also]


def _with_own(run: StudyRun) -> StudyRun:
    """Return the study with the arms that were added to its folder up to now."""
    return dataclasses.replace(run, own=read_own(run.folder))


def _asked_of(run: StudyRun) -> dict[str, Any]:
    """Return the content of study.json."""
    asked_before = run.folder.asked if run.folder.begun else {}
    planned = {name: text for name, text in run.context.planned.items() if text is not None}
    return {
        "study": run.study,
        "source": run.source,
        "config": as_dict(run.config),
        "reference": run.plan.reference,
        "reference_fields": dict(run.context.none.fields),
        "arms": {name: arm.row(run.changes[0][name]) for name, arm in run.arms.items()},
        "settings": planned | {arm.name: arm.text for arm in run.own},
        "equal_time": run.equal_time or asked_before.get("equal_time", False),
        "snapshots": run.snapshots_of(run.plan.reference),
        "seeds_per_split": run.seeds_per_split,
        **({"at": at} if (at := run.at or asked_before.get("at", 0)) else {}),
        "compared": [fingerprint(own.tolist()) for own in run.compared],
        "dataset_fingerprint": run.dataset_fingerprint,
        "machine": settings.machine(),
    }


def _bring(run: StudyRun) -> None:
    """Bring every arm and seed to its row."""
    _write_models(run)
    if any(arm.removal for arm in run.arms.values()):
        if not run.folder.begun:
            run.folder.write_asked(_asked_of(run))
        run = dataclasses.replace(run, splits=[_ranked(run, number) for number in range(len(run.splits))])
    asked = _asked_of(run)
    before = run.folder.asked["compared"] if run.folder.begun else []
    if any(a != b for a, b in zip([before] if isinstance(before, str) else before, asked["compared"], strict=False)):
        _read_anew(run)
    run.folder.write_asked(asked)
    left = run.left
    if run.executor is not None:
        _train_ahead(run, run.executor)
    begun = time.monotonic()
    for place, (arm, number) in enumerate(left, start=1):
        began = time.monotonic()
        rest = seconds_left(began - begun, place - 1, len(left))
        told = f", {LEFT} {math.ceil(rest / 60):,} min" if math.isfinite(rest) else ""
        run.screen.say(f"arm {arm}, seed {number}: {place} of {len(left)}{told}")
        row, after = _rows(run, arm, number)
        if after:
            run.folder.add(TIMES, after)
        run.folder.add(ARMS, [row])
        run.screen.say(f"arm {arm}, seed {number}: done in {time.monotonic() - began:,.0f} s")
    _attack(run)


def _attack(run: StudyRun) -> None:
    """Attack the members of each arm with those of its other seeds, where there are more of these than last time."""
    table = run.folder.arms
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *COLUMNS])))
    for name in (name for name in stale(table) if name in run.arms):
        rows = table.index[table[ARM] == name]
        places = [(seed, *run.place(seed)) for seed in table.loc[rows, SEED].astype(int)]
        audits = [run.folder.audit(name, split) for _, split, _ in places]
        if max(split for _, split, _ in places) >= len(run.splits) or not all(audit.finished for audit in audits):
            continue  # fewer seeds are asked for now than there were
        run.screen.say(f"arm {name}: attacking each member with those of other seeds")
        seeds = [
            Trained(audit, number, run.compared[split])
            for audit, (_, split, number) in zip(audits, places, strict=True)
        ]
        table.loc[rows, list(COLUMNS)] = pd.DataFrame(attack_arm(seeds), index=rows)
        write_table(run.folder.folder / ARMS, table)


def _write_models(run: StudyRun) -> None:
    """Write the model configs of the arms that have one of their own."""
    for name, arm in run.arms.items():
        path = run.folder.models / f"{name}.json"
        if arm.model and not (path.is_file() and read_json(path) == arm.model):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, dict(arm.model))


def _ranked(run: StudyRun, number: int) -> Drawn:
    """Finish the audit that ranks the pairs of a split, and return the split with its scores."""
    split = run.splits[number]
    audit, config = run.folder.audit(RANKING, number), split.context.ranking
    if audit.begun:
        check_same(audit, run.source, config)
    else:
        membership = draw_membership(split.data_set.clusters, config)
        write_audit(audit, run.source, config, split.data_set, split.data_set.pairs, membership, seconds=0.0)
    if not audit.finished:
        run.screen.say("the audit that ranks the pairs")
        bring_to_end(audit, run.screen, fresh=False, executor=run.executor)
    return dataclasses.replace(split, scores=audit.scores)


def _read_anew(run: StudyRun) -> None:
    """Make the rows that are there once more, from members that are there, where other pairs are compared than did."""
    done = [(name, number) for name, number in run.folder.done() if name in run.arms]
    if not done:
        return
    run.screen.say(f"other pairs are compared now: reading {len(done)} rows anew")
    found = [_rows(run, name, number) for name, number in done]
    if any(after for _, after in found):
        run.folder.write_rows(TIMES, [row for _, after in found for row in after])
    run.folder.write_rows(ARMS, [row for row, _ in found])


def _rows(run: StudyRun, name: str, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the row of an arm and seed, and those after each epoch that was kept."""
    split, number = run.place(seed)
    audit, compared = _bring_arm(run, name, seed), run.compared[split]
    place = {SEED: seed} | ({SPLIT: split} if run.seeds_per_split else {})
    after = times(audit, number, compared, place) if run.snapshots_of(name) else []
    row = point(audit, number, run.arms[name].row(run.changes[split][name]), compared, place)
    return row | (by_rarity(audit, (f"f-{number}", f"g-{number}")) if run.plan.by_rarity else {}), after


def _bring_arm(run: StudyRun, name: str, seed: int) -> Audit:
    """Bring an arm's audit to where it has this seed; members that another study has trained are taken over."""
    split, number = run.place(seed)
    audit = _begun_arm(run, name, split, seeds=number + 1)
    members = audit.record.members
    if not audit.finished:
        for member in members:
            shared.take(audit, member, say=run.screen.say)
    # Neither heads nor a look at what is trained already are worth the start of a process.
    trained = all((audit.member(member) / CHECKPOINT).is_file() for member in members)
    here = trained or (run.executor is None and settings.shares_process(run.config))
    executor = in_this_process if here else run.executor
    bring_to_end(audit, run.screen, fresh=False, executor=executor)
    for member in members:
        shared.give(audit, member)
    return audit


def _train_ahead(run: StudyRun, executor: Executor) -> None:
    """Train the members of all arms and seeds that are left side by side; each arm then finds its own trained.

    One arm has too few for a cluster. Of members that arms share one is trained, and the others take it over.
    """
    seeds: dict[tuple[str, int], int] = {}
    for name, seed in run.left:
        split, number = run.place(seed)
        seeds[name, split] = max(number + 1, seeds.get((name, split), 0))
    tasks, known = [], set[str]()
    for (name, split), count in seeds.items():
        audit = _begun_arm(run, name, split, seeds=count)
        ensure_pixels(audit, run.screen)
        ensure_features(audit, audit.record, run.screen, executor)
        own = []
        for member in audit.record.members:
            shared.take(audit, member, say=run.screen.say)
            training = next(iter(shared.parts(audit, member)))
            if training not in known and not (audit.member(member) / CHECKPOINT).is_file():
                own.append(member)
            known.add(training)
        blocks = int(settings.shares_process(run.config))
        tasks += member_tasks(audit, own, threads=audit.record.threads, blocks=blocks)
    if tasks:
        run.screen.say(f"training {sum(len(task.names) for task in tasks)} members of {len(seeds)} arms")
        run_member_tasks(tasks, executor, lambda: None)


def _begun_arm(run: StudyRun, name: str, split: int, *, seeds: int) -> Audit:
    """Return an arm's audit of a split, with so many seeds or more."""
    audit = run.folder.audit(name, split)
    if not audit.begun:
        _begin_arm(run, audit, seeds, split)
        return audit
    # A row may be gone while its members are there: never ask for fewer seeds than it has.
    config = run.config_of(name, max(seeds, len(audit.record.members) // 2), split)
    check_same(audit, run.source, config)
    grow(audit, config)
    return audit


def _begin_arm(run: StudyRun, audit: Audit, seeds: int, split: int) -> None:
    config, data_set = run.config_of(audit.name, seeds, split), run.splits[split].data_set
    membership = draw_membership(data_set.clusters, config)
    pairs, new = data_set.pairs.copy(), run.changes[split][audit.name].recaptioned
    removed = data_set.pairs[c.PAIR_ID].isin(run.changes[split][audit.name].removed).to_numpy()
    # Utility is measured on external pairs: they keep their captions.
    ids = pairs[c.PAIR_ID].where(membership.group != c.EXTERNAL, "")
    pairs[c.CAPTIONS] = [list(new.get(id_, own)) for id_, own in zip(ids, pairs[c.CAPTIONS], strict=True)]
    write_audit(
        audit,
        run.source,
        config,
        dataclasses.replace(data_set, pairs=pairs),
        pairs,
        leave_out(membership, removed),
        seconds=0.0,
        snapshots=run.snapshots_of(audit.name),
    )
