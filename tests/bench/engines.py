"""The engine ray beside local: what a task costs on top, and what two workers make of two cores.

Tasks that do nothing tell what starting one costs. Then one audit of the drawn set, encoders from scratch, is run by
local processes, on one core and on two, and by Ray on a cluster of one worker and of two, each a node of one core
beside a head without any, all on this machine. Seconds of members are those that the audit itself counts; the
efficiency of two is half of how much sooner than one they are done. One local process shares its core with the audit
that started it; one worker of Ray has the other core free beside it for all that Ray does.
"""

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from clipmem_core.audits.cluster import ADDRESS, QUIET, ray_tasks
from clipmem_core.audits.executor import Looks, Task, local_processes
from clipmem_core.audits.store import Audit
from clipmem_core.config import DATA_VARIABLE, data_folder
from clipmem_core.pairs.workers import cores
from tests.bench.report import Measure, Measures, Skipped, console

ENGINES = ("local", "ray")
WORKERS = 2
TASKS, QUICK_TASKS = 20, 4
NOTHING = (sys.executable, "-S", "-c", "")
FLAGS = ("--preset", "tiny", "--threads", "1")


def measure(quick: bool, repeats: int) -> Measures:
    """Run all once; `repeats` changes nothing."""
    try:
        import ray  # noqa: F401
    except ImportError:
        raise Skipped("Ray is not installed: pip install 'ray>=2.40'") from None
    if cores() < WORKERS:
        raise Skipped(f"{WORKERS} cores are needed, and there are {cores()}")
    data_folder().mkdir(parents=True, exist_ok=True)
    seconds: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=data_folder().resolve()) as temporary:
        home, count = Path(temporary), QUICK_TASKS if quick else TASKS
        local = _a_task(home, count, lambda tasks: local_processes(tasks, at_once=WORKERS))
        for workers in range(1, WORKERS + 1):
            seconds[f"local, {workers}"] = _audit(home / f"local-{workers}", "local", quick=quick, only=workers)
        for workers in range(1, WORKERS + 1):
            with _cluster(workers):
                if workers == WORKERS:
                    remote = _a_task(home, count, ray_tasks)
                seconds[f"ray, {workers}"] = _audit(home / f"ray-{workers}", "ray", quick=quick)
    one, several = ({engine: seconds[f"{engine}, {count}"][0] for engine in ENGINES} for count in (1, WORKERS))
    efficiency = {engine: one[engine] / several[engine] / WORKERS for engine in ENGINES}
    return [
        Measure("local: a task that does nothing (ms)", 1000 * local),
        Measure("ray: a task that does nothing (ms)", 1000 * remote),
        *(Measure(f"{engine}: members (s)", members) for engine, (members, _) in seconds.items()),
        *(Measure(f"{engine}: the whole command (s)", whole) for engine, (_, whole) in seconds.items()),
        Measure(f"local: efficiency of {WORKERS} processes beside 1", ratio=efficiency["local"]),
        Measure(f"ray: efficiency of {WORKERS} workers beside 1", ratio=efficiency["ray"], target="at least 0.9"),
        Measure(f"local / ray with {WORKERS}, members", ratio=several["local"] / several["ray"], target="≥ 0.9"),
    ]


def _a_task(home: Path, count: int, executor: Callable[[Sequence[Task]], Looks]) -> float:
    """Return the seconds of a task that does nothing, from the end of the first on: what came before is starting."""
    folders = [home / "tasks" / f"{number:02d}" for number in range(count + 1)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    tasks = [Task((folder,), NOTHING, (folder.name,), threads=1) for folder in folders]
    ended = []
    with closing(executor(tasks)) as looks:
        ended = [time.perf_counter() for task in looks if task is not None]
    return (ended[-1] - ended[0]) / count


def _audit(data: Path, engine: str, *, quick: bool, only: int = 0) -> tuple[float, float]:
    """Return the seconds of an audit's members, and of the whole command; on so many of the cores, 0: on all."""
    command = [sys.executable, "-m", "clipmem_core", "audit", "scenes", "--name", "bench", "--engine", engine, *FLAGS]
    sizes = ("220", "1", "2") if quick else ("1100", "20", "8")
    command += [word for pair in zip(("--scenes-pairs", "--epochs", "--members"), sizes, strict=True) for word in pair]
    began = time.perf_counter()
    environment = {**os.environ, DATA_VARIABLE: str(data)}
    own = functools.partial(os.sched_setaffinity, 0, sorted(os.sched_getaffinity(0))[:only]) if only else None
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True, preexec_fn=own)
    members = Audit(data / "audits" / "bench").verdict["seconds"]["members"]
    console.print(f"{data.name}: members {members:.1f} s")
    return members, time.perf_counter() - began


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """Have a cluster of so many nodes of one core, which RAY_ADDRESS names."""
    os.environ.update(QUIET)
    import ray
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(workers):
            found.add_node(num_cpus=1, include_dashboard=False)
        os.environ[ADDRESS] = found.address
        yield found
    finally:
        os.environ.pop(ADDRESS, None)
        ray.shutdown()
        found.shutdown()
