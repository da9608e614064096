"""Reads tables of rows: CSV and TSV files, JSON lines, a JSON list of objects, and COCO captions.

Encoding, separator and columns are found out from the file.
"""

import csv
import io
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import as_name
import decode_text
import JSON
import normal_reference
import parse
import read_file
import read_lines
import TABLE

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.rows import Fields, Row, Rows, find_fields, named_folder, placed, spelled

Record = tuple[int, list[str], str]  # number of its first line, fields and fault

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_UNQUOTED = "\t|"  # such files are often written without quoting: a stray quote is then part of the text
_SPACED = ",;"  # where spaces stand between one of these and a quote, they belong to the separator


def read_delimited(path: Path, options: SourceOptions) -> Rows:
    """Read a CSV or TSV file; picture paths are relative to its folder or `image_folder`. Blank lines are no rows."""
    separator = _separator(options.csv_separator) or _sniff(path, options, tabbed=path.suffix.lower() == ".tsv")
    opened = rf'{separator} +"[^"{separator}\r\n]'  # a cell in quotes after spaces
    if separator in _SPACED and any(re.search(opened, line) for line in read_lines(path, TABLE)):
        separator += " "
    (_, header, fault), (_, first, _) = _start(path, separator)
    if not header:
        raise InputError(f"{path.name} has no header line: {fault}")
    fields = find_fields(header, options, source=path.name, first=dict(zip(header, first, strict=False)))
    rows = Rows(path.parent, "tsv" if separator == "\t" else "csv", _rows(path, separator, header, fields))
    return placed(rows, options.image_folder, path)


def _separator(flag: str) -> str:
    character = "\t" if flag in ("\\t", "tab") else flag
    if len(character) > 1 or character in ('"', "\n", "\r"):
        raise InputError(f"--csv-separator must be one character other than quotes and line ends, not {flag!r}")
    return character


def _sniff(path: Path, options: SourceOptions, *, tabbed: bool) -> str:
    """Return the separator under which the header has the columns we need, else the one that makes most columns."""
    headers = {separator: _start(path, separator)[0][1] for separator in ("\t,;|" if tabbed else ",;\t|")}
    for separator, header in headers.items():
        if len(header) > 1 and _suits(header, options):
            return separator
    return max(headers, key=lambda separator: len(headers[separator]))


def _start(path: Path, separator: str) -> list[Record]:
    """Return the first two records of a file, empty ones where it has no more."""
    return [*islice(_records(path, separator), 2), (0, [], "it is empty"), (0, [], "")][:2]


def _suits(header: list[str], options: SourceOptions) -> bool:
    try:
        find_fields(header, options, source="")
    except InputError:
        return False
    return True


def _records(path: Path, separator: str) -> Iterator[Record]:
    """Yield the records of a file.

    A record whose quotes do not add up costs its first line only: reading goes on at the next line, so that one
    stray quote does not swallow the rest of the file. No line is read twice within such quotes, which would take
    the square of the file's length.
    """
    lines = _Lines(line for text in read_lines(path, TABLE) for line in io.StringIO(text, newline=""))
    while True:
        reader = csv.reader(lines, delimiter=separator[0], strict=True, skipinitialspace=separator[1:] == " ")
        try:
            while (fields := _next_record(reader)) is not None:
                if fields:
                    yield lines.first + 1, fields, ""
                lines.go_on()
            return
        except csv.Error as error:
            yield lines.first + 1, *_unquoted(lines.held[0], separator, str(error))
            lines.give_up(error)


def _next_record(reader: Iterator[list[str]]) -> list[str] | None:
    """Return the next record, however long: the limit belongs to the whole process, so it is only lifted meanwhile."""
    previous = csv.field_size_limit(sys.maxsize)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(previous)


