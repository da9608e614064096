"""The pictures of a cleaned data set as files that any program can open: its own, or written out of archives."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from clipmem_core.audits.jobs import process_start
from clipmem_core.columns import IMAGE
from clipmem_core.config import InputError
from clipmem_core.exports.cleaned import ROW, Cleaned
from clipmem_core.pairs.references import file_faults, read_bytes

Progress = Callable[[int, int], None]
_INSIDE = r"(?i)\.tar/|\.(parquet|arrow)#[0-9]+$"
_SIGNATURES = (  # of the formats that pictures are decoded from
    (0, b"\xff\xd8\xff", ".jpg"),
    (0, b"\x89PNG", ".png"),
    (0, b"GIF8", ".gif"),
    (8, b"WEBP", ".webp"),
    (0, b"BM", ".bmp"),
    (0, b"II*\0", ".tif"),
    (0, b"MM\0*", ".tif"),
    (4, b"ftypavi", ".avif"),
    (4, b"jP  ", ".jp2"),
    (0, b"\xff\x4f\xff\x51", ".j2k"),
    (0, b"P", ".pnm"),
)


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of a cleaned data set are: `names` are relative to `folder`, which is absolute."""

    folder: Path
    names: pa.ChunkedArray
    notes: tuple[str, ...]


@contextmanager
def openable(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> Iterator[Pictures]:
    """Give the pictures as files. Where some lie in archives or tables, all are written into `<stem>_images`.

    That folder, beside `path`, is there whole when the block has ended well, or not at all; an older one is replaced.

    Raises:
        InputError: the data set's folder is gone, or a picture in an archive cannot be read.
    """
    if not cleaned.root.is_dir():
        raise InputError(f"the data set's folder {cleaned.root} is gone: bring it back to export from it")
    images = cleaned.pairs[IMAGE]
    if not pc.any(pc.match_substring_regex(images, _INSIDE)).as_py():
        yield Pictures(cleaned.root, images, _missing(cleaned.root, images))
        return
    folder = images_folder(path).absolute()
    with _replacing_folder(folder) as temporary:
        names = _write_out(cleaned, temporary, progress)
        yield Pictures(folder, names, (f"{len(names):,} pictures were written to {folder}",))


def images_folder(path: Path) -> Path:
    """Return the folder beside an export that its pictures are written to, where they are no files yet."""
    return path.with_name(f"{path.stem}_images")


def suffix_of(data: bytes) -> str:
    """Return the usual file ending of a picture, by its first bytes.

    Example:
        >>> suffix_of(b"GIF89a")
        '.gif'
    """
    known = (suffix for start, mark, suffix in _SIGNATURES if data[start : start + len(mark)] == mark)
    return next(known, ".img")


def _missing(root: Path, images: pa.ChunkedArray) -> tuple[str, ...]:
    faults = file_faults(root, images.to_pylist())
    if not faults:
        return ()
    return (f"{len(faults):,} pictures are no longer there, first {next(iter(faults))!r}",)


def _write_out(cleaned: Cleaned, folder: Path, progress: Progress | None) -> pa.ChunkedArray:
    """Write each picture as it is, named after its pair's row: the names in archives are not safe as files'."""
    names = []
    rows = cleaned.pairs[ROW].to_pylist()
    for done, (row, image) in enumerate(zip(rows, cleaned.pairs[IMAGE].to_pylist(), strict=True)):
        try:
            data = read_bytes(cleaned.root, image)
        except FileNotFoundError as error:
            raise InputError(str(error)) from None
        names.append(f"{row:08d}{suffix_of(data)}")
        (folder / names[-1]).write_bytes(data)
        if progress and done % 100 == 0:
            progress(done, len(rows))
    if progress:
        progress(len(rows), len(rows))
    return pa.chunked_array([pa.array(names, pa.large_string())])


@contextmanager
def _replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder that takes the place of `folder` when the block ends well and vanishes when it does not."""
    _clear(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            folder.replace(old)
        temporary.replace(folder)
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove what exports to a folder have left beside it that were killed; those that run keep theirs."""
    own = re.compile(rf"\.{re.escape(folder.name)}\.(\d+)(\.old)?")
    for path in folder.parent.iterdir() if folder.parent.is_dir() else ():
        left = own.fullmatch(path.name)
        if left and (int(left[1]) == os.getpid() or process_start(int(left[1])) is None):
            shutil.rmtree(path, ignore_errors=True)
