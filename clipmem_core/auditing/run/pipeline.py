"""Runs an audit stage by stage, from a data set to its scores. The same call resumes it, or does
nothing.

`_run_stages` names the stages in their order; each is a function of what the stages before it
returned, and does not compute again what is on disk.
"""

import contextlib
import functools
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from threadpoolctl import threadpool_limits

from clipmem_core.auditing.folder import jobs, prepare, settings, store
from clipmem_core.auditing.folder.jobs import Screen, last_line, read_record
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run import member
from clipmem_core.auditing.run.executor import Executor, Task, local_processes
from clipmem_core.auditing.run.word_models import ensure_words, read_words, spelled_features
from clipmem_core.auditing.tables import fault_tables, maps, scoring
from clipmem_core.auditing.tables.fault_tables import ensure_checks
from clipmem_core.auditing.tables.verdict import (
    LANGUAGES,
    NOT_READ,
    PART,
    SECOND_LEFT_OUT,
    UNSPACED,
    is_distrusted,
    make_verdict,
)
from clipmem_core.config import AuditConfig
from clipmem_core.dataset.checks import Captions
from clipmem_core.dataset.faults import (
    Fault,
    ascending_stretches,
    bad_sources,
    caption_reasons,
    sorted_captions,
    text_faults,
)
from clipmem_core.dataset.languages import is_read, mostly_english, spaces_words
from clipmem_core.dataset.sentences import places_of
from clipmem_core.errors.batch import Fitted
from clipmem_core.errors.calibration import HALF, Probabilities
from clipmem_core.errors.evidence import draw_decoys
from clipmem_core.errors.runs import (
    DisplacedRun,
    Fits,
    displaced_probability,
    find_runs,
    find_swaps,
)
from clipmem_core.errors.words import Words, split_words
from clipmem_core.features.tower_by_language import describe_languages, languages_read
from clipmem_core.scores.membership import Membership, in_out_means
from clipmem_core.scores.score_tables import (
    Evidence,
    Judged,
    OutFit,
    Texts,
    caption_evidence,
    captions_of_sentences,
    judge_texts,
    score_table,
    second_round,
    update_scores,
    with_recurring,
    wrong_captions,
)
from clipmem_core.training import LOG
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError, save_array
from clipmem_core.utils.ragged import Ragged

# A loss at chance is ln(batch_size), that of a random guess within a batch. Both set by hand
CHANCE_SHARE = 0.98  # of that loss
WARN_AFTER = 0.2  # of the steps


@dataclass
class Run:
    """An audit to run, the request, and the screen and executor of its work."""

    audit: Audit
    screen: Screen
    source: str = ""
    requested: AuditConfig = AuditConfig()  # resolved
    reaudit_of: Audit | None = None  # the audit whose membership is repeated
    pairs_of: Audit | None = None  # the same, for some of its pairs and members
    executor: Executor | None = None
    predicts_words: bool = True  # a study does not use them

    def executor_of(self, at_once: int) -> Executor:
        """Return the requested executor; by default it runs processes on this machine."""
        return self.executor or functools.partial(local_processes, at_once=at_once)


@dataclass(frozen=True)
class AuditTexts:
    """The captions of an audit, or their sentences, which are read and split once."""

    pairs: pd.DataFrame  # pair_id, image, label, captions and injected
    of_pairs: Ragged  # captions, or sentences, of each pair
    spans: pd.DataFrame | None  # of sentences, as of `places_of`
    read: np.ndarray  # true for texts that the text tower reads, bool [n_texts]
    words: Words | None  # None if no word model predicts them

    @property
    def read_pairs(self) -> np.ndarray:
        """Which pairs have a text that is read, bool [n_pairs]."""
        return np.logical_or.reduceat(self.read, self.of_pairs.first)


