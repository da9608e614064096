"""Reads tables of rows: CSV and TSV files, JSON Lines, a JSON list of objects, and COCO
captions."""

import csv
import io
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from clipmem_core import columns as c
from clipmem_core.config import SourceOptions
from clipmem_core.dataset.readers.paths import (
    JSON,
    as_name,
    decode_json,
    decode_text,
    read_file,
    read_lines,
)
from clipmem_core.dataset.readers.records import (
    FieldColumns,
    Row,
    Rows,
    find_fields,
    in_image_folder,
)
from clipmem_core.io import InputError

csv.field_size_limit(sys.maxsize)  # a caption of any length
_RECORD_LINES = 100  # most lines of a quoted cell; a longer one has a stray quote
# files with these separators are often written without quoting: a stray quote is part of the text
_UNQUOTED = "\t|"
_SEARCHED = 50  # pictures looked up in each likely folder


def read_delimited(path: Path, options: SourceOptions) -> Rows:
    """Read a CSV or TSV file. The separator is the most frequent one in the header. Blank lines are
    no rows."""
    separator = "\t" if options.csv_separator in ("\\t", "tab") else options.csv_separator
    if len(separator) > 1 or separator in ('"', "\n", "\r"):
        raise InputError(
            "--csv-separator must be one character other than quotes and line ends, not "
            f"{separator!r}"
        )
    separator = separator or max("\t,;|", key=next(filter(str.strip, _lines(path)), "").count)
    _, header, fault = next(_records(path, separator), (0, [], "it is empty"))
    if not header:
        raise InputError(f"{path.name} has no header line: {fault}")
    header = [name.strip() for name in header]
    fields = find_fields(header, options, source=path.name)
    places = [header.index(column) if column else -1 for column in fields]

    def rows() -> Iterator[Row]:
        for line, values, fault in islice(_records(path, separator), 1, None):
            source = f"{path.name}:{line}"
            if len(values) != len(header):
                fault = fault or f"row has {len(values)} columns, the header has {len(header)}"
            if fault:
                yield Row(source, reason=fault)
            else:
                cells = (values[place] if place >= 0 else None for place in places)
                yield Row._make((source, *cells, "", ""))

    kind = "tsv" if separator == "\t" else "csv"
    return in_image_folder(Rows(path.parent, kind, rows()), options.image_folder, path)


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a table, which end with a lone `\\r` if its header does (old Macs)."""
    lines = read_lines(path)
    header = next(lines, "")
    lines = chain([header], lines)
    if "\r" in header.rstrip("\r\n"):
        return chain.from_iterable(io.StringIO(line, newline="") for line in lines)
    return lines


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield the number of each record's first line, its cells, and its fault, such as unbalanced
    quotes."""
    lines = _lines(path)
    buffer = deque[str]()
    number = 1
    while True:
        buffer.extend(islice(lines, _RECORD_LINES - len(buffer)))
        if not buffer:
            return
        reader = csv.reader(buffer, delimiter=separator, strict=True, skipinitialspace=True)
        try:
            cells = next(reader)
            fault = ""
            consumed = reader.line_num
        except csv.Error as error:
            # continue at the next line
            cells = []
            fault = f"quotes do not add up ({error})"
            consumed = 1
            if separator in _UNQUOTED:
                cells = buffer[0].rstrip("\r\n").split(separator)
                fault = ""
        if cells or fault:
            yield number, cells, fault
        for _ in range(consumed):
            buffer.popleft()
        number += consumed


def read_jsonl(path: Path, options: SourceOptions) -> Rows:
    """Read a JSON Lines file, twice, as any line may add a column. Blank lines are no rows."""
    return _read_objects(path, lambda: _json_lines(path), options, kind="jsonl")


