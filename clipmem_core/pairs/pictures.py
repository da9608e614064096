"""One picture: its file's bytes decoded to upright RGB on white, its square of pixels, and the facts kept of it.

Everything a picture can be wrong in ends as a `PictureError` with a short reason. This is what the processes of
`pixels` run: it imports little and starts quickly.
"""

import functools
import hashlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from clipmem_core.atomic import naming
from clipmem_core.pairs.references import read_bytes
from clipmem_core.shortage import shortage

PIXEL_LIMIT = 178_956_970  # where Pillow, too, speaks of a decompression bomb: half a gigabyte of RGB
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000")  # none runs another program
RESIZE_MODES = ("shortest", "longest", "squash")  # open_clip's words
STRIP = 1 << 20  # pixels reduced at a time, so that a huge picture is not held twice
SPARE = 3  # a picture decoded for `size` pixels keeps sides of SPARE · size, so that the last resize stays a fair one
DESCRIPTOR_SIDE = 16
DESCRIPTOR_LENGTH = DESCRIPTOR_SIDE * DESCRIPTOR_SIDE * 3
ROOM = 16 * PIXEL_LIMIT  # bytes: no picture within the limits takes more while it is decoded

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_warnings_lock = threading.Lock()


class PictureError(ValueError):
    """A picture that cannot be used; the message is the reason, a few plain words."""


def decode(data: bytes, *, size: int | None = None) -> Image.Image:
    """Decode a picture to RGB: upright, on white, its first frame.

    Args:
        data: the content of the file.
        size: pixels of the square the picture is meant for. A larger picture may come back smaller than it is,
            never below three times that: this is much faster. None keeps every pixel.

    Raises:
        PictureError: empty, not a picture, truncated, damaged, without pixels, or above `PIXEL_LIMIT`.
        MemoryError: memory ran out, which says nothing about the picture.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("LA", (4, 2), (0, 0)).save(file, "PNG")  # black, and wholly transparent
        >>> decode(file.getvalue()).getpixel((0, 0))
        (255, 255, 255)
    """
    return decode_measured(data, size=size)[0]


