"""The files of a job as it leaves them, and jobs that run a script; one that is left running has the pid of the parent
of the process that runs the tests."""

import os
import sys
from pathlib import Path

from clipmem_core.audits.jobs import process_start
from clipmem_core.audits.store import write_json

# In place of `jobs.PROGRAM`: runs the text behind the first argument, whose variable `code` is the exit code.
SCRIPTS = (
    sys.executable,
    "-c",
    """
import sys
from pathlib import Path
from clipmem_core.audits.jobs import run_job

def run(words):
    space = {}
    exec(words[1], space)
    return space.get("code", 0)

sys.exit(run_job(Path(sys.argv[1]), sys.argv[2:], run))
""",
)


def leave_job(
    folder: Path, *, running: bool = False, exit_code: int | None = None, said: str = "", pid: int = 0
) -> None:
    """Leave the job of a folder in `jobs`, which has printed something."""
    folder.mkdir(parents=True)
    pid = pid or os.getppid()
    started = process_start(pid) if running else "1"
    write_json(folder / "job.json", {"pid": pid, "started": started, "arguments": ["once", "more"]})
    (folder / "output.log").write_text(said)
    if exit_code is not None:
        (folder / "exit_code").write_text(f"{exit_code}\n")