def read_texts(run: Run) -> AuditTexts:
    """Read the captions of an audit and split them into words."""
    record = run.audit.record
    config = record.config
    listed = [c.PAIR_ID, c.IMAGE, c.LABEL, c.CAPTIONS, c.INJECTED]
    pairs = run.audit.read_columns(store.PAIRS, *listed)
    texts = pairs[c.CAPTIONS].tolist()
    spans = places_of(texts) if record.sentences else None
    if record.sentences:
        texts = run.audit.read_columns(store.PAIRS, c.SENTENCES)[c.SENTENCES].tolist()
    languages = languages_read(config)
    read = np.array([is_read(text, languages) for listed in texts for text in listed], bool)
    words = None
    if run.predicts_words and (config.lock_image or config.features):
        if spaces_words(record.languages):
            words = split_words(
                texts,
                english=mostly_english(record.languages),
                triggers=record.trigger_words,
                tags=record.tag_lists,
            )
        else:
            run.screen.say(f"note: {UNSPACED}")
    return AuditTexts(pairs, Ragged.of_lists(texts), spans, read, words)


@contextlib.contextmanager
def stage(run: Run, name: str, *, blas_threads: int | None = 1) -> Iterator[None]:
    """Show the name of a stage on pages while it runs, and add its time to seconds.json.

    On a busy machine BLAS threads wait for each other, ten times as long as the small products of
    most stages take, so that these have one.
    """
    audit = run.audit
    began = time.monotonic()
    run.screen.step(name)
    with threadpool_limits(limits=blas_threads, user_api="blas"):
        yield
    if not audit.finished:  # the manifest is written last
        seconds = audit.seconds
        seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - began, 2)
        store.write_json(audit.folder / store.SECONDS, seconds)


def prepare_data(run: Run) -> None:
    """Read the data set, draw the membership, inject errors, and write the result."""
    config = run.requested
    screen = run.screen
    screen.say(f"reading {run.source}")
    data_set = prepare.load_data_set(run.source, config, progress=screen.pictures, say=screen.say)
    if original := run.reaudit_of or run.pairs_of:
        membership = prepare.repeat_membership(original, data_set.pairs)
        n = config.members
        membership = Membership(membership.group, membership.members[:n], membership.trained[:n])
    else:
        membership = prepare.draw_membership(data_set.groups, config)
    pairs = prepare.inject(data_set.pairs, membership, config)
    groups = pd.Series(membership.group).value_counts().items()
    screen.say(
        f"{len(pairs):,} pairs ({', '.join(f'{count:,} {name}' for name, count in groups)}); "
        f"near-duplicates: {data_set.near_duplicates:,}; rows in quarantine: "
        f"{len(data_set.quarantine):,}"
    )
    name = run.reaudit_of.name if run.reaudit_of else ""
    prepare.write_audit(run.audit, run.source, config, data_set, pairs, membership, reaudit_of=name)
    record = run.audit.record
    screen.say(f"captions: {describe_languages(record.languages, record.config)}")
    pa.default_memory_pool().release_unused()  # captions, before members need the memory


def compute_features(run: Run, texts: AuditTexts) -> tuple[np.ndarray | None, int]:
    """Compute the locked towers' features, and draw decoys. Return the features of texts, None for
    a trained text encoder, and the number of texts that the tower truncates."""
    audit = run.audit
    config = audit.record.config
    store.read_table(audit.folder / store.QUARANTINE)  # named before hours of training
    run.screen.say(jobs.FEATURES)
    ensure_pixels(audit, run.screen)
    truncated = compute_in_processes(run, texts.words)
    if truncated:
        tower = audit.record.towers["text"]
        run.screen.say(
            f"{truncated:,} of {texts.of_pairs.n_items:,} texts are longer than the "
            f"{tower['context']} tokens that {tower['name']} reads"
        )
    if not (config.lock_text or config.features):
        return None, truncated
    features = prepare.caption_features(audit)
    path = audit.folder / store.DECOYS
    several = texts.of_pairs.counts.max(initial=0) > 1
    if run.predicts_words and several and not path.is_file():
        clusters = store.read_prepared(audit.folder).groups
        save_array(draw_decoys(features, texts.of_pairs, clusters, seed=config.seed), path)
    return features, truncated


