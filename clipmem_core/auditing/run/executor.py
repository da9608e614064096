"""Runs tasks in processes of this machine or on a Ray cluster (`--engine ray`).

Processes of this machine are forks of one that has imported the libraries and has run no thread. On
a cluster, all machines have the data folder under the same path, the same code and the same torch;
a task whose worker or machine is lost resumes on another one.
"""

import contextlib
import functools
import logging
import multiprocessing
import os
import platform
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from types import ModuleType
from typing import Any

from pebble import ProcessExpired, ProcessPool
from threadpoolctl import threadpool_limits

from clipmem_core.auditing.folder.jobs import python_path, reporting_in
from clipmem_core.config import DATA_VARIABLE, data_folder
from clipmem_core.dataset.remote import reason_of
from clipmem_core.features.fast_ops import keep_memory
from clipmem_core.utils.io import ForkServer, InputError, path_fault, shortage

SECONDS_BETWEEN_POLLS = 0.1
# torch's optimizers import torch._dynamo in their first step, which takes seconds
PRELOADED = [
    "clipmem_core.__main__",
    "clipmem_core.auditing.run.word_models",
    "torch._dynamo",
    "timm",
]
Work = Callable[[Path, Sequence[str]], None]


@dataclass(frozen=True)
class Task:
    """Members, or parts of another computation, that one process computes one after the other. The
    process reports in the first of the folders."""

    folders: tuple[Path, ...]  # one for each name
    work: Work  # computes names in a folder; it and its arguments are sent to the process
    folder: Path
    names: tuple[str, ...]  # such as those of members
    threads: int
    noun: str = "member"  # for messages

    @property
    def title(self) -> str:
        """What it computes, for messages."""
        more = f" and {len(self.folders) - 1} more" if len(self.folders) > 1 else ""
        return f"{self.noun} {self.folders[0].name}{more}"

    def run(self, data: Path) -> None:
        """Compute in this process, on the data folder of the process that made this task."""
        import torch

        os.environ[DATA_VARIABLE] = str(data)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with threadpool_limits(self.threads), reporting_in(self.folders[0]):  # of BLAS, too
                self.work(self.folder, self.names)
        finally:
            torch.set_num_threads(threads)


# An executor runs every task and yields each that has ended, and None in between so that its caller
# shows progress. A failed task stops the others: InputError if a person can correct it, OSError if
# its machine ran out of disk or memory, RuntimeError otherwise.
TaskEvents = Generator[Task | None, None, None]
Executor = Callable[[Sequence[Task]], TaskEvents]


@functools.cache
def processes() -> BaseContext:
    """Return the start method of processes, whose libraries are imported once in the background."""
    os.environ["PYTHONPATH"] = python_path()
    context = ForkServer()
    context.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
    return context


def open_pool(size: int, *, tasks: int = 0) -> ProcessPool:
    """Return a pool of processes, each for so many tasks (0: any number)."""
    return ProcessPool(size, max_tasks=tasks, initializer=_begin, context=processes())


def _begin() -> None:
    """Prepare a process of a pool, which ends with its parent."""
    logging.getLogger().setLevel(logging.ERROR)
    keep_memory()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def local_processes(tasks: Sequence[Task], *, at_once: int) -> TaskEvents:
    """Run each task in a process of its own on this machine; an `Executor`."""
    pool = open_pool(at_once, tasks=1)
    data = data_folder().absolute()
    try:
        running: dict[Any, Task] = {
            pool.schedule(Task.run, args=(task, data)): task for task in tasks
        }
        while running:
            ended = wait(running, SECONDS_BETWEEN_POLLS, FIRST_COMPLETED).done
            yield None
            for future in ended:
                task = running.pop(future)
                _check_end(task, future.exception())
                yield task
    finally:
        pool.stop()  # a member's files are complete at any moment
        pool.join()


def in_this_process(tasks: Sequence[Task]) -> TaskEvents:
    """Run tasks in this process; an `Executor` within another task."""
    for task in tasks:
        task.run(data_folder())
        yield task


def _check_end(task: Task, error: BaseException | None) -> None:
    """Raise the error that ended a task, in words for a person."""
    if error is None:
        return
    if isinstance(error, InputError) or shortage(error) or path_fault(error):
        raise error
    ended = f"failed: {type(error).__name__}: {error}"
    if isinstance(error, ProcessExpired):
        code = error.exitcode
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise RuntimeError(f"{task.title} {ended}; the same command resumes it") from error


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
    variables = {DATA_VARIABLE: str(data_folder().absolute()), "PYTHONPATH": python_path(), **QUIET}
    remote = ray.remote(
        num_gpus=gpus,
        max_retries=RETRIES,
        retry_exceptions=False,
        runtime_env={"env_vars": variables},
    )(run_on_worker)
    # One task for each member: machines are more than the processors of this one
    split = [
        replace(task, folders=(folder,), names=(name,))
        for task in tasks
        for folder, name in zip(task.folders, task.names, strict=True)
    ]
    running = {}
    for task in split:
        # The worker runs in another folder
        folders = tuple(folder.absolute() for folder in task.folders)
        absolute = replace(task, folders=folders, folder=task.folder.absolute())
        options = remote.options(num_cpus=task.threads, name=task.noun)
        running[options.remote(absolute, os.getcwd())] = task
    try:
        while running:
            yield None
            for ended in ray.wait(list(running), timeout=SECONDS_BETWEEN_POLLS)[0]:
                task = running.pop(ended)
                _check_ray_end(ray, task, ended)
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
        raise InputError(
            f"the Ray cluster {address or 'of this machine'} cannot be reached: set {ADDRESS}, or "
            f"unset it to use this machine ({reason_of(error)})"
        ) from None


def run_on_worker(task: Task, folder: str = ".") -> None:
    """Run a task on this worker's machine, in the folder of the command if it exists here."""
    if missing := [folder for folder in task.folders if not folder.is_dir()]:
        raise InputError(
            f"the worker on {platform.node()} does not see {missing[0]}: all machines must share "
            "the data folder"
        )
    with contextlib.chdir(folder if Path(folder).is_dir() else "."):
        task.run(data_folder())


def _check_ray_end(ray: ModuleType, task: Task, ended: Any) -> None:
    try:
        ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        _check_end(task, error.cause)
    except ray.exceptions.RayError as error:
        raise RuntimeError(
            f"a worker was lost {RETRIES + 1} times: {str(error).splitlines()[0]}"
        ) from None
