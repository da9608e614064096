"""Background jobs: detached processes that outlive the page and the server that started them.

    <data>/jobs/<name>/          of an audit: job.json (pid, start time, arguments) · record.json
                                 (its progress, result and exit code) · output.log
    <data>/jobs/.<kind>/<key>/   of any other work

Jobs that train run one at a time; a command in a terminal starts at once.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from clipmem_core.auditing.folder.store import Audit, check_name, write_json
from clipmem_core.config import data_folder
from clipmem_core.utils.io import read_json

JOB = "job.json"
RECORD = "record.json"
OUTPUT = "output.log"
CANCEL = "cancel"  # a file that marks a job as cancelled
# exit codes
FAILED = 1
INTERRUPTED = 130
PROGRAM = (sys.executable, "-m", "clipmem_core", "job")  # folder and arguments follow
# One of these commands runs at a time.
TRAINS = ("audit", "reaudit", "mitigate", "study", "units", "paradigms", "encoders")
SECONDS_BETWEEN_POLLS = 0.5


@dataclass(frozen=True)
class JobRecord:
    """What a job, or a task of one, does and has found: its process writes it in its folder, and
    whoever waits for it reads it."""

    waits: bool = False  # for another job that trains
    stage: str = ""
    done: int = 0
    total: int = 0  # 0: not counted
    noun: str = ""  # of what is counted: pictures, captions
    result: dict[str, Any] | None = None
    exit_code: int | None = None  # None while it runs, or when it was killed


# What this process runs
_record = JobRecord()
_folder: Path | None = None


@contextmanager
def reporting_in(folder: Path) -> Iterator[None]:
    """Write reports of this process into a folder."""
    global _record, _folder
    before = _record, _folder
    _record, _folder = JobRecord(), folder
    try:
        yield
    finally:
        _record, _folder = before


def report(**changes: Any) -> None:
    """Change the record of the job or task that this process runs, if it runs one."""
    global _record
    _record = replace(_record, **changes)
    if _folder:
        write_json(_folder / RECORD, asdict(_record))


def read_record(folder: Path) -> JobRecord:
    """Return what the job or task of a folder has reported."""
    path = folder / RECORD
    repair = f"delete {folder}"
    return read_json(path, JobRecord, repair=repair) if path.is_file() else JobRecord()


@dataclass(frozen=True)
class Job:
    """A detached process and the folder it writes to."""

    folder: Path
    pid: int
    started: float | None
    arguments: tuple[str, ...]

    @property
    def record(self) -> JobRecord:
        """What the job has reported."""
        return read_record(self.folder)

    @property
    def exit_code(self) -> int | None:
        return self.record.exit_code

    @property
    def running(self) -> bool:
        """Tell whether this process runs; another one may have its pid."""
        if self.started is None or self.exit_code is not None:
            return False
        return process_start(self.pid) == self.started

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
    def last_line(self) -> str:
        """The last line of its output, for example an error."""
        path = self.folder / OUTPUT
        lines = path.read_text("utf-8", "replace").strip().splitlines() if path.is_file() else []
        return lines[-1] if lines else ""


def process_start(pid: int) -> float | None:
    """Return the seconds from the machine's start to that of a running process, or None. They tell
    processes with the same pid apart."""
    machine = psutil.boot_time()
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return round(process.create_time() - machine, 2)
    except psutil.NoSuchProcess:
        return None


@dataclass(frozen=True)
class JobRequest:
    """Arguments of `python -m clipmem_core` for a job, and its folder."""

    folder: Path
    arguments: Sequence[str]

    @property
    def command(self) -> str:
        """The same command in a terminal."""
        return f"python -m clipmem_core {shlex.join(self.arguments)}"

    def find(self) -> Job | None:
        """Return the last job of this request, running or not."""
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
            for name in (JOB, RECORD, CANCEL):
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
            values = {"pid": job.pid, "started": job.started, "arguments": job.arguments}
            write_json(self.folder / JOB, values)
            # The thread reaps the process, which leaves no zombie while this server runs.
            threading.Thread(target=process.wait, daemon=True).start()
        return job


def python_path() -> str:
    """Return PYTHONPATH for a process that imports this package from any folder."""
    package = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))


def run_job(folder: Path, arguments: Sequence[str], run: Callable[[Sequence[str]], int]) -> int:
    """Run a job in its own process, report its exit code and return it."""
    # SIGINT is ignored where the server runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    turn = FileLock(jobs_folder() / ".turn.lock")
    code = FAILED
    with reporting_in(folder):
        try:
            if (folder / CANCEL).exists():  # the interrupt came before the line above
                raise KeyboardInterrupt
            if arguments[0] in TRAINS:
                try:
                    turn.acquire(timeout=0)
                except Timeout:
                    report(waits=True)
                    turn.acquire(poll_interval=SECONDS_BETWEEN_POLLS)
                    report(waits=False)
            code = run(arguments)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Exception:
            # Before the exit code is reported, so that a page reads it as the last line
            traceback.print_exc()
        finally:
            turn.release()
            report(exit_code=code)
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


def audit_request(name: str, arguments: Sequence[str] = ()) -> JobRequest:
    return JobRequest(jobs_folder() / check_name(name), ["audit", *arguments])


def export_request(audit: Audit, format: str, out: Path) -> JobRequest:
    """Return the request to export an audit; it replaces an older export."""
    arguments = ["export", audit.name, "--format", format, "--out", str(out), "--overwrite"]
    return JobRequest(jobs_folder() / ".exports" / audit.name / out.name, arguments)
