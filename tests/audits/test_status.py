import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.audits import status as lifecycle
from clipmem_core.audits.console import RichScreen
from clipmem_core.audits.status import (
    MemberProgress,
    delete_audit,
    last_line,
    list_states,
    member_progress,
    rename_audit,
    state_of,
    training_seconds_left,
)
from clipmem_core.audits.store import Audit, acquire_lock, broken_files, list_audits
from clipmem_core.config import InputError
from tests.fixtures import leave_job, make_audit


def line(step: int, **more: Any) -> str:
    return json.dumps({"step": step, "steps": 100, "loss": 2.0, "seconds": 5.0, "epoch": 1.0} | more) + "\n"


def test_the_last_whole_line_counts(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert last_line(log) == {}
    log.write_text("")
    assert last_line(log) == {}
    log.write_text(line(1) + line(2) + '{"step": 3, "ste')
    assert last_line(log)["step"] == 2
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"\xff not text\n" * 10_000 + line(7, note="x" * 500).encode())
    assert last_line(log)["step"] == 7


def test_a_members_stage_is_read_off_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "members" / "f-0"
    folder.mkdir(parents=True)
    stages = [member_progress(tmp_path, "f-0").stage]
    for name, content in (("log.jsonl", line(10)), ("checkpoint.pt", ""), ("image.npy", ""), ("text.npy", "")):
        (folder / name).write_text(content)
        stages.append(member_progress(tmp_path, "f-0").stage)
    assert stages == ["waiting", "training", "embedding", "embedding", "done"]
    assert member_progress(tmp_path, "f-0").step == 10


@pytest.mark.parametrize(
    ("step", "log_probability", "expected"),
    [(19, -math.log(64), False), (20, -math.log(64), True), (20, -0.9 * math.log(64), False), (0, math.nan, False)],
)
def test_a_loss_of_guessing_counts_after_a_fifth_of_the_run(step: int, log_probability: float, expected: bool) -> None:
    progress = MemberProgress("f-0", "training", step=step, steps=100, log_probability=log_probability)
    assert progress.at_chance(64) is expected


def member(stage: str, step: int, seconds: float) -> MemberProgress:
    return MemberProgress("m", stage, step=step, steps=100, seconds=seconds)


def test_time_left_counts_the_members_that_wait_for_a_place() -> None:
    # Two side by side, with 30 and 60 s to go; the others take (40 + 120) / 2 = 80 s each: 30 + 80 and 60 + 80.
    training = [member("training", 25, 10.0), member("training", 50, 60.0)]
    assert training_seconds_left(training) == 60
    assert training_seconds_left([*training, member("waiting", 0, 0.0)]) == 30 + 80
    assert training_seconds_left([*training, member("waiting", 0, 0.0), member("waiting", 0, 0.0)]) == 60 + 80
    assert training_seconds_left([member("embedding", 100, 40.0), member("waiting", 0, 0.0)]) == 40
    assert math.isnan(training_seconds_left([member("waiting", 0, 0.0)]))
    assert math.isnan(training_seconds_left([member("done", 100, 40.0)]))
    assert MemberProgress("f-0", "training", step=25, steps=100, seconds=10.0).seconds_left == 30
    assert math.isnan(MemberProgress("f-0", "waiting").seconds_left)


@pytest.fixture
def audit(data: Path) -> Audit:
    """A finished audit with the job that made it."""
    made = make_audit(data, "old")
    leave_job(data / "jobs" / "old", said="done\n")
    return made


def names() -> list[str]:
    return [audit.name for audit in list_audits()]


def test_a_renamed_audit_is_finished_whole_and_named_anew(data: Path, audit: Audit) -> None:
    before = (audit.folder / "config.json").stat().st_mtime_ns
    renamed = rename_audit("old", "new")
    assert names() == ["new"]
    assert renamed.finished
    assert broken_files(renamed.folder) == []
    assert renamed.record.name == "new"
    assert (renamed.folder / "config.json").stat().st_mtime_ns == before
    assert [path.name for path in (data / "jobs").iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("old", "named 'old' already"),
        ("taken", "there is an audit 'taken' already"),
        ("a/b", "name 'a/b' must be"),
        (".hidden", "name '.hidden' must be"),
        ("", "name '' must be"),
    ],
)
def test_a_name_that_cannot_be_had_changes_nothing(data: Path, audit: Audit, new: str, message: str) -> None:
    make_audit(data, "taken")
    with pytest.raises(InputError, match=message):
        rename_audit("old", new)
    assert sorted(names()) == ["old", "taken"]
    assert broken_files(audit.folder) == []


@pytest.mark.parametrize("act", [lambda: rename_audit("old", "new"), lambda: delete_audit("old")])
def test_an_audit_at_work_is_left_alone(data: Path, audit: Audit, act: object) -> None:
    with acquire_lock(audit.folder, what="audit"), pytest.raises(InputError, match="is being run by another process"):
        act()
    shutil.rmtree(data / "jobs" / "old")
    leave_job(data / "jobs" / "old", running=True)
    with pytest.raises(InputError, match="audit 'old' is at work: cancel it first"):
        act()
    assert names() == ["old"]
    assert audit.finished


