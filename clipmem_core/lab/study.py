"""Trains an audit's members again with settings, and runs studies, which do so over several splits
of the pairs. The same call resumes.

The baseline of a study trains on one caption a pair, as in the paper; that of the study `settings`
trains as the config says. Every setting is evaluated on one caption a pair and on uncropped
pictures, which it also trains on.
"""

import functools
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from clipmem_core.auditing.folder import prepare, settings
from clipmem_core.auditing.folder.jobs import Screen
from clipmem_core.auditing.folder.store import (
    MITIGATIONS,
    SECOND_EMBEDDINGS,
    acquire_lock,
    read_embeddings,
    remove_second_model,
)
from clipmem_core.auditing.run.executor import Executor, Task, TaskEvents, Work
from clipmem_core.auditing.run.member import (
    Shared,
    caption_texts,
    caption_tokens,
    clear_leftovers,
    open_member,
    open_shared,
    trained_model,
    utility,
    write_embeddings,
)
from clipmem_core.auditing.run.pipeline import Run, ensure_features, ensure_pixels, finish_audit
from clipmem_core.config import AuditConfig, affecting, ineffective_fields
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.lab import mitigated
from clipmem_core.lab.experiment import (
    CLIPMEM_NET,
    MEASURE,
    OF_MEMBERS,
    OF_SPLITS,
    PARTS,
    SPLIT,
    Experiment,
    Study,
    differences,
    print_table,
    sentence_of,
    titles_of,
    write_results,
)
from clipmem_core.lab.mitigated import RETRIEVAL, MemberPair, begin, setting_rows
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
from clipmem_core.review.decisions import review_of
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError
from clipmem_core.utils.ragged import Ragged


@dataclass(frozen=True)
class Request:
    """The experiment that a person requests."""

    source: str
    config: AuditConfig
    name: str
    screen: Screen
    executor: Executor | None = None  # by default processes of this machine

    def load(self, experiment: Experiment) -> prepare.DataSet:
        """Return the data set of an experiment, from its folder if it was begun."""
        if experiment.begun:
            self.screen.say(f"resuming {experiment.KIND} {self.name!r}")
            return experiment.data_set
        self.screen.say(f"reading {self.source}")
        return prepare.load_data_set(
            self.source, self.config, progress=self.screen.pictures, say=self.screen.say
        )

    def begin(self, experiment: Experiment, data_set: prepare.DataSet) -> None:
        """Write the data set of a new experiment. Refuse to resume one with another source or
        config; unlike an audit, none gets more members."""
        if not experiment.begun:
            membership = prepare.draw_membership(data_set.groups, self.config)
            pairs = data_set.pairs
            prepare.write_audit(experiment, self.source, self.config, data_set, pairs, membership)
        stored = experiment.record
        differ = settings.differing_fields(
            stored.source, stored.config, self.source, self.config, may_differ=affecting()
        )
        if differ:
            raise InputError(
                f"{experiment.KIND} {self.name!r} exists with another config: {'; '.join(differ)}. "
                "Use another --name"
            )


def run_tasks(
    run: Run, work: Work, parent: Path, blocks: Sequence[Sequence[str]], noun: str
) -> TaskEvents:
    """Run tasks on an audit, one for each block of names; each name has a folder in the folder
    `parent`, for the error output of its task."""
    record = run.audit.record
    tasks = []
    for names in blocks:
        folders = tuple(parent / name for name in names)
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        tasks.append(Task(folders, work, run.audit.folder, tuple(names), record.threads, noun))
    execute = run.executor_of(settings.side_by_side(record.config))
    with closing(execute(tasks)) as events:
        yield from events


# --- Run a study


