import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from clipmem_core.audit.executor import Task, TaskEvents, local_processes
from clipmem_core.audit.member import run_members
from clipmem_core.audit.status import MemberProgress
from clipmem_core.audit.store import Audit
from clipmem_core.io import InputError
from tests.audit.small import run_script


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    for name in ("a", "b", "c"):
        (tmp_path / "members" / name).mkdir(parents=True)
    return Audit(tmp_path)


def run(audit: Audit, **scripts: str) -> None:
    """Run scripts as tasks, each in its own process."""
    tasks = []
    for name, script in scripts.items():
        folder = audit.member(name)
        tasks.append(Task((folder,), run_script, folder, (f"import os; {script}",), threads=1))
    list(local_processes(tasks, at_once=2))


def test_members_that_are_not_finished_become_tasks(audit: Audit) -> None:
    asked: list[Task] = []

    def here(tasks: Sequence[Task]) -> TaskEvents:
        asked.extend(tasks)
        for task in tasks:
            yield None
            (task.folders[0] / "text.faiss").write_text("made")
            yield task

    (audit.member("b") / "text.faiss").write_text("")
    seen: list[list[MemberProgress]] = []
    run_members(audit, ["a", "b", "c"], threads=3, blocks=0, executor=here, watch=seen.append)
    assert [(task.folders, task.names, task.threads) for task in asked] == [
        ((audit.member(name),), (name,), 3) for name in "ac"
    ]
    stages = [[member.stage for member in look] for look in (seen[0], seen[-1])]
    assert stages == [["waiting", "finished", "waiting"], ["finished"] * 3]


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        (
            "from clipmem_core.io import InputError; raise InputError('model is too small')",
            InputError,
            "^model is too small$",
        ),
        (
            "raise ZeroDivisionError('oh')",
            RuntimeError,
            "member a failed: ZeroDivisionError: oh; the same command",
        ),
        (
            f"os.kill(os.getpid(), {int(signal.SIGKILL)})",
            RuntimeError,
            "ended by signal 9; .* same command resumes it",
        ),
    ],
)
def test_a_member_that_fails_says_why_and_stops_the_others(
    audit: Audit, tmp_path: Path, script: str, error: type[Exception], message: str
) -> None:
    beside = f"open('{tmp_path}/pid', 'w').write(str(os.getpid())); import time; time.sleep(60)"
    with pytest.raises(error, match=message):
        run(audit, a=script, b=beside)
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
