"""Trains members of an audit again with mitigations, two at a time, measures them, and serves open
pages; runs a study: an audit of each split of the pairs, whose members train again with each arm.
The same call resumes."""

import functools
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from clipmem_core import columns as c
from clipmem_core.audit import settings
from clipmem_core.audit.executor import Executor, Task, local_processes
from clipmem_core.audit.member import (
    MemberRun,
    Shared,
    cached_tokens,
    caption_texts,
    clear_leftovers,
    open_member,
    open_shared,
    trained_model,
    utility,
    write_embeddings,
)
from clipmem_core.audit.pipeline import Run, Screen, ensure_features, ensure_pixels, finish_audit
from clipmem_core.audit.prepare import (
    draw_membership,
    inject,
    load_data_set,
    with_features,
)
from clipmem_core.audit.settings import shares_process, side_by_side
from clipmem_core.audit.setup import write_audit
from clipmem_core.audit.store import (
    IMAGE_EMBEDDINGS,
    MITIGATIONS,
    Audit,
    acquire_lock,
    open_embeddings,
    read_embeddings,
    write_json,
)
from clipmem_core.config import AuditConfig, as_dict, ineffective_fields
from clipmem_core.dataset.sentences import sentences_of
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.io import InputError
from clipmem_core.lab import mitigated
from clipmem_core.lab.arm import (
    BASELINE,
    DECISIONS,
    REMOVAL,
    Arm,
    PairChanges,
    find_study,
    parse_arm,
    without_idle,
)
from clipmem_core.lab.mitigated import NO_RANKING, Couple, begin
from clipmem_core.lab.results import STUDY, StudyFolder, check_same
from clipmem_core.ragged import Ragged
from clipmem_core.review.decisions import decided_of
from clipmem_core.training.names import CHECKPOINT, TRAJECTORY

_EMBEDDINGS = ".embeddings"  # of a member until its couple is measured


class Lab:
    """The data of an audit's members in memory, ready to train them again."""

    def __init__(self, folder: Path) -> None:
        self.audit = Audit(folder)
        self.baseline = open_shared(folder)
        self.record = self.baseline.record
        self.couples = mitigated.couples(self.record.members)
        self.changed = functools.lru_cache(maxsize=2)(
            functools.partial(with_setting, self.baseline)
        )
        torch.set_num_threads(self.record.threads)

    def train(self, arm: str, couple: Couple) -> None:
        """Train and measure a couple unless it is finished."""
        folder = mitigated.arm_folder(self.audit, arm)
        try:
            with mitigated.couple_lock(folder, couple):
                if mitigated.is_measured(folder, couple):
                    return
                train_couple(self.changed(arm), arm, couple)
        except FileNotFoundError:
            if arm == BASELINE or (folder / mitigated.SETTING).is_file():
                raise
            return  # somebody removed the arm


def with_setting(shared: Shared, name: str) -> Shared:
    """Return the data of an audit's members as an arm changes them."""
    arm = mitigated.read_arm(shared.audit, name)
    changes = mitigated.read_changes(shared.audit, name)
    members = list(shared.record.members)
    membership = shared.membership.copy()
    membership[members] = membership[members].to_numpy() & ~changes.removed[:, None]
    config = replace(shared.config, **arm.fields)
    shared = replace(shared, config=config, membership=membership)
    return _with_captions(shared, changes) if changes.captions else shared


def _with_captions(shared: Shared, changes: PairChanges) -> Shared:
    """Replace the captions of some pairs, and their tokens or features."""
    captions = [
        list(changes.captions.get(row, texts)) for row, texts in enumerate(shared.pairs[c.CAPTIONS])
    ]
    pairs = shared.pairs.assign(**{c.CAPTIONS: pd.Series(captions)})
    if shared.record.sentences:
        captions = list(map(sentences_of, captions))
        pairs[c.SENTENCES] = captions
    features = shared.features
    tower = shared.towers.text
    if tower:
        tokens: Any = FeatureExtractor(tower).captions(caption_texts(pairs))
        features = replace(features, text=tokens)
    else:
        tokens = cached_tokens(shared.config.model, pairs)
    data = replace(shared.data, tokens=tokens, captions=Ragged.of_lists(captions))
    return replace(shared, pairs=pairs, features=features, data=data)


