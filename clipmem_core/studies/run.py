"""Runs a study: an audit of each split of the pairs, whose members train again with each arm. The
same call resumes."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import pyarrow as pa

from clipmem_core import columns as c
from clipmem_core.audit import settings
from clipmem_core.audit.executor import Executor
from clipmem_core.audit.pipeline import Run, Screen, finish_audit
from clipmem_core.audit.prepare import (
    draw_membership,
    inject,
    load_data_set,
    with_features,
)
from clipmem_core.audit.setup import write_audit
from clipmem_core.audit.store import acquire_lock, write_json
from clipmem_core.config import AuditConfig, as_dict, ineffective_fields
from clipmem_core.io import InputError
from clipmem_core.studies.arm import (
    DECISIONS,
    REMOVAL,
    Arm,
    Decided,
    find_study,
    parse_arm,
    without_idle,
)
from clipmem_core.studies.lab import NO_RANKING, begin
from clipmem_core.studies.lab_training import run_arms
from clipmem_core.studies.results import STUDY, StudyFolder, check_same, study_folder

ReadDecisions = Callable[[str, pa.Table], Decided]


def run_study(
    study: str,
    source: str,
    config: AuditConfig,
    *,
    name: str,
    screen: Screen,
    splits: int = 5,
    also: Sequence[Arm] = (),
    decisions: ReadDecisions = lambda *_: Decided(),
    executor: Executor | None = None,
) -> StudyFolder:
    """Run a study of plan.STUDIES, or continue it, until every arm is trained on every split.

    `also` adds arms to the plan's. `decisions` returns the decisions on a data set from its
    fingerprint and its pairs.
    """
    plan = find_study(study)
    folder = study_folder(name)
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
            config = dataclasses.replace(config, train_captions=1)
        if any(DECISIONS in arm.overrides for arm in also):
            columns = pa.Table.from_pandas(pairs[[c.PAIR_ID, c.CAPTIONS]], preserve_index=False)
            decided = decisions(fingerprint, columns)
            also = [
                dataclasses.replace(arm, decided=decided) if DECISIONS in arm.overrides else arm
                for arm in also
            ]
        arms = _arms(study, config, most, also, screen)
        folder.folder.mkdir(parents=True, exist_ok=True)
        request = {
            "study": study,
            "source": source,
            "config": as_dict(requested),
            "splits": splits,
            "also": [arm.text for arm in also],
            "arms": {arm.name: arm.title for arm in arms},
            "dataset_fingerprint": fingerprint,
            "machine": settings.machine(),
        }
        write_json(folder.folder / STUDY, request)
        replicates = config.seeds if config.protocol == "paper" else config.members // config.folds
        for split in range(splits):
            screen.say(f"split {split + 1} of {splits}: {len(arms)} arms")
            audit = folder.audit(split)
            seeded = dataclasses.replace(config, seed=config.seed + split * replicates)
            if not audit.begun:
                data_set = load()
                membership = draw_membership(data_set.clusters, seeded)
                injected = inject(data_set.pairs, membership, seeded)
                write_audit(audit, source, seeded, data_set, injected, membership)
            if not audit.finished:
                finish_audit(Run(audit, screen, executor=executor, predicts_words=False))
            run_arms(audit, [begin(audit, arm).name for arm in arms], screen, executor=executor)
            folder.write_rows(split + 1)
    return folder


def _arms(
    study: str, config: AuditConfig, most: int, also: Sequence[Arm], screen: Screen
) -> list[Arm]:
    """Return the arms of a plan that can act on a config, and those of `also`; refuse one that
    cannot run."""
    idle = set(ineffective_fields(config)) | ({REMOVAL} if config.protocol == "paper" else set())
    planned = [parse_arm(text) for text in find_study(study).arms(config, most)]
    if out := [arm.text for arm in planned if idle & set(arm.overrides)]:
        screen.say(f"skipped, since they have no effect on this audit: {', '.join(out)}")
    arms = [arm for arm in planned if not idle & set(arm.overrides)]
    arms = [without_idle(arm, config) for arm in (*arms, *also)]
    if not arms:
        raise InputError(
            f"study {study} has no arm that can act on this config: add --also, or other settings"
        )
    for arm in arms:
        settings.check_config(dataclasses.replace(config, **arm.fields))
        if arm.removal and config.protocol == "paper":
            raise InputError(f"{arm.text}: {NO_RANKING}")
        if DECISIONS in arm.overrides and not arm.decided:
            raise InputError(f"{arm.text}: no pair of this data set is decided: decide first")
    return list({arm.name: arm for arm in arms}.values())
