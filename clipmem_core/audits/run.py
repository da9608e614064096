"""An audit from a data set to its scores, stage by stage. The same call again resumes it, or does nothing.

A new stage is a function and its place in `PIPELINE`.
"""

import collections
import contextlib
import functools
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from clipmem_core import columns as c
from clipmem_core.audits import prepare, scoring, settings, setup, store
from clipmem_core.audits.checks import ensure_checks
from clipmem_core.audits.executor import Executor, local_processes, run_members
from clipmem_core.audits.prepare import DataSet
from clipmem_core.audits.status import FEATURES, LOG, TRAINING, MemberProgress, member_progress
from clipmem_core.audits.store import Audit, Record
from clipmem_core.audits.verdict import RELIABILITY, SECOND_LEFT_OUT, judge
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.features.stored import is_stored
from clipmem_core.io import DELETE, reading
from clipmem_core.pairs.pixels import broken_file
from clipmem_core.scores.membership import Membership, side_means
from clipmem_core.scores.prevalence import SECOND_ROUND_FROM, likely_wrong

# BLAS threads wait for each other on a busy machine, ten times as long as these small products take.
one_thread = threadpool_limits.wrap(limits=1, user_api="blas")


class Screen(Protocol):
    """Shows an audit's progress: lines, numbers of finished pictures and captions, members."""

    def say(self, text: str) -> None: ...

    def pictures(self, done: int, total: int) -> None: ...

    def captions(self, done: int, total: int) -> None: ...

    def members(self, progress: list[MemberProgress]) -> None: ...


@dataclass
class Progress:
    """What the stages of a run share."""

    audit: Audit
    screen: Screen
    source: str = ""
    asked: AuditConfig | None = None  # the resolved config of the command, which may ask for more members
    again: Audit | None = None  # whose membership is repeated
    executor: Executor | None = None
    seconds: dict[str, float] = field(default_factory=lambda: collections.defaultdict(float))  # by stage
    second_seconds: float = 0.0  # of the second training
    cut: int = 0  # captions longer than the locked text tower reads
    left_out: int = 0  # pairs, by the second round
    attacks: list[dict[str, Any]] = field(default_factory=list)
    captions_missing: str = ""

    @property
    def how(self) -> dict[str, Any]:
        """How members run: the executor, and the number of blocks that share a process."""
        config = self.audit.record.config
        at_once = settings.side_by_side(config)
        blocks = at_once if settings.shares_process(config) else 0
        return {"executor": self.executor or functools.partial(local_processes, at_once=at_once), "blocks": blocks}

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
    """Read the data set, draw the membership, inject errors, and write all of it."""
    config, screen, again, began = progress.asked, progress.screen, progress.again, time.monotonic()
    assert config is not None
    screen.say(f"reading {progress.source}")
    data_set = prepare.load_data_set(progress.source, config, progress=screen.pictures, say=screen.say)
    if again is None:
        # With --stable start from two repeats
        first = min(config.members, settings.REPEATS * config.folds) if config.stable else config.members
        membership = prepare.draw_membership(data_set.clusters, config, members=first)
    else:
        membership = prepare.repeat_membership(again, data_set.pairs)
    pairs = prepare.plant(data_set.pairs, membership, config)
    screen.say(counts(data_set, membership))
    trained = round(float(membership.trained.sum(axis=1).mean()))
    if trained < config.batch_size:
        screen.say(f"note: members train on {trained:,} pairs, which is less than a batch: one step an epoch")
    name, seconds = again.name if again else "", time.monotonic() - began
    setup.write_audit(audit, progress.source, config, data_set, pairs, membership, seconds=seconds, again=name)
    pa.default_memory_pool().release_unused()  # the pairs' texts, before members need the memory


def _features(audit: Audit, progress: Progress) -> None:
    """Check the beginning of the audit and compute the locked towers' features of pictures and captions."""
    record, path = audit.record, audit.folder / store.MEMBERSHIP
    audit.quarantine  # noqa: B018
    for name in record.members:
        audit.member_record(name)
    with reading(path, repair=DELETE):
        names = pq.read_schema(path).names
    if tuple(name for name in names if name not in (c.PAIR_ID, c.GROUP)) != record.members:
        raise InputError(f"{path} and {store.CONFIG} differ in members: delete {audit.folder} and run it again")
    ensure_pixels(audit, progress.screen)
    progress.cut = ensure_features(audit, record, progress.screen, progress.executor)


@one_thread
def _members(audit: Audit, progress: Progress) -> None:
    """Train the members; with --stable, more of them until the ranking is reliable enough."""
    asked, screen = progress.asked, progress.screen
    while True:
        record = audit.record
        screen.say(f"{TRAINING} {len(record.members)} members")
        run_members(audit, record.members, threads=record.threads, **progress.how, watch=screen.members)
        if asked is None or not _wants_more(
            audit, asked, lambda: scoring.reliability(progress.evidence), say=screen.say
        ):
            return
        _add_repeat(audit, asked, screen)
        del progress.evidence


