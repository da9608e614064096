"""Background jobs, the progress that they report, and the state of audits.

    <data>/jobs/<name>/          of an audit: job.json (pid, arguments) · record.json (its progress,
                                 result and exit code) · output.log
    <data>/jobs/.<kind>/<key>/   of any other work

A job is a detached process that outlives the page and the server that started it. It inherits a
lock on its output file: the lock is free once all processes of the job have ended. Jobs that train
run one at a time; a command in a terminal starts at once.
"""

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partialmethod
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clipmem_core.auditing.folder import store
from clipmem_core.auditing.folder.store import Audit, Record, check_name, write_json
from clipmem_core.config import data_folder
from clipmem_core.utils.io import InputError, read_json

JOB = "job.json"
RECORD = "record.json"
OUTPUT = "output.log"
CANCEL = "cancel"  # a file that marks a job as cancelled
# exit codes
FAILED = 1
INTERRUPTED = 130
PROGRAM = (sys.executable, "-m", "clipmem_core", "job")  # folder and arguments follow
# One of these commands runs at a time.
TRAINS = ("audit", "reaudit", "mitigate", "study", "units", "encoders")
SECONDS_BETWEEN_POLLS = 0.5  # also between two reports of a count


@dataclass(frozen=True)
class JobRecord:
    """Progress and result of a job, or of a task of one. Its process writes it in its folder, and
    pages and the process that started it read it."""

    waits: bool = False  # for another job that trains
    step: str = ""  # of an audit, one of STEPS
    stage: str = ""  # the last line about its work
    done: int = 0
    total: int = 0  # 0: not counted
    noun: str = ""  # of what is counted: pictures, captions
    result: dict[str, Any] | None = None
    exit_code: int | None = None  # None while it runs, or when it was killed


_folder: Path | None = None  # of the job or task that this process runs


@contextmanager
def reporting_in(folder: Path) -> Iterator[None]:
    """Write the progress of this process to record.json in a folder."""
    global _folder
    before = _folder
    _folder = folder
    (folder / RECORD).unlink(missing_ok=True)  # of a killed run
    try:
        yield
    finally:
        _folder = before


def _report(**changes: Any) -> None:
    """Change the record of the job or task that this process runs, if it runs one."""
    if _folder:
        write_json(_folder / RECORD, asdict(replace(read_record(_folder), **changes)))


def read_record(folder: Path) -> JobRecord:
    """Return what the job or task of a folder has reported."""
    path = folder / RECORD
    repair = f"delete {folder}"
    return read_json(path, JobRecord, repair=repair) if path.is_file() else JobRecord()


class Screen:
    """Reports the progress of a computation in record.json of the job or task that this process
    runs, for pages. A subclass also prints it."""

    def __init__(self) -> None:
        # share, noun, done and total of each count of the stage
        self.counts: dict[str, tuple[float, str, int, int]] = {}
        self.reported = 0.0  # the time of the last count

    def step(self, name: str) -> None:
        """Show which of STEPS an audit is at."""
        _report(step=name)

    def say(self, text: str) -> None:
        """Show a line; counts begin again."""
        self.counts.clear()
        _report(stage=text, total=0)

    def count(self, noun: str, done: int, total: int) -> None:
        """Report a count. If several things are counted at once, only the one with the smallest
        share is reported."""
        self.counts[noun] = done / max(1, total), noun, done, total
        share, noun, done, total = min(self.counts.values())
        now = time.monotonic()
        if share == 1 or now - self.reported >= SECONDS_BETWEEN_POLLS:
            self.reported = now
            self.report(noun, done, total)

    pictures = partialmethod(count, "pictures")
    captions = partialmethod(count, "captions")

    def report(self, noun: str, done: int, total: int) -> None:
        """Show a count."""
        _report(noun=noun, done=done, total=total)

    def result(self, values: dict[str, Any]) -> None:
        """Show the result of a job on its page."""
        _report(result=values)


def last_line(path: Path) -> dict[str, Any]:
    """Return the last complete line of a JSON-lines file; empty if there is none."""
    lines = path.read_text("utf-8").split("\n")[:-1] if path.is_file() else []
    return json.loads(lines[-1]) if lines else {}


@dataclass(frozen=True)
class Job:
    """A detached process and the folder it writes to."""

    folder: Path
    pid: int
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
        """Tell whether a process of the job holds the lock on its output."""
        path = self.folder / OUTPUT
        if self.exit_code is not None or not path.is_file():
            return False
        with path.open() as output:
            try:
                fcntl.flock(output, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

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
        return Job(self.folder, values["pid"], tuple(values["arguments"]))

    def start(self) -> Job:
        """Start a job, or return the one that runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "start.lock"):
            job = self.find()
            if job is not None and job.running:
                return job
            for name in (JOB, RECORD, CANCEL, OUTPUT):
                (self.folder / name).unlink(missing_ok=True)
            with (self.folder / OUTPUT).open("wb") as log:
                fcntl.flock(log, fcntl.LOCK_EX)  # the process inherits it with its output
                process = subprocess.Popen(
                    [*PROGRAM, str(self.folder), *self.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"},
                    start_new_session=True,
                )
            job = Job(self.folder, process.pid, tuple(self.arguments))
            write_json(self.folder / JOB, {"pid": job.pid, "arguments": job.arguments})
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
                    _report(waits=True)
                    turn.acquire(poll_interval=SECONDS_BETWEEN_POLLS)
                    _report(waits=False)
            code = run(arguments)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Exception:
            # Before the exit code is reported, so that a page reads it as the last line
            traceback.print_exc()
        finally:
            turn.release()
            _report(exit_code=code)
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
    audit = Audit(Audit.parent() / name)
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
            return job.record.step or PREPARING
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
    folders = [audit.name for audit in Audit.every()]
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
            raise InputError(f"there is no audit {name!r} in {Audit.parent()}")
        freed = sum(map(folder_bytes, folders))
        for folder in folders:
            # Hidden first: a kill leaves no partial audit
            hidden = folder.with_name(f".{folder.name}.deleted")
            shutil.rmtree(hidden, ignore_errors=True)
            folder.replace(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
    return freed


def folder_bytes(folder: Path) -> int:
    """Return the size of all files in a folder; 0 if it is missing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
