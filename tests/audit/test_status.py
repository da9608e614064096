"""The state of audits and members, deleting an audit, and what is printed of it."""

import math
import os
import shutil
from pathlib import Path

import pytest

from clipmem_core.audit import status, store
from clipmem_core.audit.console import RichScreen
from clipmem_core.audit.jobs import reporting_in
from clipmem_core.audit.pipeline import PIPELINE
from clipmem_core.audit.status import (
    MemberProgress,
    delete_audit,
    list_states,
    state_of,
    training_seconds_left,
)
from clipmem_core.audit.store import Audit, acquire_lock
from clipmem_core.io import InputError
from tests.fixtures import leave_job, make_audit


def member(stage: str, step: int, seconds: float = 0.0, *, name: str = "f-0") -> MemberProgress:
    return MemberProgress(name, stage, step=step, steps=100, seconds=seconds)


def test_time_left_is_shared_by_the_members_that_train() -> None:
    # Two at once with 30 and 60 s left; the others take (40 + 120) / 2 = 80 s each
    training = [member("training", 25, 10.0), member("training", 50, 60.0)]
    assert training_seconds_left(training) == 45
    assert training_seconds_left([*training, member("waiting", 0)]) == (30 + 60 + 80) / 2
    assert training_seconds_left([member("embedding", 100, 40.0), member("waiting", 0)]) == 40
    assert math.isnan(training_seconds_left([member("waiting", 0), member("finished", 100, 40.0)]))


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


def unfinished(data: Path) -> Audit:
    audit = make_audit(data, "made")
    (audit.folder / "manifest.json").unlink()
    return audit


def test_a_running_job_shows_its_stage_and_counts(data: Path) -> None:
    folder = data / "jobs" / "made"
    leave_job(folder, running=True)
    assert state_of("made").word == status.PREPARING
    with reporting_in(folder), RichScreen() as screen:
        screen.say("reading scenes")
        screen.pictures(100, 100)
    record = state_of("made").job.record
    assert (record.stage, record.done, record.total) == ("reading scenes", 100, 100)
    assert record.noun == "pictures"
    audit = unfinished(data)
    for stage in PIPELINE:
        store.write_json(audit.folder / store.STAGE, stage.name)
        assert state_of("made").word == stage.name
        assert state_of("made").at_work


def test_audits_are_listed_those_at_work_first(data: Path) -> None:
    assert list_states() == []
    make_audit(data, "old")
    os.utime(data / "audits" / "old" / "config.json", (1, 1))
    make_audit(data, "new")
    leave_job(data / "jobs" / "begun", running=True)
    leave_job(data / "jobs" / "refused", exit_code=2)
    leave_job(data / "jobs" / "gone", exit_code=0)  # its audit was deleted
    assert [(state.audit.name, state.word) for state in list_states()] == [
        ("begun", status.PREPARING),
        ("refused", status.STOPPED),
        ("new", status.DONE),
        ("old", status.DONE),
    ]
