"""Fetches a data set that a URL names (s3://, gs://, https:// … of fsspec) into the data folder, once, file by file.

Pictures are read again and again, by many processes and pages: a copy that all of them see costs less than a request
for each. What is fetched stays; a file that changed where it came from, or that a kill cut short, is fetched again.
"""

import errno
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from clipmem_core.atomic import replacing
from clipmem_core.config import SETS, InputError, fingerprint
from clipmem_core.pairs.readers.containers import normal_reference
from clipmem_core.pairs.readers.shards import expand_pattern
from clipmem_core.shortage import shortage

AT_ONCE = 8  # files
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before a lost connection is retried
SECONDS_BETWEEN_LINES = 30.0
_FOR_NOW = (errno.EIO, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENOTCONN)  # s3fs calls a busy server EIO
FETCHED = ".fetched.jsonl"  # name of each file that is there, and what tells whether it changed where it came from


@dataclass(frozen=True)
class _Listed:
    """The files of a data set, by their names below a folder, and what is read of them once they are here."""

    system: Any
    root: str
    names: list[str]
    read: str


def fetch(url: str, *, data: Path, say: Callable[[str], None] = lambda line: None) -> str:
    """Copy the file, the folder or the shards (a brace pattern) that a URL names into the data folder, as far as they
    are not there; return the path there. What file:// names is read where it lies.

    Raises:
        InputError: nothing is there, or it cannot be read; one line says why.
        OSError: the machine ran short of something; what was fetched stays.
    """
    with told(url):
        listed = _listed(url)
        if isinstance(listed.system, LocalFileSystem):
            return f"{listed.root}/{listed.read}".rstrip("/")
        key = fingerprint([url.partition(":")[0], listed.root])
        target = data / SETS / f"{Path(listed.root).name or 'set'}-{key}"
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / f"{FETCHED}.lock"):
            fetch_files(listed.system, listed.root, listed.names, target, say)
    return str(target / listed.read).rstrip("/")


@contextmanager
def told(url: str) -> Iterator[None]:
    """Turn what file systems raise over a URL into one line: each has kinds of its own.

    Raises:
        InputError: the line.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if shortage(error):
            raise
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{url} cannot be reached: {said}") from error


def _listed(url: str) -> _Listed:
    """List what a URL names."""
    fixed, brace, rest = url.partition("{")
    if brace:
        folder, _, start = fixed.rpartition("/")
        system, root = fsspec.core.url_to_fs(folder)
        return _Listed(system, root, [str(path) for path in expand_pattern(f"{start}{{{rest}")], f"{start}{{{rest}")
    system, path = fsspec.core.url_to_fs(url)
    if system.isfile(path):
        root, _, name = path.rpartition("/")
        return _Listed(system, root, [name], name)
    root = path.rstrip("/")
    names = [found.removeprefix(root).lstrip("/") for found in system.find(path)]
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if not names:
        raise InputError(f"there is nothing at {url}")
    return _Listed(system, root, names, "")


def fetch_files(system: Any, root: str, names: list[str], target: Path, say: Callable[[str], None]) -> None:
    """Copy files of a file system's folder into one here, those that are not there as they are now.

    Raises:
        InputError: none of them is there, or a name is none of a file in the folder.
        OSError: the connection is lost, or the machine ran short of something; what was fetched stays.
    """
    known = dict(_lines(target / FETCHED))
    noting, began, gone = threading.Lock(), time.monotonic(), list[str]()

    def one(name: str) -> None:
        """Fetch a file unless it is there as it is now. A shard that is missing is told of when it is read."""
        if normal_reference(name) != name:
            raise InputError(f"{name!r} cannot be written as a path")
        path = f"{root}/{name}"
        try:
            key = _retried(lambda: system.ukey(path), path)
            if known.get(name) == key and (target / name).is_file():
                return
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with replacing(target / name) as temporary:
                _retried(lambda: system.get_file(path, str(temporary)), path)
        except FileNotFoundError:
            if system.exists(path):  # what is missing is a file or folder on this machine
                raise
            gone.append(name)
            return
        with noting, (target / FETCHED).open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, key]) + "\n")

    say(f"fetching {len(names):,} files into {target}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for done, _ in enumerate(pool.map(one, names), start=1):
                if time.monotonic() - began > SECONDS_BETWEEN_LINES:
                    began = time.monotonic()
                    say(f"{done:,} of {len(names):,} files are here")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if len(gone) == len(names):
        raise InputError(f"there is no {gone[0]!r} in {root}")


def _retried(call: Callable[[], Any], path: str) -> Any:
    """Return what a call over the network returns; a lost connection is retried a few times.

    Raises:
        OSError: the connection is lost for good, or this machine ran short of something.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:  # file systems raise kinds of their own
            if not _is_lost(error):
                raise
            if wait is None:
                said = " ".join(str(error).split())[:200] or type(error).__name__
                raise OSError(errno.EHOSTUNREACH, said, path) from error
            time.sleep(wait)
    raise AssertionError


def _is_lost(error: Exception) -> bool:
    """Tell whether an error may go away: that of a missing, forbidden or invalid file does not."""
    if isinstance(error, FileNotFoundError):  # fsspec says so of a web server that does not answer, too
        lost = isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError)
        return lost or getattr(error.__cause__, "status", 404) >= 500
    if isinstance(error, (PermissionError, ImportError, ValueError)):
        return False
    return not shortage(error) or getattr(error, "errno", None) in _FOR_NOW


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the pairs in a file of JSON lines; one that a kill cut short says nothing."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            name, key = json.loads(line)
        except ValueError:
            continue
        yield name, key
