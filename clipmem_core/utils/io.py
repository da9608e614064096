"""Files and the machine: input errors and shortages, processes without the parent's script, atomic
writes, reads whose errors name the file, and tables that a person names."""

import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from csv import QUOTE_NONNUMERIC
from functools import partial
from multiprocessing.context import (
    ForkServerContext,
    ForkServerProcess,
    SpawnContext,
    SpawnProcess,
)
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from pyarrow import ArrowException
from pydantic import TypeAdapter, ValidationError

_adapter_of: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)
# Errors of reading a broken file
_BROKEN = (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, ArrowException)
_SPILL_BYTES = 1 << 22  # larger arrays are held in a file instead of memory
DELETE = "delete the audit's folder and run it again"
_MEMORY = "memory ran out: close other programs, or raise the limit (ulimit -v)"
_UNMOUNTED = "a network folder is gone: mount it again"
_FORBIDDEN = "may not be used: change its permissions"
_SHORTAGES = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "a file would be larger than is allowed: raise the limit (ulimit -f)",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine: close other programs",
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: "no more processes can be started: raise the limit (ulimit -u)",
    errno.EIO: "a disk or network folder failed: check it",
    errno.EHOSTUNREACH: "a URL cannot be reached: check the network",
    errno.ESTALE: _UNMOUNTED,
    errno.ENOTCONN: _UNMOUNTED,
    errno.EHOSTDOWN: _UNMOUNTED,
}
_FAULTS = {
    errno.ENOENT: "does not exist, or its folder does not: check the path",
    errno.EISDIR: "is a folder: name a file",
    errno.ENOTDIR: "has a file in place of a folder: check the path",
    errno.ENAMETOOLONG: "is too long a name: choose a shorter one",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: _FORBIDDEN,
}

# a spreadsheet computes a cell that begins with one of these
FORMULA = ("=", "+", "-", "@", "\t", "\r")
_READERS: dict[str, Callable[..., Any]] = {
    ".csv": partial(pd.read_csv, dtype=str, keep_default_na=False),
    ".jsonl": partial(pd.read_json, lines=True, dtype=False),
    ".parquet": pd.read_parquet,
}
_WRITERS: dict[str, Callable[..., Any]] = {
    # a lone \r in a text must be quoted too
    ".csv": partial(pd.DataFrame.to_csv, index=False, quoting=QUOTE_NONNUMERIC),
    ".jsonl": partial(pd.DataFrame.to_json, orient="records", lines=True, force_ascii=False),
    ".parquet": partial(pd.DataFrame.to_parquet, index=False),
}
SUFFIXES = tuple(_READERS)


class InputError(ValueError):
    """A mistake in the input, in one line that says what to do. The command line ends with exit
    code 2."""


def shortage(error: BaseException) -> str:
    """Return which resource of the machine ran out and what to do; empty for any other error."""
    if isinstance(error, OSError) and error.errno is not None:
        return _SHORTAGES.get(error.errno, "")
    is_memory = isinstance(error, MemoryError)
    if isinstance(error, (OSError, RuntimeError)):  # Pillow's and torch's
        is_memory = bool(re.search("out of memory|allocate memory|memoryerror", str(error), re.I))
    return _MEMORY if is_memory else ""


def path_fault(error: BaseException) -> str:
    """Return which path is wrong and what to do; empty for any other error."""
    if isinstance(error, OSError) and error.filename and error.errno in _FAULTS:
        return f"{error.filename} {_FAULTS[error.errno]}"
    return ""


def cores() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _without_script(start: Any) -> Any:
    """Return how to start a process without the parent's script, which multiprocessing would run in
    it, and deaf to Ctrl-C."""

    def start_without(process_obj: Any) -> Any:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return start(process_obj)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            sys.modules["__main__"] = main

    return staticmethod(start_without)


class ForkServer(ForkServerContext):
    """Forks of a process that has imported some libraries."""

    class Process(ForkServerProcess):
        _Popen = _without_script(ForkServerProcess._Popen)


