"""The state of audits and members, deleting an audit, and what is printed of it."""

import os
import shutil
from pathlib import Path

import pytest

from clipmem_core.auditing.folder import jobs
from clipmem_core.auditing.folder.jobs import (
    Screen,
    delete_audit,
    list_states,
    read_record,
    reporting_in,
    state_of,
)
from clipmem_core.auditing.folder.store import Audit, acquire_lock
from clipmem_core.auditing.run.console import RichScreen
from clipmem_core.utils.io import InputError
from tests.fixtures import leave_job, make_audit


@pytest.fixture
def audit(data: Path) -> Audit:
    """A finished audit with the job that made it."""
    made = make_audit(data, "old")
    leave_job(data / "jobs" / "old", said="finished\n")
    return made


def test_an_audit_at_work_is_not_deleted(data: Path, audit: Audit) -> None:
    with (
        acquire_lock(audit.folder, what="audit"),
        pytest.raises(InputError, match="is being run by another process"),
    ):
        delete_audit("old")
    shutil.rmtree(data / "jobs" / "old")
    leave_job(data / "jobs" / "old", running=True)
    with pytest.raises(InputError, match="audit 'old' is at work"):
        delete_audit("old")
    assert audit.finished


def test_deleting_frees_what_it_says_and_leaves_decisions_and_pictures_alone(
    data: Path, audit: Audit
) -> None:
    (data / "review").mkdir()
    (data / "review" / "fedcba9876543210.sqlite").write_bytes(b"x")
    files = [
        path
        for folder in (audit.folder, data / "jobs" / "old")
        for path in folder.rglob("*")
        if path.is_file()
    ]
    size = sum(len(path.read_bytes()) for path in files)
    assert delete_audit("old") == size
    assert [
        path for name in ("jobs", "audits") for path in (data / name).iterdir() if path.is_dir()
    ] == []
    assert (data / "review" / "fedcba9876543210.sqlite").exists()
    assert (data / "sets" / "old" / "images").is_dir()


def test_a_running_job_shows_its_stage_and_counts(data: Path) -> None:
    folder = data / "jobs" / "made"
    leave_job(folder, running=True)
    assert state_of("made").word == jobs.PREPARING
    with reporting_in(folder), RichScreen() as screen:
        screen.say("reading scenes")
        screen.pictures(100, 100)
    record = state_of("made").job.record
    assert (record.stage, record.done, record.total) == ("reading scenes", 100, 100)
    assert record.noun == "pictures"
    audit = make_audit(data, "made")
    (audit.folder / "manifest.json").unlink()
    with reporting_in(folder):
        for name in jobs.STEPS:
            Screen().step(name)
            assert state_of("made").word == name
            assert state_of("made").at_work


def test_a_log_has_a_line_at_the_start_and_each_tenth_of_a_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SECONDS_BETWEEN_POLLS", 0)
    with reporting_in(tmp_path), RichScreen() as screen:
        screen.say("computing features")
        for done in range(1, 101):  # pictures and captions are computed at once
            screen.captions(min(500, 10 * done), 500)
            screen.pictures(done, 100)
        screen.say("training 16 members")
        for percent in range(101):
            screen.count("% trained", percent, 100)
    first, second = capsys.readouterr().out.split("training 16 members\n")
    assert len(first.splitlines()) == len(second.splitlines()) + 1 == 11
    record = read_record(tmp_path)
    assert (record.stage, record.done, record.total) == ("training 16 members", 100, 100)


def test_audits_are_listed_those_at_work_first(data: Path) -> None:
    assert list_states() == []
    make_audit(data, "old")
    os.utime(data / "audits" / "old" / "config.json", (1, 1))
    make_audit(data, "new")
    leave_job(data / "jobs" / "begun", running=True)
    leave_job(data / "jobs" / "refused", exit_code=2)
    leave_job(data / "jobs" / "gone", exit_code=0)  # its audit was deleted
    assert [(state.audit.name, state.word) for state in list_states()] == [
        ("begun", jobs.PREPARING),
        ("refused", jobs.STOPPED),
        ("new", jobs.DONE),
        ("old", jobs.DONE),
    ]
