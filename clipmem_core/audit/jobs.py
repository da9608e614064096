"""Detached processes of the dashboard: start, find, read and cancel.

    <data>/jobs/<name>/          of an audit: job.json (pid, start time, arguments) · output.log ·
                                 exit_code
    <data>/jobs/.<kind>/<key>/   of any other work

A job outlives the page and the server. Jobs that train run one at a time; a command in a terminal
starts at once.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from clipmem_core.audit.settings import typed, typed_flags
from clipmem_core.audit.store import Audit, check_name, write_json
from clipmem_core.config import AuditConfig, as_dict, data_folder
from clipmem_core.io import read_json, replacing

JOB = "job.json"
OUTPUT = "output.log"
EXIT_CODE = "exit_code"
CANCEL = "cancel"  # a file that marks a job as cancelled
# commands
UNITS = "units"
PARADIGMS = "paradigms"
# exit codes
FAILED = 1
WRONG_INPUT = 2
INTERRUPTED = 130
PROGRAM = (sys.executable, "-m", "clipmem_core", "job")  # folder and arguments follow
TRAINS = (
    "audit",
    "reaudit",
    "mitigate",
    "study",
    UNITS,
    PARADIGMS,
)  # one of these commands runs at a time
WAITS = "waiting for its turn"
SECONDS_BETWEEN_POLLS = 0.5
_COUNT = re.compile(r"(?:.*: )?([\d,]+) of ([\d,]+) (pictures|captions)")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Job:
    """A detached process and the folder it writes to."""

    folder: Path
    pid: int
    started: str | None
    arguments: tuple[str, ...]

    @property
    def running(self) -> bool:
        """Tell whether this process runs; another one may have its pid."""
        if self.started is None or (self.folder / EXIT_CODE).is_file():
            return False
        return process_start(self.pid) == self.started

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs, or when it was killed."""
        try:
            return int((self.folder / EXIT_CODE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    @property
    def cancelling(self) -> bool:
        return (self.folder / CANCEL).is_file() and self.running

    @property
    def cancelled(self) -> bool:
        """Tell whether it was interrupted, even before Python could handle that."""
        if self.exit_code is None:
            return (self.folder / CANCEL).is_file() and not self.running
        return self.exit_code == INTERRUPTED

    @property
    def failed(self) -> bool:
        """Tell whether it ended by an error or was killed."""
        return self.exit_code != 0 and not self.running and not self.cancelled

    @property
    def waiting(self) -> bool:
        """Tell whether it waits for another job that trains."""
        return self.last_line == WAITS

    @property
    def last_line(self) -> str:
        return next(reversed(self.last_lines), "")

    @property
    def last_lines(self) -> list[str]:
        """The non-empty lines in the last 4 kB of the output, without terminal colours."""
        text = _ESCAPES.sub("", tail(self.folder / OUTPUT).decode("utf-8", "replace"))
        return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]

    @property
    def count(self) -> tuple[int, int, str] | None:
        """The finished number, the total and the noun (pictures or captions) in the last line."""
        match = _COUNT.fullmatch(self.last_line)
        return match and (int(match[1].replace(",", "")), int(match[2].replace(",", "")), match[3])


def process_start(pid: int) -> str | None:
    """Return the start time of a running process, or None. It tells processes with the same pid
    apart."""
    # On Linux ticks since the boot, so that setting the clock changes nothing
    since = psutil.boot_time() if psutil.LINUX else 0.0
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return str(round((process.create_time() - since) * os.sysconf("SC_CLK_TCK")))
    except (
        psutil.NoSuchProcess,
        ValueError,
        OverflowError,
    ):  # the last two for a number that cannot be a pid
        return None


@dataclass(frozen=True)
class Task:
    """Arguments of `python -m clipmem_core` for a detached process, and its folder."""

    folder: Path
    arguments: Sequence[str]

    @property
    def typed(self) -> str:
        """The same command in a terminal."""
        return f"python -m clipmem_core {shlex.join(self.arguments)}"

    def find(self) -> Job | None:
        """Return the last job of this task, running or not."""
        path = self.folder / JOB
        if not path.is_file():
            return None
        values = read_json(path, dict[str, Any], repair=f"delete {self.folder}")
        return Job(self.folder, values["pid"], values["started"], tuple(values["arguments"]))

    def start(self) -> Job:
        """Start a job, or return the one that runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "start.lock"):
            job = self.find()
            if job is not None and job.running:
                return job
            for name in (JOB, OUTPUT, EXIT_CODE, CANCEL):
                (self.folder / name).unlink(missing_ok=True)
            with (self.folder / OUTPUT).open("wb") as log:
                process = subprocess.Popen(
                    [*PROGRAM, str(self.folder), *self.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"},
                    start_new_session=True,
                )
            job = Job(self.folder, process.pid, process_start(process.pid), tuple(self.arguments))
            write_json(
                self.folder / JOB,
                {name: value for name, value in asdict(job).items() if name != "folder"},
            )
            threading.Thread(
                target=process.wait, daemon=True
            ).start()  # no zombie while this server runs
        return job


def python_path() -> str:
    """Return PYTHONPATH for a process that imports this package from any folder."""
    package = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))


def run_job(folder: Path, arguments: Sequence[str], run: Callable[[Sequence[str]], int]) -> int:
    """Run a job in its own process, write its exit code and return it."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where the server runs in the background
    turn = FileLock(jobs_folder() / ".turn.lock")
    code = FAILED
    try:
        if (folder / CANCEL).exists():  # the interrupt came before the line above
            raise KeyboardInterrupt
        if arguments[0] in TRAINS:
            try:
                turn.acquire(timeout=0)
            except Timeout:
                print(WAITS, flush=True)
                turn.acquire(poll_interval=SECONDS_BETWEEN_POLLS)
        code = run(arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (
        Exception
    ):  # printed before the exit code is written, so that a page reads it as the last line
        traceback.print_exc()
    finally:
        turn.release()
        with replacing(folder / EXIT_CODE) as temporary:
            temporary.write_text(f"{code}\n", encoding="utf-8")
    return code


def cancel(job: Job) -> None:
    """Interrupt a job and its children, as Ctrl-C does."""
    if job.running:
        (job.folder / CANCEL).touch()
        with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
            os.killpg(job.pid, signal.SIGINT)


def jobs_folder() -> Path:
    return data_folder() / "jobs"


def list_job_names() -> list[str]:
    """Return the names of all jobs of audits."""
    return sorted(path.parent.name for path in jobs_folder().glob(f"[!.]*/{JOB}"))


def audit_task(name: str, arguments: Sequence[str] = ()) -> Task:
    return Task(jobs_folder() / check_name(name), ["audit", *arguments])


def export_task(audit: Audit, format: str, out: Path) -> Task:
    """Return the task of exporting an audit; it replaces an older export."""
    arguments = ["export", audit.name, "--format", format, "--out", str(out), "--overwrite"]
    return Task(jobs_folder() / ".exports" / audit.name / out.name, arguments)


def resume_arguments(name: str, source: str, config: AuditConfig) -> list[str]:
    """Return the arguments of `audit`: source, name, preset, and the fields that differ from the
    preset."""
    return [
        source,
        f"--name={name}",
        f"--preset={config.preset}",
        *typed_flags(typed(as_dict(config))),
    ]


def tail(path: Path) -> bytes:
    """Return the last 4 kB of a file; empty if it is missing."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            return file.read()
    except FileNotFoundError:
        return b""
