import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clipmem_core.audits import status
from clipmem_core.audits.detached import process_start
from clipmem_core.audits.lock import hold
from clipmem_core.audits.queue import Ticket
from clipmem_core.audits.status import list_states, odd_names, state_of
from clipmem_core.audits.store import Audit, write_json
from tests.made_audit import make_audit

LeaveJob = Callable[..., None]


@pytest.fixture
def leave_job(data: Path) -> LeaveJob:
    """Leaves a job's files; one that runs is this very process."""

    def leave(name: str, *, exit_code: int | None = None, running: bool = False) -> None:
        folder = data / "jobs" / name
        folder.mkdir(parents=True)
        started = process_start(os.getpid()) if running else "1"
        write_json(folder / "job.json", {"pid": os.getpid(), "started": started, "command": ["python"]})
        (folder / "output.log").write_text("last words\n")
        if exit_code is not None:
            (folder / "exit_code").write_text(f"{exit_code}\n")

    return leave


def unfinished(data: Path, name: str = "made", *, age: float = 1000) -> Audit:
    audit = make_audit(data, name)
    (audit.folder / "manifest.json").unlink()
    for path in audit.folder.rglob("*"):
        os.utime(path, (time.time() - age, time.time() - age))
    return audit


def member_files(audit: Audit, *names: str) -> None:
    for member in ("r0-f0", "r0-f1", "r1-f0", "r1-f1"):
        folder = audit.folder / "members" / member
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_text("{}")


def test_a_finished_audit_is_done_whatever_its_job_says(data: Path, leave_job: LeaveJob) -> None:
    make_audit(data)
    assert state_of("made").word == status.DONE
    leave_job("made", exit_code=0)
    assert state_of("made").word == status.DONE
    assert not state_of("made").at_work


def test_a_running_job_goes_from_preparing_over_training_to_scoring(data: Path, leave_job: LeaveJob) -> None:
    leave_job("made", running=True)
    assert state_of("made").word == status.PREPARING
    audit = unfinished(data)
    assert state_of("made").word == status.TRAINING
    member_files(audit, "log.jsonl", "checkpoint.pt")
    assert state_of("made").word == status.TRAINING
    member_files(audit, "text.faiss")
    assert state_of("made").word == status.SCORING
    assert state_of("made").at_work


def test_a_job_behind_another_waits_also_for_a_finished_audit_that_is_to_grow(data: Path, leave_job: LeaveJob) -> None:
    make_audit(data)
    leave_job("made", running=True)
    for number, pid in ((1, os.getppid()), (2, os.getpid())):
        ticket = Ticket(number, "x", pid, process_start(pid) or "")
        ticket.path.parent.mkdir(parents=True, exist_ok=True)
        ticket.path.write_text(json.dumps(vars(ticket)))
    state = state_of("made")
    assert (state.word, state.place) == (status.WAITING, 1)


@pytest.mark.parametrize(
    ("exit_code", "word"),
    [
        (2, status.STOPPED),
        (-9, status.STOPPED),
        (None, status.STOPPED),
        (130, status.CANCELLED),
        (-2, status.CANCELLED),
        (0, status.PAUSED),
    ],
)
def test_an_ended_job_says_how_it_ended(data: Path, leave_job: LeaveJob, exit_code: int | None, word: str) -> None:
    unfinished(data)
    leave_job("made", exit_code=exit_code)
    assert state_of("made").word == word


def test_a_folder_that_was_copied_without_its_manifest_is_not_finished_and_nobody_works_on_it(data: Path) -> None:
    audit = unfinished(data)
    shutil.copytree(audit.folder, audit.folder.with_name("copied"), copy_function=shutil.copyfile)  # with new times
    assert state_of("made").word == state_of("copied").word == status.PAUSED


def test_an_audit_that_is_held_is_at_work_elsewhere_however_long_nothing_was_written(data: Path) -> None:
    audit = unfinished(data)
    with hold(audit.folder, what="audit"):
        assert state_of("made").word == status.ELSEWHERE
        assert not state_of("made").at_work
        os.utime(audit.folder / "config.json")
        assert state_of("made").quiet < 60
    assert state_of("made").word == status.PAUSED


@pytest.mark.parametrize("file", ["jobs/made/job.json", "audits/made/config.json"])
def test_a_broken_file_is_a_state_that_names_it(data: Path, leave_job: LeaveJob, file: str) -> None:
    unfinished(data)
    leave_job("made", running=True)
    (data / file).write_text("[]")
    state = state_of("made")
    assert state.word == status.BROKEN
    assert str(data / file) in state.fault


def test_all_are_listed_those_at_work_first(data: Path, leave_job: LeaveJob) -> None:
    assert list_states() == []
    make_audit(data, "old")
    os.utime(data / "audits" / "old" / "config.json", (1, 1))
    make_audit(data, "new")
    leave_job("begun", running=True)
    leave_job("refused", exit_code=2)
    leave_job("gone", exit_code=0)  # its audit was deleted
    assert [(state.audit.name, state.word) for state in list_states()] == [
        ("begun", status.PREPARING),
        ("refused", status.STOPPED),
        ("new", status.DONE),
        ("old", status.DONE),
    ]


def test_names_that_no_audit_can_have_are_told_apart(data: Path) -> None:
    make_audit(data, "good")
    shutil.copytree(data / "audits" / "good", data / "audits" / "[x](javascript:alert(1))")
    shutil.copytree(data / "audits" / "good", data / "audits" / ".good.deleted")
    (data / "jobs" / "a b").mkdir(parents=True)
    (data / "jobs" / "a b" / "job.json").write_text("{}")
    assert [state.audit.name for state in list_states()] == ["good"]
    assert odd_names() == ["[x](javascript:alert(1))"]
