"""Exports to a bucket in memory."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from clipmem_core.commands import main
from clipmem_core.config import SourceOptions
from clipmem_core.exports import write
from clipmem_core.pairs.table import read_source
from tests.exports.sources import audited, make_source
from tests.made_fixtures import Copy


@pytest.fixture
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/bucket", recursive=True)


def export(name: str, format: str, url: str, *more: str) -> int:
    return main(["export", name, "--format", format, "--out", url, *more])


def test_a_file_at_a_url_is_the_file_of_a_path(
    copy: Copy, tmp_path: Path, bucket: fsspec.AbstractFileSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = copy()
    write(audit, "wds", tmp_path / "keys.txt")
    assert export(audit.name, "wds", "memory://bucket/out/keys.txt") == 0
    assert bucket.cat_file("/bucket/out/keys.txt") == (tmp_path / "keys.txt").read_bytes()
    assert "memory://bucket/out/keys.txt: " in capsys.readouterr().out
    assert export(audit.name, "wds", "memory://bucket/out/keys.txt") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("is there already: take another --out, or replace it with --overwrite")
    assert export(audit.name, "wds", "memory://bucket/out/keys.txt", "--overwrite") == 0


def test_a_folder_at_a_url_is_a_data_set(
    data: Path, tmp_path: Path, bucket: fsspec.AbstractFileSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = audited(make_source("tar", tmp_path / "set"))
    assert export(audit.name, "imagefolder", "memory://bucket/set") == 0
    assert "audit memory://bucket/set" in " ".join(capsys.readouterr().out.split())
    found = read_source("memory://bucket/set", SourceOptions(), data=tmp_path)
    assert sorted(found.pairs["pair_id"]) == sorted(audit.pairs["pair_id"])
    assert export(audit.name, "imagefolder", "memory://bucket/set", "--overwrite") == 2


@pytest.mark.parametrize(
    ("format", "url", "said"),
    [
        ("csv", "memory://bucket/a.csv", "names pictures by their paths on this machine"),
        ("wds", "nosuch://bucket/keys.txt", "nosuch://bucket/keys.txt cannot be reached: Protocol not known"),
    ],
)
def test_what_cannot_be_written_at_a_url_is_one_line(
    copy: Copy, format: str, url: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(copy().name, format, url) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
