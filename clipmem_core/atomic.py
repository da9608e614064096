"""Atomic writes: a file is written under a temporary name, synced and renamed."""

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
    """Yield a temporary path that becomes `path` when the block ends well, and is deleted when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_once(path: Path, make: Callable[[Path], None]) -> bool:
    """Make a file unless it exists, and tell whether it was made."""
    if path.is_file():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        make(temporary)
    return True


def read_through(path: Path, make: Callable[[Path], None], read: Callable[[Path], Content | None]) -> Content:
    """Return the content of a cached file, which is made if `read` returns None."""
    content = read(path)
    if content is None:
        path.unlink(missing_ok=True)
        write_once(path, make)
        content = read(path)
    assert content is not None, f"{path} was written and cannot be read"
    return content


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to an error such as a full disk, which has none."""
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
    """Tell whether a zip archive (.npz, torch files) exists and its checksums are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception as error:  # zipfile and zlib raise many types on damaged bytes
        if shortage(error):
            raise
        return False