class _Lines:
    """The lines of a file; those of the record being read are held, and quotes that did not add up are remembered.

    A line reached within quotes leads to the same end whatever record it is reached from.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines = lines
        self.held: deque[str] = deque()  # from the first line of the record being read on
        self.first = 0  # number of that line
        self.next = 0
        self.doomed = 0  # lines before this one lead to `fault` where they are reached within quotes
        self.fault: csv.Error

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self.first < self.next < self.doomed:
            raise self.fault
        if self.next - self.first == len(self.held):
            self.held.append(next(self.lines))
        self.next += 1
        return self.held[self.next - self.first - 1]

    def go_on(self) -> None:
        """Leave the record that was read."""
        while self.first < self.next:
            self.held.popleft()
            self.first += 1

    def give_up(self, fault: csv.Error) -> None:
        """Leave the record at its first line and go on at the one after it."""
        if self.next > self.doomed:
            self.doomed, self.fault = self.next, fault
        self.held.popleft()
        self.first = self.next = self.first + 1


def _unquoted(line: str, separator: str, fault: str) -> tuple[list[str], str]:
    if separator in _UNQUOTED:
        return line.rstrip("\r\n").split(separator), ""
    return [], f"quotes do not add up ({fault})"


def _rows(path: Path, separator: str, header: list[str], fields: Fields) -> Iterator[Row]:
    places = [header.index(column) if column else -1 for column in fields.in_order()]
    for line, values, fault in islice(_records(path, separator), 1, None):
        source = f"{path.name}:{line}"
        if values == header:
            yield Row(source, reason="row is the header once more")
        elif fault or len(values) != len(header):
            yield Row(source, reason=fault or f"row has {len(values)} columns, the header has {len(header)}")
        else:
            yield Row._make((source, *(values[place] if place >= 0 else None for place in places), ""))


Numbered = Iterator[tuple[int, Any]]  # a place in the file and what stands there: a value, or the error of reading it

_TRIED = 50  # pictures looked for in each likely folder


def read_jsonl(path: Path, options: SourceOptions) -> Rows:
    """Read a JSON Lines file; picture paths are relative to its folder or `image_folder`. Blank lines are no rows.

    It is read twice, as any line may name a column.
    """
    return _read_objects(path, lambda: _json_lines(path), options, kind="jsonl")


def read_json(path: Path, options: SourceOptions) -> Rows:
    """Read COCO captions, or a list of objects as `read_jsonl` reads lines; its rows are numbered from 1."""
    try:
        value = parse(decode_text(read_file(path, JSON)))
    except ValueError:  # Hugging Face also calls JSON Lines `.json`
        return read_jsonl(path, options)
    if _is_coco(value):
        return _read_coco(path, value, options)
    if isinstance(value, list):
        return _read_objects(path, lambda: iter(enumerate(value, start=1)), options, kind="json")
    raise InputError(f"{path}: neither COCO captions (images and annotations) nor a list of objects")


def is_json_table(path: Path) -> bool:
    """Return whether a JSON file holds pairs rather than, say, the statistics of a download."""
    try:
        value = parse(decode_text(read_file(path, JSON)))
    except InputError:
        return True  # too large to look into: reading it says so
    except ValueError:
        return False
    return _is_coco(value) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _json_lines(path: Path) -> Numbered:
    for number, line in enumerate(read_lines(path, JSON), start=1):
        if line.isspace() or not line:
            continue
        try:
            yield number, parse(line.removesuffix("\n"))
        except ValueError as error:
            yield number, error


def _read_objects(path: Path, values: Callable[[], Numbered], options: SourceOptions, *, kind: str) -> Rows:
    first: dict[str, Any] | None = None
    columns: dict[str, None] = {}
    for _, value in values():
        if isinstance(value, dict):
            first = value if first is None else first
            columns.update(dict.fromkeys(value))
    if first is None:
        raise InputError(f"{path.name} holds no JSON object: one object a line (or a list of them) is wanted")
    order = find_fields(list(columns), options, source=path.name, first=first).in_order()
    rows = (_object_row(f"{path.name}:{number}", value, order) for number, value in values())
    return placed(Rows(path.parent, kind, rows), options.image_folder, path)


def _object_row(source: str, value: Any, order: tuple[str, ...]) -> Row:
    if isinstance(value, dict):
        return Row._make((source, *map(value.get, order), ""))
    if isinstance(value, ValueError):
        return Row(source, reason=f"line is not JSON ({value})")
    return Row(source, reason=f"row is not a JSON object but {type(value).__name__}")


def _is_coco(value: Any) -> bool:
    return isinstance(value, dict) and "images" in value and "annotations" in value


def _read_coco(path: Path, value: dict[str, Any], options: SourceOptions) -> Rows:
    """Read COCO captions. An annotation is a row; so is a picture without one, and it goes to quarantine.

    The image's `id` is the pair's id, or its `pair_id` where it has one; `label` and `planted` are read if there.
    Pictures are looked for in `image_folder`, else near the file.
    """
    images, annotations = value["images"], value["annotations"]
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise InputError(f"{path.name}: images and annotations must be lists, as in COCO's captions files")
    if annotations and not any(isinstance(entry, dict) and "caption" in entry for entry in annotations):
        raise InputError(f"{path.name}: no annotation has a caption: give COCO's captions_*.json, not its instances")
    known, faulty = _known_images(path.name, images)
    folder = _picture_folder(path, options.image_folder, known)
    for image in known.values():
        image["file_name"] = spelled(image.get("file_name"), folder)
    root = _root(path.parent.resolve(), folder)
    prefix = os.path.relpath(folder, root)
    rows = _annotation_rows(path.name, annotations, known, "" if prefix == "." else f"{prefix}/")
    return Rows(root, "coco", chain(rows, faulty, _silent_rows(path.name, annotations, known)))


def _known_images(name: str, images: list[Any]) -> tuple[dict[Any, dict[str, Any]], list[Row]]:
    """Return image id → entry, and a row for each entry that cannot be used."""
    known: dict[Any, dict[str, Any]] = {}
    faulty = []
    for at, image in enumerate(images):
        source = f"{name}: images[{at}]"
        key = image.get("id") if isinstance(image, dict) else None
        if not isinstance(key, str | int):
            faulty.append(Row(source, reason="image entry has no id"))
        elif key in known:
            reason = f"image id {key!r} already belongs to {known[key].get('file_name')!r}"
            faulty.append(Row(source, pair_id=key, reason=reason))
        else:
            known[key] = image
    return known, faulty


def _annotation_rows(name: str, annotations: list[Any], known: dict[Any, Any], prefix: str) -> Iterator[Row]:
    for at, annotation in enumerate(annotations):
        source = f"{name}: annotations[{at}]"
        if not isinstance(annotation, dict):
            yield Row(source, reason=f"annotation is not an object but {type(annotation).__name__}")
            continue
        key = annotation.get("image_id")
        image = known.get(key) if isinstance(key, str | int) else None
        if image is None:
            yield Row(source, reason=f"annotation belongs to no image: image_id {key!r} is unknown")
            continue
        yield _annotation_row(source, image, annotation.get("caption"), prefix)


def _annotation_row(source: str, image: dict[str, Any], caption: Any, prefix: str) -> Row:
    path, reason = image.get("file_name"), ""
    if isinstance(path, str) and path.strip():
        # Checked before the folder is put in front, so that `..` does not climb from the pictures into the root.
        try:
            path = prefix + normal_reference(path)
        except InputError as error:
            reason = str(error)
    return Row(source, path, caption, image.get("label"), _pair_id(image), image.get("planted"), reason)


def _pair_id(image: dict[str, Any]) -> str | None:
    return as_name(image.get("pair_id")) or as_name(image["id"])


def _silent_rows(name: str, annotations: list[Any], known: dict[Any, Any]) -> Iterator[Row]:
    keys = (entry.get("image_id") for entry in annotations if isinstance(entry, dict))
    spoken = {key for key in keys if isinstance(key, str | int)}
    for key, image in known.items():
        if key not in spoken:
            yield Row(f"{name}: image {key}", pair_id=_pair_id(image), reason="image has no annotation")


def _picture_folder(path: Path, flag: str, known: dict[Any, Any]) -> Path:
    """Return the pictures' folder: the flag's (from here, else from the file), or a likely one that has some."""
    here = path.parent.resolve()
    if flag:
        return named_folder(flag, here / path.name).resolve()
    split = path.stem.rpartition("_")[2]
    likely = [
        here,
        here / "images",
        here / split,
        here.parent / split,
        here.parent / "images" / split,
        here.parent / "images",
    ]
    names = [name for image in list(known.values())[:_TRIED] if (name := _plain_name(image.get("file_name")))]
    return max(likely, key=lambda folder: sum(os.path.isfile(folder / name) for name in names)).resolve()


def _plain_name(name: Any) -> str:
    """Return a file name that stays in its folder, or an empty string."""
    try:
        return normal_reference(name) if isinstance(name, str) else ""
    except InputError:
        return ""


def _root(here: Path, folder: Path) -> Path:
    """Return the common parent of file and pictures, so that no reference has to climb; not the whole disk, though."""
    common = Path(os.path.commonpath([here, folder]))
    return folder if common == Path(common.anchor) else common
