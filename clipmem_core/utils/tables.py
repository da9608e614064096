"""Tables from elsewhere: CSV, JSON Lines and Parquet files that a person names."""

import json
from collections.abc import Callable
from csv import QUOTE_NONNUMERIC
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import ArrowException

from clipmem_core.utils.io import InputError, replacing

# a spreadsheet computes a cell that begins with one of these
FORMULA = ("=", "+", "-", "@", "\t", "\r")
_READERS: dict[str, Callable[..., Any]] = {
    ".csv": partial(pd.read_csv, dtype=str, keep_default_na=False),
    ".jsonl": partial(pd.read_json, lines=True, dtype=False),
    ".parquet": pd.read_parquet,
}
_WRITERS: dict[str, Callable[..., Any]] = {
    # a lone \r in a text must be quoted too
    ".csv": partial(pd.DataFrame.to_csv, index=False, quoting=QUOTE_NONNUMERIC),
    ".jsonl": partial(pd.DataFrame.to_json, orient="records", lines=True, force_ascii=False),
    ".parquet": partial(pd.DataFrame.to_parquet, index=False),
}
SUFFIXES = tuple(_READERS)


def check_suffix(path: Path) -> None:
    """Refuse a name that is of no format of a table."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} must end with {', '.join(SUFFIXES)}")


def read_frame(path: Path) -> pd.DataFrame:
    """Read a table by its suffix; the cells of a CSV file are text."""
    check_suffix(path)
    try:
        return _READERS[path.suffix.lower()](path)
    except (ValueError, ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def write_frame(table: pd.DataFrame, path: Path) -> None:
    """Write a table by its suffix."""
    suffix = path.suffix.lower()
    with replacing(path) as temporary:
        _WRITERS[suffix](table.map(as_cell) if suffix == ".csv" else table, temporary)


def as_cell(value: Any) -> Any:
    """Return a value as a CSV cell: a list as JSON, and a formula as text, after a single quote."""
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    is_formula = isinstance(value, str) and value.startswith(FORMULA)
    return f"'{value}" if is_formula else value
