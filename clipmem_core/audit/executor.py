"""Splits the members of an audit into tasks, and runs tasks in processes of this machine or on a
Ray cluster (`--engine ray`).

The process of a task: python -m clipmem_core.audit.executor MODULE:FUNCTION FOLDER NAME… On a
cluster, all machines have the data folder under the same path, the same code and the same torch; a
task whose worker or machine is lost resumes on another one.
"""

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import pkgutil
import platform
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from clipmem_core import __version__
from clipmem_core.audit.status import MemberProgress, member_progress, python_path, second_names
from clipmem_core.audit.store import Audit
from clipmem_core.config import DATA_VARIABLE, data_folder
from clipmem_core.io import InputError, keep_memory, shortage

SECONDS_BETWEEN_POLLS = 0.1
STDERR = ".stderr"
# A function, a folder and names follow.
PROGRAM = (sys.executable, "-m", "clipmem_core.audit.executor")
# Exit code, plus the error number, of a process that ran out of disk or memory: a full disk takes
# no message.
RAN_SHORT = 64
SMALL = 2_000  # captions: heads and word models train on them faster than a process starts


@dataclass(frozen=True)
class Task:
    """Members, or parts of another computation, that one process computes one after the other."""

    folders: tuple[Path, ...]  # one for each name
    work: str  # a function (`module:name`) that computes names in a folder
    folder: Path
    names: tuple[str, ...]  # such as those of members
    threads: int
    noun: str = "member"  # for messages

    @property
    def command(self) -> tuple[str, ...]:
        return (*PROGRAM, self.work, str(self.folder.absolute()), *self.names)


# An executor runs every task and yields each that has ended, and None in between so that its caller
# shows progress. A failed task stops the others: InputError if a person can correct it, OSError if
# its machine ran out of disk or memory, RuntimeError otherwise.
TaskEvents = Generator[Task | None, None, None]
Executor = Callable[[Sequence[Task]], TaskEvents]


def run_members(
    audit: Audit,
    names: Sequence[str],
    *,
    threads: int,
    blocks: int = 0,
    executor: Executor,
    watch: Callable[[list[MemberProgress]], None],
    second_round: bool = False,
) -> None:
    """Train, embed and evaluate every member that is not finished, in one task each or in `blocks`
    tasks."""
    folders = second_names(names) if second_round else names

    def progress() -> list[MemberProgress]:
        return [member_progress(audit.folder, name) for name in folders]

    unfinished = [
        name for name, member in zip(names, progress(), strict=True) if member.stage != "finished"
    ]
    function = "train_second_round" if second_round else "train_first_round"
    work = f"clipmem_core.audit.member:{function}"
    noun = "second training of member" if second_round else "member"
    blocks = min(blocks or len(unfinished), len(unfinished))
    parts = [unfinished[block::blocks] for block in range(blocks)]
    tasks = [
        Task(tuple(map(audit.member, part)), work, audit.folder, tuple(part), threads, noun)
        for part in parts
    ]
    with closing(executor(tasks)) as events:
        for _ in events:
            watch(progress())
    watch(progress())


def local_processes(tasks: Sequence[Task], *, at_once: int) -> TaskEvents:
    """Run each task in a process of this machine; an `Executor`."""
    waiting = list(tasks)
    running = list[tuple[Task, "subprocess.Popen[bytes]"]]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append((waiting[0], start(waiting.pop(0))))
            time.sleep(SECONDS_BETWEEN_POLLS)
            yield None
            for task, process in [pair for pair in running if pair[1].poll() is not None]:
                running.remove((task, process))
                process.communicate()
                _check_end(task, process.returncode)
                yield task
    finally:
        for _, process in running:
            process.kill()  # a member's files are complete at any moment
        for _, process in running:
            process.communicate()


def in_this_process(tasks: Sequence[Task]) -> TaskEvents:
    """Run tasks in this process; an `Executor` for heads, which train faster than Python starts."""
    import torch

    threads = torch.get_num_threads()
    for task in tasks:
        try:
            pkgutil.resolve_name(task.work)(task.folder, task.names)
        finally:
            torch.set_num_threads(threads)
        yield task


def start(task: Task) -> "subprocess.Popen[bytes]":
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(task.threads))
    with (task.folders[0] / STDERR).open("wb") as errors:
        return subprocess.Popen(
            task.command,
            env={**os.environ, **threads, "PYTHONPATH": python_path()},
            # never written to; when this process ends it closes, and the member exits
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=errors,
        )


def _check_end(task: Task, code: int) -> None:
    if code == 0:
        return
    if code > RAN_SHORT and shortage(
        error := OSError(code - RAN_SHORT, os.strerror(code - RAN_SHORT))
    ):
        raise error
    path = task.folders[0] / STDERR
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [
        f"exit code {code}"
    ]
    if code == 2 and lines[-1].startswith('{"error"'):
        raise InputError(json.loads(lines[-1])["error"])
    ended = f"was ended by signal {-code}" if code < 0 else f"failed: {lines[-1]}"
    more = f" and {len(task.folders) - 1} more" if len(task.folders) > 1 else ""
    name = f"{task.noun} {task.folders[0].name}{more}"
    raise RuntimeError(f"{name} {ended}; its output is in {path}; the same command resumes it")


def _end_with_parent() -> None:
    """Exit when the parent process ends and closes its pipe; a resumed audit starts this work
    again."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        os.read(0, 1)
        os._exit(1)


def main(arguments: Sequence[str]) -> int:
    """Run a task. An error is one line of JSON on stderr, or an exit code if disk or memory ran
    out."""
    logging.getLogger().setLevel(logging.ERROR)
    keep_memory()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work, folder, *names = arguments
        pkgutil.resolve_name(work)(Path(folder), names)
    except InputError as error:
        print(json.dumps({"error": str(error)}), file=sys.stderr)
        return 2
    except OSError as error:
        if not shortage(error) or not error.errno:
            raise
        return RAN_SHORT + error.errno
    return 0


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
        replace(task, folders=task.folders[part::count], names=task.names[part::count])
        for task, count in zip(tasks, parts, strict=True)
        for part in range(count)
    ]
    running = {}
    for task in split:
        # The worker runs in another folder
        absolute = replace(
            task,
            folders=tuple(folder.absolute() for folder in task.folders),
            folder=task.folder.absolute(),
        )
        options = remote.options(num_cpus=task.threads)
        running[options.remote(absolute, versions(), os.getcwd())] = task
    try:
        while running:
            yield None
            for ended in ray.wait(list(running), timeout=SECONDS_BETWEEN_POLLS)[0]:
                task = running.pop(ended)
                _check_ray_end(ray, ended)
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
    return {
        "clipmem": __version__,
        "code": digest.hexdigest()[:12],
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "open_clip_torch", "numpy")},
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
            for _ in local_processes([task], at_once=1):
                pass
    except InputError as error:
        return str(error)
    return None


def _check_ray_end(ray: ModuleType, ended: Any) -> None:
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
