"""A file is on the disk before it counts, and a damaged one is found."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from clipmem_core.io import cached, is_complete_archive, read_through, replacing


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace = Path.replace

    def synced(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"rename {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("content")
    assert done == [f"sync {temporary.name}", "rename a.txt", f"sync {tmp_path.name}"]


def test_a_disk_that_fails_leaves_the_old_file_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"Input/output error: '.*a\.txt'"), replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_cached_file_is_made_once_and_again_if_it_is_broken(tmp_path: Path) -> None:
    path, said = tmp_path / "key" / "a.txt", list[str]()

    def whole(path: Path) -> bool:
        return path.is_file() and path.read_text() == "whole"

    def make(file: Path) -> None:
        file.write_text("whole")

    assert [cached(path, make, whole=whole, broken=said.append) for _ in range(2)] == [True, False]
    path.write_text("who")
    assert cached(path, make, whole=whole, broken=said.append)
    assert str(path) in said[0]
    path.unlink()
    assert read_through(path, make, lambda path: path.read_text() if whole(path) else None) == "whole"


def test_a_cut_archive_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    assert not is_complete_archive(path)
    np.savez(path, tokens=np.arange(60))
    assert is_complete_archive(path)
    content = path.read_bytes()
    for length in (0, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert not is_complete_archive(path)
