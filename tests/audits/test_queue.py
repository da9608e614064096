import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from clipmem_core.audits.queue import INTERRUPTED, Ticket, await_turn, draw_ticket, place, tickets

from clipmem_core.audits.jobs import Job, cancel, process_start
from tests.audits.test_jobs import find, start, until

STAY = "import time; print('here', flush=True); time.sleep(60)"
Enqueue = Callable[..., Job]


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))


@pytest.fixture
def enqueue() -> object:
    """Starts real detached processes that queue up, and waits until each holds its ticket."""
    started: list[Job] = []

    def enqueued(name: str, script: str = STAY) -> Job:
        command = [sys.executable, "-m", "clipmem_core.audits.queue", name, sys.executable, "-S", "-c", script]
        job = start(command, name=name)
        started.append(job)
        until(lambda: job.exit_code is not None or job.pid in [ticket.pid for ticket in tickets()])
        return job

    yield enqueued
    for job in started:
        if job.running:
            os.kill(job.pid, signal.SIGKILL)
    until(lambda: not any(job.running for job in started))


def test_one_runs_and_the_others_wait_in_the_order_of_their_start(enqueue: Enqueue) -> None:
    first, second, third = (enqueue(name) for name in ("first", "second", "third"))
    until(lambda: first.last_line == "here" and third.last_line == "waiting for audit 'first'")
    assert [first.place, second.place, third.place] == [0, 1, 2]
    assert find("second") == second
    assert second.running


def test_the_turn_passes_when_an_audit_ends(enqueue: Enqueue) -> None:
    first = enqueue("first")
    second = enqueue("second", "import os; print(os.getpid())")
    third = enqueue("third")
    cancel(first)
    until(lambda: third.last_line == "here")
    assert second.exit_code == 0
    assert second.last_line == str(second.pid)  # who waited became the command, with the same pid


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_blocks_nobody(enqueue: Enqueue, killed: int) -> None:
    jobs = [enqueue("first"), enqueue("second")]
    last = enqueue("last")
    os.kill(jobs[killed].pid, signal.SIGKILL)
    until(lambda: last.place == 1)
    os.kill(jobs[1 - killed].pid, signal.SIGKILL)
    until(lambda: last.last_line == "here")


def test_one_that_waits_can_be_cancelled_and_started_again(enqueue: Enqueue) -> None:
    first, second = enqueue("first"), enqueue("second")
    until(lambda: "waiting" in second.last_line)
    cancel(second)
    until(lambda: second.exit_code is not None)
    assert (second.exit_code, second.cancelled, second.last_line) == (INTERRUPTED, True, "cancelled while it waited")
    assert first.running
    assert enqueue("second").place == 1


def test_a_command_that_does_not_exist_gives_the_turn_away(enqueue: Enqueue) -> None:
    command = [sys.executable, "-m", "clipmem_core.audits.queue", "absent", "/no/such/program"]
    absent = start(command, name="absent")
    until(lambda: absent.exit_code is not None)
    assert absent.exit_code == 1
    assert enqueue("next").place == 0


def write_ticket(number: int, *, pid: int, started: str | None) -> Path:
    ticket = Ticket(number, f"audit{number}", pid, started or "")
    ticket.path.parent.mkdir(parents=True, exist_ok=True)
    ticket.path.write_text(json.dumps(vars(ticket)))
    return ticket.path


def test_a_ticket_of_a_dead_or_reused_pid_holds_no_place() -> None:
    dead = write_ticket(8, pid=2**22 + 1, started="1")
    reused = write_ticket(9, pid=os.getpid(), started="1")
    (dead.parent / "00000010.json").write_text("{ no ticket")
    ticket = draw_ticket("mine")
    assert tickets() == [ticket]
    assert not dead.exists()
    assert not reused.exists()
    await_turn(ticket)


def test_tickets_are_numbered_behind_every_live_one() -> None:
    parent = os.getppid()
    write_ticket(41, pid=parent, started=process_start(parent))
    ticket = draw_ticket("mine")
    assert ticket.number == 42
    assert place(os.getpid(), ticket.started) == 1
    assert place(os.getpid(), "another") == 0


def test_who_waits_says_for_whom_and_goes_on_when_that_one_is_gone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    write_ticket(1, pid=child.pid, started=process_start(child.pid))
    threading.Timer(0.1, child.kill).start()
    await_turn(draw_ticket("mine"))
    child.communicate()
    assert capsys.readouterr().out == "waiting for audit 'audit1'\n"


def test_there_is_no_queue_before_the_first_ticket() -> None:
    assert tickets() == []
    assert place(os.getpid(), "1") == 0