@one_thread
def _second_round(audit: Audit, progress: Progress) -> None:
    """Train each member once more, without the pairs whose captions the first round finds wrong. Only its scores on
    pairs it did not train on are stored."""
    record, screen, began = audit.record, progress.screen, time.monotonic()
    names, rounds = record.members, record.config.rounds
    if rounds == "1" or record.protocol == "paper" or audit.member_record(names[0]).checkpoint:
        return
    progress.left_out = _choose_left_out(audit, progress.first_scores[0], SECOND_ROUND_FROM[rounds])
    if not progress.left_out:
        if rounds == "2":
            screen.say("note: no second round: hardly any caption is wrong, or the number of wrong ones is unknown")
        return
    screen.say(f"second round: members train again without the {progress.left_out:,} pairs that are probably wrong")
    for name in names:
        if _second_fit(audit, name).is_file():  # a kill may have come before its model was removed
            store.remove_second_model(audit.member(name) / store.SECOND)
    run_members(audit, names, threads=record.threads, **progress.how, watch=screen.members, again=True)
    progress.second_seconds = time.monotonic() - began


def _choose_left_out(audit: Audit, scores: pd.DataFrame, least: float) -> int:
    """Write which pairs are left out, and return how many; if they change, delete what was trained without them."""
    scored = scores[c.GROUP].isin(c.SCORED_GROUPS).to_numpy()
    misfit, fit = (np.where(scored, scores[name], np.nan) for name in (c.MISFIT, c.CSLS_OUT))
    left_out = likely_wrong(misfit, fit, scores[c.CSLS_SWAPPED].to_numpy(), least=least)
    path = audit.folder / store.SECOND_TABLE
    before = store.read_table(path)[store.LEFT_OUT].to_numpy() if path.is_file() else np.zeros(len(scores), bool)
    if not np.array_equal(before, left_out):
        for name in audit.record.members:
            shutil.rmtree(audit.member(name) / store.SECOND, ignore_errors=True)
        store.write_table(path, pd.DataFrame({c.PAIR_ID: scores[c.PAIR_ID], store.LEFT_OUT: left_out}))
    return int(left_out.sum())


@one_thread
def _score(audit: Audit, progress: Progress) -> None:
    """Write scores, captions and utility of all pairs."""
    scores, evidence = progress.first_scores[0], progress.evidence
    sides = evidence.sides
    if progress.left_out:
        fits = [store.read_array(_second_fit(audit, name), shared=True) for name in audit.record.members]
        second = side_means(fits, sides.membership.trained)[1]
        scores = scoring.update_scores(scores, **{c.LOG_PROBABILITY_SECOND: second})
    store.write_table(audit.folder / store.SCORES, scores)
    utility = scoring.utility_table(audit, sides.membership.members)
    attacked, progress.attacks = scoring.attack_members(evidence)
    tables = [table for table in (utility, attacked) if len(table)]  # an empty one would decide the column type
    store.write_table(audit.folder / store.UTILITY, pd.concat(tables, ignore_index=True))
    captions, progress.captions_missing = scoring.caption_table(audit, store.caption_counts(audit), sides)
    if captions is not None:
        store.write_table(audit.folder / store.CAPTION_TABLE, captions)


@one_thread
def _judge(audit: Audit, progress: Progress) -> None:
    """Write the audit's checks of itself and its results."""
    began, spent, record, scores = time.monotonic(), progress.seconds, audit.record, audit.scores
    found = scoring.summary(progress.evidence, scores, progress.first_scores[1]) | {"attacks": progress.attacks}
    if sample := scoring.whole_set(audit, record, scores, ensure_checks(audit), found["wrong_captions"]):
        found["sample"] = sample
    if progress.left_out:
        found[SECOND_LEFT_OUT] = progress.left_out
    utility = scoring.utility_table(audit, record.members)
    verdict = judge(found, utility, record.config, towers=record.towers, cut=progress.cut)
    judged = spent["second round"] - progress.second_seconds + spent["score"] + time.monotonic() - began
    training = {name: member_progress(audit.folder, name).seconds or None for name in record.members}
    seconds = {
        "prepare": record.prepare_seconds,
        "members": round(spent["features"] + spent["members"], 2),
        "scoring": round(judged, 2),
        "second_round": round(progress.second_seconds, 2),
        "training_by_member": training,
    }
    more = {"captions_missing": progress.captions_missing or None, "seconds": seconds}
    store.write_json(audit.folder / store.VERDICT, verdict | more)


