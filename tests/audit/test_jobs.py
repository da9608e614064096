import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clipmem_core.auditing.folder import jobs
from clipmem_core.auditing.folder.jobs import (
    INTERRUPTED,
    Job,
    JobRequest,
    audit_request,
    cancel,
    jobs_folder,
)
from tests.fixtures import SCRIPTS

SLEEP = "import time; print('here', flush=True); time.sleep(60)"
Start = Callable[..., Job]


@pytest.fixture(autouse=True)
def _data(data: Path) -> None:
    """A data folder of its own for each test."""


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts real detached processes under the names of audits, and kills those that still run at
    the end."""
    started: list[Job] = []
    monkeypatch.setattr(jobs, "PROGRAM", SCRIPTS)

    def begin(name: str, script: str = SLEEP, *, trains: bool = False) -> Job:
        started.append(
            JobRequest(jobs_folder() / name, ["audit" if trains else "export", script]).start()
        )
        return started[-1]

    yield begin
    for job in started:
        if job.running:
            with contextlib.suppress(ProcessLookupError):  # an earlier job of the folder
                os.killpg(job.pid, signal.SIGKILL)
    until(lambda: not any(job.running for job in started))


def find(name: str) -> Job | None:
    return audit_request(name).find()


def until(done: Callable[[], object], *, seconds: float = 60, pause: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(pause)


@pytest.mark.parametrize(
    ("script", "code", "line"),
    [
        ("print('one\\ntwo\\r\\n'); code = 2", 2, "two"),
        ("raise KeyError('no such thing')", 1, "KeyError: 'no such thing'"),
        ("import os; print('last', flush=True); os.kill(os.getpid(), 9)", None, "last"),
        ("print('fine')", 0, "fine"),
    ],
)
def test_a_job_leaves_its_exit_code_and_its_last_line(
    start: Start, script: str, code: int | None, line: str
) -> None:
    job = start("once", script)
    until(lambda: not job.running)
    assert (job.exit_code, job.last_line, job.failed) == (code, line, code != 0)
    assert not job.cancelled
    assert start("once", "print('again')").pid != job.pid


def test_a_running_job_is_found_by_its_name_started_once_and_interrupted(start: Start) -> None:
    job = start("sleeper")
    assert find("sleeper") == job == start("sleeper", "print('not me')")
    assert (job.running, job.exit_code, job.failed) == (True, None, False)
    until(lambda: job.last_line == "here")
    os.kill(job.pid, signal.SIGINT)
    until(lambda: not job.running)
    assert (job.exit_code, job.cancelled) == (INTERRUPTED, True)


def test_a_job_outlives_the_process_that_started_it_and_finds_the_package_from_any_folder(
    tmp_path: Path, start: Start
) -> None:
    starter = (
        "from clipmem_core.auditing.folder import jobs;jobs.PROGRAM = "
        f"{SCRIPTS!r};jobs.JobRequest(jobs.jobs_folder() / 'orphan', ['export', {SLEEP!r}]).start()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(
        [sys.executable, "-c", starter],
        check=True,
        start_new_session=True,
        cwd=tmp_path,
        env=environment,
    )
    job = find("orphan")
    assert job is not None
    until(lambda: job.last_line == "here")
    assert job.running
    assert os.getsid(job.pid) != os.getsid(0)
    cancel(start("orphan"))  # the same process: it runs
    until(lambda: not job.running)
    assert job.cancelled


def test_a_job_is_cancelled_with_all_it_started_and_says_so_at_once(start: Start) -> None:
    child = "import time; print('child', flush=True); time.sleep(60)"
    job = start(
        "parent", f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    )
    until(lambda: job.last_line == "child")
    cancel(job)
    assert job.cancelling or not job.running
    with (job.folder / "output.log").open() as output:
        fcntl.flock(output, fcntl.LOCK_EX)  # once the child has ended, too
    assert (job.running, job.cancelled, job.failed) == (False, True, False)
    cancel(job)  # and once more: nothing to interrupt, nothing happens


def test_one_trains_the_others_wait_and_the_turn_passes_when_it_ends_or_is_killed(
    start: Start,
) -> None:
    first = start("first", trains=True)
    until(lambda: first.last_line == "here")
    second = start("second", trains=True)
    until(lambda: second.record.waits)
    assert start("other").running  # what does not train starts at once
    assert second.running
    cancel(first)
    until(lambda: second.last_line == "here")
    third = start("third", "print('third')", trains=True)
    until(lambda: third.record.waits)
    os.killpg(second.pid, signal.SIGKILL)
    until(lambda: third.exit_code == 0)
    assert third.last_line == "third"