def train_couple(shared: Shared, arm: str, couple: Couple) -> None:
    """Train two members of an arm and measure them; those of the baseline are only measured."""
    audit = shared.audit
    if arm == BASELINE:
        mitigated.measure_baseline(audit, couple)
        return
    folders = [mitigated.arm_folder(audit, arm) / name for name in couple]
    embedded = []
    measures = []
    for name, folder in zip(couple, folders, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        measures.append(_train(open_member(audit.folder, name, shared, folder)))
        embedded.append(read_embeddings(folder / _EMBEDDINGS))
    mitigated.write_measures(audit, arm, couple, embedded, measures)
    for folder in folders:
        shutil.rmtree(folder / _EMBEDDINGS, ignore_errors=True)
        for leftover in (CHECKPOINT, TRAJECTORY):
            (folder / leftover).unlink(missing_ok=True)


def _train(run: MemberRun) -> dict[str, float]:
    """Train and embed a member, and return its utility."""
    clear_leftovers(run.folder)
    model = trained_model(run)
    write_embeddings(run, model, run.folder / _EMBEDDINGS)
    return utility(run, model, open_embeddings(run.folder / _EMBEDDINGS / IMAGE_EMBEDDINGS))


def train_members(folder: Path, names: Sequence[str]) -> None:
    """Train couples of arms, each named `arm/member` by its first member. The work of a task."""
    trainer = Lab(folder)
    partners = dict(trainer.couples)
    for name in names:
        arm, _, first = name.partition("/")
        trainer.train(arm, (first, partners[first]))


def run_arms(
    audit: Audit,
    arms: Sequence[str],
    screen: Screen,
    *,
    executor: Executor | None = None,
    n_members: int = 0,
) -> None:
    """Train the first `n_members` (0: all) members of arms that were begun, and measure the
    baseline's."""
    config = audit.record.config
    members = audit.record.members
    couples = mitigated.couples(members[: n_members or len(members)])
    finished = {arm: mitigated.finished_members(audit, arm) for arm in (BASELINE, *arms)}
    missing = [
        f"{arm}/{first}" for first, _ in couples for arm in finished if first not in finished[arm]
    ]
    if missing:
        ensure_pixels(audit, screen)
        ensure_features(audit, screen, executor)
        at_once = side_by_side(config)
        blocks = min(len(missing), at_once) if shares_process(config) else len(missing)
        tasks = []
        for names in (missing[block::blocks] for block in range(blocks)):
            folders = tuple(audit.folder / MITIGATIONS / name for name in names)
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)  # for the error output of its task
            threads = audit.record.threads
            noun = "training of member"
            tasks.append(Task(folders, train_members, audit.folder, tuple(names), threads, noun))
        run = executor or functools.partial(local_processes, at_once=at_once)
        total = 2 * len(couples) * len(arms)
        shown = -1
        for _ in run(tasks):
            done = sum(len(mitigated.finished_members(audit, arm)) for arm in arms)
            if done != shown:
                screen.say(f"{done} of {total} members finished")
                shown = done


def run_study(
    study: str,
    source: str,
    config: AuditConfig,
    *,
    name: str,
    screen: Screen,
    splits: int = 5,
    also: Sequence[Arm] = (),
    executor: Executor | None = None,
) -> StudyFolder:
    """Run a study of plan.STUDIES, or continue it, until every arm is trained on every split.

    `also` adds arms to the plan's.
    """
    plan = find_study(study)
    folder = StudyFolder.of(name)
    if splits < 1:
        raise InputError(f"--splits must be at least 1, not {splits}: intervals need 3")
    with acquire_lock(folder.folder, what="study"):
        requested = settings.resolve(with_features(source, config))
        if folder.begun:
            request = folder.request
            check_same(folder, request, source, requested)
            if request["study"] != study:
                raise InputError(
                    f"study {name!r} is a study {request['study']}, not {study}. Use another --name"
                )
            screen.say(f"resuming study {name!r}")
        else:
            screen.say(f"reading {source}")
        load = functools.cache(
            lambda: load_data_set(source, requested, progress=screen.pictures, say=screen.say)
        )
        first = folder.audit(0)
        pairs = first.pairs if first.begun else load().pairs
        fingerprint = first.record.dataset_fingerprint if first.begun else load().fingerprint
        most = int(pairs[c.CAPTIONS].map(len).max())
        config = requested
        if plan.one_caption and most > 1:
            config = replace(config, train_captions=1)
        if any(DECISIONS in arm.overrides for arm in also):
            columns = pa.Table.from_pandas(pairs[[c.PAIR_ID, c.CAPTIONS]], preserve_index=False)
            decided = decided_of(fingerprint, columns)
            also = [
                replace(arm, decided=decided) if DECISIONS in arm.overrides else arm for arm in also
            ]
        planned = [parse_arm(text) for text in plan.arms(config, most)]
        arms = _arms(planned, config, also, screen)
        folder.folder.mkdir(parents=True, exist_ok=True)
        request = {
            "study": study,
            "source": source,
            "config": as_dict(requested),
            "splits": splits,
            "arms": {arm.name: arm.title for arm in arms},
            "machine": settings.machine(),
        }
        write_json(folder.folder / STUDY, request)
        replicates = config.seeds if config.protocol == "paper" else config.members // config.folds
        for split in range(splits):
            screen.say(f"split {split + 1} of {splits}: {len(arms)} arms")
            audit = folder.audit(split)
            seeded = replace(config, seed=config.seed + split * replicates)
            if not audit.begun:
                data_set = load()
                membership = draw_membership(data_set.groups, seeded)
                injected = inject(data_set.pairs, membership, seeded)
                write_audit(audit, source, seeded, data_set, injected, membership)
            if not audit.finished:
                finish_audit(Run(audit, screen, executor=executor, predicts_words=False))
            run_arms(audit, [begin(audit, arm).name for arm in arms], screen, executor=executor)
            folder.write_rows(split + 1)
    return folder


def _arms(
    planned: Sequence[Arm], config: AuditConfig, also: Sequence[Arm], screen: Screen
) -> list[Arm]:
    """Return the planned arms that can act on a config, and those of `also`; refuse one that cannot
    run."""
    idle = set(ineffective_fields(config)) | ({REMOVAL} if config.protocol == "paper" else set())
    if out := [arm.text for arm in planned if idle & set(arm.overrides)]:
        screen.say(f"skipped, since they have no effect on this audit: {', '.join(out)}")
    arms = [arm for arm in planned if not idle & set(arm.overrides)]
    arms = [without_idle(arm, config) for arm in (*arms, *also)]
    if not arms:
        raise InputError("no arm of the study can act on this config: add --also")
    for arm in arms:
        settings.check_config(replace(config, **arm.fields))
        if arm.removal and config.protocol == "paper":
            raise InputError(f"{arm.text}: {NO_RANKING}")
        if DECISIONS in arm.overrides and not arm.decided:
            raise InputError(f"{arm.text}: no pair of this data set is decided: decide first")
    return list({arm.name: arm for arm in arms}.values())
