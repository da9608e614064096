"""An audit from a data set to its scores, stage by stage. The same call again resumes it, or does nothing.

A new stage is a class with `name` and `run` in a module of its own, and its place in `PIPELINE`.
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
from clipmem_core.audits import settings
from clipmem_core.audits.checks import ensure_checks
from clipmem_core.audits.executor import Executor, local_processes, member_tasks, run_member_tasks, run_members
from clipmem_core.audits.prepare import (
    DataSet,
    draw_membership,
    load_data_set,
    pixels_folder,
    plant,
    repeat_membership,
    store_again,
    with_features,
)
from clipmem_core.audits.scoring import (
    Evidence,
    attack_members,
    caption_table,
    gather_evidence,
    reliability,
    score_table,
    scored_again,
    summary,
    utility_table,
    whole_set,
)
from clipmem_core.audits.setup import add_round, check_same, grow, write_audit
from clipmem_core.audits.status import FEATURES, LOG, TRAINING, MemberProgress, member_progress, second_names
from clipmem_core.audits.store import (
    CAPTION_TABLE,
    CONFIG,
    LEFT_OUT,
    MEMBERS,
    MEMBERSHIP,
    PREPARED,
    SCORES,
    SECOND,
    SECOND_FIT,
    SECOND_TABLE,
    UTILITY,
    VERDICT,
    Audit,
    Record,
    acquire_lock,
    audits_folder,
    broken_files,
    caption_counts,
    check_name,
    read_array,
    read_table,
    remove_second_model,
    reopen,
    write_json,
    write_manifest,
    write_table,
)
from clipmem_core.audits.verdict import RELIABILITY, SECOND_LEFT_OUT, judge
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.features.stored import is_stored
from clipmem_core.files import DELETE, reading
from clipmem_core.pairs.pixels import broken_file
from clipmem_core.scores.membership import Membership, side_means
from clipmem_core.scores.prevalence import SECOND_ROUND_FROM, likely_wrong

# Products of scores are small: on a busy machine their threads wait for each other ten times as long as they compute.
one_thread = threadpool_limits.wrap(limits=1, user_api="blas")


class Screen(Protocol):
    """What shows an audit's progress."""

    def say(self, text: str) -> None:
        """Show a line."""

    def pictures(self, done: int, total: int) -> None:
        """Show how many pictures are finished."""

    def captions(self, done: int, total: int) -> None:
        """Show how many captions are finished."""

    def members(self, progress: list[MemberProgress]) -> None:
        """Show how far each member is."""


