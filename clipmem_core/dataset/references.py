"""Reads the pictures that references point to, and hashes the state of their files.

A reference is a path relative to the data set's root: `a/b.jpg`, `shard.tar/member.jpg`, `file.parquet#12` or
`file.arrow#12`. Nothing outside the root is read, whatever dots, links or escapes a reference has.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from clipmem_core.dataset.readers.containers import table_picture, tar_picture
from clipmem_core.dataset.readers.paths import LINK_LEAVES, PICTURE, is_inside, normal_reference, read_file
from clipmem_core.facts import InputError
from clipmem_core.io import shortage

_ROW = re.compile(r"(.+\.(?:parquet|arrow))#(\d+)")
_TAR = re.compile(r"\.tar/", re.IGNORECASE)


def split_reference(root: Path, image: str) -> tuple[Path, str | int | None]:
    """Split a normal reference into its file and the tar member or table row in it (None: the file itself)."""
    row = _ROW.fullmatch(image)
    if row:
        return root / row[1], int(row[2])
    for match in _TAR.finditer(image):
        archive = root / image[: match.end() - 1]
        if os.path.isfile(archive):
            return archive, image[match.end() :]
    return root / image, None


def read_bytes(root: Path, image: str) -> bytes:
    """Read the encoded picture of a reference.

    A reference that leaves the folder and a damaged archive raise InputError, a missing picture FileNotFoundError, a
    shortage of the machine any other OSError.
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
    """Return 32 hex digits that change with the references, their order, and the size or time of their files."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.encode("utf-8", "surrogatepass") + b"\n")
    for path in dict.fromkeys(split_reference(root, image)[0] for image in images):
        try:
            status = path.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns // 1_000_000}\n".encode())
        except OSError:
            digest.update(b"missing\n")
    return digest.hexdigest()[:32]
