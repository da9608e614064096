"""Reads Parquet files, with pictures inside or paths to them, and folders that Hugging Face's `save_to_disk` made.

Only what is asked for is read. A Parquet file is read by row groups and the last two are kept; Arrow files are mapped.
What is kept belongs to the process and goes by the file's size and time, so that a rewritten file is read anew.
"""

import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.files import (
    FOOTER,
    JSON,
    LINK_LEAVES,
    TABLE,
    Stamped,
    is_inside,
    parse,
    read_file,
    stamped,
)
from clipmem_core.pairs.readers.rows import BATCH, Fields, Row, Rows, find_fields, placed
from clipmem_core.shortage import shortage

_SPLIT = re.compile(r"(.+)-\d{5}-of-\d{5}$|(train|validation|valid|val|dev|test)(?=$|[-_.])")
_STATE, _SPLITS = "state.json", "dataset_dict.json"
_BLOB_NAMES = frozenset(
    ["image", "images", "img", "picture", "photo", "image_bytes", "bytes", "content", "jpg", "jpeg", "png", "webp"]
)
_TAIL = struct.Struct("<I4s")  # how a Parquet file ends: the length of its index, and PAR1
_UNHELD = (ValueError, TypeError, ArithmeticError, LookupError)  # dates out of range, unknown zones, names twice


def parquet_files(path: Path) -> list[Path]:
    """List the Parquet files of a folder, hidden ones apart, or the file itself."""
    if not path.is_dir():
        return [path] if path.suffix.lower() == ".parquet" else []
    files = (file for file in path.rglob("*.parquet") if not file.is_dir())
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts))


def read_parquet(path: Path, options: SourceOptions) -> Rows:
    """Read a Parquet file, or those of a folder: one split where their names tell splits apart."""
    if not path.is_dir():
        return read_arrow_files([path.resolve()], path.resolve().parent, options, kind="parquet")
    splits = {file: _split_of(file) for file in parquet_files(path)}
    named = sorted(set(filter(None, splits.values())))
    if named and options.split not in named:
        raise InputError(f"{path} has no split {options.split!r}: choose one of {', '.join(named)} with --split")
    files = [file for file, split in splits.items() if not named or split == options.split]
    return read_arrow_files(files, path, options, kind="parquet")


def _split_of(path: Path) -> str:
    match = _SPLIT.match(path.stem) or _SPLIT.fullmatch(path.parent.name)
    return (match[1] or match[2]) if match else ""


def is_saved_folder(folder: Path) -> bool:
    """Say whether `save_to_disk` wrote this folder."""
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


def read_saved_folder(folder: Path, options: SourceOptions) -> Rows:
    """Read a data set saved by `save_to_disk`, or the wanted split of a saved dictionary of data sets."""
    home = folder
    if (folder / _SPLITS).is_file():
        splits = _load(folder / _SPLITS, lambda value: list(value["splits"]))
        if options.split not in splits:
            known = ", ".join(map(str, splits))
            raise InputError(f"{folder} has no split {options.split!r}: choose one of {known} with --split")
        home = folder / options.split
    names = _load(home / _STATE, lambda value: [Path(entry["filename"]).name for entry in value["_data_files"]])
    return read_arrow_files([home / name for name in names], folder, options, kind="huggingface")


def _load(path: Path, pick: Callable[[Any], list[str]]) -> list[str]:
    try:
        return pick(parse(read_file(path, JSON).decode()))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}): save the data set again with save_to_disk") from error


def read_arrow_files(files: Sequence[Path], root: Path, options: SourceOptions, *, kind: str) -> Rows:
    """Read Parquet or Arrow files that make one data set; a damaged one among several is a row in quarantine."""
    faults = {path: _file_fault(path, root) for path in files}
    if all(faults.values()):
        raise InputError(f"{root}: {faults[files[0]] if files else 'the data set has no files'}")
    names = {path: path.relative_to(root).as_posix() for path in files}
    fields = {path: _fields(path, names[path], options) for path in files if not faults[path]}
    inside = any(picture_column(read_schema(path)) == found.image for path, found in fields.items())

    def rows() -> Iterator[Row]:
        for path in files:
            if path in fields:
                yield from _file_rows(path, names[path], fields[path])
            else:
                yield Row(names[path], reason=faults[path])

    return placed(Rows(root, kind, rows(), files=not inside), options.image_folder, files[0])


def _file_fault(path: Path, root: Path) -> str:
    try:
        if not is_inside(str(root.resolve()), str(path)):
            return LINK_LEAVES.replace("image", "file")
        read_schema(path)
    except OSError as error:
        if shortage(error):
            raise
        return f"{path.name} cannot be read: {error.strerror}"
    except InputError as error:
        return str(error)
    except ValueError as error:  # a name that no file can have
        return f"{path.name} cannot be read: {error}"
    return ""


