import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from clipmem_core.audits.detached import process_start
from clipmem_core.audits.jobs import (
    Job,
    Task,
    audit_task,
    cancel,
    encoder_command,
    encoder_task,
    fetch_task,
    jobs_folder,
    list_job_names,
    resume_arguments,
)
from clipmem_core.audits.store import Audit, write_json
from clipmem_core.commands import Paradigms, Units, parse
from clipmem_core.config import InputError, SourceOptions, preset_config

SLEEPER = [sys.executable, "-S", "-c", "import time; print('asleep', flush=True); time.sleep(60)"]


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))


def start(command: Sequence[str], *, name: str) -> Job:
    """Start any command under an audit's name."""
    return Task(jobs_folder() / name, command).start()


def find(name: str) -> Job | None:
    return audit_task(name).find()


@pytest.fixture
def sleeper(_data: None) -> object:
    job = start(SLEEPER, name="sleeper")
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
    job = start(script("import sys; print('one\\n\\x1b[31mtwo\\x1b[0m\\r\\n'); sys.exit(2)"), name="short")
    until(lambda: job.exit_code is not None)
    assert job.exit_code == 2
    assert job.last_line == "two"
    assert not job.running


def test_a_running_job_is_found_by_its_name(sleeper: Job) -> None:
    assert find("sleeper") == sleeper
    assert sleeper.running
    assert sleeper.exit_code is None
    until(lambda: sleeper.last_line == "asleep")


def test_a_second_start_returns_the_running_job(sleeper: Job) -> None:
    assert start(script("print('not me')"), name="sleeper") == sleeper


def test_starts_at_the_same_moment_give_one_process() -> None:
    found: list[Job] = []
    starts = [threading.Thread(target=lambda: found.append(start(SLEEPER, name="twins"))) for _ in range(4)]
    for thread in starts:
        thread.start()
    for thread in starts:
        thread.join()
    os.kill(found[0].pid, signal.SIGKILL)
    assert len({job.pid for job in found}) == 1
    until(lambda: found[0].exit_code == -signal.SIGKILL)


def test_an_ended_job_is_started_anew() -> None:
    first = start(script("print('first')"), name="again")
    until(lambda: first.exit_code == 0)
    second = start(script("import sys; print('second'); sys.exit(3)"), name="again")
    until(lambda: second.exit_code == 3)
    assert second.pid != first.pid
    assert second.last_line == "second"


def test_a_job_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    starter = (
        "import sys; from clipmem_core.audits.jobs import Task, jobs_folder;"
        "Task(jobs_folder() / 'orphan', [sys.executable, '-S', '-c', 'import time; time.sleep(60)']).start()"
    )
    subprocess.run([sys.executable, "-c", starter], check=True, start_new_session=True)
    job = find("orphan")
    assert job is not None
    assert job.running
    assert os.getsid(job.pid) != os.getsid(0)
    os.kill(job.pid, signal.SIGKILL)
    until(lambda: not job.running)


def test_a_reused_pid_is_not_taken_for_the_job(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "old"
    folder.mkdir(parents=True)
    write_json(folder / "job.json", {"pid": os.getpid(), "started": "1", "command": ["x"]})
    job = find("old")
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
    job = start([*script(parent), child], name="parent")
    until(lambda: job.last_line.isdigit())
    pid = int(job.last_line)
    cancel(job)
    until(lambda: job.exit_code is not None and process_start(pid) is None)
    assert job.cancelled
    cancel(job)  # and once more: nothing to interrupt, nothing happens


def test_there_is_no_job_before_the_first_start() -> None:
    assert find("nothing") is None
    assert list_job_names() == []


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"pid": "x", "started": "1", "command": []}'])
def test_a_broken_job_is_an_error_that_names_its_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "jobs" / "odd").mkdir(parents=True)
    (tmp_path / "jobs" / "odd" / "job.json").write_text(content)
    with pytest.raises(InputError, match="odd/job.json"):
        find("odd")


def test_what_a_job_left_may_be_missing_or_odd(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "old"
    folder.mkdir(parents=True)
    write_json(folder / "job.json", {"pid": 1, "started": None, "command": ["x"]})
    (folder / "exit_code").write_text("nonsense")
    job = find("old")
    assert job is not None
    assert (job.exit_code, job.last_line, job.place, job.cancelled) == (None, "", 0, False)


def test_jobs_of_audits_are_listed_and_others_are_hidden(tmp_path: Path) -> None:
    for name in ("a", "b", ".checks/x", ".queue"):
        (tmp_path / "jobs" / name).mkdir(parents=True)
        write_json(tmp_path / "jobs" / name / "job.json", {})
    assert list_job_names() == ["a", "b"]


def test_what_is_no_audit_has_a_hidden_folder_of_its_own(tmp_path: Path) -> None:
    cats = Audit(tmp_path / "audits" / "cats")
    tasks = {".sets/tuxpaint": fetch_task("tuxpaint"), ".encoders/cats/units": encoder_task(cats, "units", sample=7)}
    for folder, task in tasks.items():
        assert task.folder == tmp_path / "jobs" / folder
        assert task.find() is None
        task.folder.mkdir(parents=True)
        write_json(task.folder / "job.json", {"pid": 1, "started": None, "command": ["python"]})
        job = task.find()
        assert job is not None
        assert not job.running
    assert tasks[".sets/tuxpaint"].command == [sys.executable, "-m", "clipmem_core", "fetch", "tuxpaint"]


def test_a_name_that_leaves_the_folder_is_refused() -> None:
    with pytest.raises(InputError, match="name '../up' must be"):
        audit_task("../up")


def test_a_command_that_cannot_start_says_so() -> None:
    with pytest.raises(RuntimeError, match="job 'absent' did not start:(?s:.*)No such file"):
        start(["/no/such/program"], name="absent")


def test_audits_and_encoders_wait_for_their_turn_and_then_run_the_package(tmp_path: Path) -> None:
    package, cats = [sys.executable, "-m", "clipmem_core"], Audit(tmp_path / "audits" / "cats")
    audit = audit_task("s", ["scenes", "--name", "s"])
    assert audit.folder == tmp_path / "jobs" / "s"
    assert audit.command[:4] == [sys.executable, "-m", "clipmem_core.audits.queue", "s"]
    assert audit.command[4:] == [*package, "audit", "scenes", "--name", "s"]
    units = encoder_task(cats, "units", sample=1000)
    assert units.command[:4] == [sys.executable, "-m", "clipmem_core.audits.queue", "units of cats"]
    assert units.command[4:] == [*package, "units", "cats", "--sample", "1000"]


@pytest.mark.parametrize(
    ("kind", "sample", "command"),
    [("units", 0, Units("cats")), ("units", 7, Units("cats", sample=7)), ("paradigms", 0, Paradigms("cats"))],
)
def test_the_commands_that_are_shown_can_be_typed(tmp_path: Path, kind: str, sample: int, command: object) -> None:
    typed = encoder_command(Audit(tmp_path / "audits" / "cats"), kind, sample=sample)
    assert parse(shlex.split(typed.removeprefix("python -m clipmem_core "))) == command


def test_the_package_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = start([sys.executable, "-c", "import clipmem_core.config; print('found')"], name="elsewhere")
    until(lambda: job.exit_code is not None)
    assert job.last_line == "found"


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
