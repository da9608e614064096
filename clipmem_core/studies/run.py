"""Run a study from a data set to its tables: audits over arms × splits × seeds. The same call resumes it."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clipmem_core import columns as c
from clipmem_core.audit import settings
from clipmem_core.audit.executor import Executor, in_this_process, member_tasks, run_member_tasks
from clipmem_core.audit.pipeline import Progress, Screen, counts, ensure_features, ensure_pixels, finish_audit
from clipmem_core.audit.prepare import DataSet, draw_membership, inject, load_data_set, with_features
from clipmem_core.audit.setup import check_same, differing_fields, grow, write_audit
from clipmem_core.audit.status import TIME_LEFT, seconds_left
from clipmem_core.audit.store import Audit, acquire_lock, write_table
from clipmem_core.config import AuditConfig, InputError, as_dict, fingerprint, ineffective_fields
from clipmem_core.studies.arm import DECISIONS, NONE, Arm, Decided, Split, normal
from clipmem_core.studies.measure import ATTACKED, arms_to_attack, attack_arm, measure
from clipmem_core.studies.plan import add_arms, find_study, read_added
from clipmem_core.studies.study_folder import ARM, ARMS, RANKING, SEED, SPLIT, StudyFolder, study_folder
from clipmem_core.training.names import CHECKPOINT

Decisions = Callable[[str, pa.Table], Decided]


@dataclass(eq=False)
class StudyRun:
    """A running study."""

    study: str  # its name in plan.STUDIES
    source: str
    folder: StudyFolder
    planned: Sequence[Arm]
    dataset_fingerprint: str  # before errors are injected
    config: AuditConfig  # resolved, with all seeds
    data_sets: Sequence[DataSet]  # of each split, with its injected errors
    splits: list[Split]
    seeds_per_split: int  # 0: all seeds share one split
    screen: Screen
    only: frozenset[str] = frozenset()  # names of the arms to train; empty means all
    executor: Executor | None = None  # runs members side by side; None: this machine, one arm at a time
    added: Sequence[Arm] = ()
    changes: list[dict[str, Decided]] = field(default_factory=list)  # the pairs that each arm changes, by split
    # All pairs except candidates and independent pairs that an arm changes, by split, bool [n_pairs]. Shared pairs may
    # change, since memorization is not measured on them.
    compared: list[np.ndarray] = field(default_factory=list)

    @property
    def arms(self) -> dict[str, Arm]:
        """All arms by their names, those of the plan first."""
        return {arm.name: arm for arm in (*self.planned, *self.added)}

    @property
    def pending(self) -> list[tuple[str, int]]:
        """The arms and seeds to train, seed by seed over the arms."""
        done, named = self.folder.done(), self.only | {NONE}
        arms = [name for name in self.arms if not self.only or name in named]
        return [(arm, seed) for seed in range(self.config.seeds) for arm in arms if (arm, seed) not in done]

    def place(self, seed: int) -> tuple[int, int]:
        """Return the split of a seed of the study, and its number among the seeds of that split."""
        return divmod(seed, self.seeds_per_split) if self.seeds_per_split else (0, seed)

    def config_of(self, arm: str, seeds: int, split: int = 0) -> AuditConfig:
        """Return the config of an arm's audit of a split."""
        config = self.splits[split].config_of(self.arms[arm])
        return dataclasses.replace(config, seeds=seeds, members=2 * seeds)


def run_study(
    study: str,
    source: str,
    config: AuditConfig,
    *,
    name: str,
    screen: Screen,
    also: Sequence[Arm] = (),
    only: Sequence[str] = (),
    seeds_per_split: int = 0,
    decisions: Decisions = lambda *_: Decided(),
    executor: Executor | None = None,
) -> StudyFolder:
    """Run a study of plan.STUDIES, or continue it, until every arm and seed to train has its row.

    `also` adds arms to the plan's, `only` are trained, with the reference arm, and `seeds_per_split` seeds share a
    split (0: all). `decisions` returns the decisions on a data set from its fingerprint and its pairs.
    """
    find_study(study)
    folder = study_folder(name)
    if config.protocol != "paper":
        raise InputError(f"a study runs --protocol paper, not {config.protocol}")
    if seeds_per_split < 0 or (seeds_per_split and config.seeds % seeds_per_split):
        raise InputError(f"--seeds must be a multiple of --seeds-per-split ({seeds_per_split}), not {config.seeds}")
    with acquire_lock(folder.folder, what="study"):
        run = start(study, source, settings.resolve(with_features(source, config)), folder, screen, seeds_per_split)
        run.only, run.executor = frozenset(only), executor
        if any(arm.overrides.get(DECISIONS) for arm in also):
            pairs = pa.Table.from_pandas(run.splits[0].pairs[[c.PAIR_ID, c.CAPTIONS]], preserve_index=False)
            decided = decisions(run.dataset_fingerprint, pairs)
            also = [dataclasses.replace(arm, decided=decided) for arm in also]  # has an effect only with `decisions`
        add_arms(folder, run.splits[0], also)
        run.added = read_added(folder)
        if unknown := sorted(run.only.difference(run.arms)):
            raise InputError(f"study {study} has no arm {unknown[0]!r} for --only: choose from {', '.join(run.arms)}")
        _train(run)
        # Arms added from the dashboard in the meantime.
        while len(read_added(folder)) > len(run.added):
            run.added = read_added(folder)
            _train(run)
    return folder


