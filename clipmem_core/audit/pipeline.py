"""Runs an audit stage by stage, from a data set to its scores. The same call resumes it, or does
nothing.

A new stage is a class and its place in `PIPELINE`.
"""

import contextlib
import functools
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from threadpoolctl import threadpool_limits

from clipmem_core import columns as c
from clipmem_core.audit import (
    fault_tables,
    maps,
    prepare,
    scoring,
    settings,
    setup,
    status,
    store,
)
from clipmem_core.audit.executor import Executor, Task, local_processes
from clipmem_core.audit.fault_tables import ensure_checks
from clipmem_core.audit.jobs import JobRecord, read_record
from clipmem_core.audit.prepare import DataSet
from clipmem_core.audit.status import LOG, Screen, TaskScreen
from clipmem_core.audit.store import Audit
from clipmem_core.audit.verdict import (
    LANGUAGES,
    NOT_READ,
    PART,
    SECOND_LEFT_OUT,
    UNSPACED,
    is_distrusted,
    make_verdict,
)
from clipmem_core.config import AuditConfig
from clipmem_core.dataset.checks import Captions, not_captions
from clipmem_core.dataset.faults import (
    Fault,
    ascending_stretches,
    bad_sources,
    placeholders,
    sorted_captions,
    text_faults,
)
from clipmem_core.dataset.languages import (
    describe_languages,
    is_read,
    languages_read,
    spaces_words,
)
from clipmem_core.dataset.sentences import places_of
from clipmem_core.io import InputError, is_intact, save_array
from clipmem_core.ragged import Ragged
from clipmem_core.scores.displaced import DisplacedRun, Fits, find_runs, find_swaps
from clipmem_core.scores.evidence import (
    HALF,
    Probabilities,
    draw_decoys,
    probabilities,
    recurring_texts,
    with_checks,
    with_displaced,
)
from clipmem_core.scores.membership import Membership, side_means
from clipmem_core.scores.prevalence import SECOND_ROUND_FROM, likely_wrong