def train_members(run: Run, *, again: bool = False) -> None:
    """Train, embed and evaluate every member that is not finished: one in each process, or several
    heads, which train as fast as Python starts."""
    audit = run.audit
    record = audit.record
    at_once = settings.side_by_side(record.config)
    last = store.SECOND_FIT if again else store.TEXT_EMBEDDINGS
    folders = [audit.member(name) / (store.SECOND if again else "") for name in record.members]
    missing = [
        name
        for name, folder in zip(record.members, folders, strict=True)
        if not (folder / last).is_file()
    ]
    count = len(missing)
    if settings.shares_process(record.config):
        count = min(count, at_once)
    work = member.train_second_round if again else member.train_first_round
    noun = "second training of member" if again else "member"
    tasks = []
    for names in (tuple(missing[number::count]) for number in range(count)):
        members = tuple(map(audit.member, names))
        tasks.append(Task(members, work, audit.folder, names, record.threads, noun))
    warned: set[Path] = set()
    with closing(run.executor_of(at_once)(tasks)) as events:
        for _ in events:
            show_training(run, folders, warned)
    show_training(run, folders, warned)


def show_training(run: Run, folders: Sequence[Path], warned: set[Path]) -> None:
    """Show the trained share of all members by their logs, and warn once of a member whose loss is
    still at chance after a fifth of its steps."""
    at_chance = CHANCE_SHARE * math.log(run.audit.record.config.batch_size)
    trained = 0.0
    for folder in folders:
        if line := last_line(folder / LOG):
            share = min(1.0, line["step"] / line["steps"])
            trained += share
            is_at_chance = share >= WARN_AFTER and -line["log_probability"] >= at_chance
            if is_at_chance and folder not in warned:
                warned.add(folder)
                run.screen.say(
                    f"warning: the loss of {folder.relative_to(run.audit.folder)} is at chance "
                    f"({line['loss']:.2f}): try another --lr, a smaller --batch-size or more "
                    "--epochs"
                )
    run.screen.count("% trained", round(100 * trained / len(folders)), 100)


def train_second_round(run: Run, scores: pd.DataFrame, fit: OutFit, texts: AuditTexts) -> int:
    """Train each member a second time, without the pairs whose captions are probably wrong, and
    return their number. Only its scores on pairs it did not train on are stored."""
    audit = run.audit
    rounds = audit.record.config.rounds
    left_out = second_round(scores, fit.swapped, rounds, texts.read_pairs)
    table = pd.DataFrame({c.PAIR_ID: scores[c.PAIR_ID], store.LEFT_OUT: left_out})
    store.write_table(audit.folder / store.SECOND_TABLE, table)
    count = int(left_out.sum())
    if count:
        run.screen.say(
            f"second round: members train again without the {count:,} pairs that are probably wrong"
        )
        train_members(run, again=True)
        for name in audit.record.members:
            store.remove_second_model(audit.member(name) / store.SECOND)
    elif rounds == "2":
        run.screen.say(
            "note: no second round: hardly any caption is wrong, or the number of wrong ones is "
            "unknown"
        )
    return count


