"""Reads the pictures that references point to, as files or inside tar and Parquet files.

A reference is a path relative to the data set's root: `a/b.jpg`, `shard.tar/member.jpg` or
`file.parquet#12`. Nothing outside the root is read, whatever dots, links or
escapes a reference has. Nothing is unpacked and no file stays open. Caches are keyed by the file's
size and time: a rewritten file is read anew. The processes that decode pictures import this module,
so it is light.
"""

import codecs
import contextlib
import hashlib
import io
import json
import os
import posixpath
import re
import stat
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core.utils.io import InputError, read_json, shortage

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
DELIMITED_SUFFIXES = (".csv", ".tsv")
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (*DELIMITED_SUFFIXES, *JSON_LINES_SUFFIXES)
SOURCE_SUFFIXES = (*TABLE_SUFFIXES, ".json", ".parquet", ".tar")  # of files that are a data set

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ROW = re.compile(r"(.+\.parquet)#(\d+)")
_TAR = re.compile(r"\.tar/", re.IGNORECASE)
# usual names of columns; the first one in a table is used
COLUMN_NAMES: dict[str, list[str]] = read_json(Path(__file__).with_name("column_names.json"))
# what tarfile raises
_TAR_DAMAGE = (tarfile.TarError, ValueError, LookupError, ArithmeticError, RecursionError)


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


def read_file(path: Path) -> bytes:
    """Read a regular file; OSError if it is another kind, such as a pipe."""
    stamped(path)
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
    """Yield the text of a regular file line by line."""
    stamped(path)
    with path.open("rb") as stream:
        if stream.peek(2).startswith(_UTF16):
            with io.TextIOWrapper(stream, "utf-16", errors="replace", newline="\n") as text:
                yield from text
        else:
            yield from map(decode_line, stream)


def is_utf8(data: bytes) -> bool:
    """Tell whether a text is encoded in UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_western(text: str) -> bool:
    """Tell whether a decoded text is plausible: it has no invalid character, and most letters are
    ASCII or not Latin, unlike those of Cyrillic read as Windows-1252."""
    latin = [letter for letter in text if letter.isalpha() and letter < "\u0250"]
    return "\ufffd" not in text and 2 * sum(map(str.isascii, latin)) >= len(latin)


def decode_text(data: bytes) -> str:
    """Return a file's text, as `decode_line` reads each line; UTF-16 with its byte order mark."""
    if data.startswith(_UTF16):
        return data.decode("utf-16", errors="replace")
    return "".join(map(decode_line, data.splitlines(keepends=True)))


def decode_line(line: bytes) -> str:
    """Return a line of UTF-8 or, if it is not valid UTF-8, of Windows-1252."""
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace")


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


def split_reference(root: Path, image: str) -> tuple[Path, str | int | None]:
    """Split a normal reference into its file and the tar member or table row in it (None: the file
    itself)."""
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

    A reference that leaves the folder or a damaged archive raises InputError, a missing picture
    FileNotFoundError.
    """
    try:
        path, part = split_reference(root, normal_reference(image))
        check_inside(root, path)
        if part is None:
            return read_file(path)
        return _table_picture(path, part) if isinstance(part, int) else _tar_picture(path, part)
    except (OSError, LookupError) as error:
        raise FileNotFoundError(reading_fault(error, f"picture {image!r}")) from error
    except InputError as error:
        raise InputError(f"picture {image!r}: {error}") from error


def source_stamp(root: Path, images: Sequence[str]) -> str:
    """Return 32 hex digits that change with the references, their order, and the size or time of
    their files."""
    files = dict.fromkeys(split_reference(root, image)[0] for image in images)
    stamps = [str(stamped(file)[1:]) if file.is_file() else "" for file in files]
    text = "\n".join([*images, *stamps])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class TarContent(NamedTuple):
    """The files of a tar."""

    members: dict[str, tuple[int, int]]  # name → offset and size in bytes
    refused: list[tuple[str, str]]  # name and reason
    complete: bool  # it ends with its closing block of zeros
    original_names: dict[str, str]  # names that differ from ours in the tar: a.jpg → ./a.jpg


def scan_tar(path: Path) -> TarContent:
    """List a tar's files from its headers; a member that is cut off is left out."""
    content = TarContent({}, [], False, {})
    size = stamped(path).size
    try:
        tar = tarfile.open(path, mode="r:")  # noqa: SIM115
    except _TAR_DAMAGE as error:
        raise InputError(f"{path.name} is not an uncompressed tar archive ({error})") from error
    with tar, contextlib.suppress(*_TAR_DAMAGE):
        offset = -1
        for member in tar:
            if tar.offset <= offset:  # a negative size leads back
                break
            offset = tar.offset
            name = posixpath.normpath(member.name).lstrip("/")
            cut_off = member.isreg() and member.offset_data + member.size > size
            if member.isdir() or cut_off:
                continue
            if not member.isreg() or member.issparse() or member.size < 0:
                content.refused.append((name, "member is no plain file, or is damaged"))
            elif name in content.members:
                content.refused.append((name, "member comes twice in the tar: the first is used"))
            else:
                content.members[name] = (member.offset_data, member.size)
                if name != member.name:
                    content.original_names[name] = member.name
        with path.open("rb") as stream:
            stream.seek(tar.offset)
            end = stream.read(tarfile.BLOCKSIZE)
        content = content._replace(complete=end == bytes(tarfile.BLOCKSIZE))
    return content


