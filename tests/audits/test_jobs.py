import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clipmem_core.audits.jobs import (
    INTERRUPTED,
    PROGRAM,
    Job,
    Task,
    audit_task,
    await_turn,
    cancel,
    draw_ticket,
    encoder_command,
    encoder_task,
    fetch_task,
    jobs_folder,
    list_job_names,
    resume_arguments,
    tickets,
)
from clipmem_core.audits.store import Audit, write_json
from clipmem_core.audits.supervisor import process_start
from clipmem_core.commands import Paradigms, Units, parse
from clipmem_core.config import InputError, SourceOptions, preset_config
from tests.made_jobs import leave_job, leave_ticket

SLEEP = "import time; print('here', flush=True); time.sleep(60)"
# As `queued` does, before a script in the place of a command.
WAIT = "from clipmem_core.audits.jobs import await_turn, draw_ticket; await_turn(draw_ticket({name!r})); {script}"
Start = Callable[..., Job]


@pytest.fixture(autouse=True)
def _data(data: Path) -> None:
    """A data folder of its own for each test."""


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts real detached processes under the names of audits, and kills those that still run at the end."""
    started: list[Job] = []

    def begin(name: str, script: str = SLEEP, *, queue: bool = False) -> Job:
        code = ["-c", WAIT.format(name=name, script=script)] if queue else ["-S", "-c", script]
        job = Task(jobs_folder() / name, [sys.executable, *code]).start()
        started.append(job)
        if queue:
            until(lambda: job.exit_code is not None or job.pid in [ticket.pid for ticket in tickets()])
        return job

    yield begin
    for job in started:
        with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
            if job.running:
                os.kill(job.pid, signal.SIGKILL)
    until(lambda: not any(job.running for job in started))


def find(name: str) -> Job | None:
    return audit_task(name).find()


def until(done: Callable[[], object], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def test_a_job_that_ends_leaves_its_exit_code_and_its_last_line_and_can_be_started_anew(start: Start) -> None:
    first = start("again", "import sys; print('one\\n\\x1b[31mtwo\\x1b[0m\\r\\n'); sys.exit(2)")
    until(lambda: first.exit_code is not None and not first.running)
    assert (first.exit_code, first.last_line, first.failed) == (2, "two", True)
    second = start("again", "print('second')")
    until(lambda: second.exit_code == 0)
    assert (second.pid != first.pid, second.last_line, second.failed) == (True, "second", False)


def test_a_running_job_is_found_by_its_name_started_once_and_interrupted(start: Start) -> None:
    job = start("sleeper")
    assert find("sleeper") == job == start("sleeper", "print('not me')")
    assert (job.running, job.exit_code, job.place) == (True, None, 0)
    assert 0 <= job.age < 60
    until(lambda: job.last_line == "here")
    os.kill(job.pid, signal.SIGINT)
    until(lambda: job.exit_code is not None)
    assert "KeyboardInterrupt" in job.last_line


def test_starts_at_the_same_moment_give_one_process(start: Start) -> None:
    found: list[Job] = []
    starts = [threading.Thread(target=lambda: found.append(start("twins"))) for _ in range(3)]
    for thread in starts:
        thread.start()
    for thread in starts:
        thread.join()
    os.kill(found[0].pid, signal.SIGKILL)
    assert len({job.pid for job in found}) == 1
    until(lambda: found[0].exit_code == -signal.SIGKILL)


def test_a_job_outlives_the_process_that_started_it_and_finds_the_package_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_script = f"import clipmem_core.config; {SLEEP}"
    starter = (
        "import sys; from clipmem_core.audits.jobs import Task, jobs_folder;"
        f"Task(jobs_folder() / 'orphan', [sys.executable, '-c', {job_script!r}]).start()"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", starter], check=True, start_new_session=True, cwd=tmp_path, env=environment)
    job = find("orphan")
    assert job is not None
    until(lambda: job.last_line == "here")
    assert job.running
    assert os.getsid(job.pid) != os.getsid(0)
    os.kill(job.pid, signal.SIGKILL)
    until(lambda: not job.running)


def test_a_job_is_cancelled_with_all_it_started_and_says_so(start: Start) -> None:
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    job = start("parent", f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])")
    until(lambda: job.last_line.isdigit())
    pid = int(job.last_line)
    cancel(job)
    until(lambda: job.exit_code is not None and process_start(pid) is None)
    assert (job.cancelled, job.failed) == (True, False)
    cancel(job)  # and once more: nothing to interrupt, nothing happens


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"pid": "x", "started": "1", "command": []}'])
def test_a_broken_job_is_an_error_that_names_its_file(data: Path, content: str) -> None:
    leave_job(data / "jobs" / "odd")
    (data / "jobs" / "odd" / "job.json").write_text(content)
    with pytest.raises(InputError, match="odd/job.json"):
        find("odd")


def test_what_a_job_left_may_be_missing_or_odd_and_its_pid_another_process(data: Path) -> None:
    assert find("old") is None
    leave_job(data / "jobs" / "old")
    write_json(data / "jobs" / "old" / "job.json", {"pid": os.getpid(), "started": None, "command": ["x"]})
    (data / "jobs" / "old" / "exit_code").write_text("nonsense")
    leave_job(data / "jobs" / "reused", pid=os.getpid())
    for name in ("old", "reused"):
        job = find(name)
        assert job is not None
        assert (job.exit_code, job.last_line, job.place, job.cancelled, job.running) == (None, "", 0, False, False)


def test_jobs_of_audits_are_listed_and_others_are_hidden(data: Path) -> None:
    assert list_job_names() == []
    for name in ("a", "b", ".checks/x", ".queue"):
        leave_job(data / "jobs" / name)
    assert list_job_names() == ["a", "b"]


def test_what_is_no_audit_has_a_hidden_folder_and_what_trains_waits_for_its_turn(data: Path) -> None:
    cats = Audit(data / "audits" / "cats")
    tasks = {
        "s": (audit_task("s", ["scenes", "--name", "s"]), ["queued", "s", "audit", "scenes", "--name", "s"]),
        ".sets/tuxpaint": (fetch_task("tuxpaint"), ["fetch", "tuxpaint"]),
        ".encoders/cats/units": (
            encoder_task(cats, "units", sample=7),
            ["queued", "units of cats", "units", "cats", "--sample", "7"],
        ),
    }
    for folder, (task, arguments) in tasks.items():
        assert task.folder == data / "jobs" / folder
        assert task.command == [*PROGRAM, *arguments]
        assert task.find() is None
        leave_job(task.folder)
        assert task.find() is not None
    with pytest.raises(InputError, match="name '../up' must be"):
        audit_task("../up")


def test_a_command_that_cannot_start_says_so() -> None:
    with pytest.raises(RuntimeError, match="job 'absent' did not start:(?s:.*)No such file"):
        Task(jobs_folder() / "absent", ["/no/such/program"]).start()


@pytest.mark.parametrize(
    ("kind", "sample", "command"),
    [("units", 0, Units("cats")), ("units", 7, Units("cats", sample=7)), ("paradigms", 0, Paradigms("cats"))],
)
def test_the_commands_that_are_shown_can_be_typed(data: Path, kind: str, sample: int, command: object) -> None:
    typed = encoder_command(Audit(data / "audits" / "cats"), kind, sample=sample)
    assert parse(shlex.split(typed.removeprefix("python -m clipmem_core "))) == command


def test_an_ended_process_has_no_start_time() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    until(lambda: process_start(process.pid) is None)
    process.wait()


def test_resuming_repeats_the_fields_that_differ_from_the_preset() -> None:
    source = SourceOptions(csv_separator="\t", split="train", scenes_pairs=500)
    config = replace(preset_config("tiny"), source=source, seeds=3, drop_lookalikes=True, protocol="paper")
    arguments = resume_arguments("a", "my pairs.csv", config)
    assert arguments[:3] == ["my pairs.csv", "--name=a", "--preset=tiny"]
    wanted = ["--csv-separator=\t", "--drop-lookalikes", "--protocol=paper", "--scenes-pairs=500", "--seeds=3"]
    assert sorted(arguments[3:]) == wanted


def test_one_runs_the_others_wait_in_order_and_the_turn_passes_when_it_ends(start: Start) -> None:
    first = start("first", queue=True)
    second = start("second", "import os; print(os.getpid())", queue=True)
    third = start("third", queue=True)
    until(lambda: first.last_line == "here" and third.last_line == "waiting for audit 'first'")
    assert [first.place, second.place, third.place] == [0, 1, 2]
    assert second.running
    cancel(first)
    until(lambda: third.last_line == "here" and second.exit_code is not None)
    assert (second.exit_code, second.last_line) == (0, str(second.pid))


def test_a_killed_process_blocks_nobody(start: Start) -> None:
    first, second, last = (start(name, queue=True) for name in ("first", "second", "last"))
    os.kill(second.pid, signal.SIGKILL)
    until(lambda: last.place == 1)
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: last.last_line == "here")


def test_what_waits_can_be_cancelled_and_ends_as_its_command_does(start: Start) -> None:
    first = start("first", queue=True)
    waiting = audit_task("second", ["nowhere.csv"]).start()
    until(lambda: "waiting" in waiting.last_line)
    cancel(waiting)
    until(lambda: waiting.exit_code is not None)
    assert (waiting.exit_code, waiting.cancelled, waiting.last_line) == (INTERRUPTED, True, "cancelled while it waited")
    assert first.running
    cancel(first)
    again = audit_task("second", ["nowhere.csv"]).start()
    until(lambda: again.exit_code is not None)
    assert again.exit_code == 2
    assert again.last_line.startswith("error: there is no 'nowhere.csv'")


def test_a_ticket_of_a_dead_or_reused_pid_holds_no_place() -> None:
    assert tickets() == []
    dead = leave_ticket(8, pid=2**22 + 1, started="1")
    reused = leave_ticket(9, pid=os.getpid(), started="1")
    (dead.parent / "00000010.json").write_text("{ no ticket")
    ticket = draw_ticket("mine")
    assert tickets() == [ticket]
    assert not dead.exists()
    assert not reused.exists()
    await_turn(ticket)


def test_tickets_are_numbered_behind_every_live_one() -> None:
    leave_ticket(41, pid=os.getppid())
    ticket = draw_ticket("mine")
    assert ticket.number == 42
    job = Job(jobs_folder() / "mine", os.getpid(), ticket.started, ())
    assert job.place == 1
    assert Job(job.folder, os.getpid(), "another", ()).place == 0


def test_who_waits_says_for_whom_and_goes_on_when_that_one_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    leave_ticket(1, pid=child.pid)
    threading.Timer(0.1, child.kill).start()
    await_turn(draw_ticket("mine"))
    child.communicate()
    assert capsys.readouterr().out == "waiting for audit 'audit1'\n"
