import json
import os
import shutil
import time
from pathlib import Path

import pytest

from clipmem_core.audits import jobs, lifecycle
from clipmem_core.audits.console import RichScreen
from clipmem_core.audits.jobs import WAITS, Task, cancel
from clipmem_core.audits.lifecycle import delete_audit, folder_bytes, list_states, odd_names, rename_audit, state_of
from clipmem_core.audits.store import Audit, acquire_lock, broken_files, list_audits
from clipmem_core.config import InputError
from tests.made_audit import make_audit
from tests.made_jobs import SCRIPTS, leave_job


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


def test_an_unfinished_audit_stays_unfinished(audit: Audit) -> None:
    (audit.folder / "manifest.json").unlink()
    renamed = rename_audit("old", "new")
    assert not renamed.finished
    assert renamed.record.name == "new"


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


@pytest.mark.parametrize("act", [lambda: rename_audit("absent", "new"), lambda: delete_audit("absent")])
def test_an_audit_that_does_not_exist_is_named(audit: Audit, act: object) -> None:
    with pytest.raises(InputError, match="there is no audit 'absent'"):
        act()


@pytest.mark.parametrize("content", ["[]", "{}", '{"files": 3}'])
def test_a_manifest_that_lists_no_files_is_told_before_anything_changes(audit: Audit, content: str) -> None:
    (audit.folder / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json.* delete it and run the audit again"):
        rename_audit("old", "new")
    assert names() == ["old"]


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


def test_a_job_that_never_became_an_audit_can_be_deleted(data: Path) -> None:
    leave_job(data / "jobs" / "refused", said="done\n")
    assert delete_audit("refused") > 0
    assert list((data / "jobs").iterdir()) == []


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


def test_an_audit_that_lies_elsewhere_is_only_unlinked(data: Path, tmp_path: Path) -> None:
    elsewhere = make_audit(tmp_path / "disk", "old").folder
    (data / "audits").mkdir(parents=True)
    (data / "audits" / "old").symlink_to(elsewhere)
    assert delete_audit("old") == 0
    assert not (data / "audits" / "old").is_symlink()
    assert (elsewhere / "manifest.json").is_file()


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    assert folder_bytes(tmp_path / "absent") == 0
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"x" * 10)
    (tmp_path / "a" / "b" / "two").write_bytes(b"x" * 5)
    (tmp_path / "a" / "link").symlink_to("/nowhere")
    assert folder_bytes(tmp_path / "a") == 15 + len("/nowhere")


def test_the_new_manifest_lists_the_same_files(audit: Audit) -> None:
    before = json.loads((audit.folder / "manifest.json").read_text())["files"]
    after = json.loads((rename_audit("old", "new").folder / "manifest.json").read_text())["files"]
    assert {name for name in before if before[name] != after[name]} == {"config.json"}
    assert before.keys() == after.keys()


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


def test_a_finished_audit_is_done_whatever_its_job_says(data: Path) -> None:
    make_audit(data)
    assert state_of("made").word == lifecycle.DONE
    leave_job(data / "jobs" / "made", exit_code=0)
    assert state_of("made").word == lifecycle.DONE
    assert not state_of("made").at_work


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


def test_a_job_that_was_asked_to_end_is_cancelling_until_it_has(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PROGRAM", SCRIPTS)
    task = Task(data / "jobs" / "made", ["audit", "import time; time.sleep(60)"])
    job = task.start()
    (job.folder / "cancel").touch()
    assert (state_of("made").word, state_of("made").at_work) == (lifecycle.CANCELLING, True)
    cancel(job)
    while job.running:
        time.sleep(0.02)
    assert state_of("made").word == lifecycle.CANCELLED
    job = task.start()
    assert state_of("made").word == lifecycle.PREPARING
    cancel(job)
    assert job.cancelling or not job.running


def test_a_job_behind_another_waits_also_for_a_finished_audit_that_is_to_grow(data: Path) -> None:
    make_audit(data)
    leave_job(data / "jobs" / "made", running=True, said=f"{WAITS}\n")
    assert state_of("made").word == lifecycle.WAITING


@pytest.mark.parametrize(
    ("exit_code", "word"),
    [
        (2, lifecycle.STOPPED),
        (None, lifecycle.STOPPED),
        (130, lifecycle.CANCELLED),
        (0, lifecycle.PAUSED),
    ],
)
def test_an_ended_job_says_how_it_ended(data: Path, exit_code: int | None, word: str) -> None:
    unfinished(data)
    leave_job(data / "jobs" / "made", exit_code=exit_code)
    assert state_of("made").word == word


def test_a_folder_that_was_copied_without_its_manifest_is_not_finished_and_nobody_works_on_it(data: Path) -> None:
    audit = unfinished(data)
    shutil.copytree(audit.folder, audit.folder.with_name("copied"), copy_function=shutil.copyfile)  # with new times
    assert state_of("made").word == state_of("copied").word == lifecycle.PAUSED


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


def test_names_that_no_audit_can_have_are_told_apart(data: Path) -> None:
    make_audit(data, "good")
    shutil.copytree(data / "audits" / "good", data / "audits" / "[x](javascript:alert(1))")
    shutil.copytree(data / "audits" / "good", data / "audits" / ".good.deleted")
    (data / "jobs" / "a b").mkdir(parents=True)
    (data / "jobs" / "a b" / "job.json").write_text("{}")
    assert [state.audit.name for state in list_states()] == ["good"]
    assert odd_names() == ["[x](javascript:alert(1))"]
