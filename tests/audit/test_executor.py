import os
import signal
from pathlib import Path

import pytest

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.executor import Task, local_processes
from clipmem_core.utils.io import InputError
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


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        (
            "from clipmem_core.utils.io import InputError; raise InputError('model is too small')",
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
    written = tmp_path / "pid"  # perhaps not to its end
    if written.exists() and (pid := written.read_text()):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
