"""Who works in a folder: one process of this machine, or of another, whose locks this one does not see."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clipmem_core.audits import lock
from clipmem_core.audits.lock import hold, is_held
from clipmem_core.config import InputError

SECONDS = 2.0  # of a lease here
# Holds the folder until it is told to end. `elsewhere` makes it one of a machine of another name that sees no locks of
# this one.
HOLDS = """
import platform, signal, socket, sys
from pathlib import Path
from clipmem_core.audits import lock
from clipmem_core.config import InputError

signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests that run in the background ignore
folder, seconds, elsewhere = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "elsewhere"
lock.LEASE = seconds
if elsewhere:
    socket.gethostname = platform.node = lambda: "other"
    own = lock.FileLock
    lock.FileLock = lambda path: own(f"{path}.other")
try:
    with lock.hold(folder, what="audit"):
        print("held", flush=True)
        while True:
            sys.stdin.readline()
except InputError as error:
    print(error, flush=True)
"""

Holder = subprocess.Popen[str]


@pytest.fixture
def holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Holder]]:
    """Start a process that holds `audit` in the test's folder."""
    monkeypatch.setattr(lock, "LEASE", SECONDS)
    started: list[Holder] = []

    def start(where: str) -> Holder:
        command = [sys.executable, "-c", HOLDS]
        asked = [*command, str(tmp_path / "audit"), str(SECONDS), where]
        how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(asked, cwd=Path(__file__).parents[2], **how))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_who_comes_second_is_told_who_the_first_is(tmp_path: Path, holder: Callable[[str], Holder], where: str) -> None:
    first = holder(where)
    host = "other" if where == "elsewhere" else os.uname().nodename
    with (
        pytest.raises(InputError, match=rf"\(process {first.pid} on {host} since \d{{4}}-.*\): wait for it, or stop"),
        hold(tmp_path / "audit", what="audit"),
    ):
        pass
    assert is_held(tmp_path / "audit")


def test_what_a_killed_process_of_this_machine_held_is_free_at_once(
    tmp_path: Path, holder: Callable[[str], Holder]
) -> None:
    first = holder("here")
    first.kill()
    first.wait()
    began = time.monotonic()
    assert not is_held(tmp_path / "audit")
    with hold(tmp_path / "audit", what="audit"):
        assert time.monotonic() - began < SECONDS / 2
    assert [path.name for path in tmp_path.iterdir()] == [".audit.lock"]


def test_a_machine_without_a_sign_of_life_loses_what_it_held_and_says_so_when_it_comes_back(
    tmp_path: Path, holder: Callable[[str], Holder], capsys: pytest.CaptureFixture[str]
) -> None:
    first = holder("elsewhere")
    first.send_signal(signal.SIGSTOP)
    with pytest.raises(InputError, match="on other since"), hold(tmp_path / "audit", what="audit"):
        pass
    time.sleep(SECONDS)
    assert not is_held(tmp_path / "audit")
    with hold(tmp_path / "audit", what="audit"):
        assert f"process {first.pid} on other since" in capsys.readouterr().err
        first.send_signal(signal.SIGCONT)
        assert first.stdout is not None
        assert "is no longer held by this process (owner-changed)" in first.stdout.readline()
        assert first.wait(10) == 0
    assert not is_held(tmp_path / "audit")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"), hold(tmp_path / "file" / "audit", what="audit"):
        pass
