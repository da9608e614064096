"""Reads Parquet files, with pictures inside or paths to them, and folders that Hugging Face's
`save_to_disk` made."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipmem_core.config import SourceOptions
from clipmem_core.dataset.readers.containers import (
    arrow_table,
    damage_as_input_error,
    parquet_file,
    picture_column,
)
from clipmem_core.dataset.readers.paths import (
    LINK_LEAVES,
    decode_json,
    is_inside,
    reading_fault,
    stamped,
)
from clipmem_core.dataset.readers.records import (
    FieldColumns,
    Row,
    Rows,
    find_fields,
    in_image_folder,
)
from clipmem_core.io import InputError

_BATCH = 8192  # rows that are Python objects at a time
_SPLIT = re.compile(r"(.+)-\d{5}-of-\d{5}$|(train|validation|valid|val|dev|test)(?=$|[-_.])")
_STATE = "state.json"
_SPLITS = "dataset_dict.json"


def parquet_files(path: Path) -> list[Path]:
    """List the Parquet files of a folder that are not hidden, or the file itself."""
    if not path.is_dir():
        return [path] if path.suffix.lower() == ".parquet" else []
    files = (file for file in path.rglob("*.parquet") if not file.is_dir())
    return sorted(
        file
        for file in files
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def read_parquet(path: Path, options: SourceOptions) -> Rows:
    """Read a Parquet file, or those of a folder: of one split if their names contain splits."""
    if not path.is_dir():
        return read_arrow_files([path.resolve()], path.resolve().parent, options, kind="parquet")
    files = parquet_files(path)
    splits = dict[Path, str]()
    for file in files:
        if match := _SPLIT.match(file.stem) or _SPLIT.fullmatch(file.parent.name):
            splits[file] = match[1] or match[2]
    if splits:
        _check_split(options.split, sorted(set(splits.values())), path)
        files = [file for file in files if splits.get(file) == options.split]
    return read_arrow_files(files, path, options, kind="parquet")


def _check_split(split: str, splits: Sequence[str], path: Path) -> None:
    if split not in splits:
        raise InputError(
            f"{path} has no split {split!r}: choose one of {', '.join(splits)} with --split"
        )


def is_saved_folder(folder: Path) -> bool:
    """Tell whether `save_to_disk` wrote this folder."""
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


def read_saved_folder(folder: Path, options: SourceOptions) -> Rows:
    """Read a data set saved by `save_to_disk`, or one split of a saved dictionary of data sets."""
    home = folder
    path = folder / _SPLITS
    try:
        if path.is_file():
            _check_split(options.split, list(decode_json(path.read_text())["splits"]), folder)
            home = folder / options.split
        path = home / _STATE
        entries = decode_json(path.read_text())["_data_files"]
        files = [home / Path(entry["filename"]).name for entry in entries]
    except (OSError, ValueError, LookupError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read ({error!r}): save the data set again with save_to_disk"
        ) from error
    return read_arrow_files(files, folder, options, kind="huggingface")


def read_arrow_files(
    files: Sequence[Path], root: Path, options: SourceOptions, *, kind: str
) -> Rows:
    """Read Parquet or Arrow files that make one data set; a damaged one among several is a row in
    quarantine."""
    names = {path: path.relative_to(root).as_posix() for path in files}
    fields = dict[Path, FieldColumns]()
    faults = dict[Path, str]()
    inside = False
    for path in files:
        try:
            if not is_inside(str(root.resolve()), str(path)):
                raise InputError(LINK_LEAVES.replace("image", "file"))
            schema = read_schema(path)
        except (InputError, OSError, ValueError) as error:  # ValueError: no file has such a name
            faults[path] = reading_fault(error, path.name)
            continue
        pictures = picture_column(schema)
        chosen = find_fields(schema.names, options, source=names[path], picture=pictures)
        fields[path] = chosen
        inside |= chosen.image == pictures
        image_type = schema.field(chosen.image).type
        if chosen.image != pictures and pa.types.is_struct(image_type):
            raise InputError(
                f"{names[path]}: column {chosen.image!r} holds no paths but {image_type}. "
                "Pictures inside a file are read from its first column of binary picture bytes "
                f"({pictures or 'there is none'})"
            )

    if not fields:
        raise InputError(f"{root}: {faults[files[0]] if files else 'the data set has no files'}")

    def rows() -> Iterator[Row]:
        for path in files:
            if path in faults:
                yield Row(names[path], reason=faults[path])
            else:
                yield from _file_rows(path, names[path], fields[path])

    return in_image_folder(
        Rows(root, kind, rows(), files=not inside), options.image_folder, files[0]
    )


def _file_rows(path: Path, name_of_file: str, fields: FieldColumns) -> Iterator[Row]:
    schema = read_schema(path)
    file = stamped(path)
    inside = fields.image == picture_column(schema)
    read = fields._replace(image="") if inside else fields
    names = list(dict.fromkeys(filter(None, read)))
    row = 0
    with damage_as_input_error(file):
        if path.suffix == ".arrow":
            batches = arrow_table(file).select(names).to_batches(_BATCH)
        else:
            batches = parquet_file(file).iter_batches(_BATCH, columns=names)
        for batch in batches:
            batch.validate(full=True)
            values = {name: _values(batch[name], _classes(schema, name)) for name in names}
            for i in range(len(batch)):
                reference = f"{name_of_file}#{row}"
                row += 1
                image, *rest = (values[column][i] if column else None for column in read)
                faults = [value for value in (image, *rest) if isinstance(value, Exception)]
                if faults:
                    yield Row(reference, reason=f"value cannot be read ({faults[0]})")
                else:
                    yield Row._make((reference, reference if inside else image, *rest, "", ""))


def _classes(schema: pa.Schema, column: str) -> dict[Any, str]:
    """Return the class names of Hugging Face by their numbers; empty without any."""
    with contextlib.suppress(LookupError, TypeError, ValueError):
        features = decode_json((schema.metadata or {})[b"huggingface"].decode())["info"]["features"]
        return dict(enumerate(features[column]["names"]))
    return {}


def _values(values: pa.Array, classes: dict[Any, str]) -> list[Any]:
    """Return Python values: class names for their numbers, errors for what Python cannot hold."""
    converted = list[Any]()
    for scalar in values:
        try:
            value = scalar.as_py()
            converted.append(classes.get(value, value) if isinstance(value, int | float) else value)
        # dates out of range, unknown zones
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:
            converted.append(error)
    return converted


def read_schema(path: Path) -> pa.Schema:
    """Return the schema of a Parquet or Arrow file."""
    file = stamped(path)
    return arrow_table(file).schema if path.suffix == ".arrow" else parquet_file(file).schema_arrow
