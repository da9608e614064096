"""A file is on the disk before it counts, and a damaged one is found."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from clipmem_core.io import replacing, save_array, shortage, write_once


def test_a_disk_that_fails_leaves_the_old_file_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with (
        pytest.raises(OSError, match=r"Input/output error: '.*a\.txt'"),
        replacing(tmp_path / "a.txt") as temporary,
    ):
        temporary.write_text("new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_an_array_that_does_not_fit_on_the_disk_is_a_shortage(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"a\.npy") as caught:
            save_array(np.zeros(1_000), tmp_path / "a.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert shortage(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_cached_file_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "key" / "a.txt"
    for text in ("first", "second"):
        write_once(path, lambda file, text=text: file.write_text(text))
    assert path.read_text() == "first"
