"""What an audit's files name lies inside its folder, and what it began from is still what it was when it ends."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.audits.executor import Looks, Task
from clipmem_core.audits.run import run_audit
from clipmem_core.audits.store import Audit, open_audit
from clipmem_core.config import InputError
from clipmem_core.studies.store import open_study
from tests.audits.small import ENSEMBLE, Silent, config_of
from tests.conftest import Made
from tests.made_arms import make_arms

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


def test_a_manifest_that_names_a_file_behind_a_link_touches_nothing(copied: Audit) -> None:
    mine = copied.folder.parents[2] / "mine"
    (copied.folder / "members" / "linked").symlink_to(mine)
    sizes = {**copied.manifest["sizes"], "members/linked/notes.txt": 1}
    edit(copied.folder / "manifest.json", sizes=sizes)
    with pytest.raises(InputError, match=r"members/linked/notes\.txt is a link that leads out of .*ensemble"):
        again()
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]


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


def test_an_arm_of_a_study_lies_in_its_folder(data: Path) -> None:
    study = make_arms(data)
    with pytest.raises(InputError, match=r"path 'audits/\.\.' must lie"):
        study.audit("..")
    edit(study.folder / "study.json", reference="../../mine")
    with pytest.raises(InputError, match=r"study\.json: reference is wrong \(path '\.\./\.\./mine' must lie"):
        open_study("combined").asked  # noqa: B018


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
