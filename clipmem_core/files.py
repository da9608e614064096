"""A JSON file of ours → its values; what is missing, broken or of the wrong kind is one line that names the field."""

import functools
import json
import math
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from clipmem_core.config import InputError

DELETE = "delete the audit's folder and run it again"


class Fields(dict[str, Any]):
    """A JSON object that knows its file: to ask for a field that it lacks is an error that names both."""

    path: Path
    mend: str

    def __missing__(self, name: str) -> Any:
        raise InputError(f"{self.path} lacks the field {name!r}: {self.mend}")


def read_json(path: Path, kind: Any = Any, *, mend: str = DELETE) -> Any:
    """Read JSON that we have written.

    Args:
        path: the file.
        kind: the type of its content, for objects a TypedDict: a table of fields and their types.
        mend: what a person is to do when it is broken.

    Returns:
        The values as they are in the file, each object as `Fields`.

    Raises:
        InputError: the file is missing, no JSON, or one of its values is not of its kind.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"), kind, path=path, mend=mend)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the audit again, it goes on where it stopped") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error}): {mend}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {mend}") from None


def parse_json(text: str, kind: Any, *, path: Path, mend: str) -> Any:
    """Parse JSON out of a file, as `read_json` does."""

    def named(values: dict[str, Any]) -> Fields:
        fields = Fields(values)
        fields.path, fields.mend = path, mend
        return fields

    try:
        values = json.loads(text, object_hook=named, parse_float=_finite, parse_int=_int64, parse_constant=_finite)
        _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise InputError(f"{path}: {_first_fault(error)}: {mend}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({' '.join(str(error).split())}): {mend}") from None
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _int64(text: str) -> int:
    value = int(text) if len(text) < 20 else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{text[:20]}… is too large a number")
    return value


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _first_fault(error: ValidationError) -> str:
    """Say where the first value of the wrong kind is, what it should be and what it is."""
    fault = error.errors(include_url=False)[0]
    if fault["type"] == "json_invalid":
        return f"not valid JSON ({fault['msg']})"
    where = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "its content"
    return f"{where} is wrong ({fault['msg'].removeprefix('Value error, ')}; it is {str(fault['input'])[:60]!r})"