def read_json_table(path: Path, options: SourceOptions) -> Rows:
    """Read COCO captions, or a list of objects as `read_jsonl` reads lines; its rows are numbered
    from 1."""
    text = decode_text(read_file(path, JSON))
    try:
        value = decode_json(text)
    except ValueError:  # Hugging Face also calls JSON Lines `.json`
        return read_jsonl(path, options)
    if isinstance(value, dict) and "images" in value and "annotations" in value:
        return _read_coco(path, value["images"], value["annotations"], options)
    if isinstance(value, list):
        return _read_objects(path, lambda: enumerate(value, start=1), options, kind="json")
    raise InputError(
        f"{path}: neither COCO captions (images and annotations) nor a list of objects"
    )


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number and value of each line, or the error of reading it."""
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            yield number, decode_json(line)
        except ValueError as error:
            yield number, error


def _read_objects(
    path: Path,
    values: Callable[[], Iterator[tuple[int, Any]]],
    options: SourceOptions,
    *,
    kind: str,
) -> Rows:
    columns = list(
        dict.fromkeys(key for _, value in values() if isinstance(value, dict) for key in value)
    )
    if not columns:
        raise InputError(
            f"{path.name} holds no JSON object: write one object a line, or a list of them"
        )
    fields = find_fields(columns, options, source=path.name)

    def rows() -> Iterator[Row]:
        for number, value in values():
            source = f"{path.name}:{number}"
            if isinstance(value, dict):
                yield Row._make((source, *map(value.get, fields), "", ""))
            elif isinstance(value, ValueError):
                yield Row(source, reason=f"line is not JSON ({value})")
            else:
                yield Row(source, reason=f"row is not a JSON object but {type(value).__name__}")

    return in_image_folder(Rows(path.parent, kind, rows()), options.image_folder, path)


def _read_coco(path: Path, images: Any, annotations: Any, options: SourceOptions) -> Rows:
    """Read COCO captions: one row for each annotation, and a quarantined row for each image without
    annotation.

    The pair's id is the image's `pair_id`, else its `id`; `label` and `injected` are optional.
    Pictures are read from `image_folder`, else from the usual folder of COCO that has most of them.
    """
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise InputError(
            f"{path.name}: images and annotations must be lists, as in COCO's captions files"
        )

    columns = "file_name", "caption", "label", "pair_id", "injected", options.group_key
    fields = FieldColumns(*columns)

    def rows() -> Iterator[Row]:
        by_id = dict[Any, dict[str, Any]]()
        for i, image in enumerate(images):
            key = image.get("id") if isinstance(image, dict) else None
            if isinstance(key, str | int) and key not in by_id:
                by_id[key] = image | {"pair_id": as_name(image.get("pair_id")) or key}
            else:
                reason = f"image entry has no id of its own but {key!r}"
                yield Row(f"{path.name}: images[{i}]", reason=reason)
        without_annotation = dict(by_id)
        for i, annotation in enumerate(annotations):
            source = f"{path.name}: annotations[{i}]"
            key = annotation.get("image_id") if isinstance(annotation, dict) else None
            if not isinstance(key, str | int) or key not in by_id:
                reason = f"annotation belongs to no image: image_id {key!r} is unknown"
                yield Row(source, reason=reason)
                continue
            without_annotation.pop(key, None)
            image = by_id[key]
            yield Row._make((source, *map((image | annotation).get, fields), "", ""))
        for key, image in without_annotation.items():
            source = f"{path.name}: image {key}"
            reason = "image has no annotation"
            yield Row(source, pair_id=image["pair_id"], kind=c.BAD_CAPTION, reason=reason)

    folder = path.parent.resolve()
    split = path.stem.rpartition("_")[2]
    likely = [
        parent / name
        for parent in (folder, folder.parent)
        for name in ("", "images", split, f"images/{split}")
    ]
    entries = [image for image in images[:_SEARCHED] if isinstance(image, dict)]
    names = [image["file_name"] for image in entries if isinstance(image.get("file_name"), str)]
    root = max(likely, key=lambda root: sum(os.path.isfile(root / name) for name in names))
    return in_image_folder(Rows(root, "coco", rows()), options.image_folder, path)