def score(
    audit: Audit,
    evidence: Evidence,
    scores: pd.DataFrame,
    fit: OutFit,
    texts: AuditTexts,
    features: np.ndarray | None,
    runs: Sequence[DisplacedRun],
) -> tuple[Judged, list[Fault]]:
    """Write the scores of pairs, captions and words; return them, and the faults of the pipeline
    that texts show."""
    spans = texts.spans
    clusters = store.read_prepared(audit.folder).clusters
    reasons = caption_reasons(Captions.from_pairs(texts.pairs[c.CAPTIONS].tolist()), clusters)
    is_first = np.ones(len(reasons), bool)
    if spans is not None:  # those of the caption
        is_first = (spans[c.SENTENCE] == 0).to_numpy()
        reasons = reasons[is_first.cumsum() - 1]
    units = Texts(
        texts.of_pairs, texts.read, reasons, clusters, features, are_sentences=spans is not None
    )
    words = read_words(audit)
    folders = map(audit.member, audit.record.members)
    members = (store.read_array(folder / store.CAPTION_SCORES) for folder in folders)
    on_captions, captions = caption_evidence(
        scores, fit.swapped, units, evidence.in_out, members, store.read_decoys(audit), words
    )
    reasons = with_recurring(units, scores, captions)
    checks = store.read_table(ensure_checks(audit))
    faults = text_faults(texts.pairs, clusters, checks, reasons[is_first])
    named = [fault.rows for fault in faults]
    judged = judge_texts(scores, captions, on_captions, reasons, named, runs)
    wrong = judged.wrong
    store.write_json(audit.folder / store.FITTED, vars(Fitted.of(wrong, fit.weights)))
    captions = judged.captions
    if spans is not None:
        captions = scoring.sentence_table(captions, spans)
        store.write_table(audit.folder / store.SENTENCE_TABLE, captions)
        captions = captions_of_sentences(captions)
        captions = captions.drop(columns=[c.SENTENCE, c.START, c.END])
    store.write_table(audit.folder / store.CAPTION_TABLE, captions)
    if (path := audit.folder / store.WORD_TABLE).is_file():  # perhaps without a row
        p_word = wrong.captions[c.P_WORD].to_numpy()[words[c.CAPTION_ROW]]
        store.add_column(path, c.P_WRONG, wrong.word_share * p_word)
    store.write_table(audit.folder / store.SCORES, judged.scores)
    return judged, faults


def check_results(
    audit: Audit,
    evidence: Evidence,
    judged: Judged,
    split: float | None,
    texts: AuditTexts,
    *,
    truncated: int,
    left_out: int,
) -> dict[str, Any]:
    """Write the members' utility and the audit's checks of itself, and return its verdict."""
    record = audit.record
    utility = scoring.read_utilities(audit)
    attacked, attacks = scoring.attack_members(evidence)
    # An empty table would decide the column type
    tables = [table for table in (utility, attacked) if len(table)]
    store.write_table(audit.folder / store.UTILITY, pd.concat(tables, ignore_index=True))
    wrong = wrong_captions(texts.pairs[c.INJECTED], judged.scores, judged.wrong)
    results = scoring.summary(evidence, judged.scores, split) | {
        "attacks": attacks,
        "wrong_captions": wrong,
        PART: "sentence" if record.sentences else "caption",
    }
    if record.sampled_of:
        results["sample"] = {"pairs": record.pairs, "of": record.sampled_of}
    if left_out:
        results[SECOND_LEFT_OUT] = left_out
    results[LANGUAGES] = record.languages
    results[NOT_READ] = int(np.count_nonzero(~texts.read))
    verdict = make_verdict(results, utility, record.config, towers=record.towers, cut=truncated)
    store.write_json(audit.folder / store.VERDICT, verdict)
    return verdict


def write_faults(
    audit: Audit,
    pairs: pd.DataFrame,
    wrong: Probabilities,
    faults: Sequence[Fault],
    runs: Sequence[DisplacedRun],
    fits: Fits,
    *,
    distrusted: bool,
) -> None:
    """Write the incidents. Members that learned little do not tell which captions are wrong."""
    explained = displaced_probability(runs, len(pairs)) > 0
    by_pair = wrong.parts[1].copy()
    by_pair[explained] = 0.0
    swaps = find_swaps(fits, np.nan_to_num(by_pair))
    suspected = wrong.pairs > HALF
    for rows in (explained, *(fault.rows for fault in faults)):
        suspected[rows] = False
    more = sorted_captions(pairs) if distrusted else bad_sources(pairs, suspected)
    fault_tables.write_incidents(audit, pairs, runs, [*faults, *more], swaps)