def run_study(request: Request, study: str, *, splits: int, also: Sequence[Setting]) -> Study:
    """Run a study of `STUDIES`, or continue it, until every setting is trained on every split.

    `also` adds settings to the study's.
    """
    folder = Study.of(request.name)
    if study not in STUDIES:
        raise InputError(f"study {study!r} is unknown: choose one of {', '.join(STUDIES)}")
    if splits < 1:
        raise InputError(f"--splits must be at least 1, not {splits}: intervals need 3")
    config = settings.resolve(prepare.with_features(request.source, request.config))
    request = replace(request, config=config)
    screen = request.screen
    with acquire_lock(folder.folder, what=folder.KIND):
        data_set = request.load(folder)
        config, chosen = _plan(request, study, also, data_set)
        replace(request, config=config).begin(folder, data_set)
        replicates = config.seeds if config.protocol == "paper" else config.members // config.folds
        for split in range(splits):
            screen.say(f"split {split + 1} of {splits}: {len(chosen)} settings")
            audit = folder.audit(f"split-{split}")
            seed = config.seed + split * replicates
            if not audit.begun:
                seeded = replace(config, seed=seed)
                membership = prepare.draw_membership(data_set.groups, seeded)
                pairs = prepare.inject(data_set.pairs, membership, seeded)
                prepare.write_audit(audit, request.source, seeded, data_set, pairs, membership)
            run = Run(audit, screen, executor=request.executor, predicts_words=False)
            if not audit.finished:
                finish_audit(run)
            begun = {begin(audit, setting).name: setting.title for setting in chosen}
            run_settings(run, list(begun))
            for name, title in (begun | {BASELINE: BASELINE}).items():
                if not folder.rows_file(f"{split}-{name}").is_file():
                    rows = setting_rows(audit, name).assign(split=split, seed=seed, title=title)
                    folder.add_rows(f"{split}-{name}", rows)
    return folder


def _plan(
    request: Request, study: str, also: Sequence[Setting], data_set: prepare.DataSet
) -> tuple[AuditConfig, list[Setting]]:
    """Return the config of a study's audits, and its settings and those of `also` that have an
    effect on such an audit; refuse one that cannot run."""
    config = request.config
    pairs = data_set.pairs
    most = int(pairs[c.CAPTIONS].map(len).max())
    if study != OWN and most > 1:
        config = replace(config, train_captions=1)
    idle = {*ineffective_fields(config), *([REMOVAL] if config.protocol == "paper" else [])}
    chosen = {}
    early = max(1, round(config.epochs * 2 / 3))
    built_in = [parse_setting(text.format(early=early)) for text in STUDIES[study]]
    for setting in (*built_in, *also):
        # As many captions as a pair has are all of them
        all_captions = 0 < most <= setting.overrides.get("train_captions", 0)
        if all_captions or idle & set(setting.overrides):
            request.screen.say(f"skipped, since it has no effect on this audit: {setting.text}")
            continue
        setting = without_idle(setting, config)
        if not setting.overrides:
            continue
        settings.check_config(replace(config, **setting.fields))
        if DECISIONS in setting.overrides:
            columns = pa.Table.from_pandas(pairs[[c.PAIR_ID, c.CAPTIONS]], preserve_index=False)
            decided = review_of(data_set.fingerprint, columns).changes()
            if not decided:
                raise InputError(
                    f"{setting.text}: no pair of this data set is decided: decide first"
                )
            setting = replace(setting, decided=decided)
        chosen[setting.name] = setting
    if not chosen:
        raise InputError("no setting of the study has an effect on this config: add --also")
    return config, list(chosen.values())


# --- Members that train again with a setting


