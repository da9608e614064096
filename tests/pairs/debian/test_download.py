"""What apt answers becomes an archive, or one line that says what to do."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clipmem_core.config import InputError
from clipmem_core.pairs.debian import fetch as debian
from tests.pairs.debian.test_fetch import write

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb builds the packages")


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a script in front of the real apt-get."""

    def install(script: str) -> None:
        write(tmp_path / "bin/apt-get", f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin/apt-get").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    return install


def test_download_returns_the_archive_and_prints_nothing(
    tmp_path: Path, apt: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    apt("echo Get:1; echo 'W: Download is performed unsandboxed' >&2; touch stamps_1%3a2_all.deb")
    assert debian.download("stamps", tmp_path) == tmp_path / "stamps_1%3a2_all.deb"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo 'E: Unable to locate package stamps' >&2; exit 100",
            r"\(Unable to locate package stamps\).*apt-get update",
        ),
        ("echo 'E: Failed to fetch http://a/b  404  Not Found' >&2; exit 100", "404.*apt-get update"),
        (
            "echo 'E: Failed to fetch http://a/b  Unable to connect' >&2; echo >&2; exit 100",
            "Unable to connect.*network",
        ),
        ("exit 3", "no reason given"),
        ("exit 0", "no reason given"),
    ],
)
def test_a_failed_download_is_one_line_that_says_what_to_do(
    tmp_path: Path, apt: Callable[[str], None], script: str, message: str
) -> None:
    apt(script)
    with pytest.raises(InputError, match=message) as caught:
        debian.download("stamps", tmp_path)
    assert "\n" not in str(caught.value)
    assert "scenes" in str(caught.value)
