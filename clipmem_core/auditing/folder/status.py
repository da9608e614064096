"""The state of audits and of their members, and deleting an audit."""

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from clipmem_core.auditing.folder import store
from clipmem_core.auditing.folder.jobs import (
    JOB,
    Job,
    audit_request,
    jobs_folder,
    list_job_names,
    report,
)
from clipmem_core.auditing.folder.store import Audit, Record
from clipmem_core.training.names import CHECKPOINT, LOG
from clipmem_core.utils.io import InputError, read_json

CHANCE_SHARE = 0.98  # of ln(batch_size), the loss of a random guess within a batch
_SECONDS_BETWEEN_REPORTS = 0.5
_POINTS = 300  # of a loss curve


@dataclass(frozen=True)
class MemberProgress:
    """A member's stage (waiting, training, embedding, finished) and the last line of its log."""

    name: str
    stage: str
    step: int = 0
    steps: int = 0
    loss: float = math.nan
    log_probability: float = math.nan
    samples_per_second: float = math.nan
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """The trained share, from 0 to 1."""
        if self.stage in ("embedding", "finished"):
            return 1.0
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    def at_chance(self, batch_size: int) -> bool:
        """Tell whether the loss is still at chance after a fifth of the run."""
        late = batch_size > 1 and self.steps > 0 and self.step >= self.steps / 5
        return late and self.log_probability <= -CHANCE_SHARE * math.log(batch_size)


class Screen(Protocol):
    """Shows an audit's progress: lines, numbers of finished pictures and captions, members."""

    def say(self, text: str) -> None: ...

    def pictures(self, done: int, total: int) -> None: ...

    def captions(self, done: int, total: int) -> None: ...

    def members(self, progress: list[MemberProgress]) -> None: ...


