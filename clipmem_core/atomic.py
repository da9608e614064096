"""A file is there whole or not at all: it is written under a temporary name beside its own and renamed."""

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from clipmem_core.shortage import shortage

Content = TypeVar("Content")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `path` when the block ends well and vanishes when it does not.

    Both survive a power cut: the file is on the disk before it gets its name, and its name before the call returns.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def cached(
    path: Path,
    make: Callable[[Path], None],
    *,
    whole: Callable[[Path], bool],
    broken: Callable[[str], None] = lambda said: None,
) -> bool:
    """Have a file made unless it is there and whole; its path is a key of all that changes what is in it.

    Returns:
        True if it was made now.
    """
    if whole(path):
        return False
    if path.is_file():
        broken(f"{path} is broken: making it again")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        make(temporary)
    return True


def read_through(
    path: Path,
    make: Callable[[Path], None],
    read: Callable[[Path], Content | None],
    *,
    broken: Callable[[str], None] = lambda said: None,
) -> Content:
    """Return what is in a cached file, which is made unless it is there and whole; reading it is what tells."""
    content = read(path)
    if content is None:
        cached(path, make, whole=lambda _: False, broken=broken)
        content = read(path)
    if content is None:
        raise RuntimeError(f"{path} was written and cannot be read")
    return content


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of a full disk and the like name the path: writing itself only says what went wrong."""
    try:
        yield
    except OSError as error:
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


def whole_archive(path: Path) -> bool:
    """Tell whether a zip archive, such as .npz and torch's files, is there and is what was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception as error:  # zipfile and zlib raise whatever damaged bytes lead them to
        if shortage(error):
            raise
        return False