# Each is done once the manifest is written, but for `prepare`, which is done once the audit has begun.
PIPELINE: dict[str, Callable[[Audit, Progress], None]] = {
    "prepare": _prepare,
    "features": _features,
    "members": _members,
    "second round": _second_round,
    "score": _score,
    "judge": _judge,
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
            more = setup.grow(audit, config, members=len(audit.record.members) if config.stable else 0)
            added = f"{more} members" if more else "a second round" if setup.add_round(audit, config) else ""
            screen.say(f"adding {added} to audit {name!r}" if added else f"going on with audit {name!r}")
        _finish(audit, Progress(audit, screen, source, config, again, executor))
    return audit


def finish_audit(audit: Audit, screen: Screen, *, fresh: bool = False, executor: Executor | None = None) -> None:
    """Finish an audit that has begun; a `fresh` one that cannot start to train is deleted."""
    _finish(audit, Progress(audit, screen, executor=executor), fresh=fresh)


def _finish(audit: Audit, progress: Progress, *, fresh: bool = False) -> None:
    """Run the first stage that is not done and all after it; broken and missing files are made again."""
    fresh, asked, screen = fresh or not audit.begun, progress.asked, progress.screen
    if broken := store.broken_files(audit.folder):
        screen.say(f"{len(broken)} of its files are broken or missing, first {broken[0]}: making them again")
        store.reopen(audit, broken)
    elif audit.finished and asked is not None and _wants_more(audit, asked, lambda: audit.verdict[RELIABILITY]):
        _add_repeat(audit, asked, screen)
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
        if fresh and audit.folder.exists() and not any((audit.folder / store.MEMBERS).glob(f"*/{LOG}")):
            shutil.rmtree(audit.folder)
        raise


def counts(data_set: DataSet, membership: Membership) -> str:
    """Return a line with the numbers of pairs, captions, near-duplicates and rows in quarantine."""
    captions = pc.sum(pc.list_value_length(pa.array(data_set.pairs[c.CAPTIONS]))).as_py()
    groups = ", ".join(f"{count:,} {name}" for name, count in pd.Series(membership.group).value_counts().items())
    return (
        f"{len(data_set.pairs):,} pairs with {captions:,} captions ({groups}); "
        f"{counted(data_set.lookalikes, 'near-duplicate')}; {counted(len(data_set.quarantine), 'row')} in quarantine"
    )


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _wants_more(
    audit: Audit,
    asked: AuditConfig,
    measure: Callable[[], float | None],
    *,
    say: Callable[[str], None] = lambda line: None,
) -> bool:
    """Tell whether the ranking is less reliable than asked for and may have another repeat."""
    if not asked.stable:
        return False
    members, reached = len(audit.record.members), measure()
    enough = reached is not None and reached >= asked.stable
    found = "is not known" if reached is None else f"{reached:.3f} {'≥' if enough else '<'} {asked.stable:g}"
    say(f"reliability {found} with {members} of {asked.members} members")
    return not enough and members < asked.members


def _add_repeat(audit: Audit, asked: AuditConfig, screen: Screen) -> None:
    more = setup.grow(audit, asked, members=len(audit.record.members) + asked.folds)
    screen.say(f"adding {more} members to audit {audit.name!r}")


def _second_fit(audit: Audit, name: str) -> Path:
    return audit.member(name) / store.SECOND / store.SECOND_FIT


def ensure_pixels(audit: Audit, screen: Screen) -> None:
    """Store the small pictures or precomputed features again if they are missing or broken."""
    record = audit.record
    broken: Path | None = audit.folder / store.PREPARED
    with contextlib.suppress(InputError):
        folder = prepare.pixels_folder(audit)
        broken = (None if is_stored(folder) else folder) if record.config.features else broken_file(folder)
    if broken is not None:
        what = "reading the features" if record.config.features else "storing the small pictures"
        screen.say(f"{broken} is broken or missing: {what} again")
        prepare.rebuild_store(audit, record, progress=screen.pictures)


def ensure_features(audit: Audit, record: Record, screen: Screen, executor: Executor | None = None) -> int:
    """Compute the locked towers' features before members read them, and return how many captions are longer than the
    text tower reads. Without an executor they are computed in this process."""
    if not settings.opens_towers(record.config):
        return 0
    from clipmem_core.audits.locked import elsewhere, features_of  # torch

    screen.say(f"{FEATURES} with the locked towers")
    towers = settings.checked_towers(record.config, record.towers)
    how: dict[str, Any] = {"pictures": screen.pictures, "captions": screen.captions, "say": screen.say}
    return features_of(towers, audit.pairs, record.pictures, elsewhere=elsewhere(executor, record.threads), **how).cut
