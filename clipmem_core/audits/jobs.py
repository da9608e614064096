"""Detached processes, each with a folder that says how it goes, by which it is found again.

    <data>/jobs/<name>/          of an audit: job.json (pid, start time, command) · output.log · exit_code
    <data>/jobs/.<kind>/<key>/   of a download, a check, a look into encoders, a map, a study or an export

A job goes on when the page is reloaded and when the server stops.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

import clipmem_core
from clipmem_core.audits import detached, queue
from clipmem_core.audits.record import Whole
from clipmem_core.audits.settings import typed, typed_flags
from clipmem_core.audits.store import Audit, check_name
from clipmem_core.config import AuditConfig, as_dict, data_folder
from clipmem_core.files import read_json

UNITS, PARADIGMS = "units", "paradigms"  # what encoders are looked into for
SAMPLE = 1000
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class JobFile:
    """The fields of job.json."""

    pid: Whole
    started: str | None
    command: tuple[str, ...]
    supervisor: tuple[Whole, str | None] = (0, None)


@dataclass(frozen=True)
class Job:
    """A detached process and the folder it writes to."""

    folder: Path
    pid: int
    started: str | None
    command: tuple[str, ...]
    supervisor: tuple[int, str | None] = (0, None)  # pid and start time of the process that writes the exit code

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def running(self) -> bool:
        """Tell whether this very process still runs, not another that got its pid, or its exit code is to come."""
        if _lives(self.pid, self.started):
            return True
        return not (self.folder / detached.EXIT_CODE).is_file() and _lives(*self.supervisor)

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs, or when the machine went down with it."""
        try:
            return int((self.folder / detached.EXIT_CODE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    @property
    def cancelled(self) -> bool:
        """Tell whether it ended by an interrupt, be it before Python was ready to answer one."""
        return self.exit_code in (queue.INTERRUPTED, -signal.SIGINT)

    @property
    def failed(self) -> bool:
        """Tell whether it ended by an error of its own, and neither well nor by an interrupt."""
        return self.exit_code not in (None, 0) and not self.cancelled

    @property
    def place(self) -> int:
        """How many audits have their turn before this one; 0 for one that does not wait."""
        return queue.place(self.pid, self.started) if self.started else 0

    @property
    def ended(self) -> float | None:
        """When it ended, in seconds since the epoch; None while there is no exit code."""
        try:
            return (self.folder / detached.EXIT_CODE).stat().st_mtime
        except FileNotFoundError:
            return None

    @property
    def last_line(self) -> str:
        """The last line of the output that says anything, without terminal colours."""
        try:
            with (self.folder / detached.OUTPUT).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - 4096))
                text = file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        lines = (line.strip() for line in reversed(re.split(r"[\r\n]+", _ESCAPES.sub("", text))))
        return next((line for line in lines if line), "")


def _lives(pid: int, started: str | None) -> bool:
    return started is not None and detached.process_start(pid) == started


def jobs_folder() -> Path:
    """Return the folder that holds every job."""
    return data_folder() / "jobs"


def list_job_names() -> list[str]:
    """Return the names under which audits were started and whose jobs are still there."""
    return sorted(path.parent.name for path in jobs_folder().glob(f"[!.]*/{detached.JOB}"))


@dataclass(frozen=True)
class Task:
    """What a detached process is to do: its command, and the folder that it is found again by."""

    folder: Path
    command: Sequence[str]

    def find(self) -> Job | None:
        """Return the job last started for it, running or not, or None.

        Raises:
            InputError: its job.json is broken.
        """
        path = self.folder / detached.JOB
        if not path.is_file():
            return None
        job = read_json(path, JobFile, mend=f"delete {self.folder}")
        return Job(self.folder, job.pid, job.started, job.command, job.supervisor)

    def start(self) -> Job:
        """Start it, or return its job if that runs.

        Raises:
            RuntimeError: the process could not be started.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "start.lock"):
            job = self.find()
            if job is not None and job.running:
                return job
            for left_over in (detached.JOB, detached.EXIT_CODE):
                (self.folder / left_over).unlink(missing_ok=True)
            printed = _detach(self.folder, self.command)
            job = self.find()
        if job is None:
            raise RuntimeError(f"job {self.folder.name!r} did not start: {printed or 'no output'}")
        return job


def audit_task(name: str, arguments: Sequence[str] = ()) -> Task:
    """Return the task of an audit, which waits until the audits started before it have ended.

    Args:
        name: the audit's.
        arguments: what follows `python -m clipmem_core audit`; they do not matter where its job is only looked for.

    Raises:
        InputError: the name cannot be one.
    """
    return Task(jobs_folder() / check_name(name), queue.queued(name, ["audit", *arguments]))


def fetch_task(name: str) -> Task:
    """Return the task of fetching a data set."""
    return Task(jobs_folder() / ".sets" / name, [sys.executable, "-m", "clipmem_core", "fetch", name])


def encoder_task(audit: Audit, kind: str, *, sample: int = 0) -> Task:
    """Return the task of looking into an audit's encoders, which waits as an audit does.

    Args:
        audit: a finished one.
        kind: `units` or `paradigms`.
        sample: of units, how many pairs of a member; 0 takes all.
    """
    command = queue.queued(f"{kind} of {audit.name}", _encoder_arguments(audit, kind, sample))
    return Task(jobs_folder() / ".encoders" / audit.name / kind, command)


def encoder_command(audit: Audit, kind: str, *, sample: int = 0) -> str:
    """Return what to type in a terminal to do the same."""
    return f"python -m clipmem_core {shlex.join(_encoder_arguments(audit, kind, sample))}"


def _encoder_arguments(audit: Audit, kind: str, sample: int) -> list[str]:
    return [kind, audit.name, *(["--sample", str(sample)] if sample else [])]


def cancel(job: Job) -> None:
    """Interrupt a job and all it started, as Ctrl-C does; what it has written so far stays, and it can be resumed."""
    if job.running:
        with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
            os.killpg(os.getpgid(job.pid), signal.SIGINT)


def _detach(folder: Path, command: Sequence[str]) -> str:
    """Run the starter; return what it printed, which is nothing when all is well."""
    package_root = str(Path(clipmem_core.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    starter = [sys.executable, "-I", detached.__file__, str(folder), *command]
    finished = subprocess.run(
        starter,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
        check=False,
    )
    return finished.stdout.decode("utf-8", "replace").strip()


def resume_arguments(name: str, source: str, config: AuditConfig) -> list[str]:
    """Return the arguments that make `audit` go on with an audit of a source, with what was asked for.

    Returns:
        The source, the name, the preset, and every field that differs from the preset.

    Example:
        >>> resume_arguments("cats", "cats.csv", dataclasses.replace(preset_config("tiny"), epochs=3))
        ['cats.csv', '--name=cats', '--preset=tiny', '--epochs=3']
    """
    return [source, f"--name={name}", f"--preset={config.preset}", *typed_flags(typed(as_dict(config)), joint="=")]
