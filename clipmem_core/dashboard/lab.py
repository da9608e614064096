"""Trains the setting of the page Mitigations: by workers that wait beside an open page, or by a
job."""

import functools
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from clipmem_core.audit.executor import STDERR, Task, program_of, start
from clipmem_core.audit.jobs import Task as JobTask
from clipmem_core.audit.jobs import jobs_folder
from clipmem_core.audit.settings import shares_process, side_by_side
from clipmem_core.audit.store import MITIGATIONS, Audit
from clipmem_core.dashboard.plain import draw_fault, duration, explained_errors
from clipmem_core.dashboard.running import draw_task
from clipmem_core.studies import lab
from clipmem_core.studies.arm import BASELINE, Arm

_SESSION = (
    "mitigation-session"  # key in the session of the name by which its page is known to the workers
)
# seconds: while a setting trains, and while nothing does
POLL = 0.4
HEARTBEAT = 10.0
RESTART_AFTER = 60.0  # seconds after which workers that ended are started again
# Shows an error of a part of the page in its place; the other parts are drawn
shown_errors = functools.partial(
    explained_errors, "This part of the page cannot be shown.", ends=False
)


@dataclass
class Workers:
    """The processes that train heads for the open pages of an audit; they end with this server."""

    started: float = 0.0
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    faults: list[Path] = field(default_factory=list)  # where each writes its errors

    @property
    def fault(self) -> str:
        """The last line of a worker that failed."""
        for process, path in zip(self.processes, self.faults, strict=True):
            if process.poll():
                return next(
                    reversed(path.read_text(errors="replace").strip().splitlines()), "it was killed"
                )
        return ""


@st.cache_resource(show_spinner=False)
def _workers_of(folder: Path) -> Workers:
    return Workers()


def ensure_workers(audit: Audit) -> Workers:
    """Start the workers of an audit unless they run or failed a moment ago."""
    workers = _workers_of(audit.folder)
    config = audit.record.config
    if any(process.poll() is None for process in workers.processes) or workers.fault:
        return workers
    if time.monotonic() - workers.started < RESTART_AFTER and workers.processes:
        return workers  # those of another server are at work
    workers.started = time.monotonic()
    names = [str(number) for number in range(side_by_side(config))]
    folders = [audit.folder / MITIGATIONS / f".worker-{name}" for name in names]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    program = program_of("clipmem_core.studies.lab_training:serve", audit.folder)
    tasks = [
        Task((folder,), program, (name,), audit.record.threads)
        for folder, name in zip(folders, names, strict=True)
    ]
    workers.faults = [folder / STDERR for folder in folders]
    workers.processes = [start(task) for task in tasks]
    return workers


def is_complete(audit: Audit, arm: str) -> bool:
    """Tell whether all members of an arm are measured."""
    return len(lab.finished_members(audit, arm)) == len(lab.paired_members(audit))


def enough_members(audit: Audit, arm: str) -> bool:
    """Tell whether enough members of an arm are measured to show it."""
    least = min(lab.FIRST_MEMBERS, len(lab.paired_members(audit)))
    return min(len(lab.finished_members(audit, name)) for name in (arm, BASELINE)) >= least


def ask(audit: Audit, arm: Arm) -> None:
    """Ask the workers for a setting, before anything else is drawn."""
    if shares_process(audit.record.config):
        session = st.session_state.setdefault(_SESSION, uuid.uuid4().hex)
        lab.want(audit, session, [arm.name] if arm.overrides else [])


def follow(audit: Audit, arm: Arm) -> None:
    """Report that the page is open, draw the progress of a setting, and rerun the page when members
    are finished."""
    pending = arm.name != BASELINE and not is_complete(audit, arm.name)
    seen = len(lab.finished_members(audit, arm.name)), enough_members(audit, arm.name)
    every = POLL if pending else HEARTBEAT
    draw = _follow_workers if shares_process(audit.record.config) else _follow_job
    st.fragment(run_every=every)(draw)(audit, arm, seen)


def _follow_workers(audit: Audit, arm: Arm, seen: tuple[int, bool]) -> None:
    with shown_errors():
        lab.stay_open(audit, st.session_state[_SESSION])
        workers = ensure_workers(audit)
        if fault := workers.fault:
            draw_fault("The training stopped.", fault)
            if st.button("Try again", key="mitigation-again", icon=":material/play_arrow:"):
                workers.processes = []
                workers.faults = []
                st.rerun()
            return
        _draw_members(audit, arm, seen)


def _draw_members(audit: Audit, arm: Arm, seen: tuple[int, bool]) -> None:
    """Draw how many members are finished; rerun the page once enough are, twice as many, and
    all."""
    if fault := lab.fault_of(audit, BASELINE) or lab.fault_of(audit, arm.name):
        draw_fault("This setting cannot be trained.", fault)
        return
    done = len(lab.finished_members(audit, arm.name))
    total = len(lab.paired_members(audit))
    before, was_enough = seen
    if enough_members(audit, arm.name) and (
        not was_enough or done >= min(2 * before, total) > before
    ):
        st.rerun()
    if arm.overrides and done < total and (done or shares_process(audit.record.config)):
        waiting = (
            "Starting…"
            if not (audit.folder / MITIGATIONS / BASELINE).is_dir()
            else f"{done} of {total} members"
        )
        st.progress(done / total, text=waiting)


def _follow_job(audit: Audit, arm: Arm, seen: tuple[int, bool]) -> None:
    with shown_errors():
        if not arm.overrides:
            return
        _draw_members(audit, arm, seen)
    if arm.overrides and not is_complete(audit, arm.name):
        members = len(lab.paired_members(audit)) - len(lab.finished_members(audit, arm.name))
        time_left = duration(lab.seconds_needed(audit, members, side_by_side(audit.record.config)))
        task = JobTask(
            jobs_folder() / ".mitigations" / audit.name / arm.name,
            ["mitigate", audit.name, *arm.flags],
        )
        reason = f"{members} members train again: about {time_left or 'as long as the audit took'}."
        options: dict[str, Any] = {"key": "mitigation-train", "reason": reason, "label": "Train"}
        draw_task(task, functools.partial(is_complete, audit, arm.name), **options)