@dataclass
class Progress:
    """What the stages of a run have in common, and where they show how far they are."""

    audit: Audit
    screen: Screen
    source: str = ""
    asked: AuditConfig | None = None  # the resolved config of an audit that begins, or says how many members to add
    again: Audit | None = None  # whose groups and members are taken over
    executor: Executor | None = None
    seconds: dict[str, float] = field(default_factory=lambda: collections.defaultdict(float))  # by stage
    second_seconds: float = 0.0  # of the training alone
    cut: int = 0  # captions that are longer than the locked text tower reads
    left_out: int = 0  # pairs, by the second round
    attacks: list[dict[str, Any]] = field(default_factory=list)
    captions_missing: str = ""

    @property
    def how(self) -> dict[str, Any]:
        """What runs members, and how many blocks of them share a process."""
        config = self.audit.record.config
        at_once = settings.side_by_side(config)
        blocks = at_once if settings.shares_process(config) else 0
        return {"executor": self.executor or functools.partial(local_processes, at_once=at_once), "blocks": blocks}

    @functools.cached_property
    def evidence(self) -> Evidence:
        """What the members left."""
        return gather_evidence(self.audit)

    @functools.cached_property
    def first_scores(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The scores by the first round, and how clipmem was split between the encoders."""
        self.screen.say("scoring")
        scores, split = score_table(self.evidence)
        if split["missing"]:
            self.screen.say(f"note: {split['missing']}. Every other score is there")
        return scores, split


class Stage:
    """A step of an audit. What it writes counts once the manifest lists it, unless `is_done` says otherwise."""

    name: str

    def is_done(self, audit: Audit) -> bool:
        """Tell whether the stage has nothing left to do."""
        return audit.finished

    def run(self, audit: Audit, progress: Progress) -> None:
        """Do the stage, resuming what a kill cut short."""
        raise NotImplementedError


class Prepare(Stage):
    """Read the data set, draw the membership or take over another audit's, inject errors, and freeze all of it."""

    name = "prepare"

    def is_done(self, audit: Audit) -> bool:
        return audit.begun

    def run(self, audit: Audit, progress: Progress) -> None:
        config, screen, began = progress.asked, progress.screen, time.monotonic()
        assert config is not None
        screen.say(f"reading {progress.source}")
        data_set = load_data_set(progress.source, config, progress=screen.pictures, say=screen.say)
        if progress.again is None:
            # Two repeats where more come only until the ranking is stable
            first = min(config.members, settings.REPEATS * config.folds) if config.stable else config.members
            membership = draw_membership(data_set.clusters, config, members=first)
        else:
            membership = repeat_membership(progress.again, data_set.pairs)
        pairs = plant(data_set.pairs, membership, config)
        screen.say(counts(data_set, membership))
        trained = round(float(membership.trained.sum(axis=1).mean()))
        if trained < config.batch_size:
            screen.say(f"note: members train on {trained:,} pairs, which is less than a batch: one step an epoch")
        name, seconds = progress.again.name if progress.again else "", time.monotonic() - began
        write_audit(audit, progress.source, config, data_set, pairs, membership, seconds=seconds, again=name)
        pa.default_memory_pool().release_unused()  # the pairs' texts, before members need the room


class Features(Stage):
    """Compute what the locked towers give of the pictures and captions."""

    name = "features"

    def run(self, audit: Audit, progress: Progress) -> None:
        _check_begun(audit, audit.record)
        ensure_pixels(audit, progress.screen)
        progress.cut = ensure_features(audit, audit.record, progress.screen, progress.executor)


class Members(Stage):
    """Train the members, and more of them until the ranking is as reliable as was asked for."""

    name = "members"

    @one_thread
    def run(self, audit: Audit, progress: Progress) -> None:
        asked, screen = progress.asked, progress.screen
        self._train(audit, progress)
        while asked is not None and _wants_more(audit, asked, lambda: reliability(progress.evidence), say=screen.say):
            _add_repeat(audit, asked, screen)
            del progress.evidence
            self._train(audit, progress)

    def _train(self, audit: Audit, progress: Progress) -> None:
        record = audit.record
        progress.screen.say(f"{TRAINING} {len(record.members)} members")
        how, watch = progress.how, progress.screen.members
        run_members(audit, record.members, threads=record.threads, **how, watch=watch)


class SecondRound(Stage):
    """Train each member once more, without the pairs whose captions the first round takes for wrong. Only its fit to
    pairs that it never trains on is stored."""

    name = "second round"

    @one_thread
    def run(self, audit: Audit, progress: Progress) -> None:
        record, screen = audit.record, progress.screen
        rounds, given = record.config.rounds, audit.member_record(record.members[0]).checkpoint
        if rounds == "1" or record.protocol == "paper" or given:
            return
        progress.left_out = choose_left_out(audit, progress.first_scores[0])
        if not progress.left_out:
            if rounds == "2":
                screen.say("note: no second round: hardly any caption is wrong, or the number of wrong ones is unknown")
            return
        said = f"{progress.left_out:,} pairs that are probably wrong"
        screen.say(f"second round: members train again without the {said}")
        began, names = time.monotonic(), record.members
        left = [name for name in names if not _second_fit(audit, name).is_file()]
        for name in set(names) - set(left):  # a kill may have come before its model was removed
            remove_second_model(audit.member(name) / SECOND)
        how = progress.how
        tasks = member_tasks(audit, left, threads=record.threads, blocks=how["blocks"], again=True)
        shown = second_names(names)
        run_member_tasks(
            tasks, how["executor"], lambda: screen.members([member_progress(audit.folder, name) for name in shown])
        )
        progress.second_seconds = time.monotonic() - began


class Score(Stage):
    """Write scores, captions and utility of all pairs."""

    name = "score"

    @one_thread
    def run(self, audit: Audit, progress: Progress) -> None:
        scores, evidence = progress.first_scores[0], progress.evidence
        sides = evidence.sides
        if progress.left_out:
            fits = [read_array(_second_fit(audit, name), shared=True) for name in audit.record.members]
            again = side_means(fits, sides.membership.trained)[1]
            scores = scored_again(scores, **{c.LOG_PROBABILITY_SECOND: again})
        write_table(audit.folder / SCORES, scores)
        utility, (attacked, progress.attacks) = utility_table(audit, sides.membership.members), attack_members(evidence)
        told = [table for table in (utility, attacked) if len(table)]  # an empty one would decide the type of values
        write_table(audit.folder / UTILITY, pd.concat(told, ignore_index=True))
        captions, progress.captions_missing = caption_table(audit, caption_counts(audit), sides)
        if captions is not None:
            write_table(audit.folder / CAPTION_TABLE, captions)


class Judge(Stage):
    """Write what the audit says of itself."""

    name = "judge"

    @one_thread
    def run(self, audit: Audit, progress: Progress) -> None:
        began, spent, record, scores = time.monotonic(), progress.seconds, audit.record, audit.scores
        found = summary(progress.evidence, scores, progress.first_scores[1]) | {"attacks": progress.attacks}
        if sample := whole_set(audit, record, scores, ensure_checks(audit), found["wrong_captions"]):
            found["sample"] = sample
        if progress.left_out:
            found[SECOND_LEFT_OUT] = progress.left_out
        utility = utility_table(audit, record.members)
        verdict = judge(found, utility, record.config, towers=record.towers, cut=progress.cut)
        seconds = {
            "prepare": record.prepare_seconds,
            "members": round(spent["features"] + spent["members"], 2),
            "scoring": round(
                spent["second round"] - progress.second_seconds + spent["score"] + time.monotonic() - began, 2
            ),
            "second_round": round(progress.second_seconds, 2),
            "training_by_member": {
                name: member_progress(audit.folder, name).seconds or None for name in record.members
            },
        }
        more = {"captions_missing": progress.captions_missing or None, "seconds": seconds}
        write_json(audit.folder / VERDICT, verdict | more)


class Manifest(Stage):
    """List every file of the audit; an audit without the list is unfinished."""

    name = "manifest"

    def run(self, audit: Audit, progress: Progress) -> None:
        write_manifest(audit.folder)


PIPELINE: list[Stage] = [Prepare(), Features(), Members(), SecondRound(), Score(), Judge(), Manifest()]


def run_stages(audit: Audit, progress: Progress) -> bool:
    """Run the first stage that is not done and all behind it, and tell whether there was one."""
    done = True
    for stage in PIPELINE:
        done = done and stage.is_done(audit)
        if not done:
            began = time.monotonic()
            stage.run(audit, progress)
            progress.seconds[stage.name] = time.monotonic() - began
    return not done


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
    audit = Audit(audits_folder() / check_name(name))
    config = settings.resolve(with_features(source, config))
    with acquire_lock(audit.folder, what="audit"):
        if audit.begun:
            check_same(audit, source, config)
            # Until the ranking is stable only a growth that was cut short is taken up again here.
            more = grow(audit, config, members=len(audit.record.members) if config.stable else 0)
            added = f"{more} members" if more else "a second round" if add_round(audit, config) else ""
            screen.say(f"adding {added} to audit {name!r}" if added else f"going on with audit {name!r}")
        _finish(audit, Progress(audit, screen, source, config, again, executor))
    return audit


def bring_to_end(audit: Audit, screen: Screen, *, fresh: bool = False, executor: Executor | None = None) -> None:
    """Finish an audit that has begun; of a `fresh` one that could not even begin to train, nothing is left."""
    _finish(audit, Progress(audit, screen, executor=executor), fresh=fresh)


def _finish(audit: Audit, progress: Progress, *, fresh: bool = False) -> None:
    """Run all stages that are left; files that are broken or missing are made again."""
    fresh, asked, screen = fresh or not audit.begun, progress.asked, progress.screen
    broken = broken_files(audit.folder)
    if broken:
        screen.say(f"{len(broken)} of its files are broken or missing, first {broken[0]}: making them again")
        reopen(audit, broken)
    elif audit.finished and asked is not None and _wants_more(audit, asked, lambda: audit.verdict[RELIABILITY]):
        _add_repeat(audit, asked, screen)
    try:
        if not run_stages(audit, progress):
            screen.say("it is finished: nothing to do")
    except InputError:
        if fresh and audit.folder.exists() and not any((audit.folder / MEMBERS).glob(f"*/{LOG}")):
            shutil.rmtree(audit.folder)
        raise


def counts(data_set: DataSet, membership: Membership) -> str:
    """Say in a line what an audit has to work with."""
    captions = pc.sum(pc.list_value_length(pa.array(data_set.pairs[c.CAPTIONS]))).as_py()
    groups = ", ".join(f"{count:,} {name}" for name, count in pd.Series(membership.group).value_counts().items())
    return (
        f"{len(data_set.pairs):,} pairs with {captions:,} captions ({groups}); {data_set.lookalikes:,} look-alikes; "
        f"{len(data_set.quarantine):,} rows in quarantine"
    )


def _wants_more(
    audit: Audit,
    asked: AuditConfig,
    measure: Callable[[], float | None],
    *,
    say: Callable[[str], None] = lambda line: None,
) -> bool:
    """Tell whether a repeat is to be added, its ranking not being as reliable as was asked for."""
    if not asked.stable:
        return False
    members, reached = len(audit.record.members), measure()
    enough = reached is not None and reached >= asked.stable
    found = "is not known" if reached is None else f"{reached:.3f} {'≥' if enough else '<'} {asked.stable:g}"
    say(f"reliability {found} with {members} of {asked.members} members")
    return not enough and members < asked.members


def _add_repeat(audit: Audit, asked: AuditConfig, screen: Screen) -> None:
    more = grow(audit, asked, members=len(audit.record.members) + asked.folds)
    screen.say(f"adding {more} members to audit {audit.name!r}")


def _second_fit(audit: Audit, name: str) -> Path:
    return audit.member(name) / SECOND / SECOND_FIT


def choose_left_out(audit: Audit, scores: pd.DataFrame) -> int:
    """Decide what the second round leaves out, and return how many pairs; 0: hardly any is wrong, or nobody can tell.

    If it changes, for example because members were added, what the second round trained before is deleted.
    """
    least = SECOND_ROUND_FROM[audit.record.config.rounds]
    scored = scores[c.GROUP].isin(c.SCORED_GROUPS).to_numpy()
    misfit, fit = (np.where(scored, scores[name], np.nan) for name in (c.MISFIT, c.CSLS_OUT))
    left_out = likely_wrong(misfit, fit, scores[c.CSLS_SWAPPED].to_numpy(), least=least)
    path = audit.folder / SECOND_TABLE
    if not left_out.any() and not path.is_file():
        return 0
    if not path.is_file() or not np.array_equal(read_table(path, columns=[LEFT_OUT])[LEFT_OUT].to_numpy(), left_out):
        for name in audit.record.members:
            shutil.rmtree(audit.member(name) / SECOND, ignore_errors=True)
        write_table(path, pd.DataFrame({c.PAIR_ID: scores[c.PAIR_ID], LEFT_OUT: left_out}))
    return int(left_out.sum())


def _check_begun(audit: Audit, record: Record) -> None:
    """Refuse to finish an audit whose beginning is broken."""
    audit.quarantine  # noqa: B018
    for name in record.members:
        audit.member_record(name)
    with reading(audit.folder / MEMBERSHIP, mend=DELETE):
        names = pq.read_schema(audit.folder / MEMBERSHIP).names
    if tuple(name for name in names if name not in (c.PAIR_ID, c.GROUP)) != record.members:
        path = audit.folder / MEMBERSHIP
        raise InputError(f"{path} has other members than {CONFIG}: delete {audit.folder} and run the audit again")


def ensure_pixels(audit: Audit, screen: Screen) -> None:
    """Store the small pictures, or features computed elsewhere, again if they are missing or cannot be opened."""
    record = audit.record
    config = record.config
    broken: Path | None = audit.folder / PREPARED
    with contextlib.suppress(InputError):
        folder = pixels_folder(audit)
        broken = (None if is_stored(folder) else folder) if config.features else broken_file(folder)
    if broken is not None:
        what = "reading the features" if config.features else "storing the small pictures"
        screen.say(f"{broken} is broken or missing: {what} again")
        store_again(audit, record, progress=screen.pictures)


def ensure_features(audit: Audit, record: Record, screen: Screen, executor: Executor | None = None) -> int:
    """Compute what locked towers give of the pictures and captions, before members read it; in this process where no
    executor is given.

    Returns:
        How many captions are longer than the text tower reads.
    """
    if not settings.opens_towers(record.config):
        return 0
    from clipmem_core.audits.locked import elsewhere, features_of  # torch

    screen.say(f"{FEATURES} with the locked towers")
    towers = settings.checked_towers(record.config, record.towers)
    how: dict[str, Any] = {"pictures": screen.pictures, "captions": screen.captions, "say": screen.say}
    return features_of(towers, audit.pairs, record.pictures, elsewhere=elsewhere(executor, record.threads), **how).cut
