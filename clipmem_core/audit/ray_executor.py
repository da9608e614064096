"""Runs tasks on a Ray cluster (`--engine ray`).

All machines have the data folder under the same path, the same code and the same torch. A task
whose worker or machine is lost resumes on another one.
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
from clipmem_core.audit.executor import SECONDS_BETWEEN_POLLS, Task, TaskEvents, local_processes
from clipmem_core.config import DATA_VARIABLE, data_folder
from clipmem_core.io import InputError, shortage

ADDRESS = "RAY_ADDRESS"
RETRIES = 20  # of a task whose worker is lost; a failed task is not retried
# No telemetry and no hooks; the task sets its threads and devices.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def ray_tasks(tasks: Sequence[Task], *, gpus: int = 0) -> TaskEvents:
    """Run tasks on the cluster of RAY_ADDRESS, or on one of this machine that ends with this
    process; an `Executor`."""
    if not tasks:
        return
    ray = import_ray()
    if not ray.is_initialized():
        _connect(ray)
    variables = {
        DATA_VARIABLE: str(data_folder().absolute()),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **QUIET,
    }
    remote = ray.remote(
        num_gpus=gpus,
        max_retries=RETRIES,
        retry_exceptions=False,
        runtime_env={"env_vars": variables},
    )(run_on_worker)
    slots = int(ray.cluster_resources().get("CPU", 0)) // tasks[0].threads
    # Split tasks of several members until there is one for each slot, if possible
    parts = [min(max(1, math.ceil(slots / len(tasks))), len(task.folders)) for task in tasks]
    split = [
        dataclasses.replace(task, folders=task.folders[part::count], names=task.names[part::count])
        for task, count in zip(tasks, parts, strict=True)
        for part in range(count)
    ]
    running = {}
    for task in split:
        # The worker runs in another folder
        absolute = dataclasses.replace(
            task, folders=tuple(folder.absolute() for folder in task.folders)
        )
        running[remote.options(num_cpus=task.threads).remote(absolute, versions(), os.getcwd())] = (
            task
        )
    try:
        while running:
            yield None
            for ended in ray.wait(list(running), timeout=SECONDS_BETWEEN_POLLS)[0]:
                task = running.pop(ended)
                _check_end(ray, ended)
                yield task
    finally:
        for unfinished in running:
            ray.cancel(unfinished, force=True)


def import_ray() -> ModuleType:
    os.environ.update(QUIET)
    try:
        import ray
    except ImportError:
        raise InputError(
            "--engine ray needs Ray: pip install 'ray>=2.40', or remove --engine"
        ) from None
    return ray


def _connect(ray: ModuleType) -> None:
    address = os.environ.get(ADDRESS)
    options: dict[str, Any] = (
        {"address": address} if address else {"address": "local", "include_dashboard": False}
    )
    try:
        ray.init(**options, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        message = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"the Ray cluster {address or 'of this machine'} cannot be reached ({message[0]}): "
            f"set {ADDRESS}, or unset it to use this machine"
        ) from None


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that all machines must share, and a hash of this package's source."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    libraries = {name: version(name) for name in ("torch", "open_clip_torch", "numpy")}
    return {
        "clipmem": __version__,
        "code": digest.hexdigest()[:12],
        "python": platform.python_version(),
        **libraries,
    }


def run_on_worker(task: Task, required: dict[str, str], folder: str = ".") -> str | None:
    """Run a task on this worker's machine; return the message of an input error, or None."""
    worker = f"the worker on {platform.node()}"
    here = versions()
    differ = [
        f"{name} {here[name]} and not {required[name]}"
        for name in here
        if here[name] != required[name]
    ]
    if differ:
        return f"{worker} has {', '.join(differ)}: install the same on all machines"
    missing = [folder for folder in task.folders if not folder.is_dir()]
    if missing:
        return f"{worker} does not see {missing[0]}: all machines must share the data folder"
    try:
        with contextlib.chdir(folder if Path(folder).is_dir() else "."):
            local = dataclasses.replace(task, program=(sys.executable, *task.program[1:]))
            for _ in local_processes([local], at_once=1):
                pass
    except InputError as error:
        return str(error)
    return None


def _check_end(ray: ModuleType, ended: Any) -> None:
    try:
        fault = ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError) and shortage(error.cause):
            raise OSError(
                error.cause.errno, f"{error.cause.strerror} on the machine of a task"
            ) from None
        raise RuntimeError(str(error.cause)) from None
    except ray.exceptions.RayError as error:
        raise RuntimeError(
            f"a worker was lost {RETRIES + 1} times: {str(error).splitlines()[0]}"
        ) from None
    if fault is not None:
        raise InputError(fault)
