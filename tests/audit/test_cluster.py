"""Tasks on a real cluster of Ray: a head without cores, and machines of a core each, all of them
processes here."""

import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from clipmem_core.audit import ray_executor
from clipmem_core.audit.executor import Task
from clipmem_core.audit.pipeline import run_audit
from clipmem_core.audit.ray_executor import ray_tasks, run_on_worker, versions
from clipmem_core.io import InputError
from clipmem_core.training.model import build_model
from tests.audit.small import Silent, config_of
from tests.audit.test_jobs import until
from tests.audit.test_locked import flags
from tests.audit.test_resume import same

ray = pytest.importorskip("ray")

SAID = 'print(\'{"error": "model is too small"}\', file=sys.stderr); sys.exit(2)'


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster that RAY_ADDRESS names."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_executor.QUIET.items():
            patch.setenv(name, value)
        found = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        found.nodes = [found.add_node(num_cpus=1, include_dashboard=False) for _ in range(2)]
        patch.setenv(ray_executor.ADDRESS, found.address)
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def tasks(tmp_path: Path) -> Callable[..., list[Task]]:
    """Scripts as tasks of one member each."""

    def tasks(**scripts: str) -> list[Task]:
        found = []
        for name, script in scripts.items():
            folder = tmp_path / "members" / name
            folder.mkdir(parents=True)
            found.append(
                Task(
                    (folder,),
                    (sys.executable, "-S", "-c", f"import sys; {script}"),
                    (str(folder),),
                    threads=1,
                )
            )
        return found

    return tasks


def test_what_a_member_says_is_passed_on(machines: Any, tasks: Callable[..., list[Task]]) -> None:
    with pytest.raises(InputError, match="^model is too small$"):
        list(ray_tasks(tasks(a=SAID)))
    with pytest.raises(RuntimeError, match="member b failed: ZeroDivisionError"):
        list(ray_tasks(tasks(b="1 / 0")))


def process_of(module: str, data: Path) -> psutil.Process:
    """Return the process of a task in a data folder once there is one."""
    running: list[psutil.Process] = []

    def started() -> bool:
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if module in command and command[command.index(module) + 1].startswith(str(data)):
                running.append(process)
        return bool(running)

    until(started, seconds=600)
    return running[0]


def lose_twice(machines: Any, data: Path) -> None:
    """Kill the worker of a shard of features, and the machine of a member that is being trained."""
    process_of("clipmem_core.features.embed:run_shards", data).parent().kill()
    member = process_of("clipmem_core.audit.member:run_members", data)
    above = {one.pid for one in member.parents()}
    name = member.cmdline()[5]
    log = data / "audits" / "a" / "members" / name / "log.jsonl"
    until(lambda: log.is_file() and log.read_text(), seconds=600)
    lost = next(
        one
        for one in machines.nodes
        if above & {kind[0].process.pid for kind in one.all_processes.values()}
    )
    machines.nodes.remove(lost)
    machines.remove_node(lost, allow_graceful=False)


def test_an_audit_whose_worker_and_machine_are_lost_ends_as_one_that_ran_here(
    machines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(build_model("tiny", loss="clip", seed=5).state_dict(), tmp_path / "tiny.pt")
    config = config_of(flags(str(tmp_path / "tiny.pt"), "--members", "8", "--epochs", "20"))
    found = []
    for name, executor in {"here": None, "there": ray_tasks}.items():
        monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / name))
        losing = threading.Thread(target=lose_twice, args=(machines, tmp_path / name))
        if executor:
            losing.start()
        found.append(run_audit("scenes", config, name="a", screen=Silent(), executor=executor))
    losing.join()
    assert len(machines.nodes) == 1
    machines.nodes.append(machines.add_node(num_cpus=1, include_dashboard=False))
    same(*found)


def test_a_worker_with_other_code_or_without_the_folder_says_so(tmp_path: Path) -> None:
    task = Task((tmp_path / "gone",), (sys.executable, "-c", ""), (), threads=1)
    assert re.search(
        rf"does not see {task.folders[0]}: .* share the data folder",
        str(run_on_worker(task, versions())),
    )
    said = str(run_on_worker(task, versions() | {"code": "1.0"}))
    assert re.search(r"has code \S+ and not 1\.0: install the same on all machines", said)
