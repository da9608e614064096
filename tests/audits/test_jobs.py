import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clipmem_core.audits import jobs
from clipmem_core.audits.detached import process_start
from clipmem_core.audits.jobs import (
    Job,
    cancel,
    find_fetch,
    find_job,
    list_job_names,
    resume_arguments,
    start_audit,
    start_fetch,
    start_job,
)
from clipmem_core.audits.store import write_json
from clipmem_core.config import InputError, preset_config

SLEEPER = [sys.executable, "-S", "-c", "import time; print('asleep', flush=True); time.sleep(60)"]


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))


@pytest.fixture
def sleeper(_data: None) -> object:
    job = start_job(SLEEPER, name="sleeper")
    yield job
    if job.running:
        os.kill(job.pid, signal.SIGKILL)
    until(lambda: not job.running)


def until(done: object, *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def script(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", text]


def test_a_job_that_ends_leaves_its_exit_code_and_its_last_line() -> None:
    job = start_job(script("import sys; print('one\\n\\x1b[31mtwo\\x1b[0m\\r\\n'); sys.exit(2)"), name="short")
    until(lambda: job.exit_code is not None)
    assert job.exit_code == 2
    assert job.last_line == "two"
    assert not job.running


def test_a_running_job_is_found_by_its_name(sleeper: Job) -> None:
    assert find_job("sleeper") == sleeper
    assert sleeper.running
    assert sleeper.exit_code is None
    until(lambda: sleeper.last_line == "asleep")


def test_a_second_start_returns_the_running_job(sleeper: Job) -> None:
    assert start_job(script("print('not me')"), name="sleeper") == sleeper


def test_starts_at_the_same_moment_give_one_process() -> None:
    found: list[Job] = []
    starts = [threading.Thread(target=lambda: found.append(start_job(SLEEPER, name="twins"))) for _ in range(4)]
    for thread in starts:
        thread.start()
    for thread in starts:
        thread.join()
    os.kill(found[0].pid, signal.SIGKILL)
    assert len({job.pid for job in found}) == 1
    until(lambda: found[0].exit_code == -signal.SIGKILL)


def test_an_ended_job_is_started_anew() -> None:
    first = start_job(script("print('first')"), name="again")
    until(lambda: first.exit_code == 0)
    second = start_job(script("import sys; print('second'); sys.exit(3)"), name="again")
    until(lambda: second.exit_code == 3)
    assert second.pid != first.pid
    assert second.last_line == "second"


def test_a_job_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    starter = (
        "import sys; from clipmem_core.audits.jobs import start_job;"
        "start_job([sys.executable, '-S', '-c', 'import time; time.sleep(60)'], name='orphan')"
    )
    subprocess.run([sys.executable, "-c", starter], check=True, start_new_session=True)
    job = find_job("orphan")
    assert job is not None
    assert job.running
    assert os.getsid(job.pid) != os.getsid(0)
    os.kill(job.pid, signal.SIGKILL)
    until(lambda: not job.running)


def test_a_reused_pid_is_not_taken_for_the_job(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "old"
    folder.mkdir(parents=True)
    write_json(folder / "job.json", {"pid": os.getpid(), "started": "1", "command": ["x"]})
    job = find_job("old")
    assert job is not None
    assert not job.running


def test_a_job_can_be_interrupted(sleeper: Job) -> None:
    until(lambda: sleeper.last_line == "asleep")
    os.kill(sleeper.pid, signal.SIGINT)
    until(lambda: sleeper.exit_code is not None)
    assert "KeyboardInterrupt" in sleeper.last_line


def test_a_job_is_cancelled_with_all_it_started_and_says_so() -> None:
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', sys.argv[1]])"
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    job = start_job([*script(parent), child], name="parent")
    until(lambda: job.last_line.isdigit())
    pid = int(job.last_line)
    cancel(job)
    until(lambda: job.exit_code is not None and process_start(pid) is None)
    assert job.cancelled
    cancel(job)  # and once more: nothing to interrupt, nothing happens


def test_there_is_no_job_before_the_first_start() -> None:
    assert find_job("nothing") is None
    assert list_job_names() == []


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"pid": "x", "started": "1", "command": []}'])
def test_a_broken_job_is_an_error_that_names_its_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "jobs" / "odd").mkdir(parents=True)
    (tmp_path / "jobs" / "odd" / "job.json").write_text(content)
    with pytest.raises(InputError, match="odd/job.json"):
        find_job("odd")


def test_what_a_job_left_may_be_missing_or_odd(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "old"
    folder.mkdir(parents=True)
    write_json(folder / "job.json", {"pid": 1, "started": None, "command": ["x"]})
    (folder / "exit_code").write_text("nonsense")
    job = find_job("old")
    assert job is not None
    assert (job.exit_code, job.last_line, job.place, job.cancelled) == (None, "", 0, False)


def test_jobs_of_audits_are_listed_and_others_are_hidden(tmp_path: Path) -> None:
    for name in ("a", "b", ".checks/x", ".queue"):
        (tmp_path / "jobs" / name).mkdir(parents=True)
        write_json(tmp_path / "jobs" / name / "job.json", {})
    assert list_job_names() == ["a", "b"]


def test_a_set_is_fetched_by_a_job_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jobs, "start_job_in", lambda folder, command: (folder, command))
    folder, command = start_fetch("tuxpaint")
    assert folder == tmp_path / "jobs" / ".sets" / "tuxpaint"
    assert command == [sys.executable, "-m", "clipmem_core", "fetch", "tuxpaint"]
    assert find_fetch("tuxpaint") is None


def test_a_name_that_leaves_the_folder_is_refused() -> None:
    with pytest.raises(InputError, match="name '../up' must be"):
        start_audit([], name="../up")


def test_a_command_that_cannot_start_says_so() -> None:
    with pytest.raises(RuntimeError, match="job 'absent' did not start:(?s:.*)No such file"):
        start_job(["/no/such/program"], name="absent")


def test_an_audit_waits_for_its_turn_and_runs_the_package_with_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(jobs, "start_job", lambda command, *, name: seen.update(command=command, name=name))
    start_audit(["scenes", "--name", "s"], name="s")
    queue = [sys.executable, "-m", "clipmem_core.audits.queue", "s"]
    audit = [sys.executable, "-m", "clipmem_core", "audit", "scenes", "--name", "s"]
    assert seen == {"command": queue + audit, "name": "s"}


def test_the_package_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = start_job([sys.executable, "-c", "import clipmem_core.config; print('found')"], name="elsewhere")
    until(lambda: job.exit_code is not None)
    assert job.last_line == "found"


def test_an_ended_process_has_no_start_time() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    until(lambda: process_start(process.pid) is None)
    process.wait()


def test_resuming_repeats_the_fields_that_differ_from_the_preset() -> None:
    source = {"csv_separator": "\t", "split": "train", "scenes_pairs": 500}
    values = {
        "preset": "tiny",
        "source": source,
        "epochs": preset_config("tiny").epochs,
        "seeds": 3,
        "drop_lookalikes": True,
        "protocol": "paper",
    }
    arguments = resume_arguments("a", {"source": "my pairs.csv", "config": values})
    assert arguments[:3] == ["my pairs.csv", "--name=a", "--preset=tiny"]
    wanted = ["--csv-separator=\t", "--drop-lookalikes", "--protocol=paper", "--scenes-pairs=500", "--seeds=3"]
    assert sorted(arguments[3:]) == wanted
