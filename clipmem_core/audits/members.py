"""Runs an audit's members as processes side by side, and reports on them until all are done."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from clipmem_core.audits.progress import MemberProgress, member_progress
from clipmem_core.audits.store import CONFIG, Audit, note_files
from clipmem_core.config import InputError

SECONDS_BETWEEN_LOOKS = 0.1
STDERR = ".stderr"
# Without these, glibc hands every large block back to the system and each step faults its pages in again.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}

Watch = Callable[[list[MemberProgress]], None]


def run_members(audit: Audit, names: Sequence[str], *, threads: int, at_once: int, watch: Watch) -> None:
    """Bring every member to its end; finished ones are not touched.

    A member is a process of its own with a fixed number of threads, so its result does not depend on its neighbours.

    Raises:
        InputError: a member could not be run; the message is the member's.
        RuntimeError: a member died; the message names its log.
    """
    waiting = [name for name in names if member_progress(audit.folder, name).stage != "done"]
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name = waiting.pop(0)
                running[name] = start_member(audit, name, threads=threads)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            watch([member_progress(audit.folder, name) for name in names])
            for name in [name for name, process in running.items() if process.poll() is not None]:
                process = running.pop(name)
                process.communicate()
                _check_end(audit, name, process.returncode)
                files = [path for path in audit.member(name).rglob("[!.]*") if path.is_file() and path.name != CONFIG]
                note_files(audit, files)
        watch([member_progress(audit.folder, name) for name in names])
    finally:
        stop(list(running.values()))


def start_member(audit: Audit, name: str, *, threads: int) -> subprocess.Popen[bytes]:
    """Start one member's process."""
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    with (audit.member(name) / STDERR).open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "clipmem_core.audits.member", str(audit.folder), name],
            env=environment,
            stdin=subprocess.PIPE,  # never written to: it closes with this process, and the member ends
            stdout=errors,
            stderr=errors,
        )


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes at once: a member's files are whole at any moment."""
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate()


def _check_end(audit: Audit, name: str, code: int) -> None:
    if code == 0:
        return
    path = audit.member(name) / STDERR
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [f"exit code {code}"]
    if code == 2 and lines[-1].startswith('{"error"'):
        raise InputError(json.loads(lines[-1])["error"])
    ended = f"was ended by signal {-code}" if code < 0 else f"failed: {lines[-1]}"
    raise RuntimeError(f"member {name} {ended}; its output is in {path}; the same command goes on where it stopped")
