"""Reads CSV and TSV files: encoding, separator and columns are found out from the file."""

import csv
import io
import re
import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.column_roles import Fields, find_fields
from clipmem_core.pairs.readers.containers import TABLE, read_lines
from clipmem_core.pairs.readers.rows import Row, Rows, placed

Record = tuple[int, list[str], str]  # number of its first line, fields and fault

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_UNQUOTED = "\t|"  # such files are often written without quoting: a stray quote is then part of the text
_SPACED = ",;"  # where spaces stand between one of these and a quote, they belong to the separator


def read_delimited(path: Path, options: SourceOptions) -> Rows:
    """Read a CSV or TSV file; picture paths are relative to its folder or `image_folder`. Blank lines are no rows.

    Raises:
        InputError: the file is empty, or its columns cannot be told.
    """
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
