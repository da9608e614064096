"""What an audit's files name lies inside its folder, and what it began from is still what it was when it ends."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.audits.executor import Looks, Task
from clipmem_core.audits.run import run_audit
from clipmem_core.audits.store import (
    VERSION,
    Audit,
    broken_files,
    check_name,
    open_audit,
    read_json,
    read_table,
    reopen,
    replacing,
    write_json,
    write_manifest,
)
from clipmem_core.config import InputError
from tests.audits.small import ENSEMBLE, Silent, config_of
from tests.conftest import Made


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail()
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(("read", "name"), [(read_json, "a.json"), (read_table, "a.parquet")])
def test_a_missing_or_broken_file_is_one_line_that_names_it(read: object, name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name} is missing: run the audit again"):
        read(tmp_path / name)
    (tmp_path / name).write_bytes(b"\x00not what it should be")
    with pytest.raises(InputError, match=f"{name} .*delete the audit's folder") as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_manifest_lists_every_file_with_its_hash_but_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "members" / "f-0").mkdir(parents=True)
    for name in ("config.json", "members/f-0/log.jsonl", ".prepared.npz", "members/f-0/.stderr", "a.lock"):
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path)
    listed = json.loads((tmp_path / "manifest.json").read_text())
    assert listed == {
        "version": VERSION,
        "files": {name: hashlib.sha256(name.encode()).hexdigest() for name in ("config.json", "members/f-0/log.jsonl")},
        "sizes": {name: len(name) for name in ("config.json", "members/f-0/log.jsonl")},
    }


def finished(folder: Path) -> Audit:
    (folder / "members" / "f-0").mkdir(parents=True)
    (folder / "members" / "g-0").mkdir()
    member = ("members/f-0/config.json", "members/f-0/checkpoint.pt", "members/g-0/checkpoint.pt")
    for name in ("config.json", "scores.parquet", *member):
        (folder / name).write_text(name)
    write_manifest(folder)
    return Audit(folder)


def test_broken_and_missing_files_are_found_and_made_room_for(tmp_path: Path) -> None:
    audit = finished(tmp_path / "a")
    assert broken_files(audit.folder) == []
    (audit.folder / "scores.parquet").unlink()
    (audit.folder / "members/f-0/checkpoint.pt").write_text("cut sho")
    broken = broken_files(audit.folder)
    assert sorted(broken) == ["members/f-0/checkpoint.pt", "scores.parquet"]
    reopen(audit, broken)
    assert not audit.finished
    left = [path.relative_to(audit.folder).as_posix() for path in audit.folder.rglob("[!.]*") if path.is_file()]
    assert sorted(left) == ["config.json", "members/f-0/config.json", "members/g-0/checkpoint.pt"]


@pytest.mark.parametrize("name", ["config.json", "members/f-0/config.json"])
def test_an_audit_whose_beginning_is_broken_cannot_be_mended(name: str, tmp_path: Path) -> None:
    audit = finished(tmp_path / "a")
    (audit.folder / name).write_text("{}")
    with pytest.raises(InputError, match=f"a/{name} is broken: delete .*a and run the audit again"):
        reopen(audit, broken_files(audit.folder))
    assert audit.finished


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-flag", "a/b", "a\\b", "a b", "a\nb", "a\0", "[bold]", "é\udc80"]
)
def test_names_that_are_no_safe_folder_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="must be letters, digits"):
        check_name(name)


def test_an_unknown_audit_is_answered_with_those_there_are(data: Path) -> None:
    with pytest.raises(InputError, match=r"there is no audit 'x' in .* \(there is: none yet\)"):
        open_audit("x")
    (data / "audits" / "old").mkdir(parents=True)
    write_json(data / "audits" / "old" / "config.json", {})
    with pytest.raises(InputError, match=r"\(there is: old\)"):
        open_audit("x")
    for version in ({}, {"version": VERSION + 1}):
        write_json(data / "audits" / "old" / "config.json", version)
        with pytest.raises(InputError, match="config.json was made by version .* run it again"):
            open_audit("old").record  # noqa: B018


OUT = ["../../mine/notes.txt", "members/../../../mine/notes.txt", "..\\mine", "C:\\mine", ""]
FLAGS = [*ENSEMBLE, "--members", "4"]


@pytest.fixture
def copied(made: Made, data: Path) -> Audit:
    """A copy of the finished audit, and a folder of somebody's beside the data; nothing is trained."""
    shutil.copytree(made.data, data)
    (data.parent / "mine").mkdir()
    (data.parent / "mine" / "notes.txt").write_text("mine")
    return open_audit("ensemble")


