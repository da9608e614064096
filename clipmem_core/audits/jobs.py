"""The arguments of an audit → a detached process with a folder that says how it goes, found again by its name.

    <data>/jobs/<name>/   job.json: pid, start time of the process, command · output.log · exit_code

A job is nobody's child: it goes on when the page is reloaded and when the server stops.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

import clipmem_core
from clipmem_core.audits import detached
from clipmem_core.audits.settings import flag, typed
from clipmem_core.audits.store import check_name, read_json
from clipmem_core.config import AuditConfig, data_folder

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Job:
    """A detached process and the folder it writes to."""

    folder: Path
    pid: int
    started: str | None
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def running(self) -> bool:
        """Tell whether this very process still runs, not another that got its pid."""
        return self.started is not None and detached.process_start(self.pid) == self.started

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs, or when the machine went down with it."""
        try:
            return int((self.folder / detached.EXIT_CODE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

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
        with (self.folder / detached.OUTPUT).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            text = file.read().decode("utf-8", "replace")
        lines = (line.strip() for line in reversed(re.split(r"[\r\n]+", _ESCAPES.sub("", text))))
        return next((line for line in lines if line), "")


def jobs_folder() -> Path:
    """Return the folder that holds every job."""
    return data_folder() / "jobs"


def find_job(name: str) -> Job | None:
    """Return the job last started under a name, running or not, or None.

    Raises:
        InputError: the name cannot be one, or its job.json is broken.
    """
    folder = jobs_folder() / check_name(name)
    if not (folder / detached.JOB).is_file():
        return None
    job = read_json(folder / detached.JOB)
    return Job(folder=folder, pid=job["pid"], started=job["started"], command=tuple(job["command"]))


def start_audit(arguments: Sequence[str], *, name: str) -> Job:
    """Start `python -m clipmem_core audit <arguments>` detached, or return the job of that name if it runs.

    Args:
        arguments: what follows `audit` on the command line.
        name: the audit's name, which is the job's.

    Raises:
        InputError: the name cannot be one.
        RuntimeError: the process could not be started.
    """
    return start_job([sys.executable, "-m", "clipmem_core", "audit", *arguments], name=name)


def start_job(command: Sequence[str], *, name: str) -> Job:
    """Start any command detached, as `start_audit` does."""
    folder = jobs_folder() / check_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "start.lock"):
        job = find_job(name)
        if job is not None and job.running:
            return job
        for left_over in (detached.JOB, detached.EXIT_CODE):
            (folder / left_over).unlink(missing_ok=True)
        printed = _detach(folder, command)
        job = find_job(name)
    if job is None:
        raise RuntimeError(f"job {name!r} did not start: {printed or 'no output'}")
    return job


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
    given = typed(config["config"]).items()
    flags = [flag(key) if value is True else f"{flag(key)}={value}" for key, value in given]
    return [str(config["source"]), f"--name={name}", f"--preset={preset}", *flags]
