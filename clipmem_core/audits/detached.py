"""A command → a process that outlives whoever started it: `python detached.py FOLDER COMMAND…`.

Standard library only, since it is run as a file. FOLDER receives `job.json` (pid and start time of the process and of
its supervisor, the command), `output.log` and, at the end, `exit_code`, which the supervisor writes. The call returns
as soon as `job.json` is there.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

JOB = "job.json"
OUTPUT = "output.log"
EXIT_CODE = "exit_code"


def process_start(pid: int) -> str | None:
    """Return when a running process was started, as the system writes it: a pid can be reused, this pair cannot.

    Returns:
        None where no such process runs; one that ended and was not collected yet does not run.

    Example:
        >>> process_start(os.getpid()) is None
        False
    """
    if sys.platform == "linux":
        return _proc_start(pid)
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, start = shown.stdout.strip().partition(" ")
    return start.strip() or None if not state.startswith("Z") else None


def _proc_start(pid: int) -> str | None:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = status.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return None if fields[0] in "ZX" else fields[19]


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
