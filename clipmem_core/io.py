"""Reading and writing our own files: atomic writes, errors that name the file, and shortages of the
machine."""

import contextlib
import ctypes
import errno
import functools
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import ArrowException
from pydantic import TypeAdapter, ValidationError

_adapter_of: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)
DELETE = "delete the audit's folder and run it again"
_MEMORY = "memory ran out: close other programs, or raise the limit (ulimit -v)"
_SHORTAGES = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "a file would be larger than is allowed: raise the limit (ulimit -f)",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine: close other programs",
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: "no more processes can be started: close other programs, or raise the limit "
    "(ulimit -u)",
    errno.EIO: "a disk or network folder failed: check it",
    errno.EHOSTUNREACH: "a URL cannot be reached: check the network",
    **dict.fromkeys(
        (errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN), "a network folder is gone: mount it again"
    ),
}
_FAULTS = {
    errno.ENOENT: "does not exist, or its folder does not: check the path",
    errno.EISDIR: "is a folder: name a file",
    errno.ENOTDIR: "has a file in place of a folder: check the path",
    errno.ENAMETOOLONG: "is too long a name: choose a shorter one",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "may not be used: change its permissions"
    ),
}


class InputError(ValueError):
    """A mistake in the input, in one line that says what to do. The command line ends with exit
    code 2."""


def shortage(error: BaseException) -> str:
    """Return which resource of the machine ran out and what to do; empty for any other error."""
    if isinstance(error, OSError) and error.errno is not None:
        return _SHORTAGES.get(error.errno, "")
    if isinstance(error, (OSError, RuntimeError)):  # Pillow's and torch's
        text = str(error).lower()
        return (
            _MEMORY
            if any(words in text for words in ("out of memory", "allocate memory", "memoryerror"))
            else ""
        )
    return _MEMORY if isinstance(error, MemoryError) else ""


def path_fault(error: BaseException) -> str:
    """Return which path is wrong and what to do; empty for any other error."""
    if not isinstance(error, OSError) or not error.filename or error.errno not in _FAULTS:
        return ""
    return f"{error.filename} {_FAULTS[error.errno]}"


def keep_memory() -> None:
    """Let this process keep freed memory: glibc returns every large block, and its pages are
    faulted in again."""
    with contextlib.suppress(AttributeError, TypeError):  # only glibc has mallopt
        for option, threshold in (
            (-3, 1 << 30),
            (-1, (1 << 31) - 1),
        ):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            ctypes.CDLL(None).mallopt(option, threshold)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is synced and renamed to `path` if the block succeeds, and
    deleted otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path, *, mark: str = "") -> Iterator[Path]:
    """Yield a new folder that replaces `folder` at the end of the block; it is deleted after an
    error.

    `mark` is the name of a file in it: then only empty folders and those with this file are
    replaced or deleted.
    """
    folder = folder.resolve()
    temporary, old = (folder.with_name(f".{folder.name}.{what}") for what in ("unfinished", "old"))
    for existing in (folder, temporary, old) if mark else ():
        if existing.is_dir() and any(existing.iterdir()) and not (existing / mark).is_file():
            raise InputError(
                f"{existing} has other files than an export: move it, or choose another --out"
            )
    for leftover in (temporary, old):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    if mark:
        (temporary / mark).touch()
    try:
        yield temporary
        if folder.exists():
            folder.replace(old)
        temporary.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to errors without one, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None and str(error).endswith(
            "written"
        ):  # numpy's, of a file that cannot grow
            error.errno = errno.ENOSPC
            error.strerror = os.strerror(errno.ENOSPC)
        if error.filename is None and shortage(error):
            error.filename = os.fspath(path)
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_array(array: np.ndarray, path: Path) -> None:
    """Write a .npy file atomically."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def write_once(path: Path, make: Callable[[Path], None]) -> bool:
    """Make a file unless it exists, and tell whether it was made."""
    if path.is_file():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        make(temporary)
    return True


class Fields(dict[str, Any]):
    """A JSON object of a file; a missing field is an error that names both."""

    path: Path
    repair: str

    def __missing__(self, name: str) -> Any:
        raise InputError(f"{self.path} lacks the field {name!r}: {self.repair}")


@contextmanager
def reading(path: Path, *, repair: str = DELETE) -> Iterator[None]:
    """Turn an error of reading one of our files into an input error that names it and says what to
    do."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the audit again to resume it") from None
    except InputError:
        raise
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, ArrowException) as error:
        if shortage(error):
            raise
        raise InputError(
            f"{path} cannot be read ({' '.join(str(error).split())}): {repair}"
        ) from None


def read_json(path: Path, kind: Any = Any, *, repair: str = DELETE) -> Any:
    """Read one of our JSON files as a type; an object is a `Fields` unless the type is a class."""
    with reading(path, repair=repair):
        text = path.read_bytes()
    return parse_json(text, kind, path=path, repair=repair)


def parse_json(text: str | bytes, kind: Any, *, path: Path, repair: str) -> Any:
    """Parse JSON of a file, as `read_json` does."""
    try:
        value = _adapter_of(kind).validate_json(text, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in fault["loc"] if part != "[key]")
        reason = fault["msg"].removeprefix("Value error, ").removeprefix("Invalid JSON: ")
        if fault["type"] == "missing":
            message = f"{path} lacks the field {field!r}"
        elif fault["type"] == "json_invalid":
            message = f"{path} is not valid JSON ({reason})"
        else:
            message = (
                f"{path}: {field or 'its content'} is wrong ({reason}; it is "
                f"{str(fault['input'])[:60]!r})"
            )
        raise InputError(f"{message}: {repair}") from None
    if isinstance(value, dict):
        value = Fields(value)
        value.path = path
        value.repair = repair
    return value
