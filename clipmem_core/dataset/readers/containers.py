"""Reads the pictures that references point to, as files or inside tar, Parquet and Arrow files.

A reference is a path relative to the data set's root: `a/b.jpg`, `shard.tar/member.jpg`,
`file.parquet#12` or `file.arrow#12`. Nothing outside the root is read, whatever dots, links or
escapes a reference has. Nothing is unpacked and no file stays open. Caches are keyed by the file's
size and time: a rewritten file is read anew. The processes that decode pictures import this module,
so it is light.
"""

import contextlib
import hashlib
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core.dataset.readers import paths
from clipmem_core.utils.io import InputError, read_json, shortage

_ROW = re.compile(r"(.+\.(?:parquet|arrow))#(\d+)")
_TAR = re.compile(r"\.tar/", re.IGNORECASE)
# usual names of columns; the first one in a table is used
COLUMN_NAMES: dict[str, list[str]] = read_json(Path(__file__).with_name("column_names.json"))
# what tarfile raises
_TAR_DAMAGE = (tarfile.TarError, ValueError, LookupError, ArithmeticError, RecursionError)


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
        path, part = split_reference(root, paths.normal_reference(image))
        paths.check_inside(root, path)
        if part is None:
            return paths.read_file(path)
        return _table_picture(path, part) if isinstance(part, int) else _tar_picture(path, part)
    except (OSError, LookupError) as error:
        raise FileNotFoundError(paths.reading_fault(error, f"picture {image!r}")) from error
    except InputError as error:
        raise InputError(f"picture {image!r}: {error}") from error


def source_stamp(root: Path, images: Sequence[str]) -> str:
    """Return 32 hex digits that change with the references, their order, and the size or time of
    their files."""
    files = dict.fromkeys(split_reference(root, image)[0] for image in images)
    stamps = [str(paths.stamped(file)[1:]) if file.is_file() else "" for file in files]
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
    size = paths.stamped(path).size
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
def _tar_pictures(file: paths.Stamped) -> dict[str, tuple[int, int]]:
    """Return the offset and size of a tar's pictures by name."""
    members = scan_tar(Path(file.path)).members
    return {name: place for name, place in members.items() if paths.is_picture(name)}


def _tar_picture(path: Path, name: str) -> bytes:
    places = _tar_pictures(paths.stamped(path))
    if name not in places:
        raise LookupError(f"no such picture in {path.name}")
    offset, size = places[name]
    paths.check_size(size)
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
    file = paths.stamped(path)
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
def _row_group_ends(file: paths.Stamped) -> np.ndarray:
    """Return the end of each row group; an Arrow file is one group."""
    if file.path.endswith(".arrow"):
        return np.array([len(arrow_table(file))])
    groups = parquet_file(file).metadata
    return np.cumsum([groups.row_group(i).num_rows for i in range(groups.num_row_groups)])


@lru_cache(maxsize=2)
def _group_pictures(file: paths.Stamped, group: int) -> pa.ChunkedArray:
    column = picture_column(table_schema(file))
    if not column:
        raise InputError(f"{os.path.basename(file.path)} has no column with pictures")
    with damage_as_input_error(file):
        if file.path.endswith(".arrow"):
            pictures = arrow_table(file)[column]
        else:
            pictures = parquet_file(file).read_row_group(group, [column], use_threads=False)[column]
        return pc.struct_field(pictures, "bytes") if pa.types.is_struct(pictures.type) else pictures


def table_schema(file: paths.Stamped) -> pa.Schema:
    """Return the schema of a Parquet or Arrow file."""
    is_arrow = file.path.endswith(".arrow")
    return arrow_table(file).schema if is_arrow else parquet_file(file).schema_arrow


def parquet_file(file: paths.Stamped) -> pq.ParquetFile:
    """Open a Parquet file."""
    with damage_as_input_error(file):
        return pq.ParquetFile(file.path, pre_buffer=False)  # workers are forked


@lru_cache(maxsize=64)
def arrow_table(file: paths.Stamped) -> pa.Table:
    """Map an Arrow file, in the stream format that `save_to_disk` writes."""
    with damage_as_input_error(file):
        table = pa.ipc.open_stream(pa.memory_map(file.path)).read_all()
        table.validate(full=True)  # offsets out of range would end the process, not raise
        return table


@contextlib.contextmanager
def damage_as_input_error(file: paths.Stamped) -> Iterator[None]:
    """Turn any error of pyarrow on a damaged file into an InputError of one line."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError, LookupError) as error:
        if shortage(error):
            raise
        kind = "Arrow" if file.path.endswith(".arrow") else "Parquet"
        first = str(error).partition("\n")[0]
        raise InputError(
            f"{os.path.basename(file.path)} is not a readable {kind} file ({first})"
        ) from error
