"""Finds files inside tar archives without unpacking them.

The index of an archive is made once per process and version of the file (its size and time are part of the key); forked
workers share those made before the fork. No file stays open.
"""

import os
import posixpath
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipmem_core.config import InputError
from clipmem_core.pairs.readers.containers import Stamped, is_picture, stamped

_BLOCK = 512  # bytes of a tar header


@dataclass(frozen=True)
class TarContent:
    """Where a tar's members lie (name → offset and size in bytes), which came twice, and whether it ends properly."""

    members: dict[str, tuple[int, int]]
    repeated: list[str]
    complete: bool


def scan_tar(path: Path) -> TarContent:
    """List a tar's files from its headers, without unpacking; a member that is cut off is left out.

    Raises:
        InputError: the file is not an uncompressed tar.
    """
    members: dict[str, tuple[int, int]] = {}
    repeated: list[str] = []
    size = path.stat().st_size
    try:
        with tarfile.open(path, mode="r:") as tar:
            complete = _walk(tar, size, members, repeated)
    except tarfile.TarError as error:
        raise InputError(f"{path.name} is not an uncompressed tar archive ({error})") from error
    return TarContent(members, repeated, complete)


def _walk(tar: Any, size: int, members: dict[str, tuple[int, int]], repeated: list[str]) -> bool:
    """Fill in members and repeated; return whether the archive has its closing block of zeros."""
    try:
        while (member := tar.next()) is not None:
            tar.members = []  # tarfile would keep every header it has seen
            name = posixpath.normpath(member.name).lstrip("/")
            if not member.isreg() or member.offset_data + member.size > size:
                continue
            if name in members:
                repeated.append(name)
            members.setdefault(name, (member.offset_data, member.size))
    except tarfile.TarError:
        return False
    tar.fileobj.seek(tar.offset)
    return bool(tar.fileobj.read(_BLOCK) == bytes(_BLOCK))


class _PictureIndex(NamedTuple):
    """A tar's pictures as three arrays sorted by name, some 30 bytes a picture: hundreds of shards stay in memory."""

    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray


@lru_cache(maxsize=1024)
def _picture_index(file: Stamped) -> _PictureIndex:
    members = scan_tar(Path(file.path)).members
    found = sorted((os.fsencode(name), *place) for name, place in members.items() if is_picture(name))
    names = np.array([name for name, _, _ in found], dtype=bytes)
    places = np.array([place for _, *place in found], dtype=np.int64).reshape(-1, 2)
    return _PictureIndex(names, places[:, 0], places[:, 1])


def tar_picture(path: Path, name: str) -> bytes:
    """Read one picture of a tar.

    Raises:
        LookupError: the tar has no such picture.
        InputError: the file is not a tar.
    """
    index = _picture_index(stamped(path))
    key = os.fsencode(name)
    at = int(np.searchsorted(index.names, key)) if len(index.names) else 0
    if at == len(index.names) or index.names[at] != key:
        raise LookupError(f"no such picture in {path.name}")
    with path.open("rb") as stream:
        stream.seek(int(index.offsets[at]))
        return stream.read(int(index.sizes[at]))
