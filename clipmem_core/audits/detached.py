"""Starts a command as a process that outlives whoever started it: `python detached.py FOLDER COMMAND…`.

It is run as a file and imports nothing of this package. FOLDER receives `job.json` (pid and start time of the process
and of its supervisor, the command), `output.log` and, at the end, `exit_code`, which the supervisor writes. The call
returns as soon as `job.json` is there.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

JOB = "job.json"
OUTPUT = "output.log"
EXIT_CODE = "exit_code"


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


def main(folder: Path, command: Sequence[str]) -> None:
    """Start the command in a child that waits for it, and return without waiting."""
    if os.fork() == 0:
        _supervise(folder, command)


def _supervise(folder: Path, command: Sequence[str]) -> None:
    # A job can be interrupted, also where its starter ran in the background and ignored SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with (folder / OUTPUT).open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = {
        "pid": process.pid,
        "started": process_start(process.pid),
        "supervisor": [os.getpid(), process_start(os.getpid())],
        "command": list(command),
    }
    _write(folder / JOB, json.dumps(job, indent=2) + "\n")
    _let_go()
    _write(folder / EXIT_CODE, f"{process.wait()}\n")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _let_go() -> None:
    """Close the pipe that the starter waits on: its end says that `job.json` is written."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
