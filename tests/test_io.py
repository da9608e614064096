"""A file is on the disk before it counts, and one process at a time replaces a folder."""

import errno
import os
import resource
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import numpy as np
import pytest

from clipmem_core.utils.io import (
    InputError,
    replacing,
    replacing_folder,
    save_array,
    shortage,
    write_once,
)


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


HOLD = """
import sys
from pathlib import Path
from clipmem_core.utils.io import replacing_folder
with replacing_folder(Path(sys.argv[1])) as new:
    (new / "first").touch()
    print(flush=True)
    input()
    (new / "second").touch()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_process_replaces_a_folder_once_the_first_has_ended(
    tmp_path: Path, killed: bool
) -> None:
    out = tmp_path / "out"
    root = Path(__file__).parents[1]
    with Popen([sys.executable, "-c", HOLD, out], stdin=PIPE, stdout=PIPE, cwd=root) as first:
        assert first.stdout.readline()
        with pytest.raises(InputError, match=str(out)), replacing_folder(out):
            pass
        if killed:
            first.kill()
        first.communicate(b"\n")
    assert len(list(out.glob("*"))) == (0 if killed else 2)
    with replacing_folder(out) as new:
        (new / "third").touch()
    assert [path.name for path in out.iterdir()] == ["third"]