def decode_measured(data: bytes, *, size: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Decode as `decode` does and also return the width and height the upright picture has at full size."""
    image = _open(data)
    try:
        image, full = _load(image, size)
        plain = _reduce(_plain(image), size and SPARE * size)
        orientation = _orientation(image)
        if orientation in _UPRIGHT:
            plain = plain.transpose(_UPRIGHT[orientation])
        return _on_white(plain), (full[1], full[0]) if orientation >= 5 else full
    except (PictureError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        raise _fault(error) from error


def resize(image: Image.Image, size: int, mode: str) -> np.ndarray:
    """Bring an RGB picture to a square, with a bicubic filter that averages when it shrinks.

    Args:
        image: RGB, any size.
        size: pixels of the square's side.
        mode: `shortest` cuts the square from the middle, `longest` pads with white, `squash` ignores the shape.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: the mode is unknown.

    Example:
        >>> resize(Image.new("RGB", (8, 4)), 4, "longest")[:, 0, 0].tolist()
        [255, 0, 0, 255]
    """
    if mode not in RESIZE_MODES:
        raise ValueError(f"resize mode must be one of {', '.join(RESIZE_MODES)}, not {mode!r}")
    width, height = image.size
    if mode == "squash":
        return _scale(image, (size, size))
    if mode == "shortest":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return _scale(image, (size, size), box=(left, top, left + side, top + side))
    longer = max(width, height)
    inner = _scale(image, (max(1, round(width * size / longer)), max(1, round(height * size / longer))))
    square = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
    square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return square


def _scale(
    image: Image.Image, size: tuple[int, int], *, box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=SPARE))


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's remarks on odd files off the screen. The filters belong to the whole process: one at a time."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(data: bytes) -> Image.Image:
    """Read the header only, and refuse what is not worth decoding."""
    if not data:
        raise PictureError("empty file")
    try:
        with _quiet():
            image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large()) from error
    except UnidentifiedImageError as error:
        raise PictureError("not a picture, or its header is damaged") from error
    except MemoryError:
        raise
    except Exception as error:
        raise _fault(error) from error
    width, height = image.size
    if width < 1 or height < 1:
        raise PictureError(f"no pixels: {width} × {height}")
    if width * height > PIXEL_LIMIT:
        raise PictureError(_too_large(f"{width:,} × {height:,} pixels, "))
    return image


def _load(image: Image.Image, size: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """Decode the first frame. A JPEG for a small square is decoded at a half, a quarter or an eighth."""
    full = image.size
    drafted = image.draft(None, (SPARE * size, SPARE * size)) if size is not None and image.format == "JPEG" else None
    if image.format == "TIFF":  # the one format that remarks on its tags while it loads
        with _quiet():
            image.load()
    else:
        image.load()
    return image, full if drafted else image.size


def _orientation(image: Image.Image) -> int:
    with _quiet():
        value: Any = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) else 1


def _plain(image: Image.Image) -> Image.Image:
    """Return L, RGB or, where something shows through, LA or RGBA, eight bits each; or 16-bit grey, as it is."""
    if image.mode.startswith("I"):
        return image
    if image.mode == "F":
        raise PictureError("floating-point pixels")
    if image.mode in ("L", "RGB", "LA", "RGBA") and "transparency" not in image.info:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey values to 8 bits; Pillow's own conversion cuts them off at 255."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).clip(0, 65535).astype(np.uint32)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _reduce(image: Image.Image, side: int | None) -> Image.Image:
    """Bring grey to 8 bits and average whole blocks, as large as the shorter side's `side` allows, strip by strip."""
    grey = image.mode.startswith("I")
    factor = max(1, min(image.size) // side) if side else 1
    if factor < 2 and not grey:
        return image
    width, height = image.size
    small = Image.new("L" if grey else image.mode, (-(-width // factor), -(-height // factor)))
    rows = max(1, STRIP // width // factor) * factor
    for top in range(0, height, rows):
        strip = _eight_bits(image.crop((0, top, width, min(top + rows, height))))
        small.paste(strip.reduce(factor), (0, top // factor))
    return small


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "RGBA"):
        return image.convert("RGB")
    coloured = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(coloured, mask=coloured.getchannel("A"))
    return white


def _too_large(what: str = "") -> str:
    return f"too large: {what}more than {PIXEL_LIMIT // 1_000_000} megapixels"


def _fault(error: Exception) -> Exception:
    text = str(error).strip().split("\n")[0]
    if shortage(error):
        return MemoryError(text)
    if "truncated" in text.lower():
        return PictureError("truncated file")
    return PictureError(f"damaged file: {text or type(error).__name__}")


@dataclass(frozen=True)
class Fact:
    """What one picture is; `width` and `height` are the upright original's, 0 if it is unusable."""

    width: int
    height: int
    sha256: str  # of the file's bytes; empty where they could not be read
    reason: str | None  # why it is unusable
    descriptor: bytes  # DESCRIPTOR_LENGTH values


def check_chunk(
    chunk: list[tuple[int, str]], *, root: Path, size: int, resize_mode: str, pixels: Path | None
) -> list[tuple[int, Fact]]:
    """Read and decode pictures, each once.

    Args:
        chunk: row and reference of each picture.
        root: the folder the references are relative to.
        size: side of the square, in pixels.
        resize_mode: shortest, longest or squash.
        pixels: a .npy file of uint8 [n_pictures, size, size, 3] whose rows are filled; None keeps no pixels.

    Returns:
        Row and fact of each picture, in order.

    Raises:
        OSError, MemoryError: the disk is full, too many files are open, or memory ran out: no fact of a picture.
    """
    facts = []
    for row, image in chunk:
        fact, square = _check(root, image, size, resize_mode)
        facts.append((row, fact))
        if pixels is not None and square is not None:
            _write_square(pixels, row, square)
    return facts


def has_room(_: object = None) -> bool:
    """Tell whether there is memory for any picture within the limits."""
    try:
        np.empty(ROOM, np.uint8)
    except MemoryError:
        return False
    return True


def broken(reason: str, *, sha256: str = "") -> Fact:
    """Return the fact of a picture that cannot be used."""
    return Fact(0, 0, sha256, reason, bytes(DESCRIPTOR_LENGTH))


def read_square(root: Path, image: str, *, size: int, resize_mode: str) -> np.ndarray:
    """Read one picture again and return its square, uint8 [size, size, 3].

    Raises:
        PictureError: the picture is broken; the message names it.
    """
    try:
        return resize(decode_measured(read_bytes(root, image), size=size)[0], size, resize_mode)
    except PictureError as error:
        raise PictureError(f"{image}: {error}") from error


def _write_square(pixels: Path, row: int, square: np.ndarray) -> None:
    # Written, not mapped: on a full disk a write to a map ends the process.
    with naming(pixels), pixels.open("r+b") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        file.seek(row * square.nbytes, os.SEEK_CUR)
        file.write(square.tobytes())


def _check(root: Path, image: str, size: int, resize_mode: str) -> tuple[Fact, np.ndarray | None]:
    try:
        return _looked_at(root, image, size, resize_mode)
    except MemoryError:
        if not has_room():
            raise MemoryError(f"while picture {image!r} was decoded") from None
    try:
        return _looked_at(root, image, size, resize_mode)
    except MemoryError:
        return broken(f"too large: decoding it takes more than {ROOM / 1e9:.1f} GB of memory"), None


def _looked_at(root: Path, image: str, size: int, resize_mode: str) -> tuple[Fact, np.ndarray | None]:
    try:
        data = read_bytes(root, image)
    except (OSError, ValueError) as error:
        if shortage(error):
            raise
        return broken(str(error).replace(str(root), "the data set's folder")), None  # true wherever the set is moved to
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        picture, (width, height) = decode_measured(data, size=size)
    except PictureError as error:
        return broken(str(error), sha256=sha256), None
    return Fact(width, height, sha256, None, _describe(picture)), resize(picture, size, resize_mode)


def _describe(picture: Image.Image) -> bytes:
    """Return the picture at 16 × 16: about the same at another size, quality or file format.

    The filter is smooth on purpose: plain means of blocks change with where the block's edge falls.
    """
    return picture.resize((DESCRIPTOR_SIDE, DESCRIPTOR_SIDE), Image.Resampling.BICUBIC).tobytes()