class TaskScreen:
    """Reports progress in the folder of a job or task."""

    def __init__(self) -> None:
        self.reported = 0.0  # the time of the last count

    def say(self, text: str) -> None:
        report(stage=text)

    def pictures(self, done: int, total: int) -> None:
        self._count("pictures", done, total)

    def captions(self, done: int, total: int) -> None:
        self._count("captions", done, total)

    def members(self, progress: list[MemberProgress]) -> None:
        raise NotImplementedError

    def _count(self, noun: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self.reported >= _SECONDS_BETWEEN_REPORTS:
            self.reported = now
            report(done=done, total=total, noun=noun)


def mean_losses(audit: Path, names: Sequence[str]) -> "pd.Series[float]":
    """Return the mean loss of members by epoch, from at most `POINTS` epochs of each."""
    points: list[Any] = []
    for name in names:
        lines = _complete_lines(audit / store.MEMBERS / name / LOG)
        step = math.ceil(len(lines) / _POINTS) or 1
        points += map(json.loads, lines[::-step])
    return pd.DataFrame(points, columns=["epoch", "loss"]).groupby("epoch")["loss"].mean()


def _complete_lines(path: Path) -> list[str]:
    """Return the lines of a log that are written to their end."""
    return path.read_text("utf-8").split("\n")[:-1] if path.is_file() else []


def last_line(path: Path) -> dict[str, Any]:
    """Return the last complete line of a JSON-lines file; empty if there is none."""
    lines = _complete_lines(path)
    return json.loads(lines[-1]) if lines else {}


def member_progress(audit: Path, name: str) -> MemberProgress:
    """Read the progress of a member."""
    folder = audit / store.MEMBERS / name
    line = last_line(folder / LOG)
    if (folder / store.TEXT_EMBEDDINGS).is_file() or (folder / store.SECOND_FIT).is_file():
        stage = "finished"
    elif (folder / CHECKPOINT).is_file():
        stage = "embedding"
    else:
        stage = "training" if line else "waiting"
    names = {field.name for field in fields(MemberProgress)}
    numbers = {key: value for key, value in line.items() if key in names}
    return MemberProgress(name=name, stage=stage, **numbers)


def all_progress(audit: Path, names: Sequence[str]) -> list[MemberProgress]:
    """Read the progress of members, followed by that of their second training."""
    second = second_names(names) if (audit / store.SECOND_TABLE).is_file() else []
    return [member_progress(audit, name) for name in (*names, *second)]


def second_names(names: Sequence[str]) -> list[str]:
    """Return the folder names of members in the second round, such as r0-f0/second."""
    return [f"{name}/{store.SECOND}" for name in names]


# Names of stages
PREPARING = "preparing"
FEATURES = "computing features"
WORDS = "predicting words"
TRAINING = "training"
SECOND_ROUND = "training a second time"
SCORING = "scoring"
CHECKING = "checking the results"
FINISHING = "finishing"
MAPPING = "drawing the map"
# The stages of an unfinished audit, in order
STEPS = (PREPARING, FEATURES, WORDS, TRAINING, SECOND_ROUND, SCORING, CHECKING, FINISHING)
# Other states of an audit
WAITING = "waiting"  # another job trains
DONE = "finished"
CANCELLING = "cancelling"
CANCELLED = "cancelled"
STOPPED = "stopped"
OUTSIDE = "running elsewhere"  # its folder is locked and it has no job, perhaps a terminal
PAUSED = "not finished"
BROKEN = "broken"


@dataclass(frozen=True)
class State:
    """The state of an audit in one word, its last job, and the error if it is broken."""

    audit: Audit
    word: str
    job: Job | None = None
    record: Record | None = None  # None before it has begun, or if it is broken
    fault: str = ""

    @property
    def at_work(self) -> bool:
        """Tell whether its job runs or waits."""
        return self.job is not None and self.job.running

    @property
    def row(self) -> dict[str, Any]:
        """Its row in a list of audits."""
        row: dict[str, Any] = {"name": self.audit.name, "state": self.word}
        record = self.record
        if record is None:
            return row
        return row | {
            "data set": record.source,
            "protocol": record.protocol,
            "preset": record.config.preset,
            "pairs": record.pairs,
            "members": len(record.members),
        }


def state_of(name: str) -> State:
    """Return the state of an audit."""
    audit = Audit(store.audits_folder() / name)
    try:
        job = audit_request(name).find()
        record = audit.record if audit.begun else None
        return State(audit, _word(audit, job), job, record)
    except InputError as error:
        return State(audit, BROKEN, fault=str(error))


def _word(audit: Audit, job: Job | None) -> str:
    """Return the state of an audit; of a running job the stage."""
    if job and job.running:
        if job.cancelling:
            return CANCELLING
        if job.record.waits:
            return WAITING
        if not audit.finished:
            path = audit.folder / store.STAGE
            # An older file names the last stage of the run that this job resumes.
            is_current = (
                path.is_file() and path.stat().st_mtime >= (job.folder / JOB).stat().st_mtime
            )
            return read_json(path, str, repair="delete it") if is_current else PREPARING
    if audit.finished:
        return DONE
    if store.is_locked(audit.folder):
        return OUTSIDE
    if job is None or job.exit_code == 0:
        return PAUSED
    return CANCELLED if job.cancelled else STOPPED


def list_states() -> list[State]:
    """Return the state of every audit and of every job without a folder yet: at work first, then
    the newest."""
    folders = [audit.name for audit in store.list_audits()]
    jobs = [name for name in list_job_names() if name not in folders]
    states = [state_of(name) for name in [*jobs, *folders]]
    listed = [state for state in states if state.audit.begun or state.word != PAUSED]
    return sorted(listed, key=lambda state: not state.at_work)


def delete_audit(name: str) -> int:
    """Delete an audit and its job, but no decision, and return the number of freed bytes."""
    audit = Audit.of(name)
    job = audit_request(name).find()
    if job is not None and job.running:
        raise InputError(f"audit {name!r} is at work: cancel it first")
    with store.acquire_lock(audit.folder, what="audit"):
        folders = [folder for folder in (audit.folder, jobs_folder() / name) if folder.exists()]
        if not folders:
            raise InputError(f"there is no audit {name!r} in {store.audits_folder()}")
        freed = sum(map(folder_bytes, folders))
        for folder in folders:
            _remove(folder)
    return freed


def folder_bytes(folder: Path) -> int:
    """Return the size of all files in a folder; 0 if it is missing."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a temporary file that was just renamed
                size += (Path(parent) / name).lstat().st_size
    return size


def _remove(folder: Path) -> None:
    """Hide a folder under another name, then delete it: a kill leaves no partial audit."""
    hidden = folder.with_name(f".{folder.name}.deleted")
    for leftover in folder.parent.glob(".*.deleted"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