class Spawn(SpawnContext):
    """Fresh processes."""

    class Process(SpawnProcess):
        _Popen = _without_script(SpawnProcess._Popen)


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
    replaced or deleted. A second process that replaces the same folder meanwhile is refused.
    """
    folder = folder.resolve()
    temporary = folder.with_name(f".{folder.name}.unfinished")
    old = folder.with_name(f".{folder.name}.old")
    for existing in (folder, temporary, old) if mark else ():
        if existing.is_dir() and any(existing.iterdir()) and not (existing / mark).is_file():
            raise InputError(
                f"{existing} has other files than an export: move it, or choose another --out"
            )
    temporary.mkdir(parents=True, exist_ok=True)
    # The lock stays with the folder when it is renamed, until this process closes it or ends.
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"{folder} is being written by another process: wait for it") from None
    try:
        for path in temporary.iterdir():  # of a killed process
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != mark:
                path.unlink()
        shutil.rmtree(old, ignore_errors=True)
        if mark:
            (temporary / mark).touch()
        with naming(folder):
            yield temporary
        if folder.exists():
            folder.replace(old)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to errors without one, such as a full disk."""
    try:
        yield
    except OSError as error:
        # numpy's, of a file that cannot grow
        if error.errno is None and str(error).endswith("written"):
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


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_once(path: Path, make: Callable[[Path], object]) -> None:
    """Make a file and its folder unless the file exists."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            make(temporary)


def cached_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, which is made if it is missing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{folder.name}.lock"):  # two processes make it once
        if not folder.is_dir():
            with replacing_folder(folder) as new:
                make(new)
                for path in (*new.iterdir(), new):
                    sync(path)
            sync(folder.parent)
    return folder


@contextmanager
def reading(path: Path, *, repair: str = DELETE) -> Iterator[None]:
    """Turn an error of reading one of our files into an input error that names it and says what to
    do."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the audit again to resume it") from None
    except _BROKEN as error:
        if shortage(error) or isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({error}): {repair}") from None


def read_json(path: Path, kind: Any = Any, *, repair: str = DELETE) -> Any:
    """Read one of our JSON files as a type."""
    with reading(path, repair=repair):
        text = path.read_bytes()
    try:
        return _adapter_of(kind).validate_json(text, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        if fault["type"] == "json_invalid":
            raise InputError(f"{path} is not valid JSON ({fault['msg']}): {repair}") from None
        field = ".".join(map(str, fault["loc"])) or "its content"
        raise InputError(f"{path}: {field} is wrong ({fault['msg']}): {repair}") from None


def spill_to_disk(values: np.ndarray, folder: Path) -> np.ndarray:
    """Return the same values; a large array is mapped from an unnamed file that disappears with
    it."""
    if values.nbytes < _SPILL_BYTES or isinstance(values.base, np.memmap):
        return values
    with naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        # On a full disk a write to a map would end the process.
        file.write(np.ascontiguousarray(values).data)
        file.flush()
        return np.asarray(np.memmap(file, values.dtype, "c", shape=values.shape))


def check_suffix(path: Path) -> None:
    """Refuse a name that is of no format of a table."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} must end with {', '.join(SUFFIXES)}")


def read_frame(path: Path) -> pd.DataFrame:
    """Read a table by its suffix; the cells of a CSV file are text."""
    check_suffix(path)
    try:
        return _READERS[path.suffix.lower()](path)
    except (ValueError, ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def write_frame(table: pd.DataFrame, path: Path) -> None:
    """Write a table by its suffix."""
    suffix = path.suffix.lower()
    with replacing(path) as temporary:
        _WRITERS[suffix](table.map(as_cell) if suffix == ".csv" else table, temporary)


def as_cell(value: Any) -> Any:
    """Return a value as a CSV cell: a list as JSON, and a formula as text, after a single quote."""
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    is_formula = isinstance(value, str) and value.startswith(FORMULA)
    return f"'{value}" if is_formula else value