def _fields(path: Path, name: str, options: SourceOptions) -> Fields:
    schema = read_schema(path)
    pictures = picture_column(schema)
    fields = find_fields(schema.names, options, source=name, picture=pictures or "")
    _refuse_other_pictures(schema, fields.image, pictures, name)
    return fields


def _file_rows(path: Path, name: str, fields: Fields) -> Iterator[Row]:
    schema = read_schema(path)
    inside = fields.image == picture_column(schema)
    empty = rows_without_picture(path, fields.image) if inside else set()
    row = 0
    for batch in read_columns(path, [column for column in fields.chosen() if not inside or column != fields.image]):
        references = [f"{name}#{row + place}" for place in range(batch.num_rows)]
        images = references if inside else python_values(batch[fields.image])
        columns = [_values(batch, schema, column) for column in fields.in_order()[1:]]
        for values in zip(references, images, *columns, strict=True):
            yield _row(values)._replace(reason="row holds no picture bytes") if row in empty else _row(values)
            row += 1


def _row(values: tuple[Any, ...]) -> Row:
    """Return the row, or what stands in the way of one of its values."""
    fault = next((value for value in values if isinstance(value, Exception)), None)
    return Row(values[0], reason=f"value cannot be read ({fault})") if fault else Row(*values)


def _refuse_other_pictures(schema: pa.Schema, image: str, pictures: str | None, name: str) -> None:
    kind = schema.field(image).type
    if image == pictures or not pa.types.is_struct(kind):
        return
    if pictures:
        raise InputError(f"{name}: pictures are read from the first picture column, {pictures!r}, not from {image!r}")
    raise InputError(f"{name}: column {image!r} holds no picture bytes but {kind}: write the files' bytes as binary")


def _values(batch: pa.RecordBatch, schema: pa.Schema, column: str) -> list[Any]:
    """Return a column as Python values; class numbers become the class names that Hugging Face keeps in the schema."""
    if not column:
        return [None] * batch.num_rows
    values = python_values(batch[column])
    classes: dict[float, Any] = dict(enumerate(_class_names(schema, column)))
    return [classes.get(value, value) if isinstance(value, int | float) else value for value in values]


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    try:
        features = parse((schema.metadata or {})[b"huggingface"].decode())["info"]["features"]
        return list(features[column]["names"])
    except (LookupError, TypeError, ValueError):
        return []


def picture_column(schema: pa.Schema) -> str | None:
    """Return the first column that holds pictures: a struct with `bytes`, as Hugging Face writes, or a named blob."""
    for field in schema:
        at = field.type.get_field_index("bytes") if pa.types.is_struct(field.type) else -1
        if at >= 0 and _holds_bytes(field.type.field(at).type):
            return str(field.name)
    blobs = (field.name for field in schema if _is_blob(field.type) and field.name.lower() in _BLOB_NAMES)
    return next(blobs, None)


