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


def cached(
    path: Path,
    make: Callable[[Path], None],
    *,
    whole: Callable[[Path], bool],
    broken: Callable[[str], None] = lambda said: None,
) -> bool:
    """Make a file unless it is `whole`, and tell whether it was made; its path is a key of its content."""
    if whole(path):
        return False
    if path.is_file():
        broken(f"{path} is broken: making it again")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        make(temporary)
    return True


def read_through(path: Path, make: Callable[[Path], None], read: Callable[[Path], Content | None]) -> Content:
    """Return the content of a cached file, which is made if `read` returns None."""
    content = read(path)
    if content is None:
        cached(path, make, whole=lambda _: False)
        content = read(path)
    if content is None:
        raise RuntimeError(f"{path} was written and cannot be read")
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
