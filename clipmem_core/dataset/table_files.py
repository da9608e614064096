"""Reads tables of rows: CSV and TSV files, JSON Lines, a JSON list of objects, COCO captions,
and Parquet files."""

import contextlib
import csv
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipmem_core.config import SourceOptions
from clipmem_core.dataset import containers
from clipmem_core.dataset.containers import damage_as_input_error, parquet_file, picture_column
from clipmem_core.dataset.records import FieldColumns, Row, Rows, find_fields, in_image_folder
from clipmem_core.utils.io import InputError

csv.field_size_limit(sys.maxsize)  # a caption of any length
_RECORD_LINES = 100  # most lines of a quoted cell; a longer one has a stray quote
# files with these separators are often written without quoting: a stray quote is part of the text
_UNQUOTED = "\t|"
_SEARCHED = 50  # pictures that are looked up in the folder images/
_BATCH = 8192  # rows that are Python objects at a time
_SPLIT = re.compile(r"(.+)-\d{5}-of-\d{5}$|(train|validation|valid|val|dev|test)(?=$|[-_.])")


def read_delimited(path: Path, options: SourceOptions) -> Rows:
    """Read a CSV or TSV file. The separator is the most frequent one in the header. Blank lines are
    no rows."""
    separator = "\t" if options.csv_separator in ("\\t", "tab") else options.csv_separator
    if len(separator) > 1:
        raise InputError(f"--csv-separator cannot be {separator!r}: give one character")
    first = next(filter(str.strip, containers.read_lines(path)), "")
    separator = separator or max("\t,;|", key=first.count)
    records = _records(path, separator)
    _, header, fault = next(records, (0, [], "it is empty"))
    if not header:
        raise InputError(f"{path.name} has no header line: {fault}")
    header = [name.strip() for name in header]

    def values() -> Iterator[tuple[int, Any]]:
        for line, cells, fault in records:
            if len(cells) != len(header):
                fault = fault or f"row has {len(cells)} columns, the header has {len(header)}"
            yield line, InputError(fault) if fault else dict(zip(header, cells, strict=True))

    kind = "tsv" if separator == "\t" else "csv"
    return _as_rows(path, kind, header, values(), options)


