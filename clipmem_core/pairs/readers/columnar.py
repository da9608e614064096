"""Reads Parquet files, with pictures inside or paths to them, and folders that Hugging Face's `save_to_disk` made.

A Parquet file is read by row groups, two of which are cached; Arrow files are mapped. Caches are keyed by the file's
size and time, so that a rewritten file is read anew.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.io import shortage
from clipmem_core.pairs.readers.files import JSON, LINK_LEAVES, Stamped, is_inside, parse, read_file, stamped
from clipmem_core.pairs.readers.rows import Fields, Row, Rows, find_fields, placed

_BATCH = 8192  # rows that are Python objects at a time
_SPLIT = re.compile(r"(.+)-\d{5}-of-\d{5}$|(train|validation|valid|val|dev|test)(?=$|[-_.])")
_STATE, _SPLITS = "state.json", "dataset_dict.json"
_BLOB_NAMES = frozenset(
    ["image", "images", "img", "picture", "photo", "image_bytes", "bytes", "content", "jpg", "jpeg", "png", "webp"]
)


def parquet_files(path: Path) -> list[Path]:
    """List the Parquet files of a folder that are not hidden, or the file itself."""
    if not path.is_dir():
        return [path] if path.suffix.lower() == ".parquet" else []
    files = (file for file in path.rglob("*.parquet") if not file.is_dir())
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts))


def read_parquet(path: Path, options: SourceOptions) -> Rows:
    """Read a Parquet file, or those of a folder: one split where their names tell splits apart."""
    if not path.is_dir():
        return read_arrow_files([path.resolve()], path.resolve().parent, options, kind="parquet")
    splits = dict[Path, str]()
    for file in parquet_files(path):
        match = _SPLIT.match(file.stem) or _SPLIT.fullmatch(file.parent.name)
        splits[file] = (match[1] or match[2]) if match else ""
    if any(splits.values()):
        _check_split(options.split, sorted({split for split in splits.values() if split}), path)
    files = [file for file, split in splits.items() if split == options.split or not any(splits.values())]
    return read_arrow_files(files, path, options, kind="parquet")


def _check_split(split: str, splits: Sequence[str], path: Path) -> None:
    if split not in splits:
        raise InputError(f"{path} has no split {split!r}: choose one of {', '.join(splits)} with --split")


def is_saved_folder(folder: Path) -> bool:
    """Tell whether `save_to_disk` wrote this folder."""
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


def read_saved_folder(folder: Path, options: SourceOptions) -> Rows:
    """Read a data set saved by `save_to_disk`, or the wanted split of a saved dictionary of data sets."""
    home, path = folder, folder / _SPLITS
    try:
        if path.is_file():
            splits = [str(split) for split in parse(read_file(path, JSON).decode())["splits"]]
            _check_split(options.split, splits, folder)
            home = folder / options.split
        path = home / _STATE
        files = [home / Path(entry["filename"]).name for entry in parse(read_file(path, JSON).decode())["_data_files"]]
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}): save the data set again with save_to_disk") from error
    return read_arrow_files(files, folder, options, kind="huggingface")


def read_arrow_files(files: Sequence[Path], root: Path, options: SourceOptions, *, kind: str) -> Rows:
    """Read Parquet or Arrow files that make one data set; a damaged one among several is a row in quarantine."""
    faults = {path: fault for path in files if (fault := _file_fault(path, root))}
    if len(faults) == len(files):
        raise InputError(f"{root}: {faults[files[0]] if files else 'the data set has no files'}")
    names = {path: path.relative_to(root).as_posix() for path in files}
    fields, inside = dict[Path, Fields](), False
    for path in (path for path in files if path not in faults):
        schema = read_schema(path)
        pictures = picture_column(schema)
        fields[path] = chosen = find_fields(schema.names, options, source=names[path], picture=pictures)
        inside |= chosen.image == pictures
        image_type = schema.field(chosen.image).type
        if chosen.image != pictures and pa.types.is_struct(image_type):
            raise InputError(
                f"{names[path]}: column {chosen.image!r} holds no paths but {image_type}. Pictures inside a file are "
                f"read from its first column of binary picture bytes ({pictures or 'there is none'})"
            )

    def rows() -> Iterator[Row]:
        for path in files:
            if path in faults:
                yield Row(names[path], reason=faults[path])
            else:
                yield from _file_rows(path, names[path], fields[path])

    return placed(Rows(root, kind, rows(), files=not inside), options.image_folder, files[0])


def _file_fault(path: Path, root: Path) -> str:
    try:
        if not is_inside(str(root.resolve()), str(path)):
            return LINK_LEAVES.replace("image", "file")
        read_schema(path)
    except InputError as error:
        return str(error)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if shortage(error):
            raise
        return f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}"
    return ""


def _file_rows(path: Path, name: str, fields: Fields) -> Iterator[Row]:
    schema = read_schema(path)
    inside = fields.image == picture_column(schema)
    wanted = [column for column in dict.fromkeys(fields) if column and not (inside and column == fields.image)]
    row = 0
    for batch in _read_columns(path, wanted):
        columns = [_values(batch, schema, column) if column in wanted else [None] * len(batch) for column in fields]
        for image, *values in zip(*columns, strict=True):
            reference = f"{name}#{row}"
            fault = next((value for value in (image, *values) if isinstance(value, Exception)), None)
            if fault:
                yield Row(reference, reason=f"value cannot be read ({fault})")
            else:
                yield Row(reference, reference if inside else image, *values)
            row += 1


def _values(batch: pa.RecordBatch, schema: pa.Schema, column: str) -> list[Any]:
    """Return a column as Python values, with the error in place of a value that Python cannot hold.

    Class numbers become the class names that Hugging Face writes into the schema.
    """

    def value(scalar: pa.Scalar) -> Any:
        try:
            return scalar.as_py()
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:  # dates out of range, unknown zones
            return error

    try:
        features = parse((schema.metadata or {})[b"huggingface"].decode())["info"]["features"]
        classes = dict[float, Any](enumerate(features[column]["names"]))
    except (LookupError, TypeError, ValueError):
        return [value(scalar) for scalar in batch[column]]
    values = (value(scalar) for scalar in batch[column])
    return [classes.get(one, one) if isinstance(one, int | float) else one for one in values]


def picture_column(schema: pa.Schema) -> str:
    """Return the first column that holds pictures: a struct with `bytes`, as Hugging Face writes, or a named blob."""

    def is_blob(kind: pa.DataType) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    def has_bytes(kind: pa.DataType) -> bool:
        return pa.types.is_struct(kind) and (at := kind.get_field_index("bytes")) >= 0 and is_blob(kind.field(at).type)

    structs = [field.name for field in schema if has_bytes(field.type)]
    blobs = [field.name for field in schema if is_blob(field.type) and field.name.lower() in _BLOB_NAMES]
    return next(iter(structs + blobs), "")


def read_schema(path: Path) -> pa.Schema:
    """Return the schema of a Parquet or Arrow file."""
    file = stamped(path)
    return _arrow_table(file).schema if path.suffix == ".arrow" else _parquet(file).schema_arrow


def _read_columns(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Read these columns of a Parquet or Arrow file and nothing else, some rows at a time."""
    file = stamped(path)
    if path.suffix == ".arrow":
        yield from _arrow_table(file).select(columns).to_batches(_BATCH)
        return
    with _damage_as_input_error(file):
        for batch in _parquet(file).iter_batches(_BATCH, columns=columns):
            batch.validate(full=True)
            yield batch.select(columns)