def start(
    study: str, source: str, config: AuditConfig, folder: StudyFolder, screen: Screen, seeds_per_split: int
) -> StudyRun:
    """Read the data set, draw the splits, and check every arm; nothing is written."""
    screen.say(f"reading {source}")
    data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
    if folder.begun:
        request = folder.request
        differ = differing_fields(request["source"], settings.config_from(request["config"]), source, config)
        for what, now in (("study", study), ("seeds_per_split", seeds_per_split)):
            if request[what] != now:
                differ.insert(0, f"{what} is {request[what]!r} there and {now!r} here")
        if differ:
            raise InputError(f"study {folder.name!r} has another config: {'; '.join(differ)}. Use another --name")
    # Finished rows may have more seeds than requested.
    seeds = max([config.seeds, *(seed + 1 for _, seed in folder.done())])
    plan, idle = find_study(study), set(ineffective_fields(config))
    data_sets, splits = list[DataSet](), list[Split]()
    for number in range(math.ceil(seeds / seeds_per_split) if seeds_per_split else 1):
        split_config = dataclasses.replace(config, seed=config.seed + number * seeds_per_split)
        membership = draw_membership(data_set.clusters, split_config)
        pairs = inject(data_set.pairs, membership, split_config)
        data_sets.append(dataclasses.replace(data_set, pairs=pairs))
        if not number:
            screen.say(counts(data_sets[0], membership))
            arms = plan.arms(config, pairs.assign(**{c.GROUP: membership.group}))
            if out := [arm.name for arm in arms if idle & set(arm.overrides)]:
                screen.say(f"skipped, since they have no effect if a tower is locked: {', '.join(out)}")
                arms = [arm for arm in arms if arm.name not in out]
            none = next(arm for arm in arms if arm.name == NONE)
            texts = {arm.name: normal(arm, dataclasses.replace(config, **none.fields)).text for arm in arms}
        splits.append(Split(split_config, none, texts, pairs, membership.group, data_set.clusters))
    for arm in arms:
        settings.check_config(splits[0].config_of(arm))
    return StudyRun(
        study, source, folder, arms, data_set.fingerprint, config, data_sets, splits, seeds_per_split, screen
    )


def _train(run: StudyRun) -> None:
    """Train every pending arm and seed, and write its row."""
    _find_changes(run)
    if any(arm.removal for arm in run.arms.values()):
        if not run.folder.begun:
            run.folder.write_request(_request_of(run))
        run.splits = [
            dataclasses.replace(split, scores=_rank(run, number).scores) for number, split in enumerate(run.splits)
        ]
        _find_changes(run)
    request = _request_of(run)
    before = run.folder.request["compared"] if run.folder.begun else []
    if any(then != now for then, now in zip(before, request["compared"], strict=False)):
        _remeasure(run)
    run.folder.write_request(request)
    pending = run.pending
    run.screen.say(f"{len({arm for arm, _ in pending})} arms, {len(pending)} f and g to train")
    if run.executor is not None:
        _train_side_by_side(run, run.executor)
    begun = time.monotonic()
    for place, (name, seed) in enumerate(pending):
        seconds = seconds_left(time.monotonic() - begun, place, len(pending))
        rest = f", {TIME_LEFT} {math.ceil(seconds / 60):,} min" if math.isfinite(seconds) else ""
        run.screen.say(f"arm {name}, seed {seed}: {place + 1} of {len(pending)}{rest}")
        run.folder.add(_row(run, name, seed))
    _attack(run)


def _find_changes(run: StudyRun) -> None:
    """Update the pairs that each arm changes, and the compared pairs, of each split."""
    run.changes = [{name: split.changes(arm) for name, arm in run.arms.items()} for split in run.splits]
    run.compared = []
    for split, changes in zip(run.splits, run.changes, strict=True):
        changed = frozenset[str]().union(*(changed_pairs.ids for changed_pairs in changes.values()))
        scored = np.isin(split.group, c.SCORED_GROUPS)
        run.compared.append(~(scored & split.pairs[c.PAIR_ID].isin(changed).to_numpy()))


def _request_of(run: StudyRun) -> dict[str, Any]:
    return {
        "study": run.study,
        "source": run.source,
        "config": as_dict(run.config),
        "reference_fields": run.splits[0].none.fields,
        "arms": {name: arm.row(run.changes[0][name]) for name, arm in run.arms.items()},
        "settings": dict(run.splits[0].planned) | {arm.name: arm.text for arm in run.added},
        "seeds_per_split": run.seeds_per_split,
        "compared": [fingerprint(compared.tolist()) for compared in run.compared],
        "dataset_fingerprint": run.dataset_fingerprint,
        "machine": settings.machine(),
    }


