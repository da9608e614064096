"""Runs a study: an audit of each split of the pairs, whose members train again with each setting.
Trains the members of one audit again with settings, two at a time, and measures them. The same call
resumes."""

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
from clipmem_core.audit.settings import (
    check_config,
    machine,
    resolve,
    shares_process,
    side_by_side,
)
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
from clipmem_core.lab.mitigated import NO_RANKING, MemberPair, begin
from clipmem_core.lab.setting import (
    BASELINE,
    DECISIONS,
    REMOVAL,
    PairChanges,
    Setting,
    find_study,
    parse_setting,
    without_idle,
)
from clipmem_core.lab.study_results import STUDY, StudyFolder, check_same
from clipmem_core.ragged import Ragged
from clipmem_core.review.decisions import review_of
from clipmem_core.training.names import CHECKPOINT, TRAJECTORY

_EMBEDDINGS = ".embeddings"  # of a member until its pair of members is measured


class Lab:
    """The data of an audit's members in memory, ready to train them again."""

    def __init__(self, folder: Path) -> None:
        self.audit = Audit(folder)
        self.baseline = open_shared(folder)
        self.record = self.baseline.record
        self.member_pairs = mitigated.member_pairs(self.record.members)
        self.changed = functools.lru_cache(maxsize=2)(
            functools.partial(with_setting, self.baseline)
        )
        torch.set_num_threads(self.record.threads)

    def train(self, setting: str, member_pair: MemberPair) -> None:
        """Train and measure a pair of members unless it is finished."""
        folder = mitigated.setting_folder(self.audit, setting)
        try:
            with mitigated.member_pair_lock(folder, member_pair):
                if mitigated.is_measured(folder, member_pair):
                    return
                train_member_pair(self.changed(setting), setting, member_pair)
        except FileNotFoundError:
            if setting == BASELINE or (folder / mitigated.SETTING_FILE).is_file():
                raise
            return  # somebody removed the setting


def with_setting(shared: Shared, name: str) -> Shared:
    """Return the data of an audit's members as a setting changes them."""
    setting = mitigated.read_setting(shared.audit, name)
    changes = mitigated.read_changes(shared.audit, name)
    members = list(shared.record.members)
    membership = shared.membership.copy()
    membership[members] = membership[members].to_numpy() & ~changes.removed[:, None]
    config = replace(shared.config, **setting.fields)
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


def train_member_pair(shared: Shared, setting: str, member_pair: MemberPair) -> None:
    """Train two members of a setting and measure them; those of the baseline are only measured."""
    audit = shared.audit
    if setting == BASELINE:
        mitigated.measure_baseline(audit, member_pair)
        return
    folders = [mitigated.setting_folder(audit, setting) / name for name in member_pair]
    embedded = []
    measures = []
    for name, folder in zip(member_pair, folders, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        measures.append(_train(open_member(audit.folder, name, shared, folder)))
        embedded.append(read_embeddings(folder / _EMBEDDINGS))
    mitigated.write_measures(audit, setting, member_pair, embedded, measures)
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
    """Train pairs of members of settings, each named `setting/member` by its first member. The work
    of a task."""
    trainer = Lab(folder)
    partners = dict(trainer.member_pairs)
    for name in names:
        setting, _, first = name.partition("/")
        trainer.train(setting, (first, partners[first]))


def run_settings(
    audit: Audit,
    settings: Sequence[str],
    screen: Screen,
    *,
    executor: Executor | None = None,
) -> None:
    """Train the members of settings that were begun, and measure the baseline's."""
    config = audit.record.config
    member_pairs = mitigated.member_pairs(audit.record.members)
    finished = {
        setting: mitigated.finished_members(audit, setting) for setting in (BASELINE, *settings)
    }
    missing = [
        f"{setting}/{first}"
        for first, _ in member_pairs
        for setting in finished
        if first not in finished[setting]
    ]
    if missing:
        ensure_pixels(audit, screen)
        ensure_features(audit, screen)
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
        total = 2 * len(member_pairs) * len(settings)
        shown = -1
        for _ in run(tasks):
            done = sum(len(mitigated.finished_members(audit, setting)) for setting in settings)
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
    also: Sequence[Setting] = (),
    executor: Executor | None = None,
) -> StudyFolder:
    """Run a study of plan.STUDIES, or continue it, until every setting is trained on every split.

    `also` adds settings to the plan's.
    """
    plan = find_study(study)
    folder = StudyFolder.of(name)
    if splits < 1:
        raise InputError(f"--splits must be at least 1, not {splits}: intervals need 3")
    with acquire_lock(folder.folder, what="study"):
        requested = resolve(with_features(source, config))
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
        if any(DECISIONS in setting.overrides for setting in also):
            columns = pa.Table.from_pandas(pairs[[c.PAIR_ID, c.CAPTIONS]], preserve_index=False)
            decided = review_of(fingerprint, columns).changes()
            also = [
                replace(setting, decided=decided) if DECISIONS in setting.overrides else setting
                for setting in also
            ]
        planned = [parse_setting(text) for text in plan.settings(config, most)]
        settings = _settings(planned, config, also, screen)
        folder.folder.mkdir(parents=True, exist_ok=True)
        request = {
            "study": study,
            "source": source,
            "config": as_dict(requested),
            "splits": splits,
            "settings": {setting.name: setting.title for setting in settings},
            "machine": machine(),
        }
        write_json(folder.folder / STUDY, request)
        replicates = config.seeds if config.protocol == "paper" else config.members // config.folds
        for split in range(splits):
            screen.say(f"split {split + 1} of {splits}: {len(settings)} settings")
            audit = folder.audit(split)
            seeded = replace(config, seed=config.seed + split * replicates)
            if not audit.begun:
                data_set = load()
                membership = draw_membership(data_set.groups, seeded)
                injected = inject(data_set.pairs, membership, seeded)
                write_audit(audit, source, seeded, data_set, injected, membership)
            if not audit.finished:
                finish_audit(Run(audit, screen, executor=executor, predicts_words=False))
            run_settings(
                audit,
                [begin(audit, setting).name for setting in settings],
                screen,
                executor=executor,
            )
            folder.write_rows(split + 1)
    return folder


def _settings(
    planned: Sequence[Setting], config: AuditConfig, also: Sequence[Setting], screen: Screen
) -> list[Setting]:
    """Return the planned settings that can act on a config, and those of `also`; refuse one that
    cannot run."""
    idle = set(ineffective_fields(config)) | ({REMOVAL} if config.protocol == "paper" else set())
    if out := [setting.text for setting in planned if idle & set(setting.overrides)]:
        screen.say(f"skipped, since they have no effect on this audit: {', '.join(out)}")
    settings = [setting for setting in planned if not idle & set(setting.overrides)]
    settings = [without_idle(setting, config) for setting in (*settings, *also)]
    if not settings:
        raise InputError("no setting of the study can act on this config: add --also")
    for setting in settings:
        check_config(replace(config, **setting.fields))
        if setting.removal and config.protocol == "paper":
            raise InputError(f"{setting.text}: {NO_RANKING}")
        if DECISIONS in setting.overrides and not setting.decided:
            raise InputError(f"{setting.text}: no pair of this data set is decided: decide first")
    return list({setting.name: setting for setting in settings}.values())
