"""Real kills: whatever ends a run, and wherever, the same command goes on and ends with the same
scores."""

from pathlib import Path

import pandas as pd
import psutil
import pytest

from clipmem_core.auditing.folder.store import Audit, broken_files, file_sha256
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.cli import main
from tests.audit.small import PAPER, Silent, config_of, with_drawn_set
from tests.audit.test_jobs import until
from tests.forked import Forked, Server

SMALL = [*PAPER, "--scenes-pairs", "220", "--epochs", "3"]
# Runs in every process of an audit before anything else. Members save their state at every step; a
# process that is about to rename a file to DELETE_BEFORE deletes the audit; with HOLD, one that is
# about to save a third state waits.
STARTUP = """
import os, shutil, sys, time
from clipmem_core.training import trainer as loop

saved = []

def end(event, arguments):
    if event != "os.rename":
        return
    path = str(arguments[1])
    if "DELETE_BEFORE" in os.environ and path.endswith(os.environ["DELETE_BEFORE"]):
        folder = os.path.dirname(os.path.dirname(os.path.dirname(path)))
        while os.path.exists(folder):  # the other member may write in the meantime
            shutil.rmtree(folder, ignore_errors=True)
    if "HOLD" in os.environ and path.endswith("resume.pt"):
        saved.append(path)
        if len(saved) > 2:
            time.sleep(600)

sys.addaudithook(end)
loop.SECONDS_BETWEEN_SAVES = loop._TRAINED_TO_SAVED = 0
"""


class Runs:
    """One audit, the same as the whole one, that is run again and again."""

    def __init__(self, data: Path, forks: Server) -> None:
        self.data = data
        self.forks = forks
        self.audit = Audit(data / "audits" / "killed")

    def start(self, **environment: str) -> Forked:
        arguments = ["audit", "scenes", "--name", "killed", *SMALL]
        return self.forks.start(*arguments, data=self.data, before=STARTUP, **environment)

    def finish(self) -> None:
        process = self.start()
        printed, errors = process.communicate(timeout=300)
        assert (process.returncode, errors) == (0, ""), printed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """The audit as it is if nothing stops it."""
    data = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(data))
        return run_audit("scenes", config_of(SMALL), name="whole", screen=Silent())


@pytest.fixture
def runs(whole: Audit, tmp_path: Path, forks: Server) -> Runs:
    return Runs(with_drawn_set(tmp_path / "data", whole.folder.parents[1]), forks)


def same(audit: Audit, whole: Audit) -> None:
    """Compare everything a killed audit ended with to an uninterrupted one."""
    assert broken_files(audit.folder) == []
    assert audit.files.keys() == whole.files.keys()
    for table in ("pairs", "membership", "scores", "utility", "quarantine"):
        pd.testing.assert_frame_equal(getattr(audit, table), getattr(whole, table), atol=1e-6)


def states(runs: Runs) -> list[Path]:
    return [path for path in runs.audit.folder.glob("members/*/resume.pt") if path.stat().st_size]


def children(process: Forked) -> list[psutil.Process]:
    """Return the members that a run trains now; beside them is the resource tracker of
    multiprocessing."""
    found = psutil.Process(process.pid).children()
    return [child for child in found if "resource_tracker" not in " ".join(child.cmdline())]


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_members_end_with_a_killed_run_which_resumes(runs: Runs, whole: Audit) -> None:
    process = runs.start(HOLD="yes")
    until(lambda: len(states(runs)) == 2 or process.poll() is not None, seconds=120)
    assert process.poll() is None, process.communicate()
    members = children(process)
    assert len(members) == 2
    process.kill()
    until(lambda: not any(map(is_alive, members)), seconds=10)
    runs.finish()
    same(runs.audit, whole)


def test_a_finished_audit_is_left_alone(whole: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(whole.folder.parents[1]))
    files = [path for path in whole.folder.rglob("*") if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, file_sha256(path)) for path in files}
    assert main(["audit", "scenes", "--name", "whole", *SMALL]) == 0
    assert {path: (path.stat().st_mtime_ns, file_sha256(path)) for path in files} == before
