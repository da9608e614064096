"""A map to be drawn → a detached process that draws it: `python -m clipmem_core.review.map_jobs AUDIT MAP`.

    <data>/jobs/.maps/<key>/   the files of a job; the key is that of the map

It goes on when the page is reloaded and when the server stops.
"""

import sys
import time
from pathlib import Path

from clipmem_core.audits.detached import JOB
from clipmem_core.audits.jobs import Job, find_job_in, jobs_folder, start_job_in
from clipmem_core.audits.store import Audit, open_audit
from clipmem_core.config import InputError
from clipmem_core.review.maps import make_map, map_path

MAPS = ".maps"  # no audit's name begins with a dot


def start_map(audit: Audit, name: str) -> Job:
    """Start to draw a map, or return the job that does it already.

    Raises:
        InputError: the audit has no such map.
        RuntimeError: the process could not be started.
    """
    return start_job_in(_folder(audit, name), [sys.executable, "-m", __name__, audit.name, name])


def find_map_job(audit: Audit, name: str) -> Job | None:
    """Return the job last started to draw a map, running or not, or None.

    Raises:
        InputError: the audit has no such map.
    """
    return find_job_in(_folder(audit, name))


def seconds_running(job: Job) -> float:
    """Return how long ago a job was started."""
    return time.time() - (job.folder / JOB).stat().st_mtime


def _folder(audit: Audit, name: str) -> Path:
    return jobs_folder() / MAPS / map_path(audit, name).stem


def main(audit: str, name: str) -> int:
    """Draw a map and return the exit code: 2, after one line, for a mistake that a person can mend."""
    try:
        make_map(open_audit(audit), name, say=lambda line: print(line, flush=True))
    except InputError as error:
        print(error, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
