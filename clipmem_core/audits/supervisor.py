"""The process that starts a job's command, waits for it and writes its exit code; it imports little, since it stays as
long as the job: python -m clipmem_core.audits.supervisor FOLDER COMMAND…"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from clipmem_core.atomic import replacing

JOB, OUTPUT, EXIT_CODE = "job.json", "output.log", "exit_code"


def process_start(pid: int) -> str | None:
    """Return when a running process was started, in ticks of the system: a pid can be reused, this pair cannot.

    Returns:
        None where no such process runs; one that ended and was not collected yet does not run.

    Example:
        >>> process_start(os.getpid()) is None
        False
    """
    # Linux counts from the boot, so that a clock that is set anew changes nothing; the others note the time of day.
    since = psutil.boot_time() if psutil.LINUX else 0.0
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return str(round((process.create_time() - since) * os.sysconf("SC_CLK_TCK")))
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # also of a number that can be no pid
        return None


def supervise(folder: Path, command: Sequence[str]) -> None:
    """Start a command in a child that waits for it and writes its exit code; return in this process without waiting."""
    if os.fork():
        return
    # A job can be interrupted, also where its starter ran in the background and ignored SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with (folder / OUTPUT).open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own = os.getpid()
    job = {"pid": process.pid, "started": process_start(process.pid), "supervisor": [own, process_start(own)]}
    with replacing(folder / JOB) as temporary:
        temporary.write_text(json.dumps(job | {"command": list(command)}, indent=2) + "\n", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # the end of the starter's pipe tells that job.json is written
        os.dup2(nowhere, stream)
    code = process.wait()
    with replacing(folder / EXIT_CODE) as temporary:
        temporary.write_text(f"{code}\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        supervise(Path(sys.argv[1]), sys.argv[2:])
    except OSError as error:
        sys.exit(f"error: {error}")