def run_audit(
    source: str,
    config: AuditConfig,
    *,
    name: str,
    screen: Screen,
    executor: Executor | None = None,
    reaudit_of: Audit | None = None,
    pairs_of: Audit | None = None,
    parent: Path | None = None,
) -> Audit:
    """Run an audit, or resume it, and return it. Its folder is in `parent`, or in that of all
    audits."""
    audit = Audit(parent / store.check_name(name)) if parent else Audit.of(name)
    config = settings.resolve(prepare.with_features(source, config))
    with store.acquire_lock(audit.folder, what="audit"):
        if audit.begun:
            prepare.check_same(audit, source, config)
            if prepare.is_outdated(audit, source, config):
                screen.say(
                    f"note: {source} has files that are newer than audit {name!r}, which continues "
                    "with what it read: use another --name to audit them"
                )
            more = prepare.grow(audit, config)
            screen.say(f"adding {more} to audit {name!r}" if more else f"resuming audit {name!r}")
        run = Run(audit, screen, source, config, reaudit_of, pairs_of, executor)
        finish_audit(run, is_new=not audit.begun)
    return audit


def finish_audit(run: Run, *, is_new: bool = False) -> None:
    """Run every stage that is not done; broken and missing files are recomputed.

    A new audit that cannot start to train is deleted.
    """
    audit = run.audit
    if broken := store.broken_files(audit.folder):
        run.screen.say(
            f"{len(broken)} of its files are broken or missing, first {broken[0]}: recomputing them"
        )
        store.reopen(audit, broken)
    if audit.finished:
        run.screen.say("it is finished: nothing to do")
        return
    try:
        _run_stages(run)
    except InputError:
        logs = (audit.folder / store.MEMBERS).glob(f"*/{LOG}")
        if is_new and audit.folder.exists() and not any(logs):
            shutil.rmtree(audit.folder)
        raise


def _run_stages(run: Run) -> None:
    """Run each stage on what the stages before it returned."""
    audit = run.audit
    if not audit.begun:
        with stage(run, jobs.PREPARING, blas_threads=None):
            prepare_data(run)
    config = audit.record.config
    with stage(run, jobs.FEATURES, blas_threads=None):
        texts = read_texts(run)
        features, truncated = compute_features(run, texts)
    if texts.words is not None:
        with stage(run, jobs.WORDS):
            run.screen.say(jobs.WORDS)
            executor = run.executor_of(min(2, settings.side_by_side(config)))
            ensure_words(audit, texts.words, executor, run.screen)
    with stage(run, jobs.TRAINING):
        run.screen.say(f"training {len(audit.record.members)} members")
        train_members(run)
    has_second = config.rounds != "1" and config.protocol != "paper"
    with stage(run, jobs.SECOND_ROUND if has_second else jobs.SCORING):
        evidence = scoring.gather_evidence(audit, texts.pairs, texts.of_pairs)
        scores, split, fit = score_table(evidence)
        left_out = train_second_round(run, scores, fit, texts) if has_second else 0
    with stage(run, jobs.SCORING):
        run.screen.say(jobs.SCORING)
        trained = evidence.in_out.membership.trained
        if left_out:
            folders = [audit.member(name) / store.SECOND for name in audit.record.members]
            second = [store.read_array(folder / store.SECOND_FIT) for folder in folders]
            out = in_out_means(second, trained)[1]
            scores = update_scores(scores, **{c.FIT_SECOND: fit.fit_out(out)})
        fits = Fits(evidence.image, evidence.text, trained, seed=config.seed)
        stretches = ascending_stretches([captions[0] for captions in texts.pairs[c.CAPTIONS]])
        read = texts.read_pairs
        # Captions that are not read fit no picture, whatever their order.
        runs = [each for each in find_runs(fits, stretches) if read[each.rows].mean() > HALF]
        judged, faults = score(audit, evidence, scores, fit, texts, features, runs)
    with stage(run, jobs.CHECKING):
        verdict = check_results(
            audit, evidence, judged, split, texts, truncated=truncated, left_out=left_out
        )
        distrusted = is_distrusted(verdict)
        write_faults(audit, texts.pairs, judged.wrong, faults, runs, fits, distrusted=distrusted)
    with stage(run, jobs.FINISHING):
        store.write_manifest(audit.folder)
    # The page Map starts one that takes long. Nobody opens those of studies and benchmarks, which
    # have no source.
    if run.source and audit.record.pairs <= maps.AUDIT_LIMIT:
        with stage(run, jobs.MAPPING):
            run.screen.say(jobs.MAPPING)
            maps.make_map(audit, next(iter(maps.SIDES)))


