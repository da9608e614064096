"""Runs an audit stage by stage, from a data set to its scores. The same call resumes it, or does
nothing.

`_run_stages` names the stages in their order; each is a function of what the stages before it
returned, and does not compute again what is on disk.
"""

import contextlib
import functools
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
import pyarrow.compute as pc
from threadpoolctl import threadpool_limits

from clipmem_core.auditing.folder import jobs, prepare, settings, store
from clipmem_core.auditing.folder.jobs import LOG, Screen, read_record
from clipmem_core.auditing.folder.prepare import DataSet
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.executor import Executor, Task, local_processes
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
    find_runs,
    find_swaps,
    likely_displaced,
)
from clipmem_core.errors.words import Words, split_words
from clipmem_core.features.tower_by_language import describe_languages, languages_read
from clipmem_core.scores.membership import Membership, MemberSides, side_means
from clipmem_core.scores.score_tables import (
    Evidence,
    Judged,
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
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError, save_array
from clipmem_core.utils.ragged import Ragged


@dataclass
class Run:
    """An audit to run: where it is, what was requested, and what shows and runs its work."""

    audit: Audit
    screen: Screen
    source: str = ""
    requested: AuditConfig | None = None  # resolved
    reaudit_of: Audit | None = None  # the audit whose membership is repeated
    pairs_of: Audit | None = None  # the same, for some of its pairs and members
    executor: Executor | None = None
    predicts_words: bool = True  # a study does not use them

    def executor_of(self, at_once: int) -> Executor:
        """Return what runs tasks: the requested executor, else processes of this machine."""
        return self.executor or functools.partial(local_processes, at_once=at_once)


@dataclass(frozen=True)
class AuditTexts:
    """The captions of an audit, or their sentences, which are read and split once."""

    pairs: pd.DataFrame  # pair_id, image, label, captions and injected
    of_pairs: Ragged  # captions, or sentences, of each pair
    places: pd.DataFrame | None  # of sentences, as of `places_of`
    read: np.ndarray  # true for texts that the text tower reads, bool [n_texts]
    words: Words | None  # None if no word model predicts them


def read_texts(run: Run) -> AuditTexts:
    """Read the captions of an audit and split them into words."""
    record = run.audit.record
    config = record.config
    listed = [c.PAIR_ID, c.IMAGE, c.LABEL, c.CAPTIONS, c.INJECTED]
    pairs = run.audit.read_columns(store.PAIRS, *listed)
    texts = pairs[c.CAPTIONS].tolist()
    places = places_of(texts) if record.sentences else None
    if record.sentences:
        texts = run.audit.read_columns(store.PAIRS, c.SENTENCES)[c.SENTENCES].tolist()
    languages = languages_read(config)
    read = np.array([is_read(text, languages) for listed in texts for text in listed], bool)
    words = None
    if run.predicts_words and (config.lock_image or config.features):
        if spaces_words(record.languages):
            words = split_words(texts, english=mostly_english(record.languages))
        else:
            run.screen.say(f"note: {UNSPACED}")
    return AuditTexts(pairs, Ragged.of_lists(texts), places, read, words)


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
    assert config is not None
    screen.say(f"reading {run.source}")
    data_set = prepare.load_data_set(run.source, config, progress=screen.pictures, say=screen.say)
    if original := run.reaudit_of or run.pairs_of:
        membership = prepare.repeat_membership(original, data_set.pairs)
        n = config.members
        membership = Membership(membership.group, membership.members[:n], membership.trained[:n])
    else:
        membership = prepare.draw_membership(data_set.groups, config)
    pairs = prepare.inject(data_set.pairs, membership, config)
    screen.say(counts(data_set, membership))
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
    compute_in_processes(run, texts.words)
    truncated = ensure_features(audit, Screen())  # the tasks' lines are shown
    if not (config.lock_text or config.features):
        return None, truncated
    features = prepare.caption_features(audit)
    path = audit.folder / store.DECOYS
    several = texts.of_pairs.counts.max(initial=0) > 1
    if run.predicts_words and several and not path.is_file():
        clusters = store.read_prepared(audit.folder).groups
        save_array(draw_decoys(features, texts.of_pairs, clusters, seed=config.seed), path)
    return features, truncated


def predict_words(run: Run, words: Words) -> None:
    """Train the word models; each predicts the words of the pairs that it did not train on."""
    from clipmem_core.auditing.run.word_table import ensure_words  # torch

    run.screen.say(jobs.WORDS)
    n = len(words.in_captions)

    def report(share: float) -> None:
        run.screen.captions(round(share * n), n)

    at_once = min(2, settings.side_by_side(run.audit.record.config))
    ensure_words(run.audit, words, run.executor_of(at_once), watch=report)


def train_members(run: Run, *, again: bool = False) -> None:
    """Train all members that are not finished."""
    from clipmem_core.auditing.run.member import run_members  # torch

    record = run.audit.record
    at_once = settings.side_by_side(record.config)
    run_members(
        run.audit,
        record.members,
        threads=record.threads,
        blocks=at_once if settings.shares_process(record.config) else 0,
        executor=run.executor_of(at_once),
        watch=run.screen.members,
        second_round=again,
    )


def train_second_round(run: Run, scores: pd.DataFrame, texts: AuditTexts) -> int:
    """Train each member a second time, without the pairs whose captions are probably wrong, and
    return their number. Only its scores on pairs it did not train on are stored."""
    audit = run.audit
    config = audit.record.config
    read_pairs = np.logical_or.reduceat(texts.read, texts.of_pairs.first)
    left_out = second_round(scores, config.rounds, read_pairs)
    path = audit.folder / store.SECOND_TABLE
    before = np.zeros(len(scores), bool)
    if path.is_file():
        before = store.read_table(path)[store.LEFT_OUT].to_numpy()
    if not np.array_equal(before, left_out):  # discard members trained without others
        for name in audit.record.members:
            shutil.rmtree(audit.member(name) / store.SECOND, ignore_errors=True)
        table = pd.DataFrame({c.PAIR_ID: scores[c.PAIR_ID], store.LEFT_OUT: left_out})
        store.write_table(path, table)
    count = int(left_out.sum())
    if not count:
        if config.rounds == "2":
            run.screen.say(
                "note: no second round: hardly any caption is wrong, or the number of wrong ones "
                "is unknown"
            )
        return 0
    run.screen.say(
        f"second round: members train again without the {count:,} pairs that are probably wrong"
    )
    for name in audit.record.members:
        folder = audit.member(name) / store.SECOND
        if (folder / store.SECOND_FIT).is_file():  # a kill may have left its model
            store.remove_second_model(folder)
    train_members(run, again=True)
    return count


def score(
    run: Run,
    evidence: Evidence,
    scores: pd.DataFrame,
    texts: AuditTexts,
    features: np.ndarray | None,
    runs: Sequence[DisplacedRun],
) -> tuple[Judged, list[Fault]]:
    """Write the scores of pairs, captions and words; return them, and the faults of the pipeline
    that texts show."""
    from clipmem_core.auditing.run.word_table import read_words  # torch

    audit = run.audit
    names = audit.record.members
    places = texts.places
    run.screen.say(jobs.SCORING)
    clusters = store.read_prepared(audit.folder).clusters
    listed = Captions.from_pairs(texts.pairs[c.CAPTIONS].tolist())
    reasons = caption_reasons(listed, clusters)
    if places is not None:  # those of the caption
        reasons = reasons[(places[c.SENTENCE] == 0).cumsum() - 1]
    units = Texts(
        texts.of_pairs, texts.read, reasons, clusters, features, are_sentences=places is not None
    )
    words = read_words(audit)
    decoys = store.read_decoys(audit)
    members = (store.read_array(audit.member(name) / store.CAPTION_SCORES) for name in names)
    on_captions, captions = caption_evidence(scores, units, evidence.sides, members, decoys, words)
    reasons = with_recurring(units, scores, captions)
    of_captions = reasons if places is None else reasons[places[c.SENTENCE] == 0]
    checks = store.read_table(ensure_checks(audit))
    faults = text_faults(texts.pairs, clusters, checks, of_captions)
    named = [fault.rows for fault in faults]
    judged = judge_texts(scores, captions, on_captions, reasons, named, runs)
    wrong = judged.wrong
    store.write_json(audit.folder / store.FITTED, vars(Fitted.of(wrong)))
    captions = judged.captions
    if places is not None:
        captions = scoring.sentence_table(captions, places)
        store.write_table(audit.folder / store.SENTENCE_TABLE, captions)
        captions = captions_of_sentences(captions)
        captions = captions.drop(columns=[c.SENTENCE, c.START, c.END])
    store.write_table(audit.folder / store.CAPTION_TABLE, captions)
    if (path := audit.folder / store.WORD_TABLE).is_file():  # perhaps without a row
        p_word = wrong.captions[c.P_WORD].to_numpy()[words[c.CAPTION_ROW]]
        store.add_column(path, c.P_WRONG, wrong.word_share * p_word)
    store.write_table(audit.folder / store.SCORES, judged.scores)
    return judged, faults


def second_scores(audit: Audit, scores: pd.DataFrame, sides: MemberSides) -> pd.DataFrame:
    """Return the scores with those of members trained a second time."""
    folders = [audit.member(name) / store.SECOND for name in audit.record.members]
    fits = [store.read_array(folder / store.SECOND_FIT) for folder in folders]
    second = side_means(fits, sides.membership.trained)[1]
    return update_scores(scores, **{c.LOG_PROBABILITY_SECOND: second})


def find_displaced(fits: Fits, texts: AuditTexts) -> list[DisplacedRun]:
    """Return the runs of pairs whose captions belong to other pairs in order."""
    firsts = [captions[0] for captions in texts.pairs[c.CAPTIONS]]
    read_pairs = np.logical_or.reduceat(texts.read, texts.of_pairs.first)
    # Captions that are not read fit no picture, whatever their order.
    runs = find_runs(fits, ascending_stretches(firsts))
    return [run for run in runs if read_pairs[run.rows].mean() > HALF]


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
    scores = judged.scores
    utility = scoring.read_utilities(audit)
    attacked, attacks = scoring.attack_members(evidence)
    # An empty table would decide the column type
    tables = [table for table in (utility, attacked) if len(table)]
    store.write_table(audit.folder / store.UTILITY, pd.concat(tables, ignore_index=True))
    results = scoring.summary(evidence, scores, split) | {"attacks": attacks}
    wrong = wrong_captions(texts.pairs[c.INJECTED], scores, judged.wrong)
    results["wrong_captions"] = wrong
    results[PART] = "sentence" if record.sentences else "caption"
    if sample := scoring.whole_set(audit, record, scores, ensure_checks(audit), wrong):
        results["sample"] = sample
    if left_out:
        results[SECOND_LEFT_OUT] = left_out
    results[LANGUAGES] = record.languages
    results[NOT_READ] = int(np.count_nonzero(~texts.read))
    verdict = make_verdict(results, utility, record.config, towers=record.towers, cut=truncated)
    store.write_json(audit.folder / store.VERDICT, verdict)
    return verdict


def write_faults(
    audit: Audit,
    texts: AuditTexts,
    wrong: Probabilities,
    faults: Sequence[Fault],
    runs: Sequence[DisplacedRun],
    fits: Fits,
    *,
    distrusted: bool,
) -> None:
    """Write the incidents. Members that learned little do not tell which captions are wrong."""
    explained = likely_displaced(runs)[0]
    by_pair = wrong.parts[1].copy()
    by_pair[explained] = 0.0
    swaps = find_swaps(fits, np.nan_to_num(by_pair))
    if distrusted:
        more = sorted_captions(texts.pairs)
    else:
        suspected = wrong.pairs > HALF
        for rows in (explained, *(fault.rows for fault in faults)):
            suspected[rows] = False
        more = bad_sources(texts.pairs, suspected)
    fault_tables.write_incidents(audit, texts.pairs, runs, [*faults, *more], swaps)


def draw_map(run: Run) -> None:
    """Draw the map of the pictures of a finished audit, unless that takes long: the page Map then
    starts it. Nobody opens those of studies and benchmarks, which have no source."""
    if run.source and run.audit.record.pairs <= maps.AUDIT_LIMIT:
        with stage(run, jobs.MAPPING):
            maps.make_map(run.audit, next(iter(maps.SIDES)), say=run.screen.say)


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
            if prepare.has_changed(audit, source, config, screen):
                changed = f"{source} has changed since audit {name!r} read it"
                if audit.finished:
                    raise InputError(f"{changed}: use another --name")
                screen.say(f"note: {changed}: the audit continues with what it read")
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
            predict_words(run, texts.words)
    with stage(run, jobs.TRAINING):
        run.screen.say(f"training {len(audit.record.members)} members")
        train_members(run)
    has_second = config.rounds != "1" and config.protocol != "paper"
    with stage(run, jobs.SECOND_ROUND if has_second else jobs.SCORING):
        evidence = scoring.gather_evidence(audit, texts.pairs, texts.of_pairs)
        scores, split = score_table(evidence)
        left_out = train_second_round(run, scores, texts) if has_second else 0
    with stage(run, jobs.SCORING):
        if left_out:
            scores = second_scores(audit, scores, evidence.sides)
        trained = evidence.sides.membership.trained
        fits = Fits(evidence.image, evidence.text, trained, seed=config.seed)
        runs = find_displaced(fits, texts)
        judged, faults = score(run, evidence, scores, texts, features, runs)
    with stage(run, jobs.CHECKING):
        verdict = check_results(
            audit, evidence, judged, split, texts, truncated=truncated, left_out=left_out
        )
        distrusted = is_distrusted(verdict)
        write_faults(audit, texts, judged.wrong, faults, runs, fits, distrusted=distrusted)
    with stage(run, jobs.FINISHING):
        store.write_manifest(audit.folder)
    draw_map(run)


def counts(data_set: DataSet, membership: Membership) -> str:
    """Return a line with the numbers of pairs, captions, near-duplicates and rows in quarantine."""
    captions = pc.sum(pc.list_value_length(pa.array(data_set.pairs[c.CAPTIONS]))).as_py()
    groups = ", ".join(
        f"{count:,} {name}" for name, count in pd.Series(membership.group).value_counts().items()
    )
    return (
        f"{len(data_set.pairs):,} pairs with {captions:,} captions ({groups}); near-duplicates: "
        f"{data_set.near_duplicates:,}; rows in quarantine: {len(data_set.quarantine):,}"
    )


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


def compute_in_processes(run: Run, words: Words | None) -> None:
    """Compute each tower's features in a process that has imported the libraries of towers."""
    audit = run.audit
    record = audit.record
    folders = [audit.folder / f".{kind}" for kind in record.towers]
    tasks = []
    for kind, folder in zip(record.towers, folders, strict=True):
        folder.mkdir(exist_ok=True)
        work = functools.partial(compute_kind, spelled=words.spelled if words else [])
        tasks.append(Task((folder,), work, audit.folder, (kind,), record.threads, "features of"))
    said: dict[Path, str] = {}
    with closing(run.executor_of(len(tasks))(tasks)) as events:
        for _ in events:
            for folder in folders:
                now = read_record(folder)
                if now.stage != said.get(folder, ""):
                    run.screen.say(now.stage)
                    said[folder] = now.stage
                if now.total:
                    run.screen.count(now.noun, now.done, now.total)
    for folder in folders:
        shutil.rmtree(folder)


def compute_kind(folder: Path, names: Sequence[str], spelled: Sequence[str]) -> None:
    """Compute features of pictures, or of captions and of their words. The work of a task."""
    from clipmem_core.auditing.run.member import compute_features  # torch
    from clipmem_core.auditing.run.word_table import spelled_features

    (kind,) = names
    audit = Audit(folder)
    record = audit.record
    towers = settings.checked_towers(record.config, record.towers)
    other = {"image": "text", "text": "image"}[kind]
    pairs = audit.pairs
    for part in dict.fromkeys((towers, settings.member_towers(record.config))):
        part = part._replace(**{other: None})
        compute_features(part, pairs, record.pictures, Screen())
    spelled_features(towers.text, spelled)


def ensure_features(audit: Audit, screen: Screen) -> int:
    """Compute missing features of the locked towers in this process, and return the number of
    captions that the text tower cuts off."""
    record = audit.record
    if not settings.opens_towers(record.config):
        return 0
    from clipmem_core.auditing.run.member import compute_features  # torch

    towers = settings.checked_towers(record.config, record.towers)
    return compute_features(towers, audit.pairs, record.pictures, screen)