class Lab:
    """The data of an audit's members in memory, ready to train them again."""

    def __init__(self, folder: Path) -> None:
        self.baseline = open_shared(folder)
        self.partners = dict(mitigated.member_pairs(self.baseline.record.members))
        changed = functools.partial(with_setting, self.baseline)
        self.changed = functools.lru_cache(maxsize=2)(changed)
        torch.set_num_threads(self.baseline.record.threads)

    def train(self, name: str) -> None:
        """Train and measure a pair of members, as of `missing_pairs`, unless it is finished."""
        setting, _, first = name.partition("/")
        member_pair = first, self.partners[first]
        folder = mitigated.setting_folder(self.baseline.audit, setting)
        with mitigated.member_pair_lock(folder, member_pair):
            if not mitigated.is_measured(folder, member_pair):
                train_member_pair(self.changed(setting), setting, member_pair)


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
    pairs = shared.pairs.assign(captions=pd.Series(captions))
    pairs = prepare.with_sentences(pairs, shared.config)
    features = shared.features
    if shared.towers.text:
        tokens: Any = FeatureExtractor(shared.towers.text).captions(
            caption_texts(shared.record, pairs)
        )
        features = replace(features, text=tokens)
    else:
        tokens = caption_tokens(shared.record, pairs)
    data = replace(shared.data, tokens=tokens, captions=Ragged.of_lists(pairs[shared.record.texts]))
    return replace(shared, pairs=pairs, features=features, data=data)


def train_member_pair(shared: Shared, setting: str, member_pair: MemberPair) -> None:
    """Train two members with a setting and measure them."""
    audit = shared.audit
    folders = [mitigated.setting_folder(audit, setting) / name for name in member_pair]
    embedded = []
    measures = []
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)
        run = open_member(audit.folder, folder.name, shared, folder)
        model = trained_model(run)
        write_embeddings(run, model, folder / SECOND_EMBEDDINGS)
        embedded.append(read_embeddings(folder / SECOND_EMBEDDINGS))
        measures.append(utility(run, model, embedded[-1][0]))
    mitigated.write_measures(audit, setting, folders, embedded, measures)
    for folder in folders:
        remove_second_model(folder)


def train_members(folder: Path, names: Sequence[str]) -> None:
    """Train pairs of members, as of `missing_pairs`. The work of a task."""
    lab = Lab(folder)
    for name in names:
        lab.train(name)


def run_settings(run: Run, names: Sequence[str]) -> None:
    """Measure the baseline of an audit, and train its members with settings that were begun."""
    audit = run.audit
    config = audit.record.config
    members = mitigated.paired_members(audit)
    missing = [each for name in names for each in mitigated.missing_pairs(audit, name)]
    mitigated.ensure_baseline(audit, len(members))
    if not missing:
        return
    ensure_pixels(audit, run.screen)
    ensure_features(audit, run.screen)
    blocks = len(missing)
    if settings.shares_process(config):
        blocks = min(blocks, settings.side_by_side(config))
    parts = [missing[block::blocks] for block in range(blocks)]
    for _ in run_tasks(run, train_members, audit.folder / MITIGATIONS, parts, "training of member"):
        done = sum(len(mitigated.finished_members(audit, name)) for name in names)
        run.screen.count("members", done, len(members) * len(names))


# --- Results on a terminal and as CSV

_PRINTED = (CLIPMEM_NET, c.ATTACK_TPR, *PARTS, RETRIEVAL)


def show_differences(rows: pd.DataFrame, titles: dict[str, str]) -> None:
    """Print the table of an audit's lab or of a study, and a sentence for each setting."""
    compared = differences(rows)
    over = OF_SPLITS if SPLIT in rows else OF_MEMBERS
    print_table(compared[compared[MEASURE].isin(_PRINTED)])
    print(
        f"low, high: 95 % interval over {over} of the difference from the baseline; p_of_all: "
        "corrected for the number of settings (Holm)"
    )
    for setting, title in titles.items():
        print(sentence_of(compared, setting, title))


def write_study_results(study: Study, path: Path, *, command: str) -> None:
    """Write the differences of a study as a CSV file, with a sentence for each setting."""
    rows = study.rows
    compared = differences(rows)
    notes = [
        f"value: mean over splits; low, high: 95 % interval over {OF_SPLITS} of the paired "
        f"difference to {BASELINE}; n: how many; p_of_all: Holm's p",
        *(sentence_of(compared, setting, title) for setting, title in titles_of(rows).items()),
    ]
    write_results(path, command, study.record, rows, compared, notes)