def _as_rows(
    path: Path,
    kind: str,
    header: Sequence[str],
    values: Iterable[tuple[int | str, Any]],
    options: SourceOptions,
    *,
    root: Path | None = None,
) -> Rows:
    """Return the rows of a table: the number of each and its cells by column, or its fault."""
    fields = find_fields(header, options, source=path.name)

    def rows() -> Iterator[Row]:
        for number, value in values:
            source = f"{path.name}:{number}"
            if isinstance(value, dict):
                cells: list[Any] = [value.get(name) if name else None for name in fields]
                yield Row(source, *cells)
            elif isinstance(value, InputError):
                yield Row(source, reason=str(value))
            else:
                yield Row(source, reason=f"row is not a JSON object but {type(value).__name__}")

    return in_image_folder(Rows(root or path.parent, kind, rows()), options.image_folder, path)


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield the number of each record's first line, its cells, and its fault, such as unbalanced
    quotes."""
    lines = containers.read_lines(path)
    buffer = list[str]()
    number = 1
    while True:
        buffer.extend(islice(lines, _RECORD_LINES - len(buffer)))
        if not buffer:
            return
        reader = csv.reader(buffer, delimiter=separator, strict=True, skipinitialspace=True)
        fault = ""
        try:
            cells = next(reader)
            consumed = reader.line_num
        except csv.Error as error:
            # continue at the next line
            cells = buffer[0].rstrip("\r\n").split(separator)
            consumed = 1
            if separator not in _UNQUOTED:
                cells = []
                fault = f"quotes do not add up ({error})"
        if cells or fault:
            yield number, cells, fault
        del buffer[:consumed]
        number += consumed


def read_jsonl(path: Path, options: SourceOptions) -> Rows:
    """Read a JSON Lines file; any line may add a column. Blank lines are no rows."""
    values = dict[int, Any]()
    for number, line in enumerate(containers.read_lines(path), start=1):
        if line.strip():
            try:
                values[number] = containers.decode_json(line)
            except InputError as error:
                values[number] = error
    return _read_objects(path, "jsonl", values, options)


def read_json_table(path: Path, options: SourceOptions) -> Rows:
    """Read COCO captions, or a list of objects as `read_jsonl` reads lines; its rows are numbered
    from 1."""
    try:
        value = containers.decode_json("".join(containers.read_lines(path)))
    except InputError:  # Hugging Face also calls JSON Lines `.json`
        return read_jsonl(path, options)
    if isinstance(value, list):
        return _read_objects(path, "json", dict(enumerate(value, start=1)), options)
    return _read_coco(path, value, options)


def _read_objects(path: Path, kind: str, values: Mapping[int, Any], options: SourceOptions) -> Rows:
    columns = dict.fromkeys(
        key for value in values.values() if isinstance(value, dict) for key in value
    )
    if not columns:
        raise InputError(
            f"{path.name} holds no JSON object: write one object a line, or a list of them"
        )
    return _as_rows(path, kind, list(columns), values.items(), options)


def _read_coco(path: Path, value: Any, options: SourceOptions) -> Rows:
    """Read COCO captions: one row for each annotation, and one without caption for each image
    without annotation.

    A pair has the `pair_id` of its image, else its `id`. Pictures are read from `image_folder`,
    else from `images` beside the file, else from its folder.
    """
    try:
        images = [dict(image) for image in value["images"]]
        annotations = [dict(annotation) for annotation in value["annotations"]]
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: neither COCO captions (images and annotations) nor a list of objects"
        ) from error
    by_id = {containers.as_name(image.get("id")): image for image in reversed(images)}
    by_id.pop(None, None)

    def values() -> Iterator[tuple[str, dict[str, Any] | InputError]]:
        unused = {id(image): i for i, image in enumerate(images)}
        for i, annotation in enumerate(annotations):
            key = containers.as_name(annotation.get("image_id"))
            image = by_id.get(key)
            unused.pop(id(image), None)
            unknown = InputError(f"annotation belongs to no image: image_id {key!r} is unknown")
            row = unknown if image is None else {"pair_id": key} | image | annotation
            yield f" annotations[{i}]", row
        for i in unused.values():  # which the missing caption puts in quarantine
            yield f" images[{i}]", {"pair_id": images[i].get("id")} | images[i]

    root = path.parent / "images"  # of our own export; others have the pictures beside the file
    names = [str(image.get("file_name")) for image in images[:_SEARCHED]]
    if not any(os.path.isfile(root / name) for name in names):
        root = path.parent
    header = dict.fromkeys(chain(["pair_id"], *images, *annotations))
    return _as_rows(path, "coco", list(header), values(), options, root=root)


def parquet_files(folder: Path) -> list[Path]:
    """List the Parquet files of a folder that are not hidden."""
    return sorted(
        file
        for file in folder.rglob("*.parquet")
        if not file.is_dir() and not re.search(r"(^|/)\.", str(file.relative_to(folder)))
    )


def read_parquet(path: Path, options: SourceOptions) -> Rows:
    """Read a Parquet file, or those of a folder: of one split if their names contain splits."""
    if not path.is_dir():
        return read_parquet_files([path.resolve()], path.resolve().parent, options, kind="parquet")
    files = parquet_files(path)
    splits = {
        file: match[1] or match[2]
        for file in files
        if (match := _SPLIT.match(file.stem) or _SPLIT.fullmatch(file.parent.name))
    }
    if splits:
        if options.split not in splits.values():
            choices = ", ".join(sorted(set(splits.values())))
            raise InputError(
                f"{path} has no split {options.split!r}: choose one of {choices} with --split"
            )
        files = [file for file in files if splits.get(file) == options.split]
    return read_parquet_files(files, path, options, kind="parquet")


def read_parquet_files(
    files: Sequence[Path], root: Path, options: SourceOptions, *, kind: str
) -> Rows:
    """Read Parquet files that make one data set, with pictures inside or paths to them."""
    fields = dict[Path, FieldColumns]()
    inside = False
    for path in files:
        name = path.relative_to(root).as_posix()
        containers.check_inside(root, path, f"{name}: file")
        schema = parquet_file(containers.stamped(path)).schema_arrow
        pictures = picture_column(schema)
        fields[path] = find_fields(schema.names, options, source=name, picture=pictures)
        inside |= fields[path].image == pictures
    if not fields:
        raise InputError(f"{root}: the data set has no files")
    rows = (row for path in files for row in _file_rows(path, root, fields[path]))
    return in_image_folder(Rows(root, kind, rows, files=not inside), options.image_folder, files[0])


def _file_rows(path: Path, root: Path, fields: FieldColumns) -> Iterator[Row]:
    file = containers.stamped(path)
    parquet = parquet_file(file)
    schema = parquet.schema_arrow
    inside = fields.image == picture_column(schema)
    names = {name for name in fields[inside:] if name}
    row = 0
    with damage_as_input_error(file):
        for batch in parquet.iter_batches(_BATCH, columns=list(names)):
            batch.validate(full=True)
            values = {name: _values(batch[name], schema, name) for name in names}
            for i in range(len(batch)):
                source = f"{path.relative_to(root).as_posix()}#{row}"
                cells: list[Any] = [values[name][i] if name in names else None for name in fields]
                if inside:
                    cells[0] = source
                yield Row(source, *cells)
                row += 1


def _values(column: pa.Array, schema: pa.Schema, name: str) -> list[Any]:
    """Return Python values: the class names of Hugging Face for their numbers, and times, which
    Python may not hold, as text."""
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.string())
    values = column.to_pylist()
    with contextlib.suppress(LookupError, TypeError, ValueError):  # not written by Hugging Face
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        classes = dict(enumerate(features[name]["names"]))
        return [classes.get(value, value) for value in values]
    return values
