"""Reads JSON Lines, and JSON files that hold a list of objects: one object a row."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.containers import JSON, read_file
from clipmem_core.pairs.readers.fields import find_fields
from clipmem_core.pairs.readers.picture_folder import placed
from clipmem_core.pairs.readers.rows import Row, Rows
from clipmem_core.pairs.readers.text import decode_text

Numbered = tuple[int, Any]  # a place in the file and what stands there: a value, or the error that reading it gave


def read_jsonl(path: Path, options: SourceOptions) -> Rows:
    """Read a JSON Lines file; picture paths are relative to its folder or `image_folder`. Blank lines are no rows.

    Raises:
        InputError: no line is a JSON object, or its keys do not tell picture and caption.
    """
    return _read(path, list(_lines(decode_text(read_file(path, JSON)))), options, kind="jsonl")


def read_json_list(path: Path, values: list[Any], options: SourceOptions) -> Rows:
    """Read the objects of a JSON list, as `read_jsonl` reads lines; rows are numbered from 1."""
    return _read(path, list(enumerate(values, start=1)), options, kind="json")


def parse(text: str) -> Any:
    """Return the JSON value in a text.

    Raises:
        ValueError: it is not JSON, or nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _lines(text: str) -> Iterator[Numbered]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            yield number, parse(line)
        except ValueError as error:
            yield number, error


def _read(path: Path, values: list[Numbered], options: SourceOptions, *, kind: str) -> Rows:
    objects = [value for _, value in values if isinstance(value, dict)]
    if not objects:
        raise InputError(f"{path.name} holds no JSON object: one object a line (or a list of them) is wanted")
    columns = list(dict.fromkeys(key for value in objects for key in value))
    fields = find_fields(columns, options, source=path.name, first=objects[0])
    order = (fields.image, fields.caption, fields.label, fields.pair_id, fields.planted)
    rows = []
    for number, value in values:
        source = f"{path.name}:{number}"
        known = isinstance(value, dict)
        rows.append(Row(source, *map(value.get, order)) if known else Row(source, reason=_fault(value)))
    return placed(Rows(path.parent, kind, rows), options.image_folder, path)


def _fault(value: Any) -> str:
    if isinstance(value, ValueError):
        return f"line is not JSON ({value})"
    return f"row is not a JSON object but {type(value).__name__}"