def ensure_pixels(audit: Audit, screen: Screen) -> None:
    """Store the small pictures or precomputed features again if they are missing."""
    record = audit.record
    missing = audit.folder / store.PREPARED
    with contextlib.suppress(InputError):
        missing = prepare.pixels_folder(audit)
    if not missing.is_dir():
        action = "reading the features" if record.config.features else "storing the small pictures"
        screen.say(f"{missing} is missing: {action} again")
        prepare.rebuild_store(audit, progress=screen.pictures)


def compute_in_processes(run: Run, words: Words | None) -> int:
    """Compute each tower's features in a process that has imported the libraries of towers, and
    return the number of captions that the text tower truncates."""
    audit = run.audit
    record = audit.record
    work = functools.partial(compute_kind, spelled=words.spelled if words else [])
    tasks = []
    for kind in record.towers:
        folder = audit.folder / f".{kind}"
        folder.mkdir(exist_ok=True)
        tasks.append(Task((folder,), work, audit.folder, (kind,), record.threads, "features of"))
    with closing(run.executor_of(len(tasks))(tasks)) as events:
        for _ in events:
            for task in tasks:
                now = read_record(task.folders[0])
                if now.total:
                    run.screen.count(now.noun, now.done, now.total)
    truncated = 0
    for task in tasks:
        truncated += (read_record(task.folders[0]).result or {})["truncated"]
        shutil.rmtree(task.folders[0])
    return truncated


def compute_kind(folder: Path, names: Sequence[str], spelled: Sequence[str]) -> None:
    """Compute features of pictures, or of captions and of their words. The work of a task."""
    audit = Audit(folder)
    screen = Screen()
    screen.result({"truncated": ensure_features(audit, screen, kinds=names)})
    if "text" in names:
        spelled_features(settings.towers_of(audit.record.config).text, spelled)
        scoring.open_audit_bridge(audit.record.config)  # embeds the names of classes


def ensure_features(
    audit: Audit, screen: Screen, *, kinds: Sequence[str] = ("image", "text")
) -> int:
    """Compute missing features of the locked towers in this process, and return the number of
    captions that the text tower truncates."""
    record = audit.record
    truncated = 0
    if not settings.opens_towers(record.config):
        return truncated
    towers = settings.towers_of(record.config)
    for tower in filter(None, towers):
        sha256 = record.towers[tower.kind]["sha256"]
        if sha256 != tower.sha256:
            raise InputError(
                f"the {tower.kind} tower {tower.name} has weights of sha256 {tower.sha256[:12]}…, "
                f"not {sha256[:12]}… as the audit began with: restore those, or use another --name"
            )
    for each in dict.fromkeys((settings.member_towers(record.config), towers)):
        chosen = [tower for tower in each if tower and tower.kind in kinds]
        truncated = member.compute_features(chosen, record, audit.pairs, screen)
    return truncated
