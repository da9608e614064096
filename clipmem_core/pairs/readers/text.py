"""Text out of bytes of unknown encoding, values out of JSON, and clean text or None out of values of tables."""

import io
import json
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

from charset_normalizer import from_bytes

_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_SAMPLE = 1 << 16  # bytes that are enough to guess an encoding from
_NOT_A_NUMBER = {"nan", "NaN"}  # what an empty cell becomes on its way through str(float)


def text_lines(stream: BinaryIO) -> Iterator[str]:
    """Yield a file's text up to each line feed, which stays: by its byte order mark, else as UTF-8.

    Lines that are not UTF-8 are in the encoding guessed for them all; they alone are guessed, so that one stray line
    does not spoil a UTF-8 file. NUL characters are removed.
    """
    start = stream.read(4)
    stream.seek(0)
    if marked := next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), ""):
        texts = io.TextIOWrapper(stream, marked, errors="replace", newline="\n")
        try:
            yield from (text.replace("\0", "") for text in texts)
        finally:
            texts.detach()  # the stream is not ours to close
        return
    other = ""
    while line := stream.readline():
        bare, end = line.removesuffix(b"\n"), "\n" * line.endswith(b"\n")  # a guess may be of two bytes a letter
        if not _is_utf8(bare):
            other = other or _guess(_foreign(stream))
        yield bare.decode("utf-8" if _is_utf8(bare) else other, errors="replace").replace("\0", "") + end


def decode_text(data: bytes) -> str:
    """Return a file's text, as `text_lines` reads it.

    Example:
        >>> decode_text("Café".encode("utf-16")), decode_text("Café\\n".encode("cp1252"))
        ('Café', 'Café\\n')
    """
    return "".join(text_lines(io.BytesIO(data)))


def parse(text: str) -> Any:
    """Return the JSON value in a text.

    Raises:
        ValueError: it is not JSON, or nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _foreign(stream: BinaryIO) -> bytes:
    """Return the lines of a file that are not UTF-8, as many as are enough, and leave the stream where it is."""
    at, lines, size = stream.tell(), [], 0
    stream.seek(0)
    while size < _SAMPLE and (line := stream.readline()):
        if not _is_utf8(line):
            lines.append(line.removesuffix(b"\n"))
            size += len(line)
    stream.seek(at)
    return b"\n".join(lines)[:_SAMPLE]


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _guess(sample: bytes) -> str:
    """Return the likeliest encoding; among equally likely ones the one most files are in, cp1252."""
    matches = from_bytes(sample)
    best = matches.best()
    if best is None:
        return "cp1252"
    equals = {name for match in matches if match.chaos <= best.chaos for name in match.could_be_from_charset}
    return "cp1252" if "cp1252" in equals else best.encoding


def is_missing(value: Any) -> bool:
    """Say whether a cell holds nothing: None, a float NaN, or the text such a NaN is printed as.

    Example:
        >>> is_missing(float("nan")), is_missing(" NaN "), is_missing("")
        (True, True, False)
    """
    if isinstance(value, str):
        return len(value) < 9 and value.strip() in _NOT_A_NUMBER
    return value is None or (isinstance(value, float) and math.isnan(value))


def tidy(text: str) -> str:
    """Return the text without outer whitespace, NUL characters and halves of surrogate pairs (no file could hold them).

    Example:
        >>> tidy("  two\\n lines \\0")
        'two\\n lines'
    """
    if text.isascii():
        return text.replace("\0", "").strip()
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "").strip()


def printable(text: str) -> str:
    """Return the text with what UTF-8 cannot hold written as escapes: for file names that are not text."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_name(value: Any) -> str | None:
    """Return an id or a label as text, None where there is none; whole numbers lose their decimal point.

    Example:
        >>> as_name(12.0), as_name(" cat "), as_name("")
        ('12', 'cat', None)
    """
    if is_missing(value):
        return None
    whole = isinstance(value, float) and value.is_integer()
    return tidy(str(int(value) if whole else value)) or None
