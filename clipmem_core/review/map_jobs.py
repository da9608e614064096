"""The detached process that draws a map: `python -m clipmem_core.review.map_jobs AUDIT MAP`."""

import sys
import time

from clipmem_core.audits.detached import JOB
from clipmem_core.audits.jobs import Job, Task, jobs_folder
from clipmem_core.audits.store import Audit, open_audit
from clipmem_core.config import InputError
from clipmem_core.review.maps import make_map, map_path


def map_task(audit: Audit, name: str) -> Task:
    """Return the task of drawing a map.

    Raises:
        InputError: the audit has no such map.
    """
    folder = jobs_folder() / ".maps" / map_path(audit, name).stem
    return Task(folder, [sys.executable, "-m", __name__, audit.name, name])


def seconds_running(job: Job) -> float:
    """Return how long ago a job was started."""
    return time.time() - (job.folder / JOB).stat().st_mtime


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
