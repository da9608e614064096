"""The state of audits and members, deleting an audit, and the detached processes of the dashboard.

    <data>/jobs/<name>/          of an audit: job.json (pid, start time, arguments) · record.json
                                 (its progress and result) · output.log · exit_code
    <data>/jobs/.<kind>/<key>/   of any other work

A job outlives the page and the server. Jobs that train run one at a time; a command in a terminal
starts at once.
"""

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import psutil
from filelock import FileLock, Timeout

from clipmem_core.audit import store
from clipmem_core.audit.settings import typed, typed_flags
from clipmem_core.audit.store import Audit, Record, check_name, is_name, write_json
from clipmem_core.config import AuditConfig, as_dict, data_folder
from clipmem_core.io import InputError, read_json, replacing
from clipmem_core.training.names import CHECKPOINT, LOG

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
# One of these commands runs at a time.
TRAINS = ("audit", "reaudit", "mitigate", "study", UNITS, PARADIGMS)
RECORD = "record.json"
FOLDER = "CLIPMEM_JOB"  # in the environment of a job: its folder
SECONDS_BETWEEN_POLLS = 0.5
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class JobRecord:
    """What a job does and has found: its process writes it, and pages read it."""

    waits: bool = False  # for another job that trains
    stage: str = ""
    done: int = 0
    total: int = 0  # 0: not counted
    noun: str = ""  # of what is counted: pictures, captions
    result: dict[str, Any] | None = None


_record = JobRecord()  # of this process


def report(**changes: Any) -> None:
    """Change the record of the job that this process runs, if it runs one."""
    global _record
    _record = replace(_record, **changes)
    if folder := os.environ.get(FOLDER):
        write_json(Path(folder) / RECORD, asdict(_record))


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
    def record(self) -> JobRecord:
        """What the job has reported."""
        path = self.folder / RECORD
        repair = f"delete {self.folder}"
        return read_json(path, JobRecord, repair=repair) if path.is_file() else JobRecord()

    @property
    def last_line(self) -> str:
        """The last line of its output, for example an error, without terminal colours."""
        text = _ESCAPES.sub("", tail(self.folder / OUTPUT).decode("utf-8", "replace"))
        return next(filter(None, map(str.strip, reversed(re.split(r"[\r\n]+", text)))), "")


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
            for name in (JOB, OUTPUT, RECORD, EXIT_CODE, CANCEL):
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
            # The thread reaps the process, which leaves no zombie while this server runs.
            threading.Thread(target=process.wait, daemon=True).start()
        return job


def python_path() -> str:
    """Return PYTHONPATH for a process that imports this package from any folder."""
    package = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))


def run_job(folder: Path, arguments: Sequence[str], run: Callable[[Sequence[str]], int]) -> int:
    """Run a job in its own process, write its exit code and return it."""
    # SIGINT is ignored where the server runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ[FOLDER] = str(folder)
    turn = FileLock(jobs_folder() / ".turn.lock")
    code = FAILED
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


CHANCE_SHARE = 0.98  # of ln(batch_size), the loss of a random guess within a batch
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
    def seconds_left(self) -> float:
        """Training time left at the pace so far; NaN before the first line."""
        return self.seconds / self.step * (self.steps - self.step) if self.step else math.nan

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


# Names of stages
PREPARING = "preparing"
FEATURES = "computing features"
WORDS = "predicting words"
TRAINING = "training"
SECOND_ROUND = "training a second time"
SCORING = "scoring"
JUDGING = "checking the results"
FINISHING = "finishing"
MAPPING = "drawing the map"
# Other states of an audit
WAITING = "waiting"  # another job trains
DONE = "finished"
CANCELLING = "cancelling"
CANCELLED = "cancelled"
STOPPED = "stopped"
OUTSIDE = "running elsewhere"  # its folder is locked and it has no job, perhaps a terminal
PAUSED = "not finished"
BROKEN = "broken"
DELETED = ".deleted"


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
            return row | dict.fromkeys(("data set", "protocol", "preset", "pairs", "members"))
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
        job = audit_task(name).find()
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
            return read_json(path, str, repair="delete it") if path.is_file() else PREPARING
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
    else:
        hidden = folder.with_name(f".{folder.name}{DELETED}")
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
    for hidden in folder.parent.glob(f".*{DELETED}"):
        shutil.rmtree(hidden, ignore_errors=True)
