"""Splits the members of an audit into tasks, and runs tasks in processes of this machine.

The process of a task: python -m clipmem_core.audit.executor MODULE:FUNCTION FOLDER NAME…
"""

import json
import logging
import os
import pkgutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from clipmem_core.audit.jobs import python_path
from clipmem_core.audit.status import MemberProgress, member_progress, second_names
from clipmem_core.audit.store import Audit
from clipmem_core.io import InputError, keep_memory, shortage

SECONDS_BETWEEN_POLLS = 0.1
STDERR = ".stderr"
PROGRAM = (
    sys.executable,
    "-m",
    "clipmem_core.audit.executor",
)  # a function, a folder and names follow
# Exit code, plus the error number, of a process that ran out of disk or memory: a full disk takes
# no message.
RAN_SHORT = 64


@dataclass(frozen=True)
class Task:
    """Members, or parts of another computation, that one process computes one after the other."""

    folders: tuple[Path, ...]  # one for each name
    program: tuple[str, ...]
    names: tuple[str, ...]  # the program's arguments, such as the names of members
    threads: int
    noun: str = "member"  # for messages

    @property
    def command(self) -> tuple[str, ...]:
        return (*self.program, *self.names)


# An executor runs every task and yields each that has ended, and None in between so that its caller
# shows progress. A failed task stops the others: InputError if a person can correct it, OSError if
# its machine ran out of disk or memory, RuntimeError otherwise.
TaskEvents = Generator[Task | None, None, None]
Executor = Callable[[Sequence[Task]], TaskEvents]


def program_of(work: str, folder: Path) -> tuple[str, ...]:
    """Return the program of a task: a function (`module:name`) that computes names in a folder."""
    return (*PROGRAM, work, str(folder.absolute()))


def do_work(arguments: Sequence[str]) -> None:
    """Call the function of `program_of` on the folder and the names that follow."""
    work, folder, *names = arguments
    pkgutil.resolve_name(work)(Path(folder), names)


def run_members(
    audit: Audit,
    names: Sequence[str],
    *,
    threads: int,
    blocks: int = 0,
    executor: Executor,
    watch: Callable[[list[MemberProgress]], None],
    again: bool = False,
) -> None:
    """Train, embed and evaluate every member that is not finished (`again`: in the second
    round)."""
    folders = second_names(names) if again else names

    def progress() -> list[MemberProgress]:
        return [member_progress(audit.folder, name) for name in folders]

    unfinished = [
        name for name, member in zip(names, progress(), strict=True) if member.stage != "finished"
    ]
    tasks = member_tasks(audit, unfinished, threads=threads, blocks=blocks, again=again)
    run_member_tasks(tasks, executor, lambda: watch(progress()))


def member_tasks(
    audit: Audit, names: Sequence[str], *, threads: int, blocks: int = 0, again: bool = False
) -> list[Task]:
    """Return the tasks that train members (`again`: in the second round), one each or in `blocks`
    tasks."""
    program = program_of(
        f"clipmem_core.audit.member:{'train_second_round' if again else 'run_members'}",
        audit.folder,
    )
    noun = "second training of member" if again else "member"
    blocks = min(blocks or len(names), len(names))
    parts = [names[block::blocks] for block in range(blocks)]
    return [
        Task(tuple(map(audit.member, part)), program, tuple(part), threads, noun) for part in parts
    ]


def run_member_tasks(tasks: Sequence[Task], executor: Executor, report: Callable[[], None]) -> None:
    """Run tasks and call `report` repeatedly."""
    with closing(executor(tasks)) as events:
        for _ in events:
            report()
    report()


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
    """Run tasks of `program_of` in this process; an `Executor` for heads, which train faster than
    Python starts."""
    import torch

    threads = torch.get_num_threads()
    for task in tasks:
        try:
            do_work(task.command[len(PROGRAM) :])
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
        do_work(arguments)
    except InputError as error:
        print(json.dumps({"error": str(error)}), file=sys.stderr)
        return 2
    except OSError as error:
        if not shortage(error) or not error.errno:
            raise
        return RAN_SHORT + error.errno
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
