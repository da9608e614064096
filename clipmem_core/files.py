"""Reading files that we have written: what is missing, broken or of the wrong kind is one line that names it."""

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from zipfile import BadZipFile

from pyarrow import ArrowException
from pydantic import TypeAdapter, ValidationError

from clipmem_core.config import InputError
from clipmem_core.shortage import shortage

DELETE = "delete the audit's folder and run it again"
INT64 = 1 << 63


class Fields(dict[str, Any]):
    """A JSON object that knows its file: to ask for a field that it lacks is an error that names both."""

    path: Path
    mend: str

    def __missing__(self, name: str) -> Any:
        raise InputError(f"{self.path} lacks the field {name!r}: {self.mend}")


def mapping(values: Any) -> dict[str, Any]:
    """Return a JSON object as it is, and an empty one for anything else: an optional part that is not there."""
    return values if isinstance(values, dict) else {}


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a number that can be shown."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def numbers(values: Any, count: int) -> list[float]:
    """Return a JSON list if it holds so many numbers, else none.

    Example:
        >>> numbers([1, 2.5], 2), numbers([1, None], 2), numbers("ab", 2)
        ([1.0, 2.5], [], [])
    """
    found = values if isinstance(values, list) and len(values) == count else []
    return [float(value) for value in found] if all(map(is_number, found)) else []


@contextmanager
def reading(path: Path, *, mend: str = DELETE) -> Iterator[None]:
    """Turn what goes wrong while a file of ours is read into an error that names it and says what to do."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the audit again, it goes on where it stopped") from None
    except InputError:
        raise
    except (OSError, EOFError, KeyError, ValueError, BadZipFile, ArrowException) as error:
        if shortage(error):
            raise
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}): {mend}") from None


def read_json(path: Path, kind: Any = Any, *, mend: str = DELETE) -> Any:
    """Read JSON that we have written.

    Returns:
        A value of that type; of a type that is none of a class, each object as `Fields`.
    """
    with reading(path, mend=mend):
        text = path.read_bytes()
    return parse_json(text, kind, path=path, mend=mend)


def parse_json(text: str | bytes, kind: Any, *, path: Path, mend: str) -> Any:
    """Parse JSON out of a file, as `read_json` does."""
    try:
        return _checked(_adapter(kind).validate_json(text, strict=True), path, mend)
    except ValidationError as error:
        _refuse(error, path, mend)


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _checked(value: Any, path: Path, mend: str) -> Any:
    """Return a value with its objects as `Fields`; refuse numbers that are not finite or that no int64 can be."""
    if isinstance(value, int | float) and not (
        math.isfinite(value) if isinstance(value, float) else abs(value) < INT64
    ):
        raise InputError(f"{path} is not valid JSON ({str(value)[:20]} is no number that can be used): {mend}")
    if isinstance(value, dict):
        value = Fields((key, _checked(inner, path, mend)) for key, inner in value.items())
        value.path, value.mend = path, mend
    elif isinstance(value, list | tuple):
        return type(value)(_checked(inner, path, mend) for inner in value)
    elif hasattr(value, "__dataclass_fields__"):
        for inner in vars(value).values():
            _checked(inner, path, mend)
    return value


def _refuse(error: ValidationError, path: Path, mend: str) -> NoReturn:
    """Say where the first value of the wrong kind is, what it should be and what it is."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    if fault["type"] == "missing":
        raise InputError(f"{path} lacks the field {where!r}: {mend}") from None
    if fault["type"] == "json_invalid":
        raise InputError(f"{path} is not valid JSON ({fault['msg'].removeprefix('Invalid JSON: ')}): {mend}") from None
    said = f"{fault['msg'].removeprefix('Value error, ')}; it is {str(fault['input'])[:60]!r}"
    raise InputError(f"{path}: {where or 'its content'} is wrong ({said}): {mend}") from None
