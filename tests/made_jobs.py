"""The files of a job as it leaves them; one that runs has the pid of the process that runs the tests, or its parent."""

import json
import os
from pathlib import Path

from clipmem_core.audits.jobs import Ticket
from clipmem_core.audits.store import write_json
from clipmem_core.audits.supervisor import process_start


def leave_job(
    folder: Path, *, running: bool = False, exit_code: int | None = None, said: str = "", pid: int = 0
) -> None:
    """Leave the job of a folder in `jobs`, which has printed something."""
    folder.mkdir(parents=True)
    pid = pid or os.getppid()
    started = process_start(pid) if running else "1"
    write_json(folder / "job.json", {"pid": pid, "started": started, "command": ["python", "again"]})
    (folder / "output.log").write_text(said)
    if exit_code is not None:
        (folder / "exit_code").write_text(f"{exit_code}\n")


def leave_ticket(number: int, *, pid: int, started: str | None = None) -> Path:
    """Leave a ticket of the queue, of a process that lives unless another start is told."""
    ticket = Ticket(number, f"audit{number}", pid, (started or process_start(pid)) or "")
    ticket.path.parent.mkdir(parents=True, exist_ok=True)
    ticket.path.write_text(json.dumps(vars(ticket)))
    return ticket.path
