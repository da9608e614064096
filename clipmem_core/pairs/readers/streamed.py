"""Stand-ins: what lies in the data folder in the place of a streamed data set's shards and Parquet files.

A stand-in is a mark and a zip archive. Pictures are read from the file at its URL, each by its range of bytes:

    about.json     where that file is, its size, and what tells whether it has changed
    content.json   of a shard: where its members lie, and what is wrong with it
    texts          of a shard: its captions and JSON, which so are fetched once
"""

import errno
import io
import json
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from clipmem_core.config import InputError
from clipmem_core.pairs.readers.containers import Stamped
from clipmem_core.shortage import shortage

Got = TypeVar("Got")

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before a connection that was lost is tried again
GAP = 1 << 16  # bytes between two pictures that are fetched along rather than asked for apart
AHEAD = 1 << 26  # bytes of pictures that are fetched before they are asked for
TAIL = 1 << 16  # bytes at the end of a file, where Parquet has its index, that are fetched once in a process
_MARK = b"clipmem: what stands here for a file at a URL\n"
_ABOUT = "about.json"
_VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified", "last_modified", "created")
_FOR_NOW = (errno.EIO, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENOTCONN)  # s3fs calls a busy server EIO


class Remote(NamedTuple):
    """A file at a URL, as it was when the data set was read."""

    system: str  # fsspec's, as JSON
    path: str
    version: str
    size: int

    def read(self, start: int, end: int) -> bytes:
        """Return a range of the file's bytes.

        Raises:
            FileNotFoundError: the file is gone.
            InputError: it has changed, or its server gives other bytes than are asked for.
            OSError: it cannot be reached, which says nothing about it.
        """
        ahead = _ahead.pop((self, start), b"")
        if start == end or len(ahead) == end - start:
            return ahead
        name = self.path.rpartition("/")[2]
        if not _is_same(self):
            raise InputError(f"{name} has changed at its URL since it was read: begin anew with it")
        data = patiently(lambda: _system(self.system).cat_file(self.path, start=start, end=end), self.path)
        if len(data) != end - start:
            raise InputError(f"{name} gave {len(data):,} bytes at its URL where {end - start:,} were asked for")
        return bytes(data)


_ahead: dict[tuple[Remote, int], bytes] = {}  # what was fetched before it is asked for, by where it begins


class Ranges(io.RawIOBase):
    """A file at a URL as a binary stream; what is read is fetched, and no more."""

    def __init__(self, remote: Remote) -> None:
        super().__init__()
        self._remote, self._at = remote, 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be read from anywhere."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place and return it."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._remote.size}[whence]
        return self._at

    def tell(self) -> int:
        """Return where it is."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the file goes, and return how far that is."""
        end = max(self._at, min(self._at + len(buffer), self._remote.size))
        tail = max(0, self._remote.size - TAIL)
        near = self._at >= tail
        data = _tail(self._remote)[self._at - tail : end - tail] if near else self._remote.read(self._at, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@lru_cache(maxsize=256)
def _tail(remote: Remote) -> bytes:
    return remote.read(max(0, remote.size - TAIL), remote.size)


def leave(path: Path, remote: Remote, parts: Mapping[str, bytes]) -> None:
    """Write a stand-in; `parts` is what else is kept in it, by its name."""
    with path.open("wb") as file:
        file.write(_MARK)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {_ABOUT: json.dumps(remote._asdict()).encode(), **parts}.items():
                archive.writestr(name, content)


def kept(path: Path, part: str) -> bytes | None:
    """Return a part of a stand-in; None of any other file.

    Raises:
        OSError: the stand-in is damaged.
    """
    with path.open("rb") as file:
        if file.read(len(_MARK)) != _MARK:
            return None
        try:
            with zipfile.ZipFile(file) as archive:
                return archive.read(part)
        except (zipfile.BadZipFile, zlib.error, LookupError, EOFError) as error:
            raise OSError(errno.EIO, f"damaged ({error}): delete it", str(path)) from error


@lru_cache(maxsize=1 << 14)
def remote_of(file: Stamped) -> Remote | None:
    """Return the file at a URL that a stand-in stands for; None of a file that is here."""
    about = kept(Path(file.path), _ABOUT)
    return Remote(**json.loads(about)) if about else None


def look_at(system: Any, path: str) -> Remote:
    """Return a file of a file system of fsspec as it is now."""
    info = system.info(path)
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    return Remote(system.to_json(), path, version, int(info["size"] or 0))


@lru_cache(maxsize=1 << 14)
def _is_same(remote: Remote) -> bool:
    """Tell whether a file has not changed; asked once in each process."""
    return patiently(lambda: look_at(_system(remote.system), remote.path), remote.path)[2:] == remote[2:]


def _system(known: str) -> Any:
    """Return a file system; fsspec keeps those that are open, each process its own."""
    import fsspec  # which data sets that are here need nothing of

    return fsspec.AbstractFileSystem.from_json(known)


def fetch_ahead(wanted: Iterable[tuple[Remote, int, int]]) -> None:
    """Fetch pictures, by file, first byte and end, for the next time they are read: neighbours at one request.

    What was fetched before and not asked for is forgotten. Up to `AHEAD` bytes are fetched.
    """
    _ahead.clear()
    runs: list[list[tuple[Remote, int, int]]] = []
    total = 0
    for place in sorted(set(wanted)):
        total += place[2] - place[1]
        if total > AHEAD:
            break
        if runs and runs[-1][-1][0] == place[0] and place[1] - runs[-1][-1][2] <= GAP:
            runs[-1].append(place)
        else:
            runs.append([place])
    for run in runs:
        remote, first, _ = run[0]
        data = remote.read(first, run[-1][2])
        _ahead.update({(remote, start): data[start - first : end - first] for _, start, end in run})


def patiently(call: Callable[[], Got], what: str) -> Got:
    """Return what a call over the network returns; where a connection is lost it is called again a few times.

    Raises:
        OSError: it is lost for good, or this machine ran short of something.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:  # file systems raise kinds of their own
            if not _for_now(error):
                raise
            if wait is None:
                said = " ".join(str(error).split())[:200] or type(error).__name__
                raise OSError(errno.EHOSTUNREACH, said, what) from error
            time.sleep(wait)
    raise AssertionError


def _for_now(error: Exception) -> bool:
    """Tell whether it may go away: what is missing, forbidden or not understood does not."""
    if isinstance(error, FileNotFoundError):  # fsspec says so of a web server that does not answer, too
        lost = isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError)
        return lost or getattr(error.__cause__, "status", 404) >= 500
    if isinstance(error, (PermissionError, ImportError, ValueError)):
        return False
    return not shortage(error) or getattr(error, "errno", None) in _FOR_NOW
