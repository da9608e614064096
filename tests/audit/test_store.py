"""Files outside an audit's folder are never touched, and an audit whose beginning is broken does
not finish."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.auditing.folder.store import VERSION, Audit, broken_files, check_name, write_json
from clipmem_core.auditing.run.executor import Task, TaskEvents
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.utils.io import InputError
from tests.audit.small import ENSEMBLE, Silent, config_of
from tests.fixtures import flip
from tests.shared import Made

FLAGS = [*ENSEMBLE, "--members", "4"]


@pytest.mark.parametrize("name", ["", "..", "-flag", "a/b", "a\nb"])
def test_names_that_are_no_safe_folder_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="letters, digits"):
        check_name(name)


def test_an_unknown_audit_and_one_of_another_version_are_one_line(data: Path) -> None:
    with pytest.raises(InputError, match=r"there is no audit 'x' in .* \(there is: none yet\)"):
        Audit.open("x")
    (data / "audits" / "old").mkdir(parents=True)
    write_json(data / "audits" / "old" / "config.json", {"version": VERSION + 1})
    with pytest.raises(InputError, match=r"config\.json.* run it again"):
        Audit.open("old").record  # noqa: B018


@pytest.fixture
def copied(made: Made, data: Path) -> Audit:
    """A copy of the finished audit, and a folder of somebody's beside the data."""
    shutil.copytree(made.data, data)
    (data.parent / "mine").mkdir()
    (data.parent / "mine" / "notes.txt").write_text("mine")
    return Audit.open("ensemble")


def again() -> None:
    """Run the audit again; an error if it would train."""

    def trains(tasks: Sequence[Task]) -> TaskEvents:
        if tasks:
            raise RuntimeError("it trains")
        yield None

    run_audit("scenes", config_of(FLAGS), name="ensemble", screen=Silent(), executor=trains)


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("name", ["../../mine/notes.txt", "", "absolute"])
def test_a_manifest_that_names_a_file_outside_touches_nothing(name: str, copied: Audit) -> None:
    notes = copied.folder.parents[2] / "mine" / "notes.txt"
    edit(
        copied.folder / "manifest.json",
        files={**copied.files, str(notes) if name == "absolute" else name: "0" * 64},
    )
    with pytest.raises(InputError, match=r"manifest\.json.*must lie inside the folder"):
        again()
    assert notes.read_text() == "mine"


@pytest.mark.parametrize(
    "fields",
    [
        {"members": ["../../../mine", "r0-f1", "r1-f0", "r1-f1"]},
        {"pixels": "/mine"},
        {"pixels": "cache/../../mine"},
    ],
)
def test_a_member_or_store_outside_the_data_folder_is_refused(
    fields: dict[str, Any], copied: Audit
) -> None:
    edit(copied.folder / "config.json", **fields)
    (copied.folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: (members\.0|pixels) is wrong"):
        again()


def test_a_member_behind_a_link_is_refused(copied: Audit) -> None:
    mine = copied.folder.parents[2] / "mine"
    shutil.rmtree(copied.folder / "members" / "r0-f0")
    (copied.folder / "members" / "r0-f0").symlink_to(mine)
    (copied.folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="r0-f0.* is a link that leads out"):
        again()
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["quarantine.parquet", "members/r0-f0/config.json"])
def test_an_audit_with_a_broken_beginning_does_not_finish(name: str, copied: Audit) -> None:
    if name == "quarantine.parquet":
        (copied.folder / "manifest.json").unlink()
    (copied.folder / name).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=name):
        again()


def test_a_member_with_a_file_of_another_size_is_trained_again(copied: Audit) -> None:
    path = copied.folder / "members" / "r0-f0" / "image.faiss"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RuntimeError, match="it trains"):
        again()
    assert not copied.finished
    assert [left.name for left in path.parent.iterdir()] == ["config.json"]
    assert (copied.folder / "members" / "r0-f1" / path.name).is_file()


def test_a_flipped_bit_in_a_table_is_found(copied: Audit) -> None:
    path = copied.folder / "scores.parquet"
    flip(path, path.stat().st_size // 2)
    assert broken_files(copied.folder) == [path.name]
