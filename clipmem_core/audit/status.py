"""The state of audits and members; deleting an audit."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from clipmem_core.audit import store
from clipmem_core.audit.jobs import Job, audit_task, jobs_folder, list_job_names, tail
from clipmem_core.audit.store import Audit, is_name
from clipmem_core.io import InputError
from clipmem_core.training.names import CHECKPOINT, LOG

CHANCE_SHARE = 0.98  # of ln(batch_size), the loss of a random guess within a batch
# First words of an output line when a stage begins
FEATURES = "computing features"
WORDS = "predicting the words of captions"
TRAINING = "training"
_POINTS = 300  # of a loss curve


def seconds_left(seconds: float, done: float, total: float) -> float:
    """Return the time left at the pace so far; NaN before anything is done."""
    return seconds / done * (total - done) if done else math.nan


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
    def seconds_left(self) -> float:
        """Training time left at the pace so far; NaN before the first line."""
        return seconds_left(self.seconds, self.step, self.steps)

    @property
    def share(self) -> float:
        """The trained share, from 0 to 1."""
        if self.stage in ("embedding", "finished"):
            return 1.0
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    def at_chance(self, batch_size: int) -> bool:
        """Tell whether the loss is still at chance after a fifth of the run."""
        late = self.steps > 0 and self.step >= self.steps / 5
        return late and self.log_probability <= -CHANCE_SHARE * math.log(batch_size)


class Screen(Protocol):
    """Shows an audit's progress: lines, numbers of finished pictures and captions, members."""

    def say(self, text: str) -> None: ...

    def pictures(self, done: int, total: int) -> None: ...

    def captions(self, done: int, total: int) -> None: ...

    def members(self, progress: list[MemberProgress]) -> None: ...


def training_seconds_left(members: Sequence[MemberProgress]) -> float:
    """Return the training time left of all members, divided by the number that trains at once."""
    active = [
        member for member in members if member.step and member.stage in ("training", "embedding")
    ]
    if not active:
        return math.nan
    totals = [member.seconds * member.steps / member.step for member in members if member.step]
    waiting = sum(member.stage == "waiting" for member in members)
    remaining = sum(member.seconds_left for member in active if member.stage == "training")
    return (remaining + waiting * sum(totals) / len(totals)) / len(active)


def loss_curves(audit: Path, names: Sequence[str]) -> pd.DataFrame:
    """Return the loss of each member by epoch: member, epoch, loss, at most `POINTS` rows per
    member."""
    points = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            lines = (audit / store.MEMBERS / name / LOG).read_bytes().splitlines()
            step = max(1, math.ceil(len(lines) / _POINTS))
            points += [_parsed(line) | {"member": name} for line in lines[::-step][::-1]]
    return pd.DataFrame(points).reindex(columns=["member", "epoch", "loss"]).dropna()


