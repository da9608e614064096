"""An audit whose encoders are to be looked into → a detached process that measures units or teaches paradigms.

    <data>/jobs/.encoders/<audit>/<kind>/   the files of a job

It waits until the audits before it have ended, and goes on when the page is reloaded and when the server stops.
"""

import shlex

from clipmem_core.audits import queue
from clipmem_core.audits.jobs import Job, find_job_in, jobs_folder, start_job_in
from clipmem_core.audits.store import Audit

ENCODERS = ".encoders"  # no audit's name begins with a dot
UNITS, PARADIGMS = "units", "paradigms"
SAMPLE = 1000


def encoder_arguments(audit: Audit, kind: str, *, sample: int = 0) -> list[str]:
    """Return what follows `python -m clipmem_core` to look into an audit's encoders.

    Args:
        audit: a finished one.
        kind: `units` or `paradigms`.
        sample: of units, how many pairs of a member; 0 takes all.
    """
    return [kind, audit.name, *(["--sample", str(sample)] if sample else [])]


def typed_command(audit: Audit, kind: str, *, sample: int = 0) -> str:
    """Return what to type in a terminal to do the same."""
    return f"python -m clipmem_core {shlex.join(encoder_arguments(audit, kind, sample=sample))}"


def start_encoder_job(audit: Audit, kind: str, *, sample: int = 0) -> Job:
    """Start it detached, or return the job that does it already.

    Raises:
        RuntimeError: the process could not be started.
    """
    command = queue.queued(f"{kind} of {audit.name}", encoder_arguments(audit, kind, sample=sample))
    return start_job_in(jobs_folder() / ENCODERS / audit.name / kind, command)


def find_encoder_job(audit: Audit, kind: str) -> Job | None:
    """Return the job last started for an audit and a kind, running or not, or None."""
    return find_job_in(jobs_folder() / ENCODERS / audit.name / kind)
