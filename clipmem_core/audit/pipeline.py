"""Runs an audit stage by stage, from a data set to its scores. The same call resumes it, or does
nothing.

A new stage is a function and its place in `PIPELINE`.
"""

import collections
import contextlib
import functools
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from clipmem_core import columns as c
from clipmem_core.audit import prepare, scoring, settings, setup, store
from clipmem_core.audit.check_table import ensure_checks
from clipmem_core.audit.executor import Executor, local_processes, run_members
from clipmem_core.audit.prepare import DataSet
from clipmem_core.audit.status import FEATURES, LOG, TRAINING, WORDS, Screen, member_progress
from clipmem_core.audit.store import Audit
from clipmem_core.audit.verdict import RELIABILITY, SECOND_LEFT_OUT, judge
from clipmem_core.config import AuditConfig
from clipmem_core.io import DELETE, InputError, reading, save_array
from clipmem_core.scores.evidence import Probabilities, draw_decoys, probabilities
from clipmem_core.scores.membership import Membership, side_means
from clipmem_core.scores.prevalence import SECOND_ROUND_FROM, likely_wrong

# On a busy machine BLAS threads wait for each other, ten times as long as these small products
# take.
one_thread = threadpool_limits.wrap(limits=1, user_api="blas")


@dataclass
class Progress:
    """The inputs and intermediate results of a run, shared by its stages."""

    audit: Audit
    screen: Screen
    source: str = ""
    requested: AuditConfig | None = (
        None  # the resolved config of the command, which may request more members
    )
    again: Audit | None = None  # the audit whose membership is repeated
    executor: Executor | None = None
    predicts_words: bool = True  # a study does not use them
    seconds: dict[str, float] = field(
        default_factory=lambda: collections.defaultdict(float)
    )  # by stage
    second_seconds: float = 0.0  # of the second training
    cut: int = 0  # captions longer than the locked text tower reads
    left_out: int = 0  # pairs excluded by the second round
    attacks: list[dict[str, Any]] = field(default_factory=list)
    words_missing: str = ""  # why there is no words.parquet
    wrong: Probabilities | None = None  # that captions are wrong

    def train(self, *, again: bool = False) -> None:
        """Train all members that are not finished (`again`: in the second round)."""
        record = self.audit.record
        at_once = settings.side_by_side(record.config)
        executor = self.executor or functools.partial(local_processes, at_once=at_once)
        blocks = at_once if settings.shares_process(record.config) else 0
        options: dict[str, Any] = {"threads": record.threads, "blocks": blocks, "again": again}
        run_members(
            self.audit, record.members, executor=executor, watch=self.screen.members, **options
        )

    @functools.cached_property
    def words(self) -> pd.DataFrame:
        """The words that were predicted, with their caption's number among all."""
        from clipmem_core.audit.word_table import read_words  # torch

        return read_words(self.audit, self.caption_counts)

    @functools.cached_property
    def caption_counts(self) -> np.ndarray:
        return store.caption_counts(self.audit)

    @functools.cached_property
    def evidence(self) -> scoring.Evidence:
        return scoring.gather_evidence(self.audit)

    @functools.cached_property
    def first_scores(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The scores of the first round, and how clipmem was split between the encoders."""
        self.screen.say("scoring")
        scores, split = scoring.score_table(self.evidence)
        if split["missing"]:
            self.screen.say(f"note: {split['missing']}. Every other score is there")
        return scores, split


def _prepare(audit: Audit, progress: Progress) -> None:
    """Read the data set, draw the membership, inject errors, and write the result."""
    config = progress.requested
    screen = progress.screen
    again = progress.again
    began = time.monotonic()
    assert config is not None
    screen.say(f"reading {progress.source}")
    data_set = prepare.load_data_set(
        progress.source, config, progress=screen.pictures, say=screen.say
    )
    if again is None:
        # With --stable start from two repeats
        first = (
            min(config.members, settings.REPEATS * config.folds)
            if config.stable
            else config.members
        )
        membership = prepare.draw_membership(data_set.clusters, config, members=first)
    else:
        membership = prepare.repeat_membership(again, data_set.pairs)
    pairs = prepare.inject(data_set.pairs, membership, config)
    screen.say(counts(data_set, membership))
    name = again.name if again else ""
    seconds = time.monotonic() - began
    setup.write_audit(
        audit, progress.source, config, data_set, pairs, membership, seconds=seconds, again=name
    )
    pa.default_memory_pool().release_unused()  # captions, before members need the memory


def _features(audit: Audit, progress: Progress) -> None:
    """Check the files of `prepare`, and compute the locked towers' features of pictures and
    captions."""
    record = audit.record
    path = audit.folder / store.MEMBERSHIP
    audit.quarantine  # noqa: B018
    for name in record.members:
        audit.member_record(name)
    with reading(path, repair=DELETE):
        names = pq.read_schema(path).names
    if tuple(name for name in names if name not in (c.PAIR_ID, c.GROUP)) != record.members:
        raise InputError(
            f"{path} and {store.CONFIG} differ in members: delete {audit.folder} and run it again"
        )
    ensure_pixels(audit, progress.screen)
    progress.cut = ensure_features(audit, progress.screen, progress.executor)
    if progress.predicts_words and (record.config.lock_text or record.config.features):
        _ensure_decoys(audit, progress.caption_counts)


def _ensure_decoys(audit: Audit, counts: np.ndarray) -> None:
    """Draw the captions that are put in the place of others, only to be scored."""
    path = audit.folder / store.DECOYS
    config = audit.record.config
    if path.is_file() or counts.max(initial=0) < 2:
        return
    start = np.concatenate([[0], np.cumsum(counts)])
    clusters = store.read_prepared(audit.folder).clusters
    save_array(
        draw_decoys(prepare.caption_features(audit), start, clusters, seed=config.seed), path
    )


@one_thread
def _words(audit: Audit, progress: Progress) -> None:
    """Train the word models, and predict the words of captions by the model that never saw their
    pair."""
    from clipmem_core.audit.word_table import ensure_words  # torch

    record = audit.record
    screen = progress.screen
    if not progress.predicts_words:
        return
    if not (record.config.lock_image or record.config.features):
        progress.words_missing = "the words of captions are scored with a locked image tower only"
        return
    screen.say(WORDS)
    at_once = min(2, settings.side_by_side(record.config))
    n = int(progress.caption_counts.sum())
    report: Callable[[float], None] = lambda share: screen.captions(round(share * n), n)  # noqa: E731
    ensure_words(audit, progress.executor, at_once=at_once, threads=record.threads, watch=report)


@one_thread
def _members(audit: Audit, progress: Progress) -> None:
    """Train the members; with --stable, more of them until the ranking is reliable enough."""
    while True:
        progress.screen.say(f"{TRAINING} {len(audit.record.members)} members")
        progress.train()
        if not _add_repeat(progress, lambda: scoring.reliability(progress.evidence)):
            return
        del progress.evidence


@one_thread
def _second_round(audit: Audit, progress: Progress) -> None:
    """Train each member a second time, without the pairs whose captions are probably wrong. Only
    its scores on pairs it did not train on are stored."""
    record = audit.record
    screen = progress.screen
    began = time.monotonic()
    names = record.members
    rounds = record.config.rounds
    if rounds == "1" or record.protocol == "paper" or audit.member_record(names[0]).checkpoint:
        return
    scores = progress.first_scores[0]
    scored = scores[c.GROUP].isin(c.SCORED_GROUPS).to_numpy()
    misfit, fit = (np.where(scored, scores[name], np.nan) for name in (c.MISFIT, c.CSLS_OUT))
    left_out = likely_wrong(
        misfit, fit, scores[c.CSLS_SWAPPED].to_numpy(), least=SECOND_ROUND_FROM[rounds]
    )
    path = audit.folder / store.SECOND_TABLE
    before = (
        store.read_table(path)[store.LEFT_OUT].to_numpy()
        if path.is_file()
        else np.zeros(len(scores), bool)
    )
    if not np.array_equal(before, left_out):
        for name in names:
            shutil.rmtree(audit.member(name) / store.SECOND, ignore_errors=True)
        store.write_table(
            path, pd.DataFrame({c.PAIR_ID: scores[c.PAIR_ID], store.LEFT_OUT: left_out})
        )
    progress.left_out = int(left_out.sum())
    if not progress.left_out:
        if rounds == "2":
            screen.say(
                "note: no second round: hardly any caption is wrong, or the number of wrong ones "
                "is unknown"
            )
        return
    screen.say(
        f"second round: members train again without the {progress.left_out:,} pairs that are "
        "probably wrong"
    )
    for folder in (audit.member(name) / store.SECOND for name in names):
        if (
            folder / store.SECOND_FIT
        ).is_file():  # a kill may have come before its model was removed
            store.remove_second_model(folder)
    progress.train(again=True)
    progress.second_seconds = time.monotonic() - began


@one_thread
def _score(audit: Audit, progress: Progress) -> None:
    """Write scores, captions and utility of all pairs."""
    scores = progress.first_scores[0]
    evidence = progress.evidence
    sides = evidence.sides
    if progress.left_out:
        folders = [audit.member(name) / store.SECOND for name in audit.record.members]
        fits = [store.read_array(folder / store.SECOND_FIT, shared=True) for folder in folders]
        second = side_means(fits, sides.membership.trained)[1]
        scores = scoring.update_scores(scores, **{c.LOG_PROBABILITY_SECOND: second})
    captions, of_captions = scoring.caption_table(
        audit, scores, progress.caption_counts, sides, progress.words
    )
    progress.wrong = wrong = probabilities(of_captions)
    curves = {
        name: np.array(count.curve).tolist()
        for name, count in wrong.counts.items()
        if not count.missing
    }
    ratio = None if wrong.ratio is None else wrong.ratio.tolist()
    fitted = {"missing": wrong.counts["pairs"].missing, "curves": curves, "ratio": ratio}
    store.write_json(audit.folder / store.FITTED, fitted)
    store.write_table(
        audit.folder / store.CAPTION_TABLE, pd.concat([captions, wrong.captions], axis=1)
    )
    if len(progress.words):
        store.add_column(audit.folder / store.WORD_TABLE, c.P_WRONG, wrong.words)
    scores = scoring.update_scores(scores, **{c.P_WRONG: wrong.pairs, c.SUSPICION: wrong.worst})
    store.write_table(audit.folder / store.SCORES, scores)
    utility = scoring.utility_table(audit, sides.membership.members)
    attacked, progress.attacks = scoring.attack_members(evidence)
    tables = [
        table for table in (utility, attacked) if len(table)
    ]  # an empty one would decide the column type
    store.write_table(audit.folder / store.UTILITY, pd.concat(tables, ignore_index=True))


@one_thread
def _verdict(audit: Audit, progress: Progress) -> None:
    """Write the audit's results and its checks of itself."""
    began = time.monotonic()
    spent = progress.seconds
    record = audit.record
    scores = audit.scores
    assert progress.wrong is not None
    results = scoring.summary(progress.evidence, scores, progress.first_scores[1]) | {
        "attacks": progress.attacks
    }
    results["wrong_captions"] = scoring.wrong_captions(
        audit.pairs[c.INJECTED], scores, progress.wrong
    )
    if sample := scoring.whole_set(
        audit, record, scores, ensure_checks(audit), results["wrong_captions"]
    ):
        results["sample"] = sample
    if progress.left_out:
        results[SECOND_LEFT_OUT] = progress.left_out
    utility = scoring.utility_table(audit, record.members)
    verdict = judge(results, utility, record.config, towers=record.towers, cut=progress.cut)
    scoring_seconds = (
        spent["second round"] - progress.second_seconds + spent["score"] + time.monotonic() - began
    )
    training = {
        name: member_progress(audit.folder, name).seconds or None for name in record.members
    }
    seconds = {
        "prepare": record.prepare_seconds,
        "words": round(spent["words"], 2),
        "members": round(spent["features"] + spent["members"], 2),
        "scoring": round(scoring_seconds, 2),
        "second_round": round(progress.second_seconds, 2),
        "training_by_member": training,
    }
    more = {"words_missing": progress.words_missing or None, "seconds": seconds}
    store.write_json(audit.folder / store.VERDICT, verdict | more)


# All run until the manifest is written, except `prepare`, which is done once config.json exists.
PIPELINE: dict[str, Callable[[Audit, Progress], None]] = {
    "prepare": _prepare,
    "features": _features,
    "words": _words,
    "members": _members,
    "second round": _second_round,
    "score": _score,
    "verdict": _verdict,
    "manifest": lambda audit, _: store.write_manifest(audit.folder),
}


def run_audit(
    source: str,
    config: AuditConfig,
    *,
    name: str,
    screen: Screen,
    executor: Executor | None = None,
    again: Audit | None = None,
) -> Audit:
    """Run an audit, or resume it, and return it."""
    audit = Audit(store.audits_folder() / store.check_name(name))
    config = settings.resolve(prepare.with_features(source, config))
    with store.acquire_lock(audit.folder, what="audit"):
        if audit.begun:
            setup.check_same(audit, source, config)
            # With --stable only growth that a kill interrupted is resumed here
            more = setup.grow(
                audit, config, members=len(audit.record.members) if config.stable else 0
            )
            added = (
                f"{more} members"
                if more
                else "a second round"
                if setup.add_round(audit, config)
                else ""
            )
            screen.say(f"adding {added} to audit {name!r}" if added else f"resuming audit {name!r}")
        try:
            finish_audit(
                Progress(audit, screen, source, config, again, executor), is_new=not audit.begun
            )
        except FileNotFoundError:
            if audit.begun:  # another member may have made its folder again
                raise
            raise InputError(
                f"{audit.folder} was deleted while the audit ran: repeat the command"
            ) from None
    return audit


def finish_audit(progress: Progress, *, is_new: bool = False) -> None:
    """Run the first stage that is not done and all after it; broken and missing files are
    recomputed.

    A new audit that cannot start to train is deleted.
    """
    audit = progress.audit
    screen = progress.screen
    if broken := store.broken_files(audit.folder):
        screen.say(
            f"{len(broken)} of its files are broken or missing, first {broken[0]}: recomputing them"
        )
        store.reopen(audit, broken)
    elif audit.finished:
        _add_repeat(progress, lambda: audit.verdict[RELIABILITY])
    if audit.finished:
        screen.say("it is finished: nothing to do")
        return
    try:
        for name, stage in PIPELINE.items():
            if name != "prepare" or not audit.begun:
                began = time.monotonic()
                stage(audit, progress)
                progress.seconds[name] = time.monotonic() - began
    except InputError:
        if (
            is_new
            and audit.folder.exists()
            and not any((audit.folder / store.MEMBERS).glob(f"*/{LOG}"))
        ):
            shutil.rmtree(audit.folder)
        raise


def counts(data_set: DataSet, membership: Membership) -> str:
    """Return a line with the numbers of pairs, captions, near-duplicates and rows in quarantine."""
    captions = pc.sum(pc.list_value_length(pa.array(data_set.pairs[c.CAPTIONS]))).as_py()
    groups = ", ".join(
        f"{count:,} {name}" for name, count in pd.Series(membership.group).value_counts().items()
    )
    return (
        f"{len(data_set.pairs):,} pairs with {captions:,} captions ({groups}); "
        f"near-duplicates: {data_set.near_duplicates:,}; rows in quarantine: "
        f"{len(data_set.quarantine):,}"
    )


def _add_repeat(progress: Progress, measure: Callable[[], float | None]) -> bool:
    """Add members if the ranking is less reliable than --stable requests, and tell whether some
    were added."""
    audit = progress.audit
    config = progress.requested
    if config is None or not config.stable:
        return False
    members = len(audit.record.members)
    value = measure()
    reached = value is not None and value >= config.stable
    shown = (
        "is unknown"
        if value is None
        else f"{value:.3f} {'≥' if reached else '<'} {config.stable:g}"
    )
    progress.screen.say(f"reliability {shown} with {members} of {config.members} members")
    if reached or members >= config.members:
        return False
    more = setup.grow(audit, config, members=members + config.folds)
    progress.screen.say(f"adding {more} members to audit {audit.name!r}")
    return True


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


def ensure_features(audit: Audit, screen: Screen, executor: Executor | None = None) -> int:
    """Compute the locked towers' features, in this process if there is no executor, and return the
    number of captions that the text tower cuts off."""
    record = audit.record
    if not settings.opens_towers(record.config):
        return 0
    from clipmem_core.audit.member import features_of, shards_by  # torch

    screen.say(f"{FEATURES} with the locked towers")
    towers = settings.checked_towers(record.config, record.towers)
    report: dict[str, Any] = {
        "pictures": screen.pictures,
        "captions": screen.captions,
        "say": screen.say,
    }
    compute = shards_by(executor, record.threads)
    return features_of(towers, audit.pairs, record.pictures, compute=compute, **report).cut
