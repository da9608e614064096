"""What is written is on the disk before it counts, and what is no longer what was written is told."""

import errno
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.atomic import cached, read_through, replacing, whole_archive
from clipmem_core.files import read_json


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_its_name_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace, fsync = Path.replace, os.fsync

    def synced(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def named(self: Path, target: Path) -> Path:
        done.append(f"rename {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", named)
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("content")
    assert done == [f"sync {temporary.name}", "rename a.txt", f"sync {tmp_path.name}"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_disk_that_fails_when_the_file_is_flushed_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"Input/output error: '.*a\.txt'"), replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_what_is_cached_is_made_once_and_again_where_it_is_broken(tmp_path: Path) -> None:
    path, said = tmp_path / "key" / "a.txt", list[str]()

    def have(content: str) -> bool:
        whole = path.is_file() and path.read_text() != "broken"
        return cached(path, lambda file: file.write_text(content), whole=lambda _: whole, broken=said.append)

    assert have("first")
    assert not have("second")
    assert (path.read_text(), said) == ("first", [])
    path.write_text("broken")
    assert have("third")
    assert path.read_text() == "third"
    assert str(path) in said[0]
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_what_cannot_be_made_is_not_cached(tmp_path: Path) -> None:
    def fail(file: Path) -> None:
        file.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "a.txt", fail, whole=Path.is_file)
    assert not list(tmp_path.iterdir())


def archives() -> dict[str, bytes]:
    arrays, state = io.BytesIO(), io.BytesIO()
    np.savez(arrays, tokens=np.arange(60, dtype=np.int32))
    torch.save({"weight": torch.arange(60.0), "step": 3}, state)
    return {"npz": arrays.getvalue(), "pt": state.getvalue()}


ARCHIVES = archives()


def test_archives_of_numpy_and_torch_are_whole_until_they_are_cut(tmp_path: Path) -> None:
    assert not whole_archive(tmp_path / "absent")
    for name, content in ARCHIVES.items():
        (tmp_path / name).write_bytes(content)
        assert whole_archive(tmp_path / name)
        for length in (0, 1, len(content) // 2, len(content) - 1):
            (tmp_path / name).write_bytes(content[:length])
            assert not whole_archive(tmp_path / name)


@given(st.sampled_from(sorted(ARCHIVES)), st.data())
def test_an_archive_with_a_changed_byte_is_broken_or_cannot_be_read_or_says_the_same(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray(ARCHIVES[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / f"changed.{name}"
    path.write_bytes(content)
    if not whole_archive(path):
        return
    try:
        found = np.load(path)["tokens"] if name == "npz" else torch.load(path, weights_only=True)["weight"].numpy()
    except (RuntimeError, ValueError, KeyError, OSError, zipfile.BadZipFile, pickle.UnpicklingError):
        return
    assert found.tolist() == list(range(60))


def test_a_shortage_says_nothing_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr(Path, "read_bytes", short)
    with pytest.raises(OSError, match="Too many open files"):
        read_json(tmp_path / "a.json")


def test_what_is_cached_is_made_once_and_again_where_it_cannot_be_read(tmp_path: Path) -> None:
    path, made, said = tmp_path / "cache" / "a.txt", [], []

    def make(temporary: Path) -> None:
        made.append(temporary.write_text("whole"))

    def read(path: Path) -> str | None:
        return path.read_text() if path.is_file() and path.read_text() == "whole" else None

    for _ in range(2):
        assert read_through(path, make, read, broken=said.append) == "whole"
    path.write_text("who")
    assert read_through(path, make, read, broken=said.append) == "whole"
    assert len(made) == 2
    assert said == [f"{path} is broken: making it again"]
