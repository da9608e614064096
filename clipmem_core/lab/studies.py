"""Runs experiments: studies of settings over splits of the pairs, and benchmarks of detectors over
injections of errors. The same call resumes.

A study audits each split, and trains the members of its audit again with each setting, two at a
time. An injection is an audit of pairs with injected errors, which is deleted once its detectors
are measured.
"""

import functools
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from clipmem_core.auditing.folder import prepare, settings
from clipmem_core.auditing.folder.setup import differing_fields, write_audit
from clipmem_core.auditing.folder.store import (
    MITIGATIONS,
    Audit,
    acquire_lock,
    read_embeddings,
    read_prepared,
    write_json,
)
from clipmem_core.auditing.run.console import RichScreen
from clipmem_core.auditing.run.executor import (
    Executor,
    Task,
    TaskEvents,
    Work,
    in_this_process,
    local_processes,
)
from clipmem_core.auditing.run.member import (
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
from clipmem_core.auditing.run.pipeline import (
    Run,
    Screen,
    ensure_features,
    ensure_pixels,
    finish_audit,
)
from clipmem_core.config import (
    FIELDS,
    AuditConfig,
    affecting,
    as_dict,
    ineffective_fields,
    switched_on,
)
from clipmem_core.dataset.injected_errors import ERROR_KINDS, inject_errors, picture_sources
from clipmem_core.dataset.pictures import Pixels
from clipmem_core.dataset.sentences import sentences_of
from clipmem_core.dataset.source import RawPairs
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.lab import mitigated
from clipmem_core.lab.benchmark import measure_injection
from clipmem_core.lab.benchmark_results import INJECTED_AUDITS, Benchmark, Injection
from clipmem_core.lab.mitigated import MemberPair, begin
from clipmem_core.lab.setting import (
    BASELINE,
    DECISIONS,
    OWN,
    REMOVAL,
    STUDIES,
    PairChanges,
    Setting,
    parse_setting,
    without_idle,
)
from clipmem_core.lab.study_results import STUDY, StudyFolder
from clipmem_core.review.decisions import review_of
from clipmem_core.training.names import CHECKPOINT, TRAJECTORY
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError
from clipmem_core.utils.ragged import Ragged

_EMBEDDINGS = ".embeddings"  # of a member until its pair of members is measured


# --- Members that train again with a setting


class Lab:
    """The data of an audit's members in memory, ready to train them again."""

    def __init__(self, folder: Path) -> None:
        self.audit = Audit(folder)
        self.baseline = open_shared(folder)
        self.changed = functools.lru_cache(maxsize=2)(
            functools.partial(with_setting, self.baseline)
        )
        torch.set_num_threads(self.baseline.record.threads)

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
    if shared.towers.text:
        tokens: Any = FeatureExtractor(shared.towers.text).captions(caption_texts(pairs))
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
        clear_leftovers(folder)
        run = open_member(audit.folder, name, shared, folder)
        model = trained_model(run)
        write_embeddings(run, model, folder / _EMBEDDINGS)
        embedded.append(read_embeddings(folder / _EMBEDDINGS))
        measures.append(utility(run, model, embedded[-1][0]))
    mitigated.write_measures(audit, setting, member_pair, embedded, measures)
    for folder in folders:
        shutil.rmtree(folder / _EMBEDDINGS, ignore_errors=True)
        for leftover in (CHECKPOINT, TRAJECTORY):
            (folder / leftover).unlink(missing_ok=True)


def train_members(folder: Path, names: Sequence[str]) -> None:
    """Train pairs of members of settings, each named `setting/member` by its first member. The work
    of a task."""
    lab = Lab(folder)
    partners = dict(mitigated.member_pairs(lab.baseline.record.members))
    for name in names:
        setting, _, first = name.partition("/")
        lab.train(setting, (first, partners[first]))


def _run_tasks(
    run: Run, work: Work, parent: str, blocks: Sequence[Sequence[str]], noun: str
) -> TaskEvents:
    """Run tasks on an audit, one a block of names; each name has a folder in the folder `parent`,
    for the error output of its task."""
    audit = run.audit
    ensure_pixels(audit, run.screen)
    ensure_features(audit, run.screen)
    tasks = []
    for names in blocks:
        folders = tuple(audit.folder / parent / name for name in names)
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        tasks.append(Task(folders, work, audit.folder, tuple(names), audit.record.threads, noun))
    at_once = settings.side_by_side(audit.record.config)
    execute = run.executor or functools.partial(local_processes, at_once=at_once)
    with closing(execute(tasks)) as events:
        yield from events


def run_settings(run: Run, names: Sequence[str]) -> None:
    """Train the members of an audit with settings that were begun, and measure the baseline's."""
    audit = run.audit
    config = audit.record.config
    finished = {name: mitigated.finished_members(audit, name) for name in (BASELINE, *names)}
    member_pairs = mitigated.member_pairs(audit.record.members)
    missing = [
        f"{name}/{first}"
        for first, _ in member_pairs
        for name in finished
        if first not in finished[name]
    ]
    if not missing:
        return
    blocks = len(missing)
    if settings.shares_process(config):
        blocks = min(blocks, settings.side_by_side(config))
    total = 2 * len(member_pairs) * len(names)
    shown = -1
    for _ in _run_tasks(
        run,
        train_members,
        MITIGATIONS,
        [missing[block::blocks] for block in range(blocks)],
        "training of member",
    ):
        done = sum(len(mitigated.finished_members(audit, name)) for name in names)
        if done != shown:
            run.screen.say(f"{done} of {total} members finished")
            shown = done


# --- Experiments


@dataclass(frozen=True)
class Request:
    """The experiment that a person requests."""

    source: str
    config: AuditConfig
    name: str
    screen: Screen
    executor: Executor | None = None  # by default processes of this machine

    def load(self) -> prepare.DataSet:
        """Read the data set."""
        screen = self.screen
        return prepare.load_data_set(
            self.source, self.config, progress=screen.pictures, say=screen.say
        )


def _check_same(experiment: StudyFolder | Benchmark, request: Request) -> None:
    """Refuse to resume an experiment with another source or config; unlike an audit, none gets more
    members."""
    if not experiment.begun:
        request.screen.say(f"reading {request.source}")
        return
    before = experiment.request
    now = request.source, request.config
    if differ := differing_fields(before["source"], before["config"], *now, may_differ=affecting()):
        raise InputError(
            f"{experiment.KIND} {request.name!r} exists with another config: {'; '.join(differ)}. "
            "Use another --name"
        )
    request.screen.say(f"resuming {experiment.KIND} {request.name!r}")


def _write_split(audit: Audit, source: str, config: AuditConfig, data_set: prepare.DataSet) -> None:
    """Draw the split of a config, and write its audit."""
    membership = prepare.draw_membership(data_set.groups, config)
    pairs = prepare.inject(data_set.pairs, membership, config)
    write_audit(audit, source, config, data_set, pairs, membership)


def run_study(
    request: Request, study: str, *, splits: int, also: Sequence[Setting] = ()
) -> StudyFolder:
    """Run a study of `STUDIES`, or continue it, until every setting is trained on every split.

    `also` adds settings to the study's.
    """
    folder = StudyFolder.of(request.name)
    if study not in STUDIES:
        raise InputError(f"study {study!r} is unknown: choose one of {', '.join(STUDIES)}")
    if splits < 1:
        raise InputError(f"--splits must be at least 1, not {splits}: intervals need 3")
    config = settings.resolve(prepare.with_features(request.source, request.config))
    request = replace(request, config=config)
    load = functools.cache(request.load)
    with acquire_lock(folder.folder, what=folder.KIND):
        _check_same(folder, request)
        if folder.begun and (other := folder.request["study"]) != study:
            raise InputError(
                f"study {request.name!r} is a study {other}, not {study}. Use another --name"
            )
        first = folder.audit(0)
        pairs = first.pairs if first.begun else load().pairs
        key = first.record.dataset_fingerprint if first.begun else load().fingerprint
        config, chosen = _plan(request, study, also, pairs, key)
        folder.folder.mkdir(parents=True, exist_ok=True)
        stored = {
            "study": study,
            "source": request.source,
            "config": as_dict(request.config),
            "splits": splits,
            "settings": {name: setting.title for name, setting in chosen.items()},
            "machine": settings.machine(),
        }
        write_json(folder.folder / STUDY, stored)
        replicates = config.seeds if config.protocol == "paper" else config.members // config.folds
        for split in range(splits):
            request.screen.say(f"split {split + 1} of {splits}: {len(chosen)} settings")
            audit = folder.audit(split)
            if not audit.begun:
                seeded = replace(config, seed=config.seed + split * replicates)
                _write_split(audit, request.source, seeded, load())
            run = Run(audit, request.screen, executor=request.executor, predicts_words=False)
            if not audit.finished:
                finish_audit(run)
            run_settings(run, [begin(audit, setting).name for setting in chosen.values()])
            folder.write_rows(split + 1)
    return folder


def _plan(
    request: Request,
    study: str,
    also: Sequence[Setting],
    pairs: pd.DataFrame,
    fingerprint: str,
) -> tuple[AuditConfig, dict[str, Setting]]:
    """Return the config of a study's audits, and its settings and those of `also` that can act on
    it, by name; refuse one that cannot run. `fingerprint` is that of the data set."""
    config = request.config
    most = int(pairs[c.CAPTIONS].map(len).max())
    if study != OWN and most > 1:
        config = replace(config, train_captions=1)
    idle = {*ineffective_fields(config), *([REMOVAL] if config.protocol == "paper" else [])}
    planned = [*map(parse_setting, STUDIES[study](config, most)), *also]
    if skipped := [setting.text for setting in planned if idle & set(setting.overrides)]:
        request.screen.say(
            f"skipped, since they have no effect on this audit: {', '.join(skipped)}"
        )
    chosen = {}
    for setting in planned:
        if setting.text in skipped:
            continue
        setting = without_idle(setting, config)
        settings.check_config(replace(config, **setting.fields))
        if DECISIONS in setting.overrides:
            columns = pa.Table.from_pandas(pairs[[c.PAIR_ID, c.CAPTIONS]], preserve_index=False)
            setting = replace(setting, decided=review_of(fingerprint, columns).changes())
            if not setting.decided:
                raise InputError(
                    f"{setting.text}: no pair of this data set is decided: decide first"
                )
        chosen[setting.name] = setting
    if not chosen:
        raise InputError("no setting of the study can act on this config: add --also")
    return config, chosen


def run_benchmark(
    request: Request,
    *,
    injections: int,
    kinds: Sequence[str] = (),
    shares: Sequence[float] = (),
) -> Benchmark:
    """Run a benchmark, or continue it: a number of injections of each kind of error and share of
    the scored pairs; by default of all kinds at their usual shares.

    The first injection has the config's seed.
    """
    benchmark = Benchmark.of(request.name)
    config = request.config
    screen = request.screen
    _check_injections(injections, kinds, shares, config)
    config = settings.resolve(replace(config, threads=config.threads or 1))
    request = replace(request, config=config)
    with acquire_lock(benchmark.folder, what=benchmark.KIND):
        _check_same(benchmark, request)
        if not benchmark.begun:
            _write_split(benchmark, request.source, config, request.load())
        requested = [
            Injection(kind, share, seed)
            for seed in range(config.seed, config.seed + injections)
            for kind in kinds or ERROR_KINDS
            for share in (len(ERROR_KINDS[kind].shares) > 1 and shares) or ERROR_KINDS[kind].shares
        ]
        pending = [each for each in requested if not benchmark.result_file(each).is_file()]
        if pending:
            screen.say(f"{len(pending)} injections of {config.members} members to run")
            run = Run(benchmark, screen, executor=request.executor)
            blocks = [[injection.name] for injection in pending]
            events = _run_tasks(run, run_injections, INJECTED_AUDITS, blocks, "injection")
            for finished, _ in enumerate(filter(None, events), start=1):
                screen.say(f"{finished} of {len(pending)} injections finished")
            shutil.rmtree(benchmark.folder / INJECTED_AUDITS)
    return benchmark


def _check_injections(
    injections: int, kinds: Sequence[str], shares: Sequence[float], config: AuditConfig
) -> None:
    if unknown := [kind for kind in kinds if kind not in ERROR_KINDS]:
        raise InputError(
            f"kind {unknown[0]!r} of error is unknown: choose from {', '.join(ERROR_KINDS)}"
        )
    if injections < 1:
        raise InputError(f"--injections must be at least 1, not {injections}: intervals need 3")
    if wrong := [share for share in shares if not 0 < share < 1]:
        raise InputError(f"--shares must be above 0 and below 1, not {wrong[0]:g}")
    fields = ["features", "inject_miscaptions", *switched_on(as_dict(config))]
    refused = [FIELDS[name].flag for name in fields if getattr(config, name)]
    if config.protocol == "paper":
        refused.append("--protocol paper")
    if refused:
        raise InputError(f"a benchmark cannot have {', '.join(refused)}")


def run_injections(folder: Path, names: Sequence[str]) -> None:
    """Audit the data set of a benchmark with the errors of injections and measure detectors; write
    the result of each, or the reason if too few pairs are suitable. The work of a task."""
    benchmark = Benchmark(folder)
    record = benchmark.record
    prepared = read_prepared(folder)
    original = benchmark.pairs
    for name in names:
        injection = Injection.of(name)
        result_file = benchmark.result_file(injection)
        config = replace(record.config, seed=injection.seed)
        membership = prepare.draw_membership(prepared.groups, config)
        # Only scored pairs without an earlier injected error
        is_free = (membership.group == c.SCORED) & original[c.INJECTED].isna().to_numpy()
        rows = np.flatnonzero(is_free)
        try:
            pairs, changes = inject_errors(
                injection.kind, original, rows, share=injection.share, seed=injection.seed
            )
        except InputError as error:
            write_json(result_file, injection._asdict() | {"absent": str(error)})
            continue
        audit = benchmark.injected_audit(injection)
        if not audit.begun:  # else a kill interrupted it
            # A copy shares near-duplicates and members with its original.
            source = picture_sources(original, pairs)
            membership = replace(membership, trained=membership.trained[:, source])
            cache_rows = prepared.cache_rows[source]
            pixels = Pixels(prepare.pixels_folder(benchmark), cache_rows, config.cache_size)
            nothing = pd.DataFrame()
            raw = RawPairs(record.pictures, record.format, len(pairs), pairs, nothing)
            data_set = prepare.DataSet(raw, pairs, nothing, prepared.clusters[source], pixels)
            write_audit(audit, record.source, config, data_set, pairs, membership)
        finish_audit(Run(audit, RichScreen(), executor=in_this_process))
        result = measure_injection(open_shared(audit.folder), rows, injection, changes)
        write_json(result_file, injection._asdict() | result)
        shutil.rmtree(audit.folder)
