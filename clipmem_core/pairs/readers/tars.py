"""Finds files inside tar archives without unpacking them.

The index of an archive is made once per process and version of the file (its size and time are part of the key); forked
workers share those made before the fork. No file stays open.
"""

import os
import posixpath
import re
import tarfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipmem_core.config import InputError
from clipmem_core.pairs.readers.containers import PICTURE, TAR_HEADER, Stamped, is_picture, stamped

_BLOCK = 512  # bytes of a tar header
_ATTACHED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_DIGITS = re.compile(rb"\d{1000}")
_DAMAGE = (tarfile.TarError, ValueError, LookupError, ArithmeticError, RecursionError)  # what tarfile raises over it


@dataclass(frozen=True)
class TarContent:
    """Where a tar's members lie (name → offset and size in bytes), which are refused, and whether it ends properly."""

    members: dict[str, tuple[int, int]]
    refused: list[tuple[str, str]]  # name and reason
    complete: bool


class _Header(tarfile.TarInfo):
    """A header that is refused where reading it would take all memory or for ever, or lead back to where it stands."""

    def _proc_member(self, tar: Any) -> Any:
        attached = self.type in _ATTACHED
        if self.size < 0 or (attached and TAR_HEADER.fault(self.size)):
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        if attached:
            at = tar.fileobj.tell()
            if _DIGITS.search(tar.fileobj.read(self.size)):  # older tarfiles take the square of its length over these
                raise tarfile.ReadError("a header of digits")
            tar.fileobj.seek(at)
        return super()._proc_member(tar)  # type: ignore[misc]


def scan_tar(path: Path) -> TarContent:
    """List a tar's files from its headers, without unpacking; a member that is cut off is left out.

    Raises:
        InputError: the file is not an uncompressed tar.
    """
    content = TarContent({}, [], False)
    size = stamped(path).size
    try:
        with tarfile.open(path, mode="r:", tarinfo=_Header) as tar:
            return replace(content, complete=_walk(tar, size, content))
    except _DAMAGE as error:
        raise InputError(f"{path.name} is not an uncompressed tar archive ({error})") from error


def _walk(tar: Any, size: int, content: TarContent) -> bool:
    """Fill in the content; return whether the archive has its closing block of zeros."""
    try:
        at = -1
        while (member := tar.next()) is not None and tar.offset > at:
            at = tar.offset
            tar.members = []  # tarfile would keep every header it has seen
            _note(member, size, content)
    except _DAMAGE:
        return False
    tar.fileobj.seek(tar.offset)
    return bool(tar.fileobj.read(_BLOCK) == bytes(_BLOCK))


def _note(member: tarfile.TarInfo, size: int, content: TarContent) -> None:
    name = posixpath.normpath(member.name).lstrip("/")
    if member.isdir():
        return
    if not member.isreg() or member.issparse():
        content.refused.append((name, "member is a link, a device or sparse: plain files are read"))
    elif member.size < 0:
        content.refused.append((name, "member's header is damaged: it has a negative size"))
    elif member.offset_data + member.size > size:
        return  # cut off: the archive is told to be
    elif name in content.members:
        content.refused.append((name, "member comes twice in the tar: the first is used"))
    else:
        content.members[name] = (member.offset_data, member.size)


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
        InputError: the file is not a tar, or the picture is above the limit.
    """
    index = _picture_index(stamped(path))
    key = os.fsencode(name)
    at = int(np.searchsorted(index.names, key)) if len(index.names) else 0
    if at == len(index.names) or index.names[at] != key:
        raise LookupError(f"no such picture in {path.name}")
    if fault := PICTURE.fault(int(index.sizes[at])):
        raise InputError(f"it is {fault}")
    with path.open("rb") as stream:
        stream.seek(int(index.offsets[at]))
        return stream.read(int(index.sizes[at]))
