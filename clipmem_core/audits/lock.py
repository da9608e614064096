"""A lock beside the folder of an audit or a study: one process at a time works in it, whatever machine it is on.

A lock of the file system (`.<name>.lock`) tells the processes of one machine apart, and ends with the process. On many
shared file systems it does not reach other machines: a lease beside it (`.<name>.lease`) does, which its holder touches
every few seconds, and which another machine takes over once it has seen it untouched for a minute.
"""

import contextlib
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLease, Timeout

from clipmem_core.config import InputError

LEASE = 60.0  # seconds without a sign of life until a process of another machine counts as gone


@contextmanager
def hold(folder: Path, *, what: str) -> Iterator[None]:
    """Hold the folder of an audit or a study for this process alone, by a lock and a lease beside it.

    Raises:
        InputError: another process holds it, or took it over, or its parent cannot be written.
    """
    lost: list[str] = []

    def stop(loss: Any) -> None:
        lost.append(
            f"{what} {folder.name!r} is no longer held by this process ({loss.reason}): if no other process took it "
            "over, see that its folder can be reached; the same command goes on where it stopped"
        )
        if callable(signal.getsignal(signal.SIGINT)):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:  # a shell's background jobs ignore it
            print(f"error: {lost[0]}", file=sys.stderr, flush=True)
            os._exit(2)

    with ExitStack() as held:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            # One who only asks lets go at once.
            held.enter_context(FileLock(_beside(folder, "lock")).acquire(timeout=0.5))
            held.enter_context(_leased(_beside(folder, "lease"), stop))
            own = f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M')}"
            _beside(folder, "holder").write_text(own, encoding="utf-8")
        except Timeout:
            raise InputError(_refusal(folder, what)) from None
        except OSError as error:
            raise InputError(f"{folder.parent} cannot be written ({error.strerror}): set CLIPMEM_DATA") from None
        try:
            yield
        except KeyboardInterrupt:
            if not lost:
                raise
            raise InputError(lost[0]) from None
        finally:
            _beside(folder, "holder").unlink(missing_ok=True)


def is_held(folder: Path) -> bool:
    """Tell whether another process holds the folder of an audit or a study."""
    if not _beside(folder, "lock").is_file():
        return False
    try:
        with FileLock(_beside(folder, "lock")).acquire(timeout=0):
            return _is_leased(_beside(folder, "lease"))
    except Timeout:
        return True
    except OSError:
        return False


def _is_leased(lease: Path) -> bool:
    """Tell whether a process of another machine holds a lease."""
    if not lease.is_file():
        return False
    try:
        with SoftFileLease(lease, lease_duration=LEASE).acquire(timeout=0):
            return False
    except Timeout:
        return _is_fresh(lease)


def _leased(lease: Path, stop: Callable[[Any], None]) -> Any:
    """Take the lease: at once from a process of this machine that is gone, and from another machine's after watching.

    Raises:
        Timeout: its holder gives signs of life.
    """
    found = SoftFileLease(lease, lease_duration=LEASE, on_compromise=stop)
    try:
        return found.acquire(timeout=0)
    except Timeout:
        if _is_fresh(lease):
            raise
    print(f"{_who(lease)} left {lease} behind: waiting {LEASE:.0f} s for a sign of life", file=sys.stderr, flush=True)
    seen = set[int]()

    def lives() -> bool:
        with contextlib.suppress(FileNotFoundError):
            seen.add(lease.stat().st_mtime_ns)
        return len(seen) > 1

    return found.acquire(timeout=2 * LEASE, poll_interval=LEASE / 60, cancel_check=lives)


def _is_fresh(lease: Path) -> bool:
    """Tell whether a lease was touched in the last minute, as far as the clocks of two machines agree."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - lease.stat().st_mtime < LEASE
    return False


def _refusal(folder: Path, what: str) -> str:
    return (
        f"{what} {folder.name!r} is being run by another process ({_who(_beside(folder, 'lease'))}): "
        "wait for it, or stop it"
    )


def _who(lease: Path) -> str:
    """Return the process, the machine and since when, of who holds a folder or held it until it was killed."""
    try:
        return lease.with_suffix(".holder").read_text(encoding="utf-8")
    except OSError:
        return "one that has just begun"


def _beside(folder: Path, ending: str) -> Path:
    return folder.parent / f".{folder.name}.{ending}"
