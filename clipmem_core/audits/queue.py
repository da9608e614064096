"""The queue of audits: one has its turn, the others wait in the order in which they were started.

    python -m clipmem_core.audits.queue NAME COMMAND…
    <data>/jobs/.queue/<number>.json   name, pid and start time of a process that waits or has its turn

The lowest ticket whose process still lives has its turn. A process that waited becomes its command and keeps its pid,
so a ticket holds exactly as long as the audit runs, however it ends: there is no server, and a killed process blocks
nobody. An audit typed in a terminal draws no ticket: it starts at once, beside the one whose turn it is.
"""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import FileLock

from clipmem_core.atomic import replacing
from clipmem_core.audits.detached import process_start
from clipmem_core.config import InputError, data_folder
from clipmem_core.files import read_json

INTERRUPTED = 130
SECONDS_BETWEEN_LOOKS = 0.5
LOCK = "draw.lock"


@dataclass(frozen=True)
class Ticket:
    """A process's place in the queue; `started` tells it from a later process with the same pid."""

    number: int
    name: str
    pid: int
    started: str

    @property
    def alive(self) -> bool:
        return process_start(self.pid) == self.started

    @property
    def path(self) -> Path:
        return queue_folder() / f"{self.number:08d}.json"


def queue_folder() -> Path:
    """Return the folder of the tickets; hidden, since no audit's name begins with a dot."""
    return data_folder() / "jobs" / ".queue"


def tickets() -> list[Ticket]:
    """Return the tickets whose process lives, the one whose turn it is first."""
    found = [ticket for path in _paths() if (ticket := _read(path)) is not None]
    return [ticket for ticket in found if ticket.alive]


def place(pid: int, started: str) -> int:
    """Return how many live tickets come before that of a process; 0 where it has none."""
    alive = [(ticket.pid, ticket.started) for ticket in tickets()]
    return alive.index((pid, started)) if (pid, started) in alive else 0


def draw_ticket(name: str) -> Ticket:
    """Give this process the last place, and throw away the tickets of processes that are gone."""
    queue_folder().mkdir(parents=True, exist_ok=True)
    # Number and file are one step: a ticket that appears later has a higher number.
    with FileLock(queue_folder() / LOCK):
        alive = tickets()
        for path in {*_paths()} - {ticket.path for ticket in alive}:
            path.unlink(missing_ok=True)
        number = max((ticket.number for ticket in alive), default=0) + 1
        ticket = Ticket(number, name, os.getpid(), process_start(os.getpid()) or "")
        with replacing(ticket.path) as temporary:
            temporary.write_text(json.dumps(asdict(ticket)), encoding="utf-8")
    return ticket


def await_turn(ticket: Ticket) -> None:
    """Return when no live ticket comes before this one; says for whom it waits."""
    named = ""
    while ahead := [other for other in tickets() if other.number < ticket.number]:
        if ahead[0].name != named:
            named = ahead[0].name
            print(f"waiting for audit {named!r}", flush=True)
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            psutil.Process(ahead[0].pid).wait(SECONDS_BETWEEN_LOOKS)


def _paths() -> list[Path]:
    return sorted(queue_folder().glob("[0-9]*.json"))


def _read(path: Path) -> Ticket | None:
    """Read a ticket; one that is gone by now, or is none, holds no place."""
    try:
        return read_json(path, Ticket)
    except InputError:
        return None


def queued(name: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs `python -m clipmem_core <arguments>` when its turn has come.

    Args:
        name: what its ticket says that the others wait for.
        arguments: what follows on the command line.
    """
    return [sys.executable, "-m", __name__, name, sys.executable, "-m", "clipmem_core", *arguments]


def main(name: str, command: Sequence[str]) -> None:
    """Wait for this process's turn, then become the command."""
    try:
        await_turn(draw_ticket(name))
    except KeyboardInterrupt:
        print("cancelled while it waited")
        sys.exit(INTERRUPTED)
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