def table_picture(path: Path, row: int) -> bytes:
    """Read the picture in one row of a Parquet or Arrow file."""
    file = stamped(path)
    column, ends = _layout(file)
    if not column:
        raise InputError(f"{path.name} has no column with pictures")
    group = int(np.searchsorted(ends, row, side="right"))
    if group == len(ends):
        raise LookupError(f"{path.name} has no row {row}")
    data = _group_pictures(file, group, column)[row - (int(ends[group - 1]) if group else 0)].as_py()
    if data is None:
        raise LookupError(f"row {row} of {path.name} holds no picture bytes")
    return bytes(data)


@lru_cache(maxsize=1024)
def _layout(file: Stamped) -> tuple[str, np.ndarray]:
    """Return the picture column and the end of each row group; an Arrow file is one group."""
    if file.path.endswith(".arrow"):
        table = _arrow_table(file)
        return picture_column(table.schema), np.array([len(table)])
    parquet = _parquet(file)
    groups = range(parquet.metadata.num_row_groups)
    return picture_column(parquet.schema_arrow), np.cumsum([parquet.metadata.row_group(at).num_rows for at in groups])


@lru_cache(maxsize=2)
def _group_pictures(file: Stamped, group: int, column: str) -> pa.ChunkedArray:
    with _damage_as_input_error(file):
        if file.path.endswith(".arrow"):
            pictures = _arrow_table(file)[column]
        else:
            pictures = _parquet(file).read_row_group(group, columns=[column], use_threads=False)[column]
        return pc.struct_field(pictures, "bytes") if pa.types.is_struct(pictures.type) else pictures


def _parquet(file: Stamped) -> pq.ParquetFile:
    with _damage_as_input_error(file):
        return pq.ParquetFile(file.path, pre_buffer=False)  # workers are forked


@lru_cache(maxsize=64)
def _arrow_table(file: Stamped) -> pa.Table:
    """Map an Arrow file: the stream that Hugging Face writes, or the file format of others."""
    with _damage_as_input_error(file):
        source = pa.memory_map(file.path)
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source).read_all()
        table.validate(full=True)  # offsets that lead nowhere would end the process, not raise
        return table


@contextmanager
def _damage_as_input_error(file: Stamped) -> Iterator[None]:
    """Raise what pyarrow raises for a damaged file, names that are not text included, as one line."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError, LookupError) as error:
        if shortage(error):
            raise
        kind = "Arrow" if file.path.endswith(".arrow") else "Parquet"
        first = str(error).partition("\n")[0]
        raise InputError(f"{os.path.basename(file.path)} is not a readable {kind} file ({first})") from error