@pytest.mark.parametrize("step", range(4))
def test_a_kill_while_renaming_leaves_the_audit_under_one_name(audit: Audit, step: int) -> None:
    """Kill before each step: moving the folder, writing config.json, its time, moving the job."""
    members = {path.name: path.read_bytes() for path in audit.folder.iterdir() if path.suffix == ".parquet"}
    steps = [(lifecycle.Path, "rename"), (lifecycle, "write_json"), (lifecycle.os, "utime")]
    owner, name = [*steps, (lifecycle, "_move_job")][step]

    def killed(*arguments: object, **options: object) -> object:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            rename_audit("old", "new")
    (left,) = list_audits()
    assert left.name == ("old" if step == 0 else "new")
    assert {path.name: path.read_bytes() for path in left.folder.iterdir() if path.suffix == ".parquet"} == members
    assert left.record.name in ("old", "new")
    assert not left.finished or broken_files(left.folder) == []


def test_deleting_frees_what_it_says_and_leaves_decisions_alone(data: Path, audit: Audit) -> None:
    (data / "review").mkdir()
    (data / "review" / "fedcba9876543210.sqlite").write_bytes(b"x")
    files = [path for folder in (audit.folder, data / "jobs" / "old") for path in folder.rglob("*") if path.is_file()]
    size = sum(len(path.read_bytes()) for path in files)
    assert delete_audit("old") == size
    assert names() == []
    assert list((data / "jobs").iterdir()) == []
    assert [path.name for path in (data / "audits").iterdir() if path.is_dir()] == []
    assert (data / "review" / "fedcba9876543210.sqlite").exists()
    assert (data / "sets" / "old" / "images").is_dir()


def test_a_kill_while_deleting_leaves_no_half_of_an_audit(data: Path, audit: Audit) -> None:
    def killed(folder: Path, **options: object) -> None:
        if folder.exists():
            next(folder.glob("*.parquet")).unlink()
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifecycle.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            delete_audit("old")
    assert names() == []
    make_audit(data / "other", "next")
    shutil.move(data / "other" / "audits" / "next", data / "audits" / "next")
    delete_audit("next")  # takes what was left along
    assert [path for path in (data / "audits").iterdir() if path.is_dir()] == []


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


def test_a_running_job_shows_the_stage_it_is_in(data: Path) -> None:
    said = data / "jobs" / "made" / "output.log"
    leave_job(said.parent, running=True)
    assert state_of("made").word == lifecycle.PREPARING
    audit, stages = unfinished(data), []
    with said.open("a") as file, RichScreen() as screen:
        screen.console.file = file
        for tell in (
            lambda: screen.say("100 pairs with 120 captions"),
            lambda: screen.pictures(100, 100),
            lambda: screen.say("computing features with the locked towers"),
            lambda: screen.captions(120, 120),
            lambda: screen.say("training 4 members"),
        ):
            tell()
            file.flush()
            stages.append((state_of("made").word, state_of("made").job.count))
    assert stages == [
        ("preparing", None),
        ("preparing", (100, 100, "pictures")),
        ("computing features", None),
        ("computing features", (120, 120, "captions")),
        ("training", None),
    ]
    member_files(audit, "log.jsonl", "checkpoint.pt")
    assert state_of("made").word == lifecycle.TRAINING
    member_files(audit, "text.npy")
    assert state_of("made").word == lifecycle.SCORING
    assert state_of("made").at_work


def test_an_audit_that_is_held_is_at_work_elsewhere_however_long_nothing_was_written(data: Path) -> None:
    audit = unfinished(data)
    with acquire_lock(audit.folder, what="audit"):
        assert state_of("made").word == lifecycle.ELSEWHERE
        assert not state_of("made").at_work
    assert state_of("made").word == lifecycle.PAUSED


@pytest.mark.parametrize("file", ["jobs/made/job.json", "audits/made/config.json"])
def test_a_broken_file_is_a_state_that_names_it(data: Path, file: str) -> None:
    unfinished(data)
    leave_job(data / "jobs" / "made", running=True)
    (data / file).write_text("[]")
    state = state_of("made")
    assert state.word == lifecycle.BROKEN
    assert str(data / file) in state.fault


def test_all_are_listed_those_at_work_first(data: Path) -> None:
    assert list_states() == []
    make_audit(data, "old")
    os.utime(data / "audits" / "old" / "config.json", (1, 1))
    make_audit(data, "new")
    leave_job(data / "jobs" / "begun", running=True)
    leave_job(data / "jobs" / "refused", exit_code=2)
    leave_job(data / "jobs" / "gone", exit_code=0)  # its audit was deleted
    assert [(state.audit.name, state.word) for state in list_states()] == [
        ("begun", lifecycle.PREPARING),
        ("refused", lifecycle.STOPPED),
        ("new", lifecycle.DONE),
        ("old", lifecycle.DONE),
    ]
