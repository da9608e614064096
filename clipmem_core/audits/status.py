"""The state of an audit and of its members, and how an audit is renamed or deleted."""

import contextlib
import dataclasses
import heapq
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clipmem_core.audits.jobs import Job, audit_task, jobs_folder, list_job_names, tail
from clipmem_core.audits.store import (
    CONFIG,
    MANIFEST,
    MEMBERS,
    SECOND,
    SECOND_FIT,
    SECOND_TABLE,
    TEXT_EMBEDDINGS,
    Audit,
    ManifestFile,
    Record,
    acquire_lock,
    audits_folder,
    check_name,
    file_sha256,
    is_locked,
    is_name,
    list_audits,
    write_json,
)
from clipmem_core.config import InputError
from clipmem_core.training.names import CHECKPOINT, LOG

# At chance the true partner is one of batch_size, so its log-probability is −ln(batch_size).
CHANCE_SHARE = 0.98
FEATURES, TRAINING = "computing features", "training"  # what a line of the output begins with once a stage began
LEFT = "time left: about"  # in a line of the output of a study
POINTS = 300  # of a loss curve


def seconds_left(seconds: float, done: float, total: float) -> float:
    """Return how long the rest takes at the pace so far; NaN before anything is done.

    Example:
        >>> seconds_left(10.0, 1, 4)
        30.0
    """
    return seconds / done * (total - done) if done else math.nan


@dataclass(frozen=True)
class MemberProgress:
    """One member: its stage and the last line of its log."""

    name: str
    stage: str
    step: int = 0
    steps: int = 0
    loss: float = math.nan
    log_probability: float = math.nan
    samples_per_second: float = math.nan
    seconds: float = 0.0

    @property
    def seconds_left(self) -> float:
        """Training time left at the pace so far; NaN before the first line."""
        return seconds_left(self.seconds, self.step, self.steps)

    @property
    def share(self) -> float:
        """How much of it is trained, from 0 to 1."""
        if self.stage in ("embedding", "done"):
            return 1.0
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    def at_chance(self, batch_size: int) -> bool:
        """Tell whether the loss is still that of guessing after a fifth of the run."""
        late = self.steps > 0 and self.step >= self.steps / 5
        return late and self.log_probability <= -CHANCE_SHARE * math.log(batch_size)


def training_seconds_left(members: Sequence[MemberProgress]) -> float:
    """Return how long the training of all members still takes at the pace so far; NaN before the first line.

    As many as are at it now go on side by side, and who waits takes as long as those that are known do on average.
    """
    paces = [member.seconds * member.steps / member.step for member in members if member.step]
    lanes = [0.0 if member.stage == "embedding" else member.seconds_left for member in members if _active(member)]
    if not lanes:
        return math.nan
    heapq.heapify(lanes)
    for member in members:
        if member.stage == "waiting":
            heapq.heapreplace(lanes, lanes[0] + sum(paces) / len(paces))
    return max(lanes)


def _active(member: MemberProgress) -> bool:
    return member.step > 0 and member.stage in ("training", "embedding")


def loss_curves(audit: Path, names: Sequence[str]) -> pd.DataFrame:
    """Return the loss of each member while it trained: member, epoch, loss, at most `POINTS` rows a member."""
    tables = [_loss_curve(audit / MEMBERS / name / LOG).assign(member=name) for name in names]
    known, columns = [table for table in tables if len(table)], ["member", "epoch", "loss"]
    return pd.concat(known)[columns] if known else pd.DataFrame(columns=columns)


def _loss_curve(path: Path) -> pd.DataFrame:
    """Read every so many lines of a log, the last whole one among them."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return pd.DataFrame()
    step = max(1, math.ceil(len(lines) / POINTS))
    points = [parsed for line in lines[::-step][::-1] if (parsed := _parsed(line))]
    table = pd.DataFrame(points).reindex(columns=["epoch", "loss"])
    return table.apply(pd.to_numeric, errors="coerce").dropna().astype(float)


def _parsed(line: bytes) -> dict[str, Any]:
    """Return what a line of a log says; the line being written, or one that is broken, says nothing."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def last_line(path: Path) -> dict[str, Any]:
    """Return the last whole line of a JSON-lines file, or nothing; reads only the file's end."""
    return next((parsed for line in reversed(tail(path).splitlines()) if (parsed := _parsed(line))), {})


