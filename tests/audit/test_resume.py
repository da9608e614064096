"""A full disk, kills and lost machines: the same command goes on and ends with the same scores."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from clipmem_core.auditing.folder.store import Audit, broken_files, file_sha256
from clipmem_core.auditing.run import executor
from clipmem_core.auditing.run.executor import Task, ray_tasks, run_on_worker
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.cli import main
from clipmem_core.utils.io import InputError
from tests.audit.small import PAPER, Silent, config_of, run_script, with_drawn_set
from tests.audit.test_jobs import until
from tests.audit.test_locked import KILLS, MANY_WRONG, flags
from tests.forked import Server

TRAINED = [*PAPER, "--scenes-pairs", "220", "--epochs", "3"]
# A file of more than 2 MB, the state of a word model, cannot be written. The detector of languages
# unpacks its model into an unnamed file before.
FULL = """
import resource
from clipmem_core.dataset.languages import language_of
language_of("a dog")
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, -1))
"""
MOMENTS = (
    "os.rename:/keys.parquet",  # features are in the index, and their keys are not written yet
    "",  # the disk is full
    "os.rename:words/0.pt",  # a word model is trained, and its predictions are not saved yet
    "os.rename:r0-f1/text.faiss",  # the member is trained, and not embedded yet
    "os.rename:a/membership.parquet",  # a replicate is about to be added
    "os.rename:second/csls_out.npy",  # a member is trained again
)
GROWTH = 4  # the first moment of a run with more members and a second round
# Members save their state at every step; one that is about to save a third state waits.
HOLD = """
import sys, time
from clipmem_core.training import trainer
saved = []

def wait(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("resume.pt"):
        saved.append(arguments)
        time.sleep(600 if len(saved) > 2 else 0)

sys.addaudithook(wait)
trainer.SECONDS_BETWEEN_SAVES = 0
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """An audit of trained encoders that nothing stops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(tmp_path_factory.mktemp("whole")))
        return run_audit("scenes", config_of(TRAINED), name="a", screen=Silent())


def same(audit: Audit, whole: Audit) -> None:
    """Compare everything an audit ended with to one that nothing stopped."""
    assert broken_files(audit.folder) == []
    assert audit.files.keys() == whole.files.keys()
    for table in ("pairs", "membership", "scores", "utility", "quarantine"):
        pd.testing.assert_frame_equal(getattr(audit, table), getattr(whole, table), atol=1e-6)


def test_a_full_disk_and_kills_at_every_stage_change_no_score(
    two_rounds: Audit, start: str, tmp_path: Path, forks: Server
) -> None:
    data = with_drawn_set(tmp_path / "data", two_rounds.folder.parents[1])
    command = ["audit", "scenes", "--name", "a", *flags(start, *MANY_WRONG)]
    for number, moment in enumerate(MOMENTS):
        more = ["--members", "2"] if number < GROWTH else ["--rounds", "2"]
        before = KILLS if moment else FULL
        process = forks.start(*command, *more, data=data, before=before, KILL_AT=moment)
        errors = process.communicate()[1]
        if moment:  # the command itself is killed, or one of its members
            assert process.returncode in (-signal.SIGKILL, 1), (moment, errors)
        else:
            assert process.returncode == 2
            (line,) = errors.splitlines()
            assert "/words/" in line
            assert "raise the limit (ulimit -f), and the same command resumes it" in line
    process = forks.start(*command, *more, data=data)
    assert process.communicate()[1] == ""
    same(Audit(data / "audits" / "a"), two_rounds)
    assert not list(data.glob("audits/a/members/*/second/*.pt"))


def test_members_end_with_a_killed_run_which_resumes(
    whole: Audit, tmp_path: Path, forks: Server
) -> None:
    data = with_drawn_set(tmp_path / "data", whole.folder.parents[1])
    command = ["audit", "scenes", "--name", "a", *TRAINED]
    process = forks.start(*command, data=data, before=HOLD)
    members = data / "audits" / "a" / "members"
    until(lambda: len(list(members.glob("*/resume.pt"))) == 2 or process.poll() is not None)
    children = psutil.Process(process.pid).children()
    assert len(children) >= 2
    process.kill()
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if is_alive(child)]
    process = forks.start(*command, data=data)
    assert process.communicate()[1] == ""
    same(Audit(data / "audits" / "a"), whole)


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_finished_audit_is_left_alone(whole: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(whole.folder.parents[1]))
    files = [path for path in whole.folder.rglob("*") if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, file_sha256(path)) for path in files}
    assert main(["audit", "scenes", "--name", "a", *TRAINED]) == 0
    assert {path: (path.stat().st_mtime_ns, file_sha256(path)) for path in files} == before


@pytest.fixture
def machines() -> Iterator[Any]:
    """A cluster of Ray that RAY_ADDRESS names: a head without cores, and machines of a core each,
    all of them processes here."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in executor.QUIET.items():
            patch.setenv(name, value)
        head = {"num_cpus": 0, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.nodes = [cluster.add_node(num_cpus=1, include_dashboard=False) for _ in range(2)]
        patch.setenv(executor.ADDRESS, cluster.address)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def lose_one(machines: Any) -> None:
    """Kill the machine whose worker runs a member, once there is one."""
    running: list[psutil.Process] = []

    def found() -> bool:
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [""])[0] == "ray::member":
                running.append(process)
        return bool(running)

    until(found, seconds=600, pause=0.1)
    parents = {process.pid for process in running[0].parents()}
    for machine in list(machines.nodes):
        if parents & {kind[0].process.pid for kind in machine.all_processes.values()}:
            machines.remove_node(machine, allow_graceful=False)
            machines.nodes.remove(machine)


def test_a_cluster_that_loses_a_machine_ends_with_the_same_scores(
    machines: Any, whole: Audit, data: Path
) -> None:
    with_drawn_set(data, whole.folder.parents[1])
    losing = threading.Thread(target=lose_one, args=(machines,))
    losing.start()
    config = config_of(TRAINED)
    audit = run_audit("scenes", config, name="a", screen=Silent(), executor=ray_tasks)
    losing.join()
    assert len(machines.nodes) == 1
    same(audit, whole)


def test_a_worker_without_the_folder_says_so(tmp_path: Path) -> None:
    task = Task((tmp_path / "gone",), run_script, tmp_path, (), threads=1)
    with pytest.raises(InputError, match="gone"):
        run_on_worker(task)
