"""Reading our own files: one that is missing or broken is one line that names it."""

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from pyarrow import ArrowException
from pydantic import TypeAdapter, ValidationError

from clipmem_core.config import InputError
from clipmem_core.shortage import shortage

DELETE = "delete the audit's folder and run it again"


class Fields(dict[str, Any]):
    """A JSON object of a file; a missing field is an error that names both."""

    path: Path
    mend: str

    def __missing__(self, name: str) -> Any:
        raise InputError(f"{self.path} lacks the field {name!r}: {self.mend}")


def mapping(values: Any) -> dict[str, Any]:
    """Return a JSON object, or an empty one for anything else."""
    return values if isinstance(values, dict) else {}


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def numbers(values: Any, count: int) -> list[float]:
    """Return a JSON list if it has so many numbers, or an empty one."""
    fits = isinstance(values, list) and len(values) == count and all(map(is_number, values))
    return [float(value) for value in values] if fits else []


@contextmanager
def reading(path: Path, *, mend: str = DELETE) -> Iterator[None]:
    """Turn an error of reading one of our files into a line that names it and says what to do."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the audit again to resume it") from None
    except InputError:
        raise
    except (OSError, EOFError, KeyError, ValueError, BadZipFile, ArrowException) as error:
        if shortage(error):
            raise
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}): {mend}") from None


def read_json(path: Path, kind: Any = Any, *, mend: str = DELETE) -> Any:
    """Read one of our JSON files as a type; an object is a `Fields` unless the type is a class."""
    with reading(path, mend=mend):
        text = path.read_bytes()
    return parse_json(text, kind, path=path, mend=mend)


def parse_json(text: str | bytes, kind: Any, *, path: Path, mend: str) -> Any:
    """Parse JSON of a file, as `read_json` does."""
    try:
        value = _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"] if part != "[key]")
        if fault["type"] == "missing":
            raise InputError(f"{path} lacks the field {where!r}: {mend}") from None
        what = fault["msg"].removeprefix("Value error, ").removeprefix("Invalid JSON: ")
        if fault["type"] == "json_invalid":
            raise InputError(f"{path} is not valid JSON ({what}): {mend}") from None
        raise InputError(
            f"{path}: {where or 'its content'} is wrong ({what}; it is {str(fault['input'])[:60]!r}): {mend}"
        ) from None
    if isinstance(value, dict):
        value = Fields(value)
        value.path, value.mend = path, mend
    return value


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