def _is_blob(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_blob(kind.value_type)
    if pa.types.is_list(kind):
        return bool(kind.value_type == pa.uint8())
    other = pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_null(kind)
    return bool(other or _is_blob(kind))


def read_schema(path: Path) -> pa.Schema:
    """Return the schema of a Parquet or Arrow file."""
    file = stamped(path)
    return _arrow_table(file).schema if path.suffix == ".arrow" else _parquet(file).schema_arrow


def read_columns(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Read these columns of a Parquet or Arrow file and nothing else, some rows at a time."""
    file = stamped(path)
    if path.suffix == ".arrow":
        yield from _arrow_table(file).select(columns).to_batches(BATCH)
        return
    parquet = _parquet(file)
    if fault := TABLE.fault(_column_bytes(parquet.metadata, columns)):
        raise InputError(f"{path.name}: the columns {', '.join(columns)} are {fault}")
    with _damage_named(file):
        for batch in parquet.iter_batches(BATCH, columns=columns):
            batch.validate(full=True)
            yield batch.select(columns)


def _column_bytes(metadata: pq.FileMetaData, columns: list[str]) -> int:
    """Return the bytes that some columns take once they are unpacked."""
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    chunks = (group.column(at) for group in groups for at in range(group.num_columns))
    parts = tuple(f"{column}." for column in columns)  # of lists and structs
    return sum(chunk.total_uncompressed_size for chunk in chunks if f"{chunk.path_in_schema}.".startswith(parts))


def python_values(column: pa.Array) -> list[Any]:
    """Return a column as Python values; in place of one that Python cannot hold, the error that says why.

    Example:
        >>> [type(value).__name__ for value in python_values(pa.array([0, 2**62], pa.timestamp("s")))]
        ['datetime', 'OverflowError']
    """
    try:
        return list(column.to_pylist())
    except _UNHELD:
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except _UNHELD as error:
        return error


def rows_without_picture(path: Path, column: str) -> set[int]:
    """Return the rows whose picture bytes are null; bytes are only read where a row group says that some are."""
    file = stamped(path)
    if path.suffix == ".arrow":
        return _null_rows(_arrow_pictures(file, column), 0)
    rows: set[int] = set()
    start = 0
    with _damage_named(file):
        metadata = _parquet(file).metadata
        for group in range(metadata.num_row_groups):
            if _may_have_nulls(metadata.row_group(group), column):
                rows |= _null_rows(_group_pictures(file, group, column), start)
            start += metadata.row_group(group).num_rows
    return rows


def _may_have_nulls(group: pq.RowGroupMetaData, column: str) -> bool:
    chunks = (group.column(at) for at in range(group.num_columns))
    blobs = [chunk for chunk in chunks if chunk.path_in_schema in (column, f"{column}.bytes")]
    return any(not chunk.is_stats_set or chunk.statistics.null_count != 0 for chunk in blobs)


def _null_rows(pictures: pa.ChunkedArray, start: int) -> set[int]:
    empty = pc.is_null(pictures).to_numpy(zero_copy_only=False)
    return {start + int(row) for row in np.flatnonzero(empty)}


def table_picture(path: Path, row: int) -> bytes:
    """Read the picture in one row of a Parquet or Arrow file."""
    file = stamped(path)
    column = _picture_column_of(file)
    if column is None:
        raise InputError(f"{path.name} has no column with pictures")
    pictures, at = _pictures_around(file, row, column)
    if not 0 <= at < len(pictures):
        raise LookupError(f"{path.name} has no row {row}")
    data = pictures[at].as_py()
    if data is None or (isinstance(data, list) and None in data):  # a list of numbers may have gaps
        raise LookupError(f"row {row} of {path.name} holds no picture bytes")
    return bytes(data)


@lru_cache(maxsize=1024)
def _picture_column_of(file: Stamped) -> str | None:
    return picture_column(read_schema(Path(file.path)))


def _pictures_around(file: Stamped, row: int, column: str) -> tuple[pa.ChunkedArray, int]:
    """Return a stretch of pictures and the place of `row` in it: all of an Arrow file, or a row group of Parquet."""
    if file.path.endswith(".arrow"):
        return _arrow_pictures(file, column), row
    ends = _group_ends(file)
    group = int(np.searchsorted(ends, row, side="right"))
    if group == len(ends):
        return pa.chunked_array([], type=pa.binary()), row
    return _group_pictures(file, group, column), row - (int(ends[group - 1]) if group else 0)


@lru_cache(maxsize=1024)
def _group_ends(file: Stamped) -> np.ndarray:
    metadata = _parquet(file).metadata
    return np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])


@lru_cache(maxsize=2)
def _group_pictures(file: Stamped, group: int, column: str) -> pa.ChunkedArray:
    with _damage_named(file):
        return _blobs(_parquet(file).read_row_group(group, columns=[column], use_threads=False)[column])


@lru_cache(maxsize=64)
def _arrow_pictures(file: Stamped, column: str) -> pa.ChunkedArray:
    with _damage_named(file):
        return _blobs(_arrow_table(file)[column])


def _blobs(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _parquet(file: Stamped) -> pq.ParquetFile:
    with open(file.path, "rb") as stream, _damage_named(file):
        stream.seek(-min(_TAIL.size, stream.seek(0, os.SEEK_END)), os.SEEK_END)
        footer, mark = _TAIL.unpack(stream.read(_TAIL.size).rjust(_TAIL.size, b"\0"))
        if mark == b"PAR1" and (fault := FOOTER.fault(footer)):
            raise InputError(f"{os.path.basename(file.path)}: its index is {fault}")
        return pq.ParquetFile(file.path, pre_buffer=False)  # workers are forked


@lru_cache(maxsize=64)
def _arrow_table(file: Stamped) -> pa.Table:
    """Map an Arrow file: the stream that Hugging Face writes, or the file format of others."""
    with _damage_named(file):
        source = pa.memory_map(file.path)
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source).read_all()
        table.validate(full=True)  # offsets that lead nowhere would end the process, not raise
        return table


@contextmanager
def _damage_named(file: Stamped) -> Iterator[None]:
    """Turn what pyarrow raises over a damaged file, names that are not text included, into one line."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError, LookupError) as error:
        if shortage(error):
            raise
        kind = "Arrow" if file.path.endswith(".arrow") else "Parquet"
        first = str(error).partition("\n")[0]
        raise InputError(f"{os.path.basename(file.path)} is not a readable {kind} file ({first})") from error
