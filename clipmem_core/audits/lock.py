"""A lock beside the folder of an audit or a study: one process at a time works in it."""

from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clipmem_core.config import InputError


def hold(folder: Path, *, what: str) -> Any:
    """Hold the folder of an audit or a study for this process alone, by a lock beside it.

    Raises:
        InputError: another process holds it, or its parent cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(_lock(folder)).acquire(timeout=0.5)  # one who only asks lets go at once
    except Timeout:
        raise InputError(f"{what} {folder.name!r} is being run by another process: wait for it, or stop it") from None
    except OSError as error:
        raise InputError(f"{folder.parent} cannot be written ({error.strerror}): set CLIPMEM_DATA") from None


def is_held(folder: Path) -> bool:
    """Tell whether another process holds the folder of an audit or a study."""
    if not _lock(folder).is_file():
        return False
    try:
        with FileLock(_lock(folder)).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def _lock(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"
