"""How the files of a data set are opened: regular ones only, up to a size; what caches go by; names of pictures.

A pipe would be waited on for ever and a device read without end, and what is read whole takes several times its size in
memory: both are told before a file is opened.
"""

import errno
import os
import posixpath
import stat
from pathlib import Path
from typing import NamedTuple

from clipmem_core.config import InputError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


class Limit(NamedTuple):
    """The most bytes that are read of a kind of file, and what to do with a larger one."""

    size: int
    advice: str

    def fault(self, size: int) -> str:
        """Return why a file of `size` bytes is not read; empty where it is."""
        most = f"{self.size >> 20:,} MiB"
        return f"larger than {most}, the most that is read: {self.advice}" if size > self.size else ""


# A caption is a sentence: a million characters are a thick novel.
TEXT = Limit(1 << 20, "captions are shorter")
# A file's name takes 4 KiB at most and its attributes 64, a third more as tar writes them.
TAR_HEADER = Limit(1 << 17, "write the tar without attributes")
# Read whole, at seven times its size in memory; the 3.3 million rows of Conceptual Captions take half of it.
TABLE = Limit(1 << 30, "write it as several Parquet files or as shards")
# Read whole, at six to nine times its size in memory; the largest file of COCO, 450 MB, is below it.
JSON = Limit(1 << 29, "write it as several Parquet files or as shards")
# Twice what the largest picture that is decoded takes as plain RGB.
PICTURE = Limit(1 << 30, "save the picture smaller")
# The index of a Parquet file: a thousand columns in a hundred row groups take an eighth of it.
FOOTER = Limit(1 << 26, "write the file again with fewer columns or row groups")


class Stamped(NamedTuple):
    """A file as it was when looked at: the key of every cache here."""

    path: str
    size: int
    mtime_ns: int


def stamped(path: Path) -> Stamped:
    """Look at a file once and return the key its contents are cached under.

    Raises:
        OSError: it is no regular file.
    """
    status = _regular(path)
    return Stamped(os.fspath(path), status.st_size, status.st_mtime_ns)


def read_file(path: Path, limit: Limit) -> bytes:
    """Read a whole file.

    Raises:
        OSError: it is no regular file.
        InputError: it is above the limit.
    """
    if fault := limit.fault(_regular(path).st_size):
        raise InputError(f"{path.name} is {fault}")
    return path.read_bytes()


def _regular(path: Path) -> os.stat_result:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
    return status


def is_picture(name: str) -> bool:
    """Say whether a file name ends like a picture's.

    Example:
        >>> is_picture("a/b.JPG"), is_picture("b.txt")
        (True, False)
    """
    return posixpath.splitext(name)[1].lower() in PICTURE_SUFFIXES
