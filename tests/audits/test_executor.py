import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clipmem_core.audits.members import run_members

from clipmem_core.audits import members
from clipmem_core.audits.progress import MemberProgress
from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError

# What a member process does, in place of training.
FINISH = "open(f'{sys.argv[1]}/members/{sys.argv[2]}/text.faiss', 'w')"
WAIT = "import time; time.sleep(60)"


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    for name in ("a", "b", "c"):
        (tmp_path / "members" / name).mkdir(parents=True)
    return Audit(tmp_path)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Each member's script; the processes are real."""
    chosen: dict[str, str] = {}
    start = subprocess.Popen

    def popen(command: list[str], **options: object) -> "subprocess.Popen[bytes]":
        folder, name = command[-2:]
        return start([sys.executable, "-S", "-c", f"import sys, os; {chosen[name]}", folder, name], **options)

    monkeypatch.setattr(members.subprocess, "Popen", popen)
    return chosen


def stages(seen: list[list[MemberProgress]]) -> list[str]:
    return [member.stage for member in seen[-1]]


def test_every_member_is_brought_to_its_end(audit: Audit, scripts: dict[str, str]) -> None:
    scripts |= dict.fromkeys("abc", FINISH)
    seen: list[list[MemberProgress]] = []
    run_members(audit, ["a", "b", "c"], threads=1, at_once=2, watch=seen.append)
    assert stages(seen) == ["done"] * 3


def test_finished_members_are_not_started(audit: Audit, scripts: dict[str, str]) -> None:
    scripts["b"] = FINISH
    for name in "ac":
        (audit.member(name) / "text.faiss").write_text("")
    run_members(audit, ["a", "b", "c"], threads=1, at_once=2, watch=lambda _: None)


def test_no_more_members_run_at_once_than_asked(audit: Audit, scripts: dict[str, str], tmp_path: Path) -> None:
    alone = f"os.mkdir('{tmp_path}/busy'); import time; time.sleep(.1); os.rmdir('{tmp_path}/busy'); "
    scripts |= dict.fromkeys("abc", alone + FINISH)
    run_members(audit, ["a", "b", "c"], threads=1, at_once=1, watch=lambda _: None)


def test_a_members_threads_are_told_to_every_library(audit: Audit, scripts: dict[str, str]) -> None:
    scripts["a"] = f"assert os.environ['OMP_NUM_THREADS'] == os.environ['MKL_NUM_THREADS'] == '3'; {FINISH}"
    run_members(audit, ["a"], threads=3, at_once=1, watch=lambda _: None)


def test_what_a_person_got_wrong_comes_through_as_it_is(audit: Audit, scripts: dict[str, str]) -> None:
    said = (
        'print("a warning", file=sys.stderr); print(\'{"error": "model is too small"}\', file=sys.stderr); sys.exit(2)'
    )
    scripts |= {"a": said, "b": WAIT}
    with pytest.raises(InputError, match="^model is too small$"):
        run_members(audit, ["a", "b"], threads=1, at_once=2, watch=lambda _: None)


def test_a_member_that_fails_names_its_log_and_takes_the_others_along(
    audit: Audit, scripts: dict[str, str], tmp_path: Path
) -> None:
    scripts |= {
        "a": "raise ZeroDivisionError('oh')",
        "b": f"open('{tmp_path}/pid', 'w').write(str(os.getpid())); {WAIT}",
    }
    with pytest.raises(RuntimeError, match=r"member a failed: ZeroDivisionError: oh; its output is in .*a/\.stderr"):
        run_members(audit, ["a", "b"], threads=1, at_once=2, watch=lambda _: None)
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_member_that_is_killed_says_by_what(audit: Audit, scripts: dict[str, str]) -> None:
    scripts["a"] = f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
    with pytest.raises(RuntimeError, match="member a was ended by signal 9; .* the same command goes on"):
        run_members(audit, ["a"], threads=1, at_once=1, watch=lambda _: None)
