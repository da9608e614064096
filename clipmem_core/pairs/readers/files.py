"""Which files of a data set are read (inside its folder, regular, up to a size), and their bytes as text and values."""

import errno
import io
import json
import math
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote

from charset_normalizer import from_bytes

from clipmem_core.config import InputError
from clipmem_core.shortage import shortage

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

_SUSPECT = re.compile(r"[\\%:]|^/|//|/$|(?:^|/)\.\.?(?:/|$)")
_DRIVE = re.compile(r"[A-Za-z]:/")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
PATH_MAX = 4096  # characters; Linux takes no longer path, and links are followed in the square of its length
ABSOLUTE = "image path is absolute and not in --image-folder: name that folder, or write the path relative to it"
LEAVES = "image path leaves the data set's folder"
LINK_LEAVES = "image is reached by a link that leaves the data set's folder"
MISSING = "no such picture file"
NO_FILE = "image path is not a file"


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
    _within(path, limit)
    return path.read_bytes()


def read_lines(path: Path, limit: Limit) -> Iterator[str]:
    """Yield a file's text line by line, as `text_lines` does.

    Raises:
        OSError: it is no regular file.
        InputError: it is above the limit.
    """
    _within(path, limit)
    with path.open("rb") as stream:
        yield from text_lines(stream)


def _within(path: Path, limit: Limit) -> None:
    if fault := limit.fault(_regular(path).st_size):
        raise InputError(f"{path.name} is {fault}")


def _regular(path: Path) -> os.stat_result:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
    return status


def is_url(text: str) -> bool:
    """Say whether a text is a URL.

    Example:
        >>> is_url("s3://bucket/pairs.parquet"), is_url("data/pairs.parquet")
        (True, False)
    """
    return bool(_URL.match(text))


def is_picture(name: str) -> bool:
    """Say whether a file name ends like a picture's.

    Example:
        >>> is_picture("a/b.JPG"), is_picture("b.txt")
        (True, False)
    """
    return posixpath.splitext(name)[1].lower() in PICTURE_SUFFIXES


def normal_reference(image: str) -> str:
    """Return the reference with forward slashes and without `.` and `..`.

    Raises:
        InputError: it is absolute, a URL, too long, leaves the folder (also when unescaped), or is no valid file name.

    Example:
        >>> normal_reference("./images\\\\cat.jpg")
        'images/cat.jpg'
    """
    if len(image) >= PATH_MAX:
        raise InputError(f"image path is longer than {PATH_MAX:,} characters")
    if "\0" in image or _unencodable(image):
        raise InputError("image path is not valid text")
    if not _SUSPECT.search(image):
        return image
    if is_url(image):
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


def file_faults(root: Path, images: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Find the references no picture file can be read from; folders are listed, pictures are not touched one by one.

    Args:
        root: the data set's folder.
        images: normal references of plain files, those of one folder together: the one before is not remembered.

    Yields:
        Reference and reason of each with a fault.
    """
    real_root = os.path.realpath(root)
    for folder, members in groupby(images, posixpath.dirname):
        found, otherwise = _listing(real_root, folder)
        for image in members:
            if reason := found.get(posixpath.basename(image), otherwise):
                yield image, reason


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


_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_SAMPLE = 1 << 16  # bytes that are enough to guess an encoding from
_NOT_A_NUMBER = {"nan", "NaN"}  # what an empty cell becomes on its way through str(float)


def text_lines(stream: BinaryIO) -> Iterator[str]:
    """Yield a file's text up to each line feed, which stays: by its byte order mark, else as UTF-8.

    Lines that are not UTF-8 are in the encoding guessed for them all; they alone are guessed, so that one stray line
    does not spoil a UTF-8 file. NUL characters are removed.
    """
    start = stream.read(4)
    stream.seek(0)
    if marked := next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), ""):
        texts = io.TextIOWrapper(stream, marked, errors="replace", newline="\n")
        try:
            yield from (text.replace("\0", "") for text in texts)
        finally:
            texts.detach()  # the stream is not ours to close
        return
    other = ""
    while line := stream.readline():
        bare, end = line.removesuffix(b"\n"), "\n" * line.endswith(b"\n")  # a guess may be of two bytes a letter
        if not _is_utf8(bare):
            other = other or _guess(_foreign(stream))
        yield bare.decode("utf-8" if _is_utf8(bare) else other, errors="replace").replace("\0", "") + end


def decode_text(data: bytes) -> str:
    """Return a file's text, as `text_lines` reads it.

    Example:
        >>> decode_text("Café".encode("utf-16")), decode_text("Café\\n".encode("cp1252"))
        ('Café', 'Café\\n')
    """
    return "".join(text_lines(io.BytesIO(data)))


def parse(text: str) -> Any:
    """Return the JSON value in a text.

    Raises:
        ValueError: it is not JSON, or nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _foreign(stream: BinaryIO) -> bytes:
    """Return the lines of a file that are not UTF-8, as many as are enough, and leave the stream where it is."""
    at, lines, size = stream.tell(), [], 0
    stream.seek(0)
    while size < _SAMPLE and (line := stream.readline()):
        if not _is_utf8(line):
            lines.append(line.removesuffix(b"\n"))
            size += len(line)
    stream.seek(at)
    return b"\n".join(lines)[:_SAMPLE]


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _guess(sample: bytes) -> str:
    """Return the likeliest encoding; among equally likely ones the one most files are in, cp1252."""
    matches = from_bytes(sample)
    best = matches.best()
    if best is None:
        return "cp1252"
    equals = {name for match in matches if match.chaos <= best.chaos for name in match.could_be_from_charset}
    return "cp1252" if "cp1252" in equals else best.encoding


def is_missing(value: Any) -> bool:
    """Say whether a cell holds nothing: None, a float NaN, or the text such a NaN is printed as.

    Example:
        >>> is_missing(float("nan")), is_missing(" NaN "), is_missing("")
        (True, True, False)
    """
    if isinstance(value, str):
        return len(value) < 9 and value.strip() in _NOT_A_NUMBER
    return value is None or (isinstance(value, float) and math.isnan(value))


def tidy(text: str) -> str:
    """Return the text without outer whitespace, NUL characters and halves of surrogate pairs (no file could hold them).

    Example:
        >>> tidy("  two\\n lines \\0")
        'two\\n lines'
    """
    if text.isascii():
        return text.replace("\0", "").strip()
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "").strip()


def printable(text: str) -> str:
    """Return the text with what UTF-8 cannot hold written as escapes: for file names that are not text."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_name(value: Any) -> str | None:
    """Return an id or a label as text, None where there is none; whole numbers lose their decimal point.

    Example:
        >>> as_name(12.0), as_name(" cat "), as_name("")
        ('12', 'cat', None)
    """
    if is_missing(value):
        return None
    whole = isinstance(value, float) and value.is_integer()
    return tidy(str(int(value) if whole else value)) or None
