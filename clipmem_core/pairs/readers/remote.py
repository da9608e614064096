"""Fetches a data set that a URL names (s3://, gs://, https:// … of fsspec) into the data folder, once, file by file.

Pictures are read again and again, by many processes and pages: a copy that all of them see costs less than a request
for each. What is fetched stays; a file that changed where it came from, or that a kill cut short, is fetched again.

Of a set that is streamed only stand-ins stay (`streamed`): a shard is deleted once its texts are read.
"""

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
from clipmem_core.pairs.readers.shards import expand_pattern, kept_fault, kept_of_shard
from clipmem_core.pairs.readers.streamed import Remote, leave, look_at, patiently
from clipmem_core.shortage import shortage

AT_ONCE = 8  # files
AT_ONCE_STREAMED = 4  # that each take the disk of a shard for as long as it is read
STREAMED = (".tar", ".parquet")
SECONDS_BETWEEN_LINES = 30.0
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")  # which come before Parquet files where both are in a folder
_WHOLE = ".whole"
FETCHED = ".fetched.jsonl"  # name of each file that is there, and what tells whether it changed where it came from


@dataclass(frozen=True)
class _Listed:
    """The files of a data set, by their names below a folder, and what is read of them once they are here."""

    system: Any
    root: str
    names: list[str]
    read: str


def fetch(url: str, *, data: Path, stream: bool = False, say: Callable[[str], None] = lambda line: None) -> str:
    """Copy the file, the folder or the shards (a brace pattern) that a URL names into the data folder, as far as they
    are not there; return the path there. What file:// names is read where it lies.

    Where it is to `stream`, stand-ins are left in the place of shards and Parquet files.

    Raises:
        InputError: nothing is there, or it cannot be read or streamed; one line says why.
        OSError: the machine ran short of something; what was fetched stays.
    """
    with told(url):
        listed = _listed(url)
        if isinstance(listed.system, LocalFileSystem):
            return f"{listed.root}/{listed.read}".rstrip("/")
        key = fingerprint([url.partition(":")[0], listed.root, *(["streamed"] if stream else [])])
        target = data / SETS / f"{Path(listed.root).name or 'set'}-{key}"
        names = _streamed_names(url, listed.names) if stream else listed.names
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / f"{FETCHED}.lock"):
            for left in target.rglob(f".*{_WHOLE}"):  # by a kill
                left.unlink()
            fetch_files(listed.system, listed.root, names, target, say, stream=stream)
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


def fetch_files(
    system: Any, root: str, names: list[str], target: Path, say: Callable[[str], None], *, stream: bool = False
) -> None:
    """Copy files of a file system's folder into one here, those that are not there as they are now.

    Where they are to `stream`, stand-ins take the place of shards and Parquet files.

    Raises:
        InputError: none of them is there, or a name is none of a file in the folder.
        OSError: the connection is lost, or the machine ran short of something; what was fetched stays.
    """
    known = dict(_lines(target / FETCHED))
    noting, began, gone = threading.Lock(), time.monotonic(), list[str]()

    def one(name: str) -> str:
        """Fetch a file unless it is there as it is now; say so. A shard that is missing is told of when it is read."""
        if normal_reference(name) != name:
            raise InputError(f"{name!r} cannot be written as a path")
        path = f"{root}/{name}"
        try:
            remote = patiently(lambda: look_at(system, path), path) if stream else None
            key = f"{remote.size} {remote.version}" if remote else patiently(lambda: system.ukey(path), path)
            if known.get(name) == key and (target / name).is_file():
                return ""
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with replacing(target / name) as temporary:
                if remote is None or not name.endswith(STREAMED):
                    patiently(lambda: system.get_file(path, str(temporary)), path)
                else:
                    _stand_in(system, remote, temporary, name)
        except FileNotFoundError:
            if system.exists(path):  # what is missing is a file or folder on this machine
                raise
            gone.append(name)
            return ""
        except PermissionError as error:
            if not (stream and name.endswith(".tar")):
                raise
            with replacing(target / name) as temporary:
                fault = kept_fault(f"shard cannot be read: {error.strerror or error}")
                leave(temporary, Remote(system.to_json(), path, "", 0), fault)
            return f"{name} may not be read"
        with noting, (target / FETCHED).open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, key]) + "\n")
        return f"{name} is read" if stream else ""

    say(f"{'reading' if stream else 'fetching'} {len(names):,} files into {target}")
    with ThreadPoolExecutor(AT_ONCE_STREAMED if stream else AT_ONCE) as pool:
        try:
            for done, said in enumerate(pool.map(one, names), start=1):
                if said or time.monotonic() - began > SECONDS_BETWEEN_LINES:
                    began = time.monotonic()
                    say(f"{f'{said}: ' if said else ''}{done:,} of {len(names):,} files are here")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if len(gone) == len(names):
        raise InputError(f"there is no {gone[0]!r} in {root}")


def _stand_in(system: Any, remote: Remote, target: Path, name: str) -> None:
    """Write what stands for a file that is streamed; a shard is here as long as that takes.

    Raises:
        InputError: its server gives no parts of files.
    """
    if len(patiently(lambda: system.cat_file(remote.path, start=0, end=1), remote.path)) > 1:
        raise InputError(f"{name} is at a server that gives no ranges of bytes: leave --stream out")
    if not name.endswith(".tar"):
        leave(target, remote, {})
        return
    whole = target.with_name(f"{target.name}{_WHOLE}")

    def get() -> None:
        system.get_file(remote.path, str(whole))
        if remote.size != whole.stat().st_size:
            raise ConnectionError(f"{whole.stat().st_size:,} of {remote.size:,} bytes came")

    try:
        patiently(get, remote.path)
        leave(target, remote, kept_of_shard(whole, name.rpartition("/")[2]))
    finally:
        whole.unlink(missing_ok=True)


def _streamed_names(url: str, names: list[str]) -> list[str]:
    """Return the files of a data set that its rows are read from: pictures beside them are not fetched.

    Raises:
        InputError: there is none that can be streamed.
    """
    if not any(name.endswith(STREAMED) for name in names):
        raise InputError(
            f"--stream is for WebDataset shards and Parquet files, and there is none at {url}: leave it out"
        )
    return [name for name in names if name.endswith((*STREAMED, *_TABLES))]


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