def _parsed(line: bytes) -> dict[str, Any]:
    """Return the content of a log line; empty for an incomplete line."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def last_line(path: Path) -> dict[str, Any]:
    """Return the last complete line of a JSON-lines file; empty if there is none."""
    return next(
        (parsed for line in reversed(tail(path).splitlines()) if (parsed := _parsed(line))), {}
    )


def member_progress(audit: Path, name: str) -> MemberProgress:
    """Read the progress of a member."""
    folder = audit / store.MEMBERS / name
    line = last_line(folder / LOG)
    if any((folder / last).is_file() for last in (store.TEXT_EMBEDDINGS, store.SECOND_FIT)):
        stage = "finished"
    elif (folder / CHECKPOINT).is_file():
        stage = "embedding"
    else:
        stage = "training" if line else "waiting"
    fields = [key for key in MemberProgress.__dataclass_fields__ if key not in ("name", "stage")]
    numbers = {key: line[key] for key in fields if isinstance(line.get(key), (int, float))}
    return MemberProgress(name=name, stage=stage, **numbers)


def all_progress(audit: Path, names: Sequence[str]) -> list[MemberProgress]:
    """Read the progress of members, followed by that of their second training."""
    second = second_names(names) if (audit / store.SECOND_TABLE).is_file() else []
    return [member_progress(audit, name) for name in (*names, *second)]


def second_names(names: Sequence[str]) -> list[str]:
    """Return the folder names of members in the second round, such as r0-f0/second."""
    return [f"{name}/{store.SECOND}" for name in names]


WAITING = "waiting"  # another job trains
PREPARING = "preparing"  # its job reads the data set
SCORING = "scoring"
DONE = "finished"
CANCELLING = "cancelling"
CANCELLED = "cancelled"
STOPPED = "stopped"
OUTSIDE = "running elsewhere"  # its folder is locked and it has no job, perhaps a terminal
PAUSED = "not finished"
BROKEN = "broken"
AT_WORK = (WAITING, PREPARING, FEATURES, WORDS, TRAINING, SCORING, CANCELLING)
DELETED = ".deleted"


@dataclass(frozen=True)
class State:
    """The state of an audit in one word, its last job, and the error if it is broken."""

    audit: Audit
    word: str
    job: Job | None = None
    fault: str = ""

    @property
    def at_work(self) -> bool:
        return self.word in AT_WORK

    @property
    def row(self) -> dict[str, Any]:
        """Its row in a list of audits."""
        row: dict[str, Any] = {"name": self.audit.name, "state": self.word}
        row |= dict.fromkeys(("data set", "protocol", "preset", "pairs", "members"))
        if not self.audit.begun:
            return row
        try:
            record = self.audit.record
        except InputError:
            return row | {"state": BROKEN}
        row |= {
            "data set": record.source,
            "protocol": record.protocol,
            "preset": record.config.preset,
        }
        return row | {"pairs": record.pairs, "members": len(record.members)}


def state_of(name: str) -> State:
    """Return the state of an audit."""
    audit = Audit(store.audits_folder() / name)
    try:
        job = audit_task(name).find()
        members = audit.record.members if audit.begun else ()
        if job is not None and job.running:
            word = _running(audit, members, job)
        elif audit.finished:
            word = DONE
        elif store.is_locked(audit.folder):
            word = OUTSIDE
        else:
            word = (
                PAUSED
                if job is None or job.exit_code == 0
                else CANCELLED
                if job.cancelled
                else STOPPED
            )
        return State(audit, word, job)
    except InputError as error:
        return State(audit, BROKEN, fault=str(error))


def _running(audit: Audit, members: Sequence[str], job: Job) -> str:
    """Return the stage of a running job, by its last line and the files of the members."""
    if job.cancelling or job.waiting or audit.finished:
        return CANCELLING if job.cancelling else WAITING if job.waiting else DONE
    stages = {member.stage for member in all_progress(audit.folder, members)}
    for word in (FEATURES, WORDS):
        if members and word in job.last_line:
            return word
    if (
        not members
        or job.count
        or (stages == {"waiting"} and not job.last_line.startswith(TRAINING))
    ):
        return PREPARING
    return SCORING if stages == {"finished"} else TRAINING


def list_states() -> list[State]:
    """Return the state of every audit and of every job without a folder yet: at work first, then
    the newest."""
    folders = [audit.name for audit in store.list_audits() if is_name(audit.name)]
    jobs = [name for name in list_job_names() if is_name(name) and name not in folders]
    states = [state_of(name) for name in [*jobs, *folders]]
    listed = [state for state in states if state.audit.begun or state.word != PAUSED]
    return sorted(listed, key=lambda state: not state.at_work)


def delete_audit(name: str) -> int:
    """Delete an audit and its job, but no decision, and return the number of freed bytes."""
    audit = Audit.of(name)
    job = audit_task(name).find()
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
    """Return the size of all files in a folder; 0 if it is missing or a link."""
    size = 0
    for parent, _, names in os.walk(folder) if not folder.is_symlink() else ():
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a temporary file that was just renamed
                size += (Path(parent) / name).lstat().st_size
    return size


def _remove(folder: Path) -> None:
    """Hide a folder under another name, then delete it: a kill leaves no partial audit. A link is
    only unlinked."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        hidden = folder.with_name(f".{folder.name}{DELETED}")
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
    for hidden in folder.parent.glob(f".*{DELETED}"):
        shutil.rmtree(hidden, ignore_errors=True)
