"""The detached check of an audit that somebody wants: what is in the data set, and how long the audit will take.

    <data>/jobs/.checks/<key>/   request.json · job.json, output.log, exit_code

The check is `estimate`; it prints a line of JSON for each thing it finds out, and this module reads them.
"""

import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmem_core.audits import detached
from clipmem_core.audits.jobs import Job, Task, audit_task, jobs_folder, resume_arguments
from clipmem_core.audits.settings import check_config, resolve
from clipmem_core.audits.store import CONFIG, Audit, audits_folder, check_name, write_json
from clipmem_core.config import AuditConfig, InputError, as_dict, fingerprint
from clipmem_core.files import parse_json, read_json

CHECKS = ".checks"
REQUEST = "request.json"
KEPT_SECONDS = 7 * 24 * 3600.0  # a check older than this is thrown away
AGAIN = "check the audit again"
FOUND, TIME, PICTURES, ERROR = "found", "time", "pictures", "error"


@dataclass(frozen=True)
class Request:
    """An audit that somebody wants: the fields of request.json."""

    source: str
    name: str
    config: AuditConfig

    @property
    def key(self) -> str:
        """What tells one request from another, 16 hex digits."""
        return fingerprint([self.source, self.name, as_dict(self.config)])

    @property
    def arguments(self) -> list[str]:
        """What follows `audit` on the command line."""
        return resume_arguments(self.name, self.source, self.config)


@dataclass(frozen=True)
class Check:
    """How far a check is.

    `found` is what the data set holds, None at first; it is `exact` once every picture was opened. `time` is how long
    the audit takes when nothing else runs: `seconds` by what they are spent on, the steps this follows from, and how
    many times longer it takes while the machine is as `busy` as now. `error` says why the audit cannot start.
    """

    job: Job
    found: dict[str, Any] | None = None
    time: dict[str, Any] | None = None
    pictures: tuple[int, int] = (0, 0)
    error: str = ""

    @property
    def exact(self) -> bool:
        return bool(self.found and self.found["exact"])


def refuse_at_once(request: Request) -> None:
    """Refuse what can be seen to be wrong without reading the data set.

    Raises:
        InputError: the name, the source or a field is wrong, the name is another audit's, or its audit is at work.
    """
    check_name(request.name)
    if not request.source.strip():
        raise InputError("no data set is given: choose one, or type its path")
    check_config(request.config)
    job = audit_task(request.name).find()
    if job is not None and job.running:
        raise InputError(f"audit {request.name!r} waits or runs already: take another name, or cancel it first")
    audit = Audit(audits_folder() / request.name)
    if (audit.folder / CONFIG).is_file():
        from clipmem_core.audits.setup import check_same  # brings all that writes an audit along

        check_same(audit, request.source, resolve(request.config))


def start_check(request: Request) -> Job:
    """Start the check of a request, or return the one that runs; throws old checks away."""
    _sweep()
    task = _task(request.key)
    task.folder.mkdir(parents=True, exist_ok=True)
    asked = {"source": request.source, "name": request.name, "config": as_dict(request.config)}
    write_json(task.folder / REQUEST, asked)
    return task.start()


def read_request(path: Path) -> Request:
    """Read a request.

    Raises:
        InputError: the file is missing, or is none.
    """
    return read_json(path, Request, mend=AGAIN)


def find_request(key: str) -> Request | None:
    """Return the request of a key, or None."""
    path = _task(key).folder / REQUEST if re.fullmatch(r"[0-9a-f]{16}", key) else None
    return read_request(path) if path is not None and path.is_file() else None


def find_check(key: str) -> Check | None:
    """Return how far the check of a request is, or None where none was started."""
    job = _task(key).find() if re.fullmatch(r"[0-9a-f]{16}", key) else None
    return _read(job) if job is not None else None


def _read(job: Job) -> Check:
    """Gather the last word on each thing that a check has printed."""
    last: dict[str, dict[str, Any]] = {}
    for line in (job.folder / detached.OUTPUT).read_bytes().splitlines(keepends=True):
        if line.startswith(b'{"stage"') and line.endswith(b"\n"):
            said = parse_json(
                line.decode("utf-8", "replace"), dict[str, Any], path=job.folder / detached.OUTPUT, mend=AGAIN
            )
            last[said.pop("stage")] = said
    pictures = last.get(PICTURES, {"done": 0, "total": 0})
    error = last.get(ERROR, {}).get("text") or _end(job)
    return Check(job, last.get(FOUND), last.get(TIME), (pictures["done"], pictures["total"]), error)


def _end(job: Job) -> str:
    """Return how a check ended that did not say what is wrong; nothing while it runs, or where it ended well."""
    if job.running or job.exit_code == 0:
        return ""
    if job.cancelled:
        return "the check was stopped: check again"
    return f"the check stopped with exit code {job.exit_code}: {job.last_line or 'it said nothing'}"


def _task(key: str) -> Task:
    folder = jobs_folder() / CHECKS / key
    return Task(folder, [sys.executable, "-m", "clipmem_core.audits.estimate", str(folder / REQUEST)])


def _sweep() -> None:
    for folder in (jobs_folder() / CHECKS).glob("*"):
        job = _task(folder.name).find()
        if time.time() - folder.stat().st_mtime > KEPT_SECONDS and not (job and job.running):
            shutil.rmtree(folder, ignore_errors=True)
