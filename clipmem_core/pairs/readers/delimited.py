"""Reads CSV and TSV files: encoding, separator and columns are found out from the file."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.containers import TABLE, read_file
from clipmem_core.pairs.readers.fields import Fields, find_fields
from clipmem_core.pairs.readers.picture_folder import placed
from clipmem_core.pairs.readers.rows import Row, Rows
from clipmem_core.pairs.readers.text import decode_text

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_UNQUOTED = "\t|"  # such files are often written without quoting: a stray quote is then part of the text
_SPACED = ",;"  # a space between separator and quote is common after these


def read_delimited(path: Path, options: SourceOptions) -> Rows:
    """Read a CSV or TSV file; picture paths are relative to its folder or `image_folder`. Blank lines are no rows.

    Raises:
        InputError: the file is empty, or its columns cannot be told.
    """
    lines = list(io.StringIO(decode_text(read_file(path, TABLE)), newline=""))
    previous = csv.field_size_limit(sys.maxsize)
    try:
        separator = _separator(options.csv_separator) or _sniff(lines, options, tabbed=path.suffix.lower() == ".tsv")
        records = _records(lines, separator)
        _, header, fault = next(records, (0, [], "it is empty"))
        if not header:
            raise InputError(f"{path.name} has no header line: {fault}")
        fields = find_fields(header, options, source=path.name, first=_first(lines, header, separator))
        kind = "tsv" if separator == "\t" else "csv"
        rows = Rows(path.parent, kind, _rows(path.name, header, records, fields))
        return placed(rows, options.image_folder, path)
    finally:
        csv.field_size_limit(previous)


def _separator(flag: str) -> str:
    character = "\t" if flag in ("\\t", "tab") else flag
    if len(character) > 1 or character in ('"', "\n", "\r"):
        raise InputError(f"--csv-separator must be one character other than quotes and line ends, not {flag!r}")
    return character


def _sniff(lines: list[str], options: SourceOptions, *, tabbed: bool) -> str:
    """Return the separator under which the header has the columns we need, else the one that makes most columns."""
    headers = {separator: _header(lines, separator) for separator in ("\t,;|" if tabbed else ",;\t|")}
    for separator, header in headers.items():
        if len(header) > 1 and _suits(header, options):
            return separator
    return max(headers, key=lambda separator: len(headers[separator]))


def _header(lines: list[str], separator: str) -> list[str]:
    return next(_records(lines, separator), (0, [], ""))[1]


def _first(lines: list[str], header: list[str], separator: str) -> dict[str, str]:
    records = _records(lines, separator)
    next(records)
    return dict(zip(header, next(records, (0, [], ""))[1], strict=False))


def _suits(header: list[str], options: SourceOptions) -> bool:
    try:
        find_fields(header, options, source="")
    except InputError:
        return False
    return True


def _records(lines: Sequence[str], separator: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield line number, fields and fault of each record.

    A record whose quotes do not add up costs its first line only: reading goes on at the next line, so that one
    stray quote does not swallow the rest of the file. No line is read twice within such quotes, which would take
    the square of the file's length.
    """
    text = _Lines(lines)
    while text.first < len(lines):
        reader = csv.reader(text, delimiter=separator, strict=True, skipinitialspace=separator in _SPACED)
        try:
            for fields in reader:
                if fields:
                    yield text.first + 1, fields, ""
                text.first = text.next
            return
        except csv.Error as error:
            yield text.first + 1, *_unquoted(lines[text.first], separator, str(error))
            text.give_up(error)


class _Lines:
    """The lines of a file, from the first of the record being read on; it remembers quotes that did not add up.

    A line reached within quotes leads to the same end whatever record it is reached from.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        self.first = 0  # line of the record being read
        self.next = 0
        self.doomed = 0  # lines before this one lead to `fault` where they are reached within quotes
        self.fault: csv.Error

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self.first < self.next < self.doomed:
            raise self.fault
        if self.next == len(self.lines):
            raise StopIteration
        self.next += 1
        return self.lines[self.next - 1]

    def give_up(self, fault: csv.Error) -> None:
        """Leave the record at its first line and go on at the one after it."""
        if self.next > self.doomed:
            self.doomed, self.fault = self.next, fault
        self.first = self.next = self.first + 1


def _unquoted(line: str, separator: str, fault: str) -> tuple[list[str], str]:
    if separator in _UNQUOTED:
        return line.rstrip("\r\n").split(separator), ""
    return [], f"quotes do not add up ({fault})"


def _rows(name: str, header: list[str], records: Iterator[tuple[int, list[str], str]], fields: Fields) -> list[Row]:
    at = [header.index(column) if column else -1 for column in _order(fields)]
    rows = []
    for line, values, fault in records:
        source = f"{name}:{line}"
        if values == header:
            rows.append(Row(source, reason="row is the header once more"))
        elif fault or len(values) != len(header):
            rows.append(Row(source, reason=fault or f"row has {len(values)} columns, the header has {len(header)}"))
        else:
            picked: list[Any] = [values[place] if place >= 0 else None for place in at]
            rows.append(Row(source, *picked))
    return rows


def _order(fields: Fields) -> tuple[str, ...]:
    return fields.image, fields.caption, fields.label, fields.pair_id, fields.planted
