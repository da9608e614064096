"""The arguments of an audit → a detached process with a folder that says how it goes, found again by its name.

    <data>/jobs/<name>/        job.json: pid, start time of the process, command · output.log · exit_code
    <data>/jobs/.checks/<key>/ the same of a check, .sets/<set>/ of a download: they wait for nobody

A job is nobody's child: it goes on when the page is reloaded and when the server stops.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from typing_extensions import TypedDict

import clipmem_core
from clipmem_core.audits import detached, queue
from clipmem_core.audits.settings import typed, typed_flags
from clipmem_core.audits.store import Whole, check_name
from clipmem_core.config import AuditConfig, data_folder
from clipmem_core.files import read_json

FETCHES = ".sets"  # no audit's name begins with a dot
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class JobFile(TypedDict, total=False):
    """The fields of job.json."""

    pid: Whole
    started: str | None
    supervisor: tuple[Whole, str | None]
    command: list[str]


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


def find_job(name: str) -> Job | None:
    """Return the job last started under an audit's name, running or not, or None.

    Raises:
        InputError: the name cannot be one, or its job.json is broken.
    """
    return find_job_in(jobs_folder() / check_name(name))


def find_job_in(folder: Path) -> Job | None:
    """Return the job last started in a folder, running or not, or None.

    Raises:
        InputError: its job.json is broken.
    """
    path = folder / detached.JOB
    if not path.is_file():
        return None
    job = read_json(path, JobFile, mend=f"delete {folder}")
    return Job(folder, job["pid"], job["started"], tuple(job["command"]), tuple(job.get("supervisor", (0, None))))


def list_job_names() -> list[str]:
    """Return the names under which audits were started and whose jobs are still there."""
    return sorted(path.parent.name for path in jobs_folder().glob(f"[!.]*/{detached.JOB}"))


def start_audit(arguments: Sequence[str], *, name: str) -> Job:
    """Start `python -m clipmem_core audit <arguments>` detached, or return the job of that name if it runs.

    It waits until the audits started before it have ended.

    Args:
        arguments: what follows `audit` on the command line.
        name: the audit's name, which is the job's.

    Raises:
        InputError: the name cannot be one.
        RuntimeError: the process could not be started.
    """
    return start_job(queue.queued(name, ["audit", *arguments]), name=name)


def start_fetch(name: str) -> Job:
    """Start `python -m clipmem_core fetch <name>` detached, or return the job that does it."""
    return start_job_in(jobs_folder() / FETCHES / name, [sys.executable, "-m", "clipmem_core", "fetch", name])


def find_fetch(name: str) -> Job | None:
    """Return the job last started to fetch a data set, or None."""
    return find_job_in(jobs_folder() / FETCHES / name)


def start_job(command: Sequence[str], *, name: str) -> Job:
    """Start any command detached, under an audit's name."""
    return start_job_in(jobs_folder() / check_name(name), command)


def start_job_in(folder: Path, command: Sequence[str]) -> Job:
    """Start any command detached, or return the job of that folder if it runs.

    Raises:
        RuntimeError: the process could not be started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "start.lock"):
        job = find_job_in(folder)
        if job is not None and job.running:
            return job
        for left_over in (detached.JOB, detached.EXIT_CODE):
            (folder / left_over).unlink(missing_ok=True)
        printed = _detach(folder, command)
        job = find_job_in(folder)
    if job is None:
        raise RuntimeError(f"job {folder.name!r} did not start: {printed or 'no output'}")
    return job


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


def resume_arguments(name: str, config: Mapping[str, Any]) -> list[str]:
    """Return the arguments that make `audit` go on with an audit, from its config.json.

    Args:
        name: the audit's name.
        config: the content of its config.json; `source` and `config` are read.

    Returns:
        The source, the name, the preset, and every field that differs from the preset.

    Example:
        >>> resume_arguments("cats", {"source": "cats.csv", "config": {"preset": "tiny", "epochs": 3}})
        ['cats.csv', '--name=cats', '--preset=tiny', '--epochs=3']
    """
    preset = config["config"].get("preset", AuditConfig.preset)
    flags = typed_flags(typed(config["config"]), joint="=")
    return [str(config["source"]), f"--name={name}", f"--preset={preset}", *flags]
