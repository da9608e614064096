"""Tasks on a real cluster of Ray: a head without cores, and machines of a core each, all of them
processes here."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from clipmem_core.auditing.run import executor
from clipmem_core.auditing.run.executor import Task, ray_tasks, run_on_worker
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.training.model import build_model
from clipmem_core.utils.io import InputError
from tests.audit.small import Silent, config_of, run_script
from tests.audit.test_jobs import until
from tests.audit.test_locked import flags
from tests.audit.test_resume import same


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster that RAY_ADDRESS names."""
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


def process_of(task: str) -> psutil.Process:
    """Return the worker that runs a function once there is one."""
    running: list[psutil.Process] = []

    def started() -> bool:
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [""])[0] == f"ray::{task}":
                running.append(process)
        return bool(running)

    until(started, seconds=600, pause=0.3)
    return running[0]


def lose_twice(machines: Any, data: Path) -> None:
    """Kill the worker of features, and the machine of a member that is being trained."""
    process_of("features of").kill()
    parents = {process.pid for process in process_of("member").parents()}
    logs = (data / "audits" / "a" / "members").glob
    until(lambda: any(log.read_text() for log in logs("*/log.jsonl")), seconds=600, pause=0.1)
    for machine in list(machines.nodes):
        if parents & {kind[0].process.pid for kind in machine.all_processes.values()}:
            machines.remove_node(machine, allow_graceful=False)
            machines.nodes.remove(machine)


def test_an_audit_that_loses_a_worker_and_a_machine_has_the_scores_of_one_that_ran_here(
    machines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(build_model("tiny", loss="clip", seed=5).state_dict(), tmp_path / "tiny.pt")
    config = config_of(flags(str(tmp_path / "tiny.pt"), "--members", "2", "--epochs", "12"))
    audits = []
    for name, engine in {"here": None, "there": ray_tasks}.items():
        monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / name))
        if engine:
            losing = threading.Thread(target=lose_twice, args=(machines, tmp_path / name))
            losing.start()
        audits.append(run_audit("scenes", config, name="a", screen=Silent(), executor=engine))
    losing.join()
    assert len(machines.nodes) == 1
    same(*audits)


def test_a_worker_without_the_folder_says_so(tmp_path: Path) -> None:
    task = Task((tmp_path / "gone",), run_script, tmp_path, (), threads=1)
    with pytest.raises(InputError, match="gone"):
        run_on_worker(task)