def member_progress(audit: Path, name: str) -> MemberProgress:
    """Read how far a member is."""
    folder = audit / MEMBERS / name
    line = last_line(folder / LOG)
    if (folder / TEXT_EMBEDDINGS).is_file() or (folder / SECOND_FIT).is_file():  # the last file of either training
        stage = "done"
    elif (folder / CHECKPOINT).is_file():
        stage = "embedding"
    else:
        stage = "training" if line else "waiting"
    fields = [key for key in MemberProgress.__dataclass_fields__ if key not in ("name", "stage")]
    known = {key: line[key] for key in fields if isinstance(line.get(key), (int, float))}
    return MemberProgress(name=name, stage=stage, **known)


def all_progress(audit: Path, names: Sequence[str]) -> list[MemberProgress]:
    """Read how far members are, and behind them, where there is a second round, how far they are in that."""
    second = second_names(names) if (audit / SECOND_TABLE).is_file() else []
    return [member_progress(audit, name) for name in (*names, *second)]


def second_names(names: Sequence[str]) -> list[str]:
    """Return what members are called in the second round: the paths of their folders there.

    Example:
        >>> second_names(["r0-f0"])
        ['r0-f0/second']
    """
    return [f"{name}/{SECOND}" for name in names]


WAITING = "waiting"  # another job trains
PREPARING = "preparing"  # its job reads the data set
SCORING = "scoring"
DONE = "done"
CANCELLING = "cancelling"  # its job was asked to end
ELSEWHERE = "running elsewhere"  # no job of ours, but it is held: perhaps in a terminal
CANCELLED = "cancelled"
STOPPED = "stopped"
PAUSED = "not finished"
BROKEN = "broken"
AT_WORK = (WAITING, PREPARING, FEATURES, TRAINING, SCORING, CANCELLING)
DELETED = ".deleted"
TOLD = ("data set", "protocol", "preset", "pairs", "members")  # what an audit is, in a list of audits


@dataclass(frozen=True)
class State:
    """How an audit stands, and the job last started for it.

    `fault` says what is broken.
    """

    audit: Audit
    word: str
    job: Job | None = None
    fault: str = ""

    @property
    def at_work(self) -> bool:
        """Tell whether its job waits or runs."""
        return self.word in AT_WORK

    @property
    def row(self) -> dict[str, Any]:
        """What a list of audits says of it; None where it has not written that yet, or not so that it can be read."""
        row = {"name": self.audit.name, "state": self.word, **dict.fromkeys(TOLD)}
        if not self.audit.begun:
            return row
        try:
            record = self.audit.record
        except InputError:
            return row | {"state": BROKEN}
        told = (record.source, record.protocol, record.config.preset, record.pairs, len(record.members))
        return row | dict(zip(TOLD, told, strict=True))


def state_of(name: str) -> State:
    """Return how an audit stands; a broken file is a state too."""
    audit = Audit(audits_folder() / name)
    try:
        job = audit_task(name).find()
        members = audit.record.members if audit.begun else None
        if job is None or not job.running:
            return _resting(audit, job)
        if job.cancelling:
            return State(audit, CANCELLING, job)
        if job.waiting:
            return State(audit, WAITING, job)
        return State(audit, DONE if audit.finished else _stage(audit, members, job), job)
    except InputError as error:
        return State(audit, BROKEN, fault=str(error))


def _stage(audit: Audit, members: Sequence[str] | None, job: Job) -> str:
    """Return what a running job does, by its last line and the files of the members."""
    stages = {member.stage for member in all_progress(audit.folder, members or ())}
    if members and FEATURES in job.last_line:
        return FEATURES
    if members is None or job.count or (stages == {"waiting"} and not job.last_line.startswith(TRAINING)):
        return PREPARING
    return SCORING if stages == {"done"} else TRAINING


def _resting(audit: Audit, job: Job | None) -> State:
    if audit.finished:
        return State(audit, DONE, job)
    if is_locked(audit.folder):
        return State(audit, ELSEWHERE, job)
    if job is None or job.exit_code == 0:
        return State(audit, PAUSED, job)
    return State(audit, CANCELLED if job.cancelled else STOPPED, job)


