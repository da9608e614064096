import json
import os
import shutil
from pathlib import Path

import pytest

from clipmem_core.audits import lifecycle
from clipmem_core.audits.detached import process_start
from clipmem_core.audits.lifecycle import delete_audit, folder_bytes, rename_audit
from clipmem_core.audits.lock import hold
from clipmem_core.audits.store import Audit, broken_files, list_audits, write_json
from clipmem_core.config import InputError
from tests.made_audit import make_audit


@pytest.fixture
def audit(data: Path) -> Audit:
    """A finished audit with the job that made it."""
    made = make_audit(data, "old")
    leave_job(data, "old", started="1")
    return made


def leave_job(data: Path, name: str, *, started: str | None) -> None:
    (data / "jobs" / name).mkdir(parents=True)
    write_json(data / "jobs" / name / "job.json", {"pid": os.getpid(), "started": started, "command": ["x"]})
    (data / "jobs" / name / "output.log").write_text("done\n")


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


def test_a_broken_config_does_not_become_whole_by_renaming(audit: Audit) -> None:
    write_json(audit.folder / "config.json", audit.record.values | {"threads": 7})
    assert broken_files(rename_audit("old", "new").folder) == ["config.json"]


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
    with hold(audit.folder, what="audit"), pytest.raises(InputError, match="is being run by another process"):
        act()
    shutil.rmtree(data / "jobs" / "old")
    leave_job(data, "old", started=process_start(os.getpid()))
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


@pytest.mark.parametrize("step", range(5))
def test_a_kill_while_renaming_leaves_the_audit_under_one_name(audit: Audit, step: int) -> None:
    """Kill before each step: moving the folder, writing config.json, its time, writing the manifest, moving the job."""
    members = {path.name: path.read_bytes() for path in audit.folder.iterdir() if path.suffix == ".parquet"}
    steps = [(lifecycle.Path, "rename"), (lifecycle, "write_json"), (lifecycle.os, "utime"), (lifecycle, "write_json")]
    owner, name = [*steps, (lifecycle, "_move_job")][step]
    real, calls = getattr(owner, name), []

    def killed(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == (2 if step == 3 else 1):
            raise KeyboardInterrupt
        return real(*arguments, **options)

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
    leave_job(data, "refused", started="1")
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
