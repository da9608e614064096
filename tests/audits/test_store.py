import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from clipmem_core.audits import store
from clipmem_core.audits.record import VERSION
from clipmem_core.audits.store import (
    Audit,
    broken_files,
    check_name,
    list_audits,
    open_audit,
    read_json,
    read_table,
    reopen,
    replacing,
    write_json,
    write_manifest,
    write_prepared,
    write_table,
)
from clipmem_core.config import InputError
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


def test_json_takes_no_number_that_json_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert os.listdir(tmp_path) == []
    write_prepared(tmp_path, cache_rows=np.array([4, 2]), clusters=np.array([0, 0]))
    stored = np.load(tmp_path / store.PREPARED)
    assert (stored["cache_rows"].tolist(), stored["clusters"].tolist()) == ([4, 2], [0, 0])


def test_a_column_without_values_is_one_of_text(tmp_path: Path) -> None:
    table = pd.DataFrame({"label": [None, None], "planted": ["vague", None], "value": [1.5, np.nan]})
    write_table(tmp_path / "a.parquet", table)
    assert str(pq.read_schema(tmp_path / "a.parquet").field("label").type) == "string"
    read = read_table(tmp_path / "a.parquet")
    assert read["label"].isna().all()
    assert (read["planted"] == "vague").to_numpy().tolist() == [True, False]
    assert pq.read_table(tmp_path / "a.parquet")["value"].null_count == 1


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


@pytest.mark.parametrize("name", ["a" * 101, "画" * 34])
def test_long_names_are_refused_by_their_bytes(name: str) -> None:
    with pytest.raises(InputError, match="must be at most 100 bytes long, not 10"):
        check_name(name)


@pytest.mark.parametrize("name", ["scenes", "Fotos_2024.v2", "日本", "a" * 100, "3-fold"])
def test_other_names_are_taken_as_they_are(name: str) -> None:
    assert check_name(name) == name


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


def test_audits_are_listed_the_newest_first(data: Path) -> None:
    assert list_audits() == []
    for second, name in enumerate(["one", "two", "three"]):
        (data / "audits" / name).mkdir(parents=True)
        write_json(data / "audits" / name / "config.json", {})
        os.utime(data / "audits" / name / "config.json", (second, second))
    (data / "audits" / "no-audit").mkdir()
    assert [audit.name for audit in list_audits()] == ["three", "two", "one"]


def test_a_finished_audit_is_whole(made: Made) -> None:
    assert broken_files(made.paper.folder) == []
    assert broken_files(made.ensemble.folder) == []
