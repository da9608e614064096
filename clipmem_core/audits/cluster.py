"""Bringing the members of an audit to their end on a Ray cluster (`--engine ray`): each task is a process on whatever
machine has room for it.

All machines see the audit's folder under the same path, and have the same code and the same torch. A task whose worker
or machine is lost is run again elsewhere, and goes on from what its members had saved.
"""

import dataclasses
import math
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from clipmem_core import __version__
from clipmem_core.audits.executor import SECONDS_BETWEEN_LOOKS, Looks, Task, run_task
from clipmem_core.config import DATA_VARIABLE, InputError, data_folder

ADDRESS = "RAY_ADDRESS"
TRIES_AGAIN = 20  # of a task whose worker is lost; one that says what is wrong is not run again
# Ray tells its makers nothing, looks for no hooks, and leaves threads and devices to the task.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def ray_tasks(tasks: Sequence[Task], *, gpus: int = 0) -> Looks:
    """Run tasks on the cluster that RAY_ADDRESS names, or on one of this machine alone that ends with them; an
    `Executor`.

    Args:
        tasks: as many run at once as the cluster has cores for their threads; blocks of members are split until there
            are as many.
        gpus: that each asks for.

    Raises:
        InputError: Ray is not installed, the cluster cannot be reached, a worker has other code than this machine, or a
            member could not be run.
        RuntimeError: a member died, or its worker was lost again and again.
    """
    if not tasks:
        return
    ray = imported()
    ours = versions()
    own = connect(ray)
    try:
        remote = ray.remote(num_gpus=gpus, max_retries=TRIES_AGAIN, retry_exceptions=False)(run_here)
        places = int(ray.cluster_resources().get("CPU", 0)) // tasks[0].threads
        spread = spread_out(tasks, places)
        running = {remote.options(num_cpus=task.threads).remote(_anywhere(task), ours): task for task in spread}
        try:
            while running:
                yield None
                for ended in ray.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS)[0]:
                    task = running.pop(ended)
                    _check(ray, ended)
                    yield task
        finally:
            for left in running:
                ray.cancel(left, force=True)
    finally:
        if own:
            ray.shutdown()


def spread_out(tasks: Sequence[Task], places: int) -> list[Task]:
    """Split the blocks of members that share a process until there are as many tasks as places, if they can be.

    Example:
        >>> block = Task(tuple(Path(name) for name in "abcde"), ("run",), tuple("abcde"), threads=1)
        >>> [task.command for task in spread_out([block], places=2)]
        [('run', 'a', 'c', 'e'), ('run', 'b', 'd')]
    """
    wanted = max(1, math.ceil(places / len(tasks)))
    counts = [min(wanted, len(task.folders)) for task in tasks]
    return [
        dataclasses.replace(task, folders=task.folders[part::count], names=task.names[part::count])
        for task, count in zip(tasks, counts, strict=True)
        for part in range(count)
    ]


def _anywhere(task: Task) -> Task:
    """Return a task that does not depend on the folder that this process is in."""
    return dataclasses.replace(task, folders=tuple(folder.absolute() for folder in task.folders))


def imported() -> ModuleType:
    """Return Ray.

    Raises:
        InputError: it is not installed.
    """
    os.environ.update(QUIET)
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'ray>=2.40', or leave --engine out") from None
    return ray


def connect(ray: ModuleType) -> bool:
    """Connect to the cluster, unless this process is; tell whether it was not.

    Raises:
        InputError: RAY_ADDRESS names one that cannot be reached.
    """
    if ray.is_initialized():
        return False
    address = os.environ.get(ADDRESS)
    seen = {DATA_VARIABLE: str(data_folder().absolute()), "PYTHONPATH": str(Path(__file__).parents[2]), **QUIET}
    how: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(**how, runtime_env={"env_vars": seen}, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"the Ray cluster {address or 'of this machine'} cannot be reached ({said[0]}): "
            f"set {ADDRESS}, or unset it for one of this machine"
        ) from None
    return True


def versions() -> dict[str, str]:
    """Return what decides a member's bits besides its audit: all machines of a cluster must have it alike."""
    return {
        "clipmem": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "open_clip_torch", "numpy")},
    }


def run_here(task: Task, wanted: dict[str, str]) -> str | None:
    """Run a task on the machine of this worker; return what a person has to mend, or None.

    Raises:
        RuntimeError: a member died.
    """
    differ = [f"{name} {own} and not {wanted[name]}" for name, own in versions().items() if own != wanted[name]]
    if differ:
        return f"the worker on {platform.node()} has {', '.join(differ)}: install the same on all machines"
    missing = [folder for folder in task.folders if not folder.is_dir()]
    if missing:
        return f"the worker on {platform.node()} does not see {missing[0]}: all machines must share the data folder"
    try:
        run_task(dataclasses.replace(task, program=(sys.executable, *task.program[1:])))
    except InputError as error:
        return str(error)
    return None


def _check(ray: ModuleType, ended: Any) -> None:
    """Pass on what went wrong with a task.

    Raises:
        InputError: what a person has to mend.
        RuntimeError: a member died, or its worker was lost more often than a task is tried.
    """
    try:
        said = ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        raise RuntimeError(str(error.cause)) from None
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"a worker was lost {TRIES_AGAIN + 1} times: {str(error).splitlines()[0]}") from None
    if said is not None:
        raise InputError(said)