def _rank(run: StudyRun, number: int) -> Audit:
    audit, split, data_set = run.folder.audit(RANKING, number), run.splits[number], run.data_sets[number]
    # Two repeats of an ensemble, in which shared pairs have a score too
    config = dataclasses.replace(split.reference, protocol="ensemble", seeds=1, members=2 * split.config.folds)
    if audit.begun:
        check_same(audit, run.source, config)
    else:
        membership = draw_membership(data_set.clusters, config)
        write_audit(audit, run.source, config, data_set, data_set.pairs, membership, seconds=0.0)
    if not audit.finished:
        run.screen.say("the audit that ranks the pairs")
        finish_audit(Progress(audit, run.screen, executor=run.executor, predicts_words=False))
    return audit


def _remeasure(run: StudyRun) -> None:
    """Recompute all rows from trained members after the compared pairs changed."""
    done = [(name, number) for name, number in run.folder.done() if name in run.arms]
    run.screen.say(f"the compared pairs changed: measuring {len(done)} rows again")
    if rows := [_row(run, name, number) for name, number in done]:
        write_table(run.folder.folder / ARMS, pd.DataFrame(rows))


def _row(run: StudyRun, name: str, seed: int) -> dict[str, Any]:
    """Train an arm's seed, if needed, and return its row."""
    split, number = run.place(seed)
    audit = _begun_arm(run, name, split, seeds=number + 1)
    # Heads train, and trained members are measured, in less time than a process takes to start.
    here = not _untrained(audit) or (run.executor is None and settings.shares_process(run.config))
    executor = in_this_process if here else run.executor
    finish_audit(Progress(audit, run.screen, executor=executor, predicts_words=False))
    place = {ARM: name, SEED: seed} | ({SPLIT: split} if run.seeds_per_split else {})
    setting = run.arms[name].row(run.changes[split][name])
    return place | setting | measure(audit, number, run.compared[split])


def _untrained(audit: Audit) -> list[str]:
    return [member for member in audit.record.members if not (audit.member(member) / CHECKPOINT).is_file()]


def _train_side_by_side(run: StudyRun, executor: Executor) -> None:
    """Train the members of all pending arms and seeds side by side: one arm has too few for a cluster."""
    seeds: dict[tuple[str, int], int] = {}
    for name, seed in run.pending:  # ascending
        split, number = run.place(seed)
        seeds[name, split] = number + 1
    tasks = []
    for (name, split), count in seeds.items():
        audit = _begun_arm(run, name, split, seeds=count)
        ensure_pixels(audit, run.screen)
        ensure_features(audit, run.screen, executor)
        blocks = int(settings.shares_process(run.config))
        tasks += member_tasks(audit, _untrained(audit), threads=audit.record.threads, blocks=blocks)
    if tasks:
        run.screen.say(f"training {sum(len(task.names) for task in tasks)} members of {len(seeds)} arms")
        run_member_tasks(tasks, executor, lambda: None)


def _begun_arm(run: StudyRun, name: str, split: int, *, seeds: int) -> Audit:
    """Return an arm's audit of a split with at least `seeds` seeds."""
    audit = run.folder.audit(name, split)
    if audit.begun:
        # Members may exist without their row: never shrink the audit.
        config = run.config_of(name, max(seeds, len(audit.record.members) // 2), split)
        check_same(audit, run.source, config)
        grow(audit, config)
        return audit
    config, data_set, changes = run.config_of(name, seeds, split), run.data_sets[split], run.changes[split][name]
    membership, pairs = draw_membership(data_set.clusters, config), data_set.pairs.copy()
    pairs[c.CAPTIONS] = [
        list(changes.recaptioned.get(id_, words))
        for id_, words in zip(pairs[c.PAIR_ID], pairs[c.CAPTIONS], strict=True)
    ]
    removed = pairs[c.PAIR_ID].isin(changes.removed).to_numpy()
    membership = dataclasses.replace(membership, trained=membership.trained & ~removed)
    data_set = dataclasses.replace(data_set, pairs=pairs)
    write_audit(audit, run.source, config, data_set, pairs, membership, seconds=0.0)
    return audit


def _attack(run: StudyRun) -> None:
    """Attack the members of each arm with those of its other seeds, if new seeds have finished."""
    table = run.folder.arms
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *ATTACKED])))
    for name in (name for name in arms_to_attack(table) if name in run.arms):
        rows = table.index[table[ARM] == name]
        places = [run.place(seed) for seed in table.loc[rows, SEED].astype(int)]
        seeds = [(run.folder.audit(name, split), number, run.compared[split]) for split, number in places]
        run.screen.say(f"arm {name}: attacking each member with those of other seeds")
        table.loc[rows, list(ATTACKED)] = pd.DataFrame(attack_arm(seeds), index=rows)
        write_table(run.folder.folder / ARMS, table)
