"""An audit from a data set to its scores: prepare, train the members, score, judge. The same call again goes on where
it stopped, or does nothing."""

import contextlib
import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from clipmem_core import columns as c
from clipmem_core.audits import settings
from clipmem_core.audits.attacks import attack_members
from clipmem_core.audits.captions import caption_table
from clipmem_core.audits.checks import ensure_checks
from clipmem_core.audits.executor import Executor, local_processes, run_members
from clipmem_core.audits.given import with_features
from clipmem_core.audits.prepare import (
    DataSet,
    draw_membership,
    load_data_set,
    pixels_folder,
    plant,
    repeat_membership,
    store_again,
)
from clipmem_core.audits.progress import FEATURES, LOG, TRAINING, MemberProgress, member_progress
from clipmem_core.audits.record import Record
from clipmem_core.audits.sample import whole_set
from clipmem_core.audits.scoring import Evidence, gather_evidence, reliability, score_table, summary, utility_table
from clipmem_core.audits.second_round import choose_left_out, second_round
from clipmem_core.audits.setup import add_round, check_same, grow, write_audit
from clipmem_core.audits.store import (
    CAPTION_TABLE,
    CONFIG,
    MEMBERS,
    MEMBERSHIP,
    PREPARED,
    SCORES,
    UTILITY,
    VERDICT,
    Audit,
    acquire_lock,
    audits_folder,
    broken_files,
    caption_counts,
    check_name,
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
from clipmem_core.scores.membership import Membership


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


def run_audit(
    source: str,
    config: AuditConfig,
    *,
    name: str,
    screen: Screen,
    executor: Executor | None = None,
    again: Audit | None = None,
) -> Audit:
    """Run an audit, or go on with it.

    Args:
        source: a path, a hub name or `scenes`.
        config: what was asked for; `auto` values are filled in here and frozen in the audit's folder.
        name: the audit's folder.
        screen: where progress goes.
        executor: what runs the members; processes of this machine unless it is given.
        again: an audit of the same pairs, or more, whose groups and members are taken over.

    Returns:
        The finished audit.

    Raises:
        InputError: something a person can mend; no folder is left behind that was not there before.
    """
    audit = Audit(audits_folder() / check_name(name))
    config = settings.resolve(with_features(source, config))
    with acquire_lock(audit.folder, what="audit"):
        fresh = not audit.begun
        if fresh:
            prepare_audit(audit, source, config, screen, again=again)
            pa.default_memory_pool().release_unused()  # the pairs' texts, before members need the room
        else:
            check_same(audit, source, config)
            # Until the ranking is stable only a growth that was cut short is taken up again here.
            more = grow(audit, config, members=len(audit.record.members) if config.stable else 0)
            added = f"{more} members" if more else "a second round" if add_round(audit, config) else ""
            screen.say(f"adding {added} to audit {name!r}" if added else f"going on with audit {name!r}")
        bring_to_end(audit, screen, fresh=fresh, executor=executor, asked=config)
    return audit


def prepare_audit(
    audit: Audit, source: str, config: AuditConfig, screen: Screen, *, again: Audit | None = None
) -> None:
    """Read the data set, draw the membership or take over another audit's, plant mis-captions if asked, and freeze all
    of it."""
    began = time.monotonic()
    screen.say(f"reading {source}")
    data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
    if again is None:
        membership = draw_membership(data_set.clusters, config, members=first_members(config))
    else:
        membership = repeat_membership(again, data_set.pairs)
    pairs = plant(data_set.pairs, membership, config)
    screen.say(counts(data_set, membership))
    trained = round(float(membership.trained.sum(axis=1).mean()))
    if trained < config.batch_size:
        screen.say(f"note: members train on {trained:,} pairs, which is less than a batch: one step an epoch")
    name = again.name if again is not None else ""
    write_audit(audit, source, config, data_set, pairs, membership, seconds=time.monotonic() - began, again=name)


def counts(data_set: DataSet, membership: Membership) -> str:
    """Say in a line what an audit has to work with."""
    captions = pc.sum(pc.list_value_length(pa.array(data_set.pairs[c.CAPTIONS]))).as_py()
    groups = ", ".join(f"{count:,} {name}" for name, count in pd.Series(membership.group).value_counts().items())
    return (
        f"{len(data_set.pairs):,} pairs with {captions:,} captions ({groups}); {data_set.lookalikes:,} look-alikes; "
        f"{len(data_set.quarantine):,} rows in quarantine"
    )


def first_members(config: AuditConfig) -> int:
    """Return how many members an audit begins with: two repeats where more come only until the ranking is stable."""
    return min(config.members, settings.REPEATS * config.folds) if config.stable else config.members


def bring_to_end(
    audit: Audit, screen: Screen, *, fresh: bool, executor: Executor | None = None, asked: AuditConfig | None = None
) -> None:
    """Finish an audit that is not finished; `asked` is the config that says until when members are added to it.

    Raises:
        InputError: of a `fresh` one that could not even begin to train, nothing is left: the name is free again.
    """
    broken = broken_files(audit.folder)
    if audit.finished and not broken and asked is not None and _wants_more(audit, asked, audit.verdict[RELIABILITY]):
        _add_repeat(audit, asked, screen)
    if audit.finished and not broken:
        screen.say("it is finished: nothing to do")
        return
    if broken:
        screen.say(f"{len(broken)} of its files are broken or missing, first {broken[0]}: making them again")
        reopen(audit, broken)
    try:
        finish_audit(audit, screen, executor, asked)
    except InputError:
        if fresh and not any((audit.folder / MEMBERS).glob(f"*/{LOG}")):
            shutil.rmtree(audit.folder)
        raise


# Products of scores are small: on a busy machine their threads wait for each other ten times as long as they compute.
@threadpool_limits.wrap(limits=1, user_api="blas")
def finish_audit(
    audit: Audit, screen: Screen, executor: Executor | None = None, asked: AuditConfig | None = None
) -> None:
    """Bring the members to their end, score and judge; the manifest comes last."""
    began, record = time.monotonic(), audit.record
    _check_begun(audit, record)
    ensure_pixels(audit, screen)
    cut = ensure_features(audit, record, screen, executor)
    evidence = train_members(audit, screen, executor)
    while asked is not None and _wants_more(audit, asked, reliability(evidence), say=screen.say):
        _add_repeat(audit, asked, screen)
        evidence = train_members(audit, screen, executor)
    trained, record = time.monotonic(), audit.record
    screen.say("scoring")
    scores, split = score_table(evidence)
    if split.missing:
        screen.say(f"note: {split.missing}. Every other score is there")
    compared = time.monotonic()
    scores, left_out = train_again(audit, scores, evidence.sides.membership, screen, executor)
    second = time.monotonic() - compared
    utility = utility_table(audit, evidence.sides.membership.members)
    attacked, attacks = attack_members(evidence)
    write_table(audit.folder / SCORES, scores)
    told = [table for table in (utility, attacked) if len(table)]  # an empty one would decide the type of values
    write_table(audit.folder / UTILITY, pd.concat(told, ignore_index=True))
    captions, without = caption_table(audit, caption_counts(audit), evidence.sides)
    if captions is not None:
        write_table(audit.folder / CAPTION_TABLE, captions)
    checks = ensure_checks(audit)
    found = summary(evidence, scores, split) | {"attacks": attacks}
    if sample := whole_set(audit, record, scores, checks, found["wrong_captions"]):
        found["sample"] = sample
    if left_out:
        found[SECOND_LEFT_OUT] = left_out
    verdict = judge(found, utility, record.config, towers=record.towers, cut=cut)
    seconds = {
        "prepare": record.prepare_seconds,
        "members": round(trained - began, 2),
        "scoring": round(time.monotonic() - trained - second, 2),
        "second_round": round(second, 2),
        "training_by_member": {name: training_seconds(audit, name) for name in record.members},
    }
    write_json(audit.folder / VERDICT, verdict | {"captions_missing": without or None, "seconds": seconds})
    write_manifest(audit.folder)


def train_members(audit: Audit, screen: Screen, executor: Executor | None) -> Evidence:
    """Bring the members that an audit has to their end and return what they leave."""
    record = audit.record
    screen.say(f"{TRAINING} {len(record.members)} members")
    run_members(audit, record.members, threads=record.threads, **_ways(record, executor), watch=screen.members)
    return gather_evidence(audit)


def _ways(record: Record, executor: Executor | None) -> dict[str, Any]:
    """Return what runs members, and how many blocks of them share a process."""
    at_once = settings.side_by_side(record.config)
    blocks = at_once if settings.shares_process(record.config) else 0
    return {"executor": executor or functools.partial(local_processes, at_once=at_once), "blocks": blocks}


def train_again(
    audit: Audit, scores: pd.DataFrame, membership: Membership, screen: Screen, executor: Executor | None
) -> tuple[pd.DataFrame, int]:
    """Return scores with what the second round says, where the config has one, and how many pairs that leaves out."""
    record = audit.record
    if record.config.rounds == "1" or record.protocol == "paper" or audit.member_record(record.members[0]).checkpoint:
        return scores, 0
    left_out = choose_left_out(audit, scores)
    if not left_out:
        if record.config.rounds == "2":
            screen.say("note: no second round: hardly any caption is wrong, or the number of wrong ones is not known")
        return scores, 0
    screen.say(f"second round: members train again without the {left_out:,} pairs that are probably wrong")
    ways = _ways(record, executor)
    return second_round(audit, scores, membership.trained, **ways, watch=screen.members), left_out


def _wants_more(
    audit: Audit, asked: AuditConfig, reached: float | None, *, say: Callable[[str], None] = lambda line: None
) -> bool:
    """Tell whether a repeat is to be added, its ranking not being as reliable as was asked for; say how it stands."""
    if not asked.stable:
        return False
    members = len(audit.record.members)
    enough = reached is not None and reached >= asked.stable
    found = "is not known" if reached is None else f"{reached:.3f} {'≥' if enough else '<'} {asked.stable:g}"
    say(f"reliability {found} with {members} of {asked.members} members")
    return not enough and members < asked.members


def _add_repeat(audit: Audit, asked: AuditConfig, screen: Screen) -> None:
    more = grow(audit, asked, members=len(audit.record.members) + asked.folds)
    screen.say(f"adding {more} members to audit {audit.name!r}")


def _check_begun(audit: Audit, record: Record) -> None:
    """Refuse to finish an audit whose beginning is broken.

    Raises:
        InputError: the message names the file.
    """
    audit.quarantine  # noqa: B018
    for name in record.members:
        audit.member_record(name)
    with reading(audit.folder / MEMBERSHIP, mend=DELETE):
        names = pq.read_schema(audit.folder / MEMBERSHIP).names
    if tuple(name for name in names if name not in (c.PAIR_ID, c.GROUP)) != record.members:
        path = audit.folder / MEMBERSHIP
        raise InputError(f"{path} has other members than {CONFIG}: delete {audit.folder} and run the audit again")


def training_seconds(audit: Audit, name: str) -> float | None:
    """Return the seconds a member trained for, over all its runs."""
    return member_progress(audit.folder, name).seconds or None


def ensure_pixels(audit: Audit, screen: Screen) -> None:
    """Store the small pictures, or the features computed elsewhere, again where they are missing or cannot be opened.

    Raises:
        InputError: the pictures are no longer those the audit began with.
    """
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

    Raises:
        InputError: the towers are not those that the audit began with, or their features are of no use.
    """
    if not settings.opens_towers(record.config):
        return 0
    from clipmem_core.audits.locked import (  # torch, which members alone need otherwise
        checked_towers,
        elsewhere,
        features_of,
    )

    screen.say(f"{FEATURES} with the locked towers")
    towers = checked_towers(record.config, record.towers)
    how: dict[str, Any] = {"pictures": screen.pictures, "captions": screen.captions, "say": screen.say}
    return features_of(towers, audit.pairs, record.pictures, elsewhere=elsewhere(executor, record.threads), **how).cut
