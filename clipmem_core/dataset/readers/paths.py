"""Rules for the files of a data set (inside its folder, regular, up to a size), and decoding of
text and values."""

import codecs
import io
import json
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO, NamedTuple

from clipmem_core.utils.io import InputError, shortage

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
DELIMITED_SUFFIXES = (".csv", ".tsv")
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (*DELIMITED_SUFFIXES, *JSON_LINES_SUFFIXES)
SOURCE_SUFFIXES = (*TABLE_SUFFIXES, ".json", ".parquet", ".tar")  # of files that are a data set

LARGEST = 1 << 30  # bytes that are read at once: twice the largest picture as plain RGB

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Stamped(NamedTuple):
    """A file's path, size and time: the cache key of its contents."""

    path: str
    size: int
    mtime_ns: int


def stamped(path: Path) -> Stamped:
    """Return the cache key of a file; OSError if it is no regular file."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    return Stamped(os.fspath(path), status.st_size, status.st_mtime_ns)


def is_newer(path: Path, time_ns: int) -> bool:
    """Tell whether a file or folder was written, moved or deleted since a time."""
    try:
        status = path.stat()
    except OSError:
        return True
    # a moved file keeps its modification time
    return max(status.st_mtime_ns, status.st_ctime_ns) >= time_ns


def reading_fault(error: Exception, what: str) -> str:
    """Return why something cannot be read, in one line; a shortage of the machine is raised."""
    if shortage(error):
        raise error
    reason = getattr(error, "strerror", None) or error
    return str(error) if isinstance(error, InputError) else f"{what} cannot be read: {reason}"


def check_size(size: int) -> None:
    """Refuse what is larger than `LARGEST` bytes."""
    if size > LARGEST:
        raise InputError("larger than 1 GiB, the most that is read")


def read_file(path: Path) -> bytes:
    """Read a regular file (else OSError) of at most `LARGEST` bytes."""
    check_size(stamped(path).size)
    return path.read_bytes()


def is_url(text: str) -> bool:
    """Tell whether a text is a URL, such as s3://bucket/pairs.parquet."""
    return bool(_URL.match(text))


def is_picture(name: str) -> bool:
    """Tell whether a file name ends like a picture's."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def normal_reference(image: str) -> str:
    """Return the reference with forward slashes and without `.` and `..`; InputError if it leaves
    the folder."""
    if "\0" in image or printable(image) != image:
        raise InputError("image path is not valid text")
    if is_url(image):
        raise InputError(
            "image is a URL: download the pictures first, for example with img2dataset"
        )
    path = PureWindowsPath(image)  # separates at both kinds of slashes
    if path.root:
        raise InputError(
            "image path is absolute and not in --image-folder: name that folder, or make it "
            "relative"
        )
    normal = posixpath.normpath(path.as_posix())
    if normal.split("/")[0] == "..":
        raise InputError("image path leaves the data set's folder")
    if not image.strip():
        raise InputError("image reference is empty")
    return normal


def check_inside(root: Path, path: Path, what: str = "image") -> None:
    """Refuse a path that lies outside of a folder once links are followed."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise InputError(f"{what} is reached by a link that leaves the data set's folder")


def picture_fault(root: Path, image: str) -> str:
    """Return why no picture file can be read from a normal reference; empty if it can."""
    try:
        check_inside(root, root / image)
        stamped(root / image)
    except (InputError, OSError) as error:
        return reading_fault(error, "picture")
    return ""


def read_lines(path: Path) -> Iterator[str]:
    """Yield the text of a regular file line by line, as `decode_text` reads it."""
    stamped(path)
    with path.open("rb") as stream:
        yield from _text_lines(stream)


def decode_text(data: bytes) -> str:
    """Return a file's text: UTF-16 with a byte order mark, UTF-8, or a line that is not UTF-8 as
    Windows-1252."""
    return "".join(_text_lines(io.BytesIO(data)))


def _text_lines(stream: BinaryIO) -> Iterator[str]:
    start = stream.read(2)
    stream.seek(0)
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        yield from io.StringIO(stream.read().decode("utf-16", errors="replace"), newline="\n")
        return
    for line in stream:
        try:
            yield line.decode("utf-8-sig")
        except UnicodeDecodeError:
            yield line.decode("cp1252", errors="replace")


def decode_json(text: str) -> Any:
    """Return the JSON value in a text; InputError if it is not JSON or nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}") from error


def is_missing(value: Any) -> bool:
    """Tell whether a cell is empty: None, a float NaN, or a NaN printed as text."""
    if isinstance(value, str):
        return value.strip() in ("nan", "NaN")
    return value is None or (isinstance(value, float) and value != value)


def without_surrogates(value: Any) -> Any:
    """Replace halves of surrogate pairs in a text, which other libraries refuse."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def tidy(text: str) -> str:
    """Return the text without outer whitespace, NUL characters and halves of surrogate pairs."""
    return without_surrogates(text).replace("\0", "").strip()


def printable(text: str) -> str:
    """Return the text with characters that UTF-8 cannot encode as escapes, for file names that are
    not text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_name(value: Any) -> str | None:
    """Return an id or a label as text, None if it is empty; integers lose their decimal point."""
    if is_missing(value):
        return None
    integer = isinstance(value, float) and value.is_integer()
    return tidy(str(int(value) if integer else value)) or None
