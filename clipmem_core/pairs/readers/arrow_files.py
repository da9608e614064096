"""Reads Parquet files, with pictures inside or paths to them, and folders that Hugging Face's `save_to_disk` made."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.columnar import (
    picture_column,
    python_values,
    read_columns,
    read_schema,
    rows_without_picture,
)
from clipmem_core.pairs.readers.containers import JSON, read_file
from clipmem_core.pairs.readers.fields import find_fields
from clipmem_core.pairs.readers.picture_folder import placed
from clipmem_core.pairs.readers.records import parse
from clipmem_core.pairs.readers.rows import Row, Rows
from clipmem_core.pairs.references import LINK_LEAVES, is_inside
from clipmem_core.shortage import shortage

_SPLIT = re.compile(r"(.+)-\d{5}-of-\d{5}$|(train|validation|valid|val|dev|test)(?=$|[-_.])")
_STATE, _SPLITS = "state.json", "dataset_dict.json"


def parquet_files(folder: Path, *, split: str) -> list[Path]:
    """List a folder's Parquet files, those of one split where their names tell splits apart.

    Raises:
        InputError: there are splits, but not this one.
    """
    found = (path for path in folder.rglob("*.parquet") if not _hidden(path, folder))
    files = sorted(path for path in found if not path.is_dir())
    splits = {path: _split_of(path) for path in files}
    named = sorted(set(filter(None, splits.values())))
    if named and split not in named:
        raise InputError(f"{folder} has no split {split!r}: choose one of {', '.join(named)} with --split")
    return [path for path in files if not named or splits[path] == split]


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _split_of(path: Path) -> str:
    match = _SPLIT.match(path.stem) or _SPLIT.fullmatch(path.parent.name)
    return (match[1] or match[2]) if match else ""


def is_saved_folder(folder: Path) -> bool:
    """Say whether `save_to_disk` wrote this folder."""
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


def read_saved_folder(folder: Path, options: SourceOptions) -> Rows:
    """Read a data set saved by `save_to_disk`, or the wanted split of a saved dictionary of data sets.

    Raises:
        InputError: the split is not there, or the folder is incomplete.
    """
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
    """Read Parquet or Arrow files that make one data set; a damaged one among several is a row in quarantine.

    Args:
        files: the files, all below `root`.
        root: what references are relative to, apart from paths of pictures where `image_folder` is given.
        options: the columns, if they are not to be guessed.
        kind: the name of the format.

    Raises:
        InputError: no file can be read, or the columns cannot be told.
    """
    rows: list[Row] = []
    faults: list[str] = []
    inside = False
    for path in files:
        name = path.relative_to(root).as_posix()
        fault = _file_fault(path, root)
        if fault:
            faults.append(fault)
            rows.append(Row(name, reason=fault))
            continue
        found, pictures = _file_rows(path, name, options)
        inside = inside or pictures
        rows.extend(found)
    if len(faults) == len(files):
        raise InputError(f"{root}: {faults[0] if faults else 'the data set has no files'}")
    return placed(Rows(root, kind, rows, files=not inside), options.image_folder, files[0])


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


def _file_rows(path: Path, name: str, options: SourceOptions) -> tuple[list[Row], bool]:
    """Return a file's rows, and whether their pictures are inside it."""
    schema = read_schema(path)
    pictures = picture_column(schema)
    fields = find_fields(schema.names, options, source=name, picture=pictures or "")
    inside = fields.image == pictures
    _refuse_other_pictures(schema, fields.image, pictures, name)
    table = read_columns(path, [column for column in fields.chosen() if not inside or column != fields.image])
    references = [f"{name}#{row}" for row in range(table.num_rows)]
    images = references if inside else python_values(table[fields.image])
    order = (fields.caption, fields.label, fields.pair_id, fields.planted)
    columns = [_values(table, schema, column) for column in order]
    rows = [_row(values) for values in zip(references, images, *columns, strict=True)]
    for row in rows_without_picture(path, fields.image) if inside else ():
        rows[row] = rows[row]._replace(reason="row holds no picture bytes")
    return rows, inside


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


def _values(table: pa.Table, schema: pa.Schema, column: str) -> list[Any]:
    """Return a column as Python values; class numbers become the class names that Hugging Face keeps in the schema."""
    if not column:
        return [None] * table.num_rows
    values = python_values(table[column])
    classes: dict[float, Any] = dict(enumerate(_class_names(schema, column)))
    return [classes.get(value, value) if isinstance(value, int | float) else value for value in values]


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    try:
        features = parse((schema.metadata or {})[b"huggingface"].decode())["info"]["features"]
        return list(features[column]["names"])
    except (LookupError, TypeError, ValueError):
        return []
