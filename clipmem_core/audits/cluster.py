"""Running tasks on a Ray cluster (`--engine ray`), each as a process on any machine with room for it.

All machines have the data folder under the same path, the same code and the same torch. A task whose worker or machine
is lost runs again on another one and resumes.
"""

import contextlib
import dataclasses
import functools
import hashlib
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
from clipmem_core.audits.executor import SECONDS_BETWEEN_LOOKS, Task, TaskEvents, run_task
from clipmem_core.config import DATA_VARIABLE, InputError, data_folder
from clipmem_core.io import shortage

ADDRESS = "RAY_ADDRESS"
RETRIES = 20  # of a task whose worker is lost; a task that fails is not retried
# No telemetry and no hooks; threads and devices are left to the task.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def ray_tasks(tasks: Sequence[Task], *, gpus: int = 0) -> TaskEvents:
    """Run tasks on the cluster of RAY_ADDRESS, or on one of this machine that ends with this process; an `Executor`."""
    if not tasks:
        return
    ray = imported()
    _connect(ray)
    seen = {DATA_VARIABLE: str(data_folder().absolute()), "PYTHONPATH": str(Path(__file__).parents[2]), **QUIET}
    how: dict[str, Any] = {"max_retries": RETRIES, "retry_exceptions": False, "runtime_env": {"env_vars": seen}}
    remote = ray.remote(num_gpus=gpus, **how)(run_on_worker)
    places = int(ray.cluster_resources().get("CPU", 0)) // tasks[0].threads
    running = {}
    for task in _spread_out(tasks, places):
        # The worker runs in another folder
        absolute = dataclasses.replace(task, folders=tuple(folder.absolute() for folder in task.folders))
        running[remote.options(num_cpus=task.threads).remote(absolute, versions(), os.getcwd())] = task
    try:
        while running:
            yield None
            for ended in ray.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS)[0]:
                task = running.pop(ended)
                _check_end(ray, ended)
                yield task
    finally:
        for left in running:
            ray.cancel(left, force=True)


def _spread_out(tasks: Sequence[Task], places: int) -> list[Task]:
    """Split tasks of several members until there are as many tasks as places, if possible."""
    wanted = max(1, math.ceil(places / len(tasks)))
    counts = [min(wanted, len(task.folders)) for task in tasks]
    return [
        dataclasses.replace(task, folders=task.folders[part::count], names=task.names[part::count])
        for task, count in zip(tasks, counts, strict=True)
        for part in range(count)
    ]


def imported() -> ModuleType:
    os.environ.update(QUIET)
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'ray>=2.40', or leave --engine out") from None
    return ray


def _connect(ray: ModuleType) -> None:
    if ray.is_initialized():
        return
    address = os.environ.get(ADDRESS)
    how: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(**how, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"the Ray cluster {address or 'of this machine'} cannot be reached ({said[0]}): "
            f"set {ADDRESS}, or unset it to use this machine"
        ) from None


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that all machines must share, and a hash of this package's source."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    libraries = {name: version(name) for name in ("torch", "open_clip_torch", "numpy")}
    return {"clipmem": __version__, "code": digest.hexdigest()[:12], "python": platform.python_version(), **libraries}


def run_on_worker(task: Task, wanted: dict[str, str], folder: str = ".") -> str | None:
    """Run a task on this worker's machine; return what a person has to correct, or None."""
    worker = f"the worker on {platform.node()}"
    differ = [f"{name} {own} and not {wanted[name]}" for name, own in versions().items() if own != wanted[name]]
    if differ:
        return f"{worker} has {', '.join(differ)}: install the same on all machines"
    missing = [folder for folder in task.folders if not folder.is_dir()]
    if missing:
        return f"{worker} does not see {missing[0]}: all machines must share the data folder"
    try:
        with contextlib.chdir(folder if Path(folder).is_dir() else "."):
            run_task(dataclasses.replace(task, program=(sys.executable, *task.program[1:])))
    except InputError as error:
        return str(error)
    return None


def _check_end(ray: ModuleType, ended: Any) -> None:
    try:
        fault = ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError) and shortage(error.cause):
            raise OSError(error.cause.errno, f"{error.cause.strerror} on the machine of a task") from None
        raise RuntimeError(str(error.cause)) from None
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"a worker was lost {RETRIES + 1} times: {str(error).splitlines()[0]}") from None
    if fault is not None:
        raise InputError(fault)
