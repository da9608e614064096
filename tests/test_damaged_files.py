"""Damaged files of an audit: every command works or says one line, and nothing outside the data folder changes."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.audits import run as audit_run
from clipmem_core.audits.run import run_audit
from clipmem_core.audits.status import list_states
from clipmem_core.audits.store import open_audit
from clipmem_core.commands import main
from clipmem_core.config import InputError
from clipmem_core.review.overview import load_overview
from tests.audits.small import Silent, config_of

FLAGS = [
    *("--preset", "tiny", "--scenes-pairs", "200", "--epochs", "1", "--members", "2", "--batch-size", "32"),
    *("--plant-miscaptions", "4", "--threads", "1"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    data = tmp_path_factory.mktemp("damaged") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(data))
        run_audit("scenes", config_of(FLAGS), name="a", screen=Silent())
        # No member is trained again
        patch.setattr(audit_run, "local_processes", lambda *_, **__: (None for _ in range(1)))
        yield data


@pytest.fixture
def copy(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Return a function that restores the data folder by hard links."""
    data = tmp_path / "data"
    monkeypatch.setenv("CLIPMEM_DATA", str(data))

    def restore() -> Path:
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(whole, data, copy_function=os.link)
        return data

    return restore


def commands(data: Path) -> list[Callable[[], Any]]:
    return [
        lambda: main(["audit", "scenes", *FLAGS, "--name", "a"]),
        lambda: main(["export", "a", "--format", "csv", "--out", str(data / "out.csv"), "--overwrite"]),
        lambda: main(["results", "a", str(data / "out.csv")]),
        lambda: (load_overview(open_audit("a")), list_states()),
    ]


def check(action: Callable[[], Any], damage: str) -> None:
    """Run a command or a page's loader: it ends well or with one line."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = action()
    except InputError as error:
        code, lines = 2, [str(error)]
    else:
        lines = err.getvalue().splitlines()
    if isinstance(code, int):
        assert code in (0, 2), (damage, code, lines)
        assert code == 0 or (len(lines) == 1 and len(lines[0]) < 800), (damage, lines)


def replace(path: Path, content: bytes) -> None:
    path.unlink()  # the hard link
    path.write_bytes(content)


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 100_000, b"\xff\xfe", b'{"a": "\\ud800"}'])
def test_a_file_that_is_no_json_is_one_line(content: bytes, copy: Callable[[], Path]) -> None:
    for name in ("config.json", "manifest.json", "members/r0-f0/config.json"):
        data = copy()
        replace(data / "audits/a" / name, content)
        for number, action in reversed(list(enumerate(commands(data)))):
            check(action, f"{name} {content[:20]!r} action {number}")
