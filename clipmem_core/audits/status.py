"""How an audit stands, in a word, by its folder, its job, the queue and its lock."""

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from clipmem_core.audits.jobs import Job, audit_task, list_job_names
from clipmem_core.audits.lock import is_held
from clipmem_core.audits.progress import member_progress
from clipmem_core.audits.store import CONFIG, MEMBERS, Audit, audits_folder, is_name, list_audits
from clipmem_core.config import InputError

WAITING = "waiting"  # its job is in the queue
PREPARING = "preparing"  # its job reads the data set
TRAINING = "training"
SCORING = "scoring"
DONE = "done"
ELSEWHERE = "running elsewhere"  # no job of ours, but it is held: perhaps in a terminal
CANCELLED = "cancelled"
STOPPED = "stopped"
PAUSED = "not finished"
BROKEN = "broken"
AT_WORK = (WAITING, PREPARING, TRAINING, SCORING)


@dataclass(frozen=True)
class State:
    """How an audit stands, and the job last started for it.

    `place` counts the audits before a waiting one; `quiet` is the seconds since a file of the audit last changed, after
    its job ended; `fault` says what is broken.
    """

    audit: Audit
    word: str
    job: Job | None = None
    place: int = 0
    quiet: float = math.inf
    fault: str = ""

    @property
    def at_work(self) -> bool:
        """Tell whether its job waits or runs."""
        return self.word in AT_WORK

    @property
    def started(self) -> bool:
        """Tell whether it got as far as writing down what it is."""
        return (self.audit.folder / CONFIG).is_file()


def state_of(name: str) -> State:
    """Return how an audit stands; a broken file is a state too."""
    audit = Audit(audits_folder() / name)
    try:
        job = audit_task(name).find()
        members = audit.record.members if (audit.folder / CONFIG).is_file() else None
        if job is not None and job.running:
            return _running(audit, job, members)
        return _resting(audit, job)
    except InputError as error:
        return State(audit, BROKEN, fault=str(error))


def _running(audit: Audit, job: Job, members: Sequence[str] | None) -> State:
    place = job.place
    if place:
        return State(audit, WAITING, job, place=place)
    if audit.finished:
        return State(audit, DONE, job)
    if members is None:
        return State(audit, PREPARING, job)
    stages = {member_progress(audit.folder, name).stage for name in members}
    return State(audit, SCORING if stages == {"done"} else TRAINING, job)


def _resting(audit: Audit, job: Job | None) -> State:
    if audit.finished:
        return State(audit, DONE, job)
    if is_held(audit.folder):  # files may be new without anybody at work: somebody copied them
        quiet = time.time() - _last_sign(audit, after=job.ended if job else None)
        return State(audit, ELSEWHERE, job, quiet=quiet)
    if job is None or job.exit_code == 0:
        return State(audit, PAUSED, job)
    return State(audit, CANCELLED if job.cancelled else STOPPED, job)


def _last_sign(audit: Audit, *, after: float | None) -> float:
    """Return when a file of the audit was last written, after a moment; minus infinity where none was."""
    moments = []
    for path in [*audit.folder.glob("*.*"), *audit.folder.glob(f"{MEMBERS}/*/log.jsonl")]:
        with contextlib.suppress(FileNotFoundError):  # a temporary name, renamed a moment ago
            moments.append(path.stat().st_mtime)
    return max((moment for moment in moments if after is None or moment > after), default=-math.inf)


def list_states() -> list[State]:
    """Return how every audit stands: those at work first, the one with the next turn on top, then the newest.

    An audit whose job has not written its folder yet, or failed before it could, is among them. Folders with a name
    that no audit can have are not: `odd_names` returns those.
    """
    folders = [audit.name for audit in list_audits() if is_name(audit.name)]
    jobs = [name for name in list_job_names() if is_name(name) and name not in folders]
    states = [state_of(name) for name in [*jobs, *folders]]
    known = [state for state in states if state.started or state.word != PAUSED]
    return sorted(known, key=lambda state: (not state.at_work, state.place))


def odd_names() -> list[str]:
    """Return the names of folders that hold an audit but have a name that no audit can have."""
    return [audit.name for audit in list_audits() if not is_name(audit.name)]