@dataclass
class Run:
    """An audit at work: what was requested, its intermediate results, and what stages pass on."""

    audit: Audit
    screen: Screen
    source: str = ""
    requested: AuditConfig | None = None  # resolved
    reaudit_of: Audit | None = None  # the audit whose membership is repeated
    executor: Executor | None = None
    predicts_words: bool = True  # a study does not use them
    truncated: int = 0  # captions longer than the locked text tower reads
    wrong: Probabilities | None = None  # that captions are wrong

    def train(self, *, second_round: bool = False) -> None:
        """Train all members that are not finished."""
        from clipmem_core.audit.member import run_members  # torch

        record = self.audit.record
        at_once = settings.side_by_side(record.config)
        run_members(
            self.audit,
            record.members,
            threads=record.threads,
            blocks=at_once if settings.shares_process(record.config) else 0,
            executor=self.executor_of(at_once),
            watch=self.screen.members,
            second_round=second_round,
        )

    def executor_of(self, at_once: int) -> Executor:
        """Return what runs tasks: the requested executor, else processes of this machine."""
        return self.executor or functools.partial(local_processes, at_once=at_once)

    @functools.cached_property
    def captions(self) -> Ragged:
        return store.read_captions(self.audit)

    @functools.cached_property
    def words(self) -> pd.DataFrame:
        """The words that were predicted."""
        from clipmem_core.audit.word_table import read_words  # torch

        return read_words(self.audit)

    @functools.cached_property
    def evidence(self) -> scoring.Evidence:
        return scoring.gather_evidence(self.audit)

    @functools.cached_property
    def read(self) -> np.ndarray:
        """Captions that the text tower reads, bool [n_captions]."""
        languages = languages_read(self.audit.record.config)
        blocks = store.text_blocks(self.audit)
        read = [is_read(text, languages) for block in blocks for part in block for text in part]
        return np.array(read, bool)

    @functools.cached_property
    def read_pairs(self) -> np.ndarray:
        """Pairs with such a caption, bool [n_pairs]."""
        return np.logical_or.reduceat(self.read, self.captions.first)

    @functools.cached_property
    def reasons(self) -> np.ndarray:
        """Why each text is no caption, empty for captions, object [n_captions]. `ScorePairs` adds
        recurring texts, which need scores."""
        pairs = self.audit.read_columns(store.PAIRS, c.CAPTIONS)[c.CAPTIONS].tolist()
        captions = Captions.from_pairs(pairs)
        reasons = not_captions(captions.texts)
        clusters = store.read_prepared(self.audit.folder).clusters
        for rows in placeholders(captions, clusters):
            reasons[np.isin(captions.owner, rows) & (reasons == "")] = c.REPEATED_PICTURE
        return reasons

    @functools.cached_property
    def faults(self) -> list[Fault]:
        """The faults of the pipeline that `reasons` and the checks of captions show."""
        clusters = store.read_prepared(self.audit.folder).clusters
        checks = store.read_table(ensure_checks(self.audit))
        return text_faults(self.audit.pairs, clusters, checks, self.reasons)

    @functools.cached_property
    def fits(self) -> Fits:
        """How well pictures fit the captions of other pairs."""
        sides = self.evidence.sides
        trained = sides.membership.trained
        return Fits.of(self.evidence.image, self.evidence.text, trained, seed=sides.seed)

    @functools.cached_property
    def displaced(self) -> list[DisplacedRun]:
        """The runs of pairs whose captions belong to other pairs in order."""
        pairs = self.audit.read_columns(store.PAIRS, c.CAPTIONS)
        firsts = [captions[0] for captions in pairs[c.CAPTIONS]]
        runs = find_runs(self.fits, ascending_stretches(firsts))
        # Captions that are not read fit no picture, whatever their order.
        return [run for run in runs if self.read_pairs[run.rows].mean() > HALF]

    @functools.cached_property
    def first_scores(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The scores of the first round, and how clipmem was split between the encoders."""
        scores, split = scoring.score_table(self.evidence)
        if split["missing"]:
            self.screen.say(f"note: {split['missing']}. Every other score is there")
        return scores, split

    @property
    def left_out(self) -> int:
        """The number of pairs that the second round excludes."""
        path = self.audit.folder / store.SECOND_TABLE
        return int(store.read_table(path)[store.LEFT_OUT].sum()) if path.is_file() else 0


class Stage:
    """A stage of an audit: `run` computes what is missing, and is not called if `is_done`."""

    name: ClassVar[str]  # of its time in seconds.json, and on pages while it runs
    # On a busy machine BLAS threads wait for each other, ten times as long as the small products
    # of most stages take. None: no limit.
    blas_threads: ClassVar[int | None] = 1

    def is_done(self, run: Run) -> bool:
        """Tell whether nothing is left to do; a stage that checks this itself is never done."""
        return False

    def run(self, run: Run) -> None:
        raise NotImplementedError


class Prepare(Stage):
    """Read the data set, draw the membership, inject errors, and write the result."""

    name = status.PREPARING
    blas_threads = None

    def is_done(self, run: Run) -> bool:
        return run.audit.begun

    def run(self, run: Run) -> None:
        config = run.requested
        screen = run.screen
        assert config is not None
        screen.say(f"reading {run.source}")
        settings.load_in_background(config)
        data_set = prepare.load_data_set(
            run.source, config, progress=screen.pictures, say=screen.say
        )
        if run.reaudit_of:
            membership = prepare.repeat_membership(run.reaudit_of, data_set.pairs)
        else:
            membership = prepare.draw_membership(data_set.groups, config)
        pairs = prepare.inject(data_set.pairs, membership, config)
        screen.say(counts(data_set, membership))
        name = run.reaudit_of.name if run.reaudit_of else ""
        setup.write_audit(
            run.audit, run.source, config, data_set, pairs, membership, reaudit_of=name
        )
        record = run.audit.record
        screen.say(f"captions: {describe_languages(record.languages, record.config)}")
        pa.default_memory_pool().release_unused()  # captions, before members need the memory


class ExtractFeatures(Stage):
    """Compute the locked towers' features of pictures and captions, and draw decoys."""

    name = status.FEATURES
    blas_threads = None

    def run(self, run: Run) -> None:
        audit = run.audit
        config = audit.record.config
        store.read_table(audit.folder / store.QUARANTINE)  # named before hours of training
        run.screen.say(self.name)
        ensure_pixels(audit, run.screen)
        compute_in_processes(run)
        run.truncated = ensure_features(audit, TaskScreen())  # the tasks' lines are shown
        path = audit.folder / store.DECOYS
        has_captions = config.lock_text or config.features
        several = run.captions.counts.max(initial=0) > 1
        if run.predicts_words and has_captions and several and not path.is_file():
            clusters = store.read_prepared(audit.folder).groups
            features = prepare.caption_features(audit)
            save_array(draw_decoys(features, run.captions, clusters, seed=config.seed), path)


class PredictWords(Stage):
    """Train the word models; each predicts the words of the pairs that it did not train on."""

    name = status.WORDS

    def is_done(self, run: Run) -> bool:
        config = run.audit.record.config
        return not (run.predicts_words and (config.lock_image or config.features))

    def run(self, run: Run) -> None:
        from clipmem_core.audit.word_table import ensure_words  # torch

        record = run.audit.record
        if not spaces_words(record.languages):
            run.screen.say(f"note: {UNSPACED}")
            return
        run.screen.say(self.name)
        n = run.captions.n_items

        def report(share: float) -> None:
            run.screen.captions(round(share * n), n)

        at_once = min(2, settings.side_by_side(record.config))
        ensure_words(run.audit, run.executor_of(at_once), watch=report)


class TrainMembers(Stage):
    """Train the members."""

    name = status.TRAINING

    def run(self, run: Run) -> None:
        run.screen.say(f"training {len(run.audit.record.members)} members")
        run.train()


class SecondRound(Stage):
    """Train each member a second time, without the pairs whose captions are probably wrong. Only
    its scores on pairs it did not train on are stored."""

    name = status.SECOND_ROUND

    def is_done(self, run: Run) -> bool:
        config = run.audit.record.config
        return config.rounds == "1" or config.protocol == "paper"

    def run(self, run: Run) -> None:
        audit = run.audit
        if not self.select(run):
            if audit.record.config.rounds == "2":
                run.screen.say(
                    "note: no second round: hardly any caption is wrong, or the number of wrong "
                    "ones is unknown"
                )
            return
        run.screen.say(
            f"second round: members train again without the {run.left_out:,} pairs that are "
            "probably wrong"
        )
        for name in audit.record.members:
            folder = audit.member(name) / store.SECOND
            if (folder / store.SECOND_FIT).is_file():  # a kill may have left its model
                store.remove_second_model(folder)
        run.train(second_round=True)

    def select(self, run: Run) -> int:
        """Write which pairs are left out, discard members trained without others, and return the
        number of pairs."""
        audit = run.audit
        scores = run.first_scores[0]
        scored = scores[c.GROUP].isin(c.SCORED_GROUPS).to_numpy() & run.read_pairs
        misfit, fit = (np.where(scored, scores[name], np.nan) for name in (c.MISFIT, c.CSLS_OUT))
        least = SECOND_ROUND_FROM[audit.record.config.rounds]
        left_out = likely_wrong(misfit, fit, scores[c.CSLS_SWAPPED].to_numpy(), least=least)
        path = audit.folder / store.SECOND_TABLE
        before = np.zeros(len(scores), bool)
        if path.is_file():
            before = store.read_table(path)[store.LEFT_OUT].to_numpy()
        if not np.array_equal(before, left_out):
            for name in audit.record.members:
                shutil.rmtree(audit.member(name) / store.SECOND, ignore_errors=True)
            table = pd.DataFrame({c.PAIR_ID: scores[c.PAIR_ID], store.LEFT_OUT: left_out})
            store.write_table(path, table)
        return int(left_out.sum())


class ScorePairs(Stage):
    """Write the scores of pairs, captions and words."""

    name = status.SCORING

    def run(self, run: Run) -> None:
        audit = run.audit
        config = audit.record.config
        run.screen.say(self.name)
        scores = run.first_scores[0]
        sides = run.evidence.sides
        if run.left_out:
            folders = [audit.member(name) / store.SECOND for name in audit.record.members]
            fits = [store.read_array(folder / store.SECOND_FIT) for folder in folders]
            second = side_means(fits, sides.membership.trained)[1]
            scores = scoring.update_scores(scores, **{c.LOG_PROBABILITY_SECOND: second})
        reasons = run.reasons
        if audit.record.sentences:  # those of the caption
            places = places_of(audit.read_columns(store.PAIRS, c.CAPTIONS)[c.CAPTIONS])
            reasons = reasons[(places[c.SENTENCE] == 0).cumsum() - 1]
        captions, of_captions = scoring.caption_table(
            audit, scores, run.captions, sides, run.words, run.read, reasons
        )
        wrong = probabilities(of_captions)
        if not audit.record.sentences and (config.lock_text or config.features):
            clusters = store.read_prepared(audit.folder).clusters
            features = prepare.caption_features(audit)
            owner = run.captions.owner
            others = scores[f"{c.NEGATIVE_IMAGE}_out"].to_numpy()[owner]
            gaps = captions[c.SIMILARITY_OUT].to_numpy() - others
            gaps[~run.read] = np.nan
            recurs = recurring_texts(features, gaps, owner, clusters)
            reasons[recurs & (reasons == "")] = c.RECURRING_TEXT
        explained = np.zeros(len(scores), bool)
        for fault in run.faults:
            explained[fault.rows] = True
        explained &= np.maximum.reduceat(reasons != "", run.captions.first)
        wrong = with_checks(wrong, run.captions, reasons != "", explained)
        rows, probability = fault_tables.displaced(run.displaced)
        run.wrong = wrong = with_displaced(wrong, run.captions, rows, probability)
        curves = {
            name: np.array(count.ratio).tolist()
            for name, count in wrong.counts.items()
            if not count.missing
        }
        ratio, specific = (
            None if values is None else values.tolist() for values in (wrong.ratio, wrong.specific)
        )
        missing = wrong.counts["pairs"].missing
        fitted = {
            "missing": missing,
            "curves": curves,
            "shares": wrong.shares,
            "ratio": ratio,
            "specific": specific,
        }
        store.write_json(audit.folder / store.FITTED, fitted)
        captions = pd.concat([captions, wrong.captions], axis=1).assign(**{c.CHECK: reasons})
        if audit.record.sentences:
            captions = scoring.sentence_table(audit, captions)
            store.write_table(audit.folder / store.SENTENCE_TABLE, captions)
            captions = scoring.captions_of_sentences(captions)
            captions = captions.drop(columns=[c.SENTENCE, c.START, c.END])
        store.write_table(audit.folder / store.CAPTION_TABLE, captions)
        if (words := audit.folder / store.WORD_TABLE).is_file():  # perhaps without a row
            p_word = wrong.captions[c.P_WORD].to_numpy()[run.words[c.CAPTION_ROW]]
            store.add_column(words, c.P_WRONG, wrong.word_share * p_word)
        by_part = dict(zip(c.PARTS, wrong.parts, strict=True))
        scores = scoring.update_scores(
            scores, **by_part, **{c.P_WRONG: wrong.pairs, c.SUSPICION: wrong.worst}
        )
        store.write_table(audit.folder / store.SCORES, scores)


class CheckResults(Stage):
    """Write the members' utility, the audit's results, and its checks of itself."""

    name = status.CHECKING

    def run(self, run: Run) -> None:
        audit = run.audit
        record = audit.record
        scores = audit.scores
        assert run.wrong is not None
        utility = scoring.read_utilities(audit)
        attacked, attacks = scoring.attack_members(run.evidence)
        # An empty table would decide the column type
        tables = [table for table in (utility, attacked) if len(table)]
        store.write_table(audit.folder / store.UTILITY, pd.concat(tables, ignore_index=True))
        results = scoring.summary(run.evidence, scores, run.first_scores[1]) | {"attacks": attacks}
        wrong = scoring.wrong_captions(audit.pairs[c.INJECTED], scores, run.wrong)
        results["wrong_captions"] = wrong
        results[PART] = "sentence" if record.sentences else "caption"
        if sample := scoring.whole_set(audit, record, scores, ensure_checks(audit), wrong):
            results["sample"] = sample
        if run.left_out:
            results[SECOND_LEFT_OUT] = run.left_out
        results[LANGUAGES] = record.languages
        results[NOT_READ] = int(np.count_nonzero(~run.read))
        verdict = make_verdict(
            results, utility, record.config, towers=record.towers, cut=run.truncated
        )
        store.write_json(audit.folder / store.VERDICT, verdict)
        # Members that learned little do not tell which captions are wrong.
        explained = fault_tables.displaced(run.displaced)[0]
        by_pair = run.wrong.parts[1].copy()
        by_pair[explained] = 0.0
        swaps = find_swaps(run.fits, np.nan_to_num(by_pair))
        pairs = audit.pairs
        if is_distrusted(verdict):
            faults = run.faults + sorted_captions(pairs)
        else:
            suspected = run.wrong.pairs > HALF
            for rows in (explained, *(fault.rows for fault in run.faults)):
                suspected[rows] = False
            faults = run.faults + bad_sources(pairs, suspected)
        fault_tables.write_incidents(audit, run.displaced, faults, swaps)


class WriteManifest(Stage):
    """Write the hash of every file, which marks the audit as finished."""

    name = status.FINISHING

    def run(self, run: Run) -> None:
        store.write_manifest(run.audit.folder)


class DrawMap(Stage):
    """Draw the map of the pictures of a finished audit, unless that takes long: the page Map then
    starts it. Nobody opens those of studies and benchmarks, which have no source."""

    name = status.MAPPING

    def is_done(self, run: Run) -> bool:
        return not run.source or run.audit.record.pairs > maps.AUDIT_LIMIT

    def run(self, run: Run) -> None:
        maps.make_map(run.audit, next(iter(maps.SIDES)), say=run.screen.say)


PIPELINE = (
    Prepare(),
    ExtractFeatures(),
    PredictWords(),
    TrainMembers(),
    SecondRound(),
    ScorePairs(),
    CheckResults(),
    WriteManifest(),
    DrawMap(),
)


def run_audit(
    source: str,
    config: AuditConfig,
    *,
    name: str,
    screen: Screen,
    executor: Executor | None = None,
    reaudit_of: Audit | None = None,
) -> Audit:
    """Run an audit, or resume it, and return it."""
    audit = Audit.of(name)
    config = settings.resolve(prepare.with_features(source, config))
    with store.acquire_lock(audit.folder, what="audit"):
        if audit.begun:
            setup.check_same(audit, source, config)
            if changes := setup.source_changes(audit, source, config, screen):
                changed = f"{source} has changed since audit {name!r} read it ({changes})"
                if audit.finished:
                    raise InputError(f"{changed}: use another --name")
                screen.say(f"note: {changed}: the audit continues with what it read")
            if more := setup.grow(audit, config):
                screen.say(f"adding {more} members to audit {name!r}")
            elif setup.add_round(audit, config):
                screen.say(f"adding a second round to audit {name!r}")
            else:
                screen.say(f"resuming audit {name!r}")
        run = Run(audit, screen, source, config, reaudit_of, executor)
        try:
            finish_audit(run, is_new=not audit.begun)
        except FileNotFoundError:
            if audit.begun:  # another process may have made its folder again
                raise
            raise InputError(
                f"{audit.folder} was deleted while the audit ran: repeat the command"
            ) from None
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
        for stage in PIPELINE:
            if not stage.is_done(run):
                run_stage(stage, run)
    except InputError:
        logs = (audit.folder / store.MEMBERS).glob(f"*/{LOG}")
        if is_new and audit.folder.exists() and not any(logs):
            shutil.rmtree(audit.folder)
        raise


def run_stage(stage: Stage, run: Run) -> None:
    """Run a stage, show its name on pages meanwhile, and add its time to seconds.json."""
    audit = run.audit
    began = time.monotonic()
    if audit.begun:
        store.write_json(audit.folder / store.STAGE, stage.name)
    with threadpool_limits(limits=stage.blas_threads, user_api="blas"):
        stage.run(run)
    if not audit.finished:  # the manifest is written last
        seconds = audit.seconds
        seconds[stage.name] = round(seconds.get(stage.name, 0.0) + time.monotonic() - began, 2)
        store.write_json(audit.folder / store.SECONDS, seconds)


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
    if not is_intact(missing):
        action = "reading the features" if record.config.features else "storing the small pictures"
        screen.say(f"{missing} is missing or damaged: {action} again")
        prepare.rebuild_store(audit, progress=screen.pictures)


def compute_in_processes(run: Run) -> None:
    """Compute each tower's features in a process that has imported the libraries of towers."""
    audit = run.audit
    record = audit.record
    folders = [audit.folder / f".{kind}" for kind in record.towers]
    tasks = []
    for kind, folder in zip(record.towers, folders, strict=True):
        folder.mkdir(exist_ok=True)
        names = (kind, status.WORDS) if run.predicts_words else (kind,)
        tasks.append(
            Task((folder,), compute_kind, audit.folder, names, record.threads, "features of")
        )
    shown = [JobRecord()] * len(folders)
    with closing(run.executor_of(len(tasks))(tasks)) as events:
        for _ in events:
            for number, folder in enumerate(folders):
                now = read_record(folder)
                if now.stage != shown[number].stage:
                    run.screen.say(now.stage)
                if now.done > shown[number].done:  # a killed run may have left a record
                    getattr(run.screen, now.noun)(now.done, now.total)
                shown[number] = now
    for folder in folders:
        shutil.rmtree(folder)


def compute_kind(folder: Path, names: Sequence[str]) -> None:
    """Compute features of pictures or captions, and of the captions' words. The work of a task."""
    from clipmem_core.audit.member import compute_features  # torch
    from clipmem_core.audit.word_table import caption_words, spelled_features

    kind, *rest = names
    audit = Audit(folder)
    record = audit.record
    towers = settings.checked_towers(record.config, record.towers)
    other = {"image": "text", "text": "image"}[kind]
    towers = towers._replace(**{other: None})
    compute_features(towers, audit.pairs, record.pictures, TaskScreen())
    if rest:
        spelled_features(towers.text, caption_words(audit))


def ensure_features(audit: Audit, screen: Screen) -> int:
    """Compute missing features of the locked towers in this process, and return the number of
    captions that the text tower cuts off."""
    record = audit.record
    if not settings.opens_towers(record.config):
        return 0
    from clipmem_core.audit.member import compute_features  # torch

    towers = settings.checked_towers(record.config, record.towers)
    return compute_features(towers, audit.pairs, record.pictures, screen)
