"""Turns an image reference of a data set into bytes, and a list of references into faults and a stamp.

A reference is a path relative to the data set's root: `a/b.jpg`, `shard.tar/member.jpg`, `file.parquet#12` or
`file.arrow#12`. Nothing outside the root is ever read, whatever dots, links or escapes a reference holds.
"""

import hashlib
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

from clipmem_core.config import InputError
from clipmem_core.pairs.readers.columnar import table_picture
from clipmem_core.pairs.readers.containers import PICTURE, read_file
from clipmem_core.pairs.readers.tars import tar_picture
from clipmem_core.shortage import shortage

_SUSPECT = re.compile(r"[\\%:]|^/|//|/$|(?:^|/)\.\.?(?:/|$)")
_DRIVE = re.compile(r"[A-Za-z]:/")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ROW = re.compile(r"(.+\.(?:parquet|arrow))#(\d+)")
_TAR = re.compile(r"\.tar/", re.IGNORECASE)

ABSOLUTE = "image path is absolute and not in --image-folder: name that folder, or write the path relative to it"
LEAVES = "image path leaves the data set's folder"
LINK_LEAVES = "image is reached by a link that leaves the data set's folder"
MISSING = "no such picture file"
NO_FILE = "image path is not a file"


def normal_reference(image: str) -> str:
    """Return the reference with forward slashes and without `.` and `..`.

    Raises:
        InputError: it is absolute, a URL, leaves the folder (also when unescaped), or is no valid file name.

    Example:
        >>> normal_reference("./images\\\\cat.jpg")
        'images/cat.jpg'
    """
    if "\0" in image or _unencodable(image):
        raise InputError("image path is not valid text")
    if not _SUSPECT.search(image):
        return image
    if _URL.match(image):
        raise InputError("image is a URL: download the pictures first, for example with img2dataset")
    _refuse_escapes(image)
    return posixpath.normpath(image.replace("\\", "/"))


def _unencodable(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _refuse_escapes(image: str) -> None:
    """Raise where the path, or what it becomes when percent-escapes are undone (twice at most), is not inside."""
    for path in (image, unquote(image), unquote(unquote(image))):
        slashed = path.replace("\\", "/")
        if slashed.startswith("/") or _DRIVE.match(slashed):
            raise InputError(ABSOLUTE)
        if posixpath.normpath(slashed).split("/")[0] == "..":
            raise InputError(LEAVES)


def is_inside(root: str, path: str) -> bool:
    """Say whether a path, its links followed, lies in `root`, which has no links itself."""
    real = os.path.realpath(path)
    return real == root or real.startswith(root.rstrip("/") + "/")


def file_faults(root: Path, images: Iterable[str]) -> dict[str, str]:
    """Find the references no picture file can be read from; folders are listed, pictures are not touched one by one.

    Args:
        root: the data set's folder.
        images: normal references of plain files.

    Returns:
        Reference → reason, for those with a fault.
    """
    real_root = os.path.realpath(root)
    folders: dict[str, list[str]] = defaultdict(list)
    for image in images:
        folders[posixpath.dirname(image)].append(image)
    faults = {}
    for folder, members in folders.items():
        found, otherwise = _listing(real_root, folder)
        reasons = ((image, found.get(posixpath.basename(image), otherwise)) for image in members)
        faults.update({image: reason for image, reason in reasons if reason})
    return faults


def _listing(root: str, folder: str) -> tuple[dict[str, str], str]:
    """Return name → fault (empty: none) of a folder's entries, and the fault of any name that is not among them."""
    path = os.path.join(root, folder)
    if not is_inside(root, path):
        return {}, LINK_LEAVES
    try:
        with os.scandir(path) as entries:
            return {entry.name: _entry_fault(entry, root) for entry in entries}, MISSING
    except OSError as error:
        if shortage(error):
            raise
        return {}, MISSING


def _entry_fault(entry: os.DirEntry[str], root: str) -> str:
    if not entry.is_symlink():
        return "" if entry.is_file() else NO_FILE
    if not is_inside(root, entry.path):
        return LINK_LEAVES
    return "" if os.path.isfile(entry.path) else NO_FILE  # entry.is_file() would raise on links that go in circles


def split_reference(root: Path, image: str) -> tuple[Path, str | int | None]:
    """Return the file a normal reference points into, and the tar member or table row in it (None: the file itself)."""
    row = _ROW.fullmatch(image)
    if row:
        return root / row[1], int(row[2])
    for cut in _TAR.finditer(image):
        archive = root / image[: cut.end() - 1]
        if os.path.isfile(archive):
            return archive, image[cut.end() :]
    return root / image, None


def read_bytes(root: Path, image: str) -> bytes:
    """Read the picture a reference points to, undecoded.

    Args:
        root: the data set's folder.
        image: path, tar member or table row, relative to `root`.

    Raises:
        InputError: the reference leaves the folder, or its archive is damaged.
        FileNotFoundError: nothing readable is there.
        OSError: too many files are open, or the disk fails, which says nothing about the picture.
    """
    try:
        path, part = split_reference(root, normal_reference(image))
        if not is_inside(os.path.realpath(root), os.fspath(path)):
            raise InputError(LINK_LEAVES)
        if part is None:
            return read_file(path, PICTURE)
        return table_picture(path, part) if isinstance(part, int) else tar_picture(path, part)
    except (OSError, LookupError) as error:
        if shortage(error):
            raise
        reason = getattr(error, "strerror", None) or error.args[0]
        raise FileNotFoundError(f"picture {image!r} cannot be read in {root}: {reason}") from error
    except InputError as error:
        raise InputError(f"picture {image!r}: {error}") from error


def source_stamp(root: Path, images: Sequence[str]) -> str:
    """Return 32 hex digits that change with the references, their order, or the size or time of a file behind them.

    Args:
        root: the data set's folder.
        images: references; an archive that many point into is looked at once.
    """
    digest = hashlib.sha256()
    files: dict[Path, None] = {}
    for image in images:
        digest.update(image.encode("utf-8", "surrogatepass") + b"\n")
        files.setdefault(split_reference(root, image)[0])
    for path in files:
        digest.update(_file_stamp(path).encode())
    return digest.hexdigest()[:32]


def _file_stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing\n"
    return f"{status.st_size} {status.st_mtime_ns // 1_000_000}\n"