def trains(tasks: Sequence[Task]) -> Looks:
    """An executor that trains nothing, and says so where there is something to train."""
    if tasks:
        raise RuntimeError("it trains")
    yield None


def again() -> None:
    run_audit("scenes", config_of(FLAGS), name="ensemble", screen=Silent(), executor=trains)


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def kept(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("name", [*OUT, "absolute"])
def test_a_manifest_that_names_a_file_outside_touches_nothing(name: str, copied: Audit) -> None:
    mine = copied.folder.parents[2] / "mine"
    name = str(mine / "notes.txt") if name == "absolute" else name
    edit(copied.folder / "manifest.json", files={**copied.files, name: "0" * 64})
    before = kept(copied.folder) | kept(mine)
    with pytest.raises(InputError, match=r"manifest\.json.*must lie inside the folder"):
        again()
    assert kept(copied.folder) | kept(mine) == before


@pytest.mark.parametrize("name", ["../../../mine", "/mine", "a\\b", ".hidden"])
def test_a_member_that_lies_outside_is_refused(name: str, copied: Audit) -> None:
    edit(copied.folder / "config.json", members=[name, "r0-f1", "r1-f0", "r1-f1"])
    (copied.folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: members\.0 is wrong \(name .* must be letters"):
        again()


def test_a_member_behind_a_link_is_refused(copied: Audit) -> None:
    mine = copied.folder.parents[2] / "mine"
    shutil.rmtree(copied.folder / "members" / "r0-f0")
    (copied.folder / "members" / "r0-f0").symlink_to(mine)
    (copied.folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="r0-f0.* is a link that leads out"):
        again()
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("pixels", ["../mine", "/mine", "cache/../../mine"])
def test_pictures_are_never_kept_outside_the_data_folder(pixels: str, copied: Audit) -> None:
    edit(copied.folder / "config.json", pixels=pixels)
    with pytest.raises(InputError, match=r"config\.json: pixels is wrong"):
        again()


@pytest.mark.parametrize(
    "name", ["quarantine.parquet", "pairs.parquet", "membership.parquet", "members/r0-f0/config.json"]
)
@pytest.mark.parametrize("content", [b"", b"PAR1", b"{}"])
def test_an_unfinished_audit_with_a_broken_beginning_does_not_finish(name: str, content: bytes, copied: Audit) -> None:
    (copied.folder / "manifest.json").unlink()
    (copied.folder / name).unlink()
    (copied.folder / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        again()
    assert not copied.finished


@pytest.mark.parametrize("name", ["checkpoint.pt", "trajectory.npy", "image.npy"])
def test_a_member_that_lacks_a_file_or_has_it_of_another_size_is_trained_again(name: str, copied: Audit) -> None:
    path = copied.folder / "members" / "r0-f0" / name
    content = path.read_bytes()[:-1]
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match="it trains"):
        again()
    assert not copied.finished
    assert [left.name for left in path.parent.iterdir()] == ["config.json"]
    assert (copied.folder / "members" / "r0-f1" / name).is_file()


def test_an_audit_without_its_manifest_is_scored_again_and_no_member_is_trained(copied: Audit) -> None:
    (copied.folder / "manifest.json").unlink()
    before = {path: os.stat(path).st_mtime_ns for path in (copied.folder / "members").rglob("*.pt")}
    again()
    assert copied.finished
    assert {path: os.stat(path).st_mtime_ns for path in before} == before
