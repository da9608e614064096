"""Work that goes on in detached processes: how it starts, waits for its turn, is found again and is ended.

    <data>/jobs/<name>/          of an audit: job.json (pid, start time, command) · output.log · exit_code
    <data>/jobs/.<kind>/<key>/   of a download, a check, a look into encoders, a map, a study or an export
    <data>/jobs/.queue/<number>.json   name, pid and start time of a process that waits or has its turn

A job goes on when the page is reloaded and when the server stops. One that trains waits until those started before it
have ended: the lowest ticket whose process still lives has its turn, so a ticket holds exactly as long as the process
runs, however it ends. There is no server, and a killed process blocks nobody. What is typed in a terminal draws no
ticket: it starts at once, beside the one whose turn it is.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import FileLock

import clipmem_core
from clipmem_core.audits.progress import tail
from clipmem_core.audits.record import Whole
from clipmem_core.audits.settings import typed, typed_flags
from clipmem_core.audits.store import Audit, check_name, write_json
from clipmem_core.audits.supervisor import EXIT_CODE, JOB, OUTPUT, process_start
from clipmem_core.config import AuditConfig, InputError, as_dict, data_folder
from clipmem_core.files import read_json

UNITS, PARADIGMS = "units", "paradigms"  # what encoders are looked into for
SAMPLE = 1000
INTERRUPTED = 130
SECONDS_BETWEEN_LOOKS = 0.5
PROGRAM = (sys.executable, "-m", "clipmem_core")
SUPERVISOR = (sys.executable, "-m", "clipmem_core.audits.supervisor")
CANCEL = "cancel"  # a file that is there once a job was asked to end
_COUNT = re.compile(r"(?:.*: )?([\d,]+) of ([\d,]+) (pictures|captions)")
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
        return not (self.folder / EXIT_CODE).is_file() and _lives(*self.supervisor)

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs, or when the machine went down with it."""
        try:
            return int((self.folder / EXIT_CODE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    @property
    def cancelling(self) -> bool:
        """Tell whether it was asked to end, and has not yet."""
        return (self.folder / CANCEL).is_file() and self.running

    @property
    def cancelled(self) -> bool:
        """Tell whether it ended by an interrupt, be it before Python was ready to answer one."""
        return self.exit_code in (INTERRUPTED, -signal.SIGINT)

    @property
    def failed(self) -> bool:
        """Tell whether it ended by an error of its own, and neither well nor by an interrupt."""
        return self.exit_code not in (None, 0) and not self.cancelled

    @property
    def place(self) -> int:
        """How many have their turn before this one; 0 for one that does not wait."""
        alive = [(ticket.pid, ticket.started) for ticket in tickets()]
        return next((place for place, each in enumerate(alive) if each == (self.pid, self.started)), 0)

    @property
    def age(self) -> float:
        """The seconds since it was started."""
        return time.time() - (self.folder / JOB).stat().st_mtime

    @property
    def ended(self) -> float | None:
        """When it ended, in seconds since the epoch; None while there is no exit code."""
        try:
            return (self.folder / EXIT_CODE).stat().st_mtime
        except FileNotFoundError:
            return None

    @property
    def last_line(self) -> str:
        """The last line of the output that says anything, without terminal colours."""
        return next(reversed(self.last_lines), "")

    @property
    def last_lines(self) -> list[str]:
        """The last lines of the output that say anything, 4 kB, without terminal colours."""
        text = tail(self.folder / OUTPUT).decode("utf-8", "replace")
        lines = (line.strip() for line in re.split(r"[\r\n]+", _ESCAPES.sub("", text)))
        return [line for line in lines if line]

    @property
    def count(self) -> tuple[int, int, str] | None:
        """How many pictures or captions the last line says are finished, of how many, and which of both."""
        found = _COUNT.fullmatch(self.last_line)
        return found and (int(found[1].replace(",", "")), int(found[2].replace(",", "")), found[3])


def _lives(pid: int, started: str | None) -> bool:
    return started is not None and process_start(pid) == started


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
        path = self.folder / JOB
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
            for left_over in (JOB, EXIT_CODE, CANCEL):
                (self.folder / left_over).unlink(missing_ok=True)
            package = str(Path(clipmem_core.__file__).resolve().parents[1])
            path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
            starter = subprocess.run(
                [*SUPERVISOR, str(self.folder), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                check=False,
            )
            job = self.find()
        if job is None:
            said = starter.stdout.decode("utf-8", "replace").strip()
            raise RuntimeError(f"job {self.folder.name!r} did not start: {said or 'no output'}")
        return job


def cancel(job: Job) -> None:
    """Interrupt a job and all it started, as Ctrl-C does; what it has written so far stays, and it can be resumed."""
    if job.running:
        (job.folder / CANCEL).touch()
        with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
            os.killpg(os.getpgid(job.pid), signal.SIGINT)


@dataclass(frozen=True)
class Ticket:
    """A process's place in the queue; `started` tells it from a later process with the same pid."""

    number: int
    name: str
    pid: int
    started: str

    @property
    def path(self) -> Path:
        return _queue_folder() / f"{self.number:08d}.json"


def _queue_folder() -> Path:
    return jobs_folder() / ".queue"  # hidden, since no audit's name begins with a dot


def tickets() -> list[Ticket]:
    """Return the tickets whose process lives, the one whose turn it is first."""
    found = []
    for path in sorted(_queue_folder().glob("[0-9]*.json")):
        with contextlib.suppress(InputError):  # one that is gone by now, or is none, holds no place
            found.append(read_json(path, Ticket))
    return [ticket for ticket in found if _lives(ticket.pid, ticket.started)]


def draw_ticket(name: str) -> Ticket:
    """Give this process the last place, and throw away the tickets of processes that are gone."""
    _queue_folder().mkdir(parents=True, exist_ok=True)
    # Number and file are one step: a ticket that appears later has a higher number.
    with FileLock(_queue_folder() / "draw.lock"):
        alive = tickets()
        for path in {*_queue_folder().glob("[0-9]*.json")} - {ticket.path for ticket in alive}:
            path.unlink(missing_ok=True)
        number = max((ticket.number for ticket in alive), default=0) + 1
        ticket = Ticket(number, name, os.getpid(), process_start(os.getpid()) or "")
        write_json(ticket.path, asdict(ticket))
    return ticket


def await_turn(ticket: Ticket) -> None:
    """Return when no live ticket comes before this one; says for whom it waits."""
    named = ""
    while ahead := [other for other in tickets() if other.number < ticket.number]:
        if ahead[0].name != named:
            named = ahead[0].name
            print(f"waiting for audit {named!r}", flush=True)
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            psutil.Process(ahead[0].pid).wait(SECONDS_BETWEEN_LOOKS)


def queued(name: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs `python -m clipmem_core <arguments>` when its turn has come.

    Args:
        name: what its ticket says that the others wait for.
        arguments: what follows on the command line.
    """
    return [*PROGRAM, "queued", name, *arguments]


def jobs_folder() -> Path:
    """Return the folder that holds every job."""
    return data_folder() / "jobs"


def list_job_names() -> list[str]:
    """Return the names under which audits were started and whose jobs are still there."""
    return sorted(path.parent.name for path in jobs_folder().glob(f"[!.]*/{JOB}"))


def audit_task(name: str, arguments: Sequence[str] = ()) -> Task:
    """Return the task of an audit, which waits until the audits started before it have ended.

    Args:
        name: the audit's.
        arguments: what follows `python -m clipmem_core audit`; they do not matter where its job is only looked for.

    Raises:
        InputError: the name cannot be one.
    """
    return Task(jobs_folder() / check_name(name), queued(name, ["audit", *arguments]))


def fetch_task(name: str) -> Task:
    """Return the task of fetching a data set."""
    return Task(jobs_folder() / ".sets" / name, [*PROGRAM, "fetch", name])


def export_task(audit: Audit, format: str, out: Path) -> Task:
    """Return the task of exporting an audit, in place of an older export."""
    command = ["export", audit.name, "--format", format, "--out", str(out), "--overwrite"]
    return Task(jobs_folder() / ".exports" / audit.name / out.name, [*PROGRAM, *command])


def encoder_task(audit: Audit, kind: str, *, sample: int = 0) -> Task:
    """Return the task of looking into an audit's encoders, which waits as an audit does.

    Args:
        audit: a finished one.
        kind: `units` or `paradigms`.
        sample: of units, how many pairs of a member; 0 takes all.
    """
    command = queued(f"{kind} of {audit.name}", _encoder_arguments(audit, kind, sample))
    return Task(jobs_folder() / ".encoders" / audit.name / kind, command)


def encoder_command(audit: Audit, kind: str, *, sample: int = 0) -> str:
    """Return what to type in a terminal to do the same."""
    return f"python -m clipmem_core {shlex.join(_encoder_arguments(audit, kind, sample))}"


def _encoder_arguments(audit: Audit, kind: str, sample: int) -> list[str]:
    return [kind, audit.name, *(["--sample", str(sample)] if sample else [])]


def resume_arguments(name: str, source: str, config: AuditConfig) -> list[str]:
    """Return the arguments that make `audit` go on with an audit of a source, with what was asked for.

    Returns:
        The source, the name, the preset, and every field that differs from the preset.

    Example:
        >>> from clipmem_core.config import preset_config
        >>> resume_arguments("cats", "cats.csv", preset_config("tiny"))
        ['cats.csv', '--name=cats', '--preset=tiny']
    """
    return [source, f"--name={name}", f"--preset={config.preset}", *typed_flags(typed(as_dict(config)), joint="=")]