def list_states() -> list[State]:
    """Return how every audit stands: those at work first, then the newest.

    An audit whose job has not written its folder yet, or failed before it could, is among them. Folders with a name
    that no audit can have are not: `odd_names` returns those.
    """
    folders = [audit.name for audit in list_audits() if is_name(audit.name)]
    jobs = [name for name in list_job_names() if is_name(name) and name not in folders]
    states = [state_of(name) for name in [*jobs, *folders]]
    known = [state for state in states if state.audit.begun or state.word != PAUSED]
    return sorted(known, key=lambda state: not state.at_work)


def odd_names() -> list[str]:
    """Return the names of folders that hold an audit but have a name that no audit can have."""
    return [audit.name for audit in list_audits() if not is_name(audit.name)]


def rename_audit(name: str, new: str) -> Audit:
    """Give an audit another name: its folder, its job's, the name in its config.json and that file's hash.

    A kill on the way leaves it under one of the two names, finished or such that running it again only scores anew.
    """
    if new == name:
        raise InputError(f"the audit is named {name!r} already: take another name")
    with _held(name) as audit, _held(new) as target:
        if not audit.begun:
            raise InputError(f"there is no audit {name!r} to rename in {audits_folder()}")
        if target.folder.exists():
            raise InputError(f"there is an audit {new!r} already: take another name")
        record, manifest = dataclasses.replace(audit.record, name=new), audit.manifest if audit.finished else None
        audit.folder.rename(target.folder)
        _write(target, record, manifest)
        _move_job(name, new)
    return target


def delete_audit(name: str) -> int:
    """Delete an audit and its job's output, and return how many bytes that frees. Decisions on its pairs stay.

    Its folder first gets a hidden name, so that a kill on the way leaves no half of an audit.
    """
    with _held(name) as audit:
        job = jobs_folder() / name
        if not audit.folder.exists() and not job.exists():
            raise InputError(f"there is no audit {name!r} in {audits_folder()}")
        freed = folder_bytes(audit.folder) + folder_bytes(job)
        for folder in (audit.folder, job):
            _remove(folder)
    return freed


def folder_bytes(folder: Path) -> int:
    """Return the size of all files in a folder; 0 where it is missing, or a link to another place."""
    if folder.is_symlink():
        return 0
    sizes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # written under this name a moment ago, and renamed
                sizes += (Path(parent) / name).lstat().st_size
    return sizes


@contextlib.contextmanager
def _held(name: str) -> Iterator[Audit]:
    """Hold an audit that nobody works on."""
    audit = Audit(audits_folder() / check_name(name))
    job = audit_task(name).find()
    if job is not None and job.running:
        raise InputError(f"audit {name!r} is at work: cancel it first")
    with acquire_lock(audit.folder, what="audit"):
        yield audit


def _write(audit: Audit, record: Record, manifest: ManifestFile | None) -> None:
    """Write an audit's config.json and what the manifest of a finished one says of it.

    The two files cannot change in one moment. Between them the manifest is away, which means unfinished, never wrong.
    """
    path = audit.folder / CONFIG
    (audit.folder / MANIFEST).unlink(missing_ok=True)
    begun = path.stat().st_mtime_ns
    write_json(path, record.values)
    os.utime(path, ns=(begun, begun))  # audits are listed by when they began
    if manifest is not None:
        manifest["files"][CONFIG], manifest["sizes"][CONFIG] = file_sha256(path), path.stat().st_size
        write_json(audit.folder / MANIFEST, manifest)


def _move_job(name: str, new: str) -> None:
    old, target = jobs_folder() / name, jobs_folder() / new
    _remove(target)  # what an audit of that name, gone by now, left
    if old.is_dir():
        old.rename(target)


def _remove(folder: Path) -> None:
    """Remove a folder, and what a kill left of those removed before; a link to another place is only unlinked."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        hidden = folder.with_name(f".{folder.name}{DELETED}")
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
    for left_over in folder.parent.glob(f".*{DELETED}"):
        shutil.rmtree(left_over, ignore_errors=True)
