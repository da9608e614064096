"""What archives and tables of pictures share: the key their contents are cached under, and picture file names."""

import os
import posixpath
from pathlib import Path
from typing import NamedTuple

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


class Stamped(NamedTuple):
    """A file as it was when looked at: the key of every cache here."""

    path: str
    size: int
    mtime_ns: int


def stamped(path: Path) -> Stamped:
    """Look at a file once and return the key its contents are cached under."""
    status = path.stat()
    return Stamped(os.fspath(path), status.st_size, status.st_mtime_ns)


def is_picture(name: str) -> bool:
    """Say whether a file name ends like a picture's.

    Example:
        >>> is_picture("a/b.JPG"), is_picture("b.txt")
        (True, False)
    """
    return posixpath.splitext(name)[1].lower() in PICTURE_SUFFIXES