@lru_cache(maxsize=256)
def _tar_pictures(file: Stamped) -> dict[str, tuple[int, int]]:
    """Return the offset and size of a tar's pictures by name."""
    members = scan_tar(Path(file.path)).members
    return {name: place for name, place in members.items() if is_picture(name)}


def _tar_picture(path: Path, name: str) -> bytes:
    places = _tar_pictures(stamped(path))
    if name not in places:
        raise LookupError(f"no such picture in {path.name}")
    offset, size = places[name]
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def picture_column(schema: pa.Schema) -> str:
    """Return the first column that holds pictures: a struct with `bytes`, as Hugging Face writes,
    or a named blob."""
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
    blobs = [field.name for field in schema if str(field.type) in ("binary", "large_binary")]
    return next((name for name in blobs if name.lower() in COLUMN_NAMES["picture_bytes"]), "")


def _table_picture(path: Path, row: int) -> bytes:
    file = stamped(path)
    ends = _row_group_ends(file)
    group = int(np.searchsorted(ends, row, side="right"))
    if group == len(ends):
        raise LookupError(f"{path.name} has no row {row}")
    # counted from the end of the row group
    data = _group_pictures(file, group)[row - int(ends[group])].as_py()
    if data is None:
        raise LookupError(f"row {row} of {path.name} holds no picture bytes")
    return bytes(data)


@lru_cache(maxsize=1024)
def _row_group_ends(file: Stamped) -> np.ndarray:
    """Return the end of each row group."""
    groups = parquet_file(file).metadata
    return np.cumsum([groups.row_group(i).num_rows for i in range(groups.num_row_groups)])


@lru_cache(maxsize=2)
def _group_pictures(file: Stamped, group: int) -> pa.ChunkedArray:
    parquet = parquet_file(file)
    column = picture_column(parquet.schema_arrow)
    if not column:
        raise InputError(f"{os.path.basename(file.path)} has no column with pictures")
    with damage_as_input_error(file):
        pictures = parquet.read_row_group(group, [column], use_threads=False)[column]
        return pc.struct_field(pictures, "bytes") if pa.types.is_struct(pictures.type) else pictures


def parquet_file(file: Stamped) -> pq.ParquetFile:
    """Open a Parquet file."""
    with damage_as_input_error(file):
        return pq.ParquetFile(file.path, pre_buffer=False)  # workers are forked


@contextlib.contextmanager
def damage_as_input_error(file: Stamped) -> Iterator[None]:
    """Turn any error of pyarrow on a damaged file into an InputError of one line."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError, LookupError) as error:
        if shortage(error):
            raise
        first = str(error).partition("\n")[0]
        raise InputError(
            f"{os.path.basename(file.path)} is not a readable Parquet file ({first})"
        ) from error
