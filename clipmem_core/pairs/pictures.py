"""One picture: its file's bytes decoded to upright RGB on white, its square of pixels, and the facts about it.

Everything that can be wrong with a picture ends as a `PictureError` with a short reason. The processes of `pixels` run
this module: it imports little and starts quickly.
"""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from clipmem_core.io import naming, shortage
from clipmem_core.pairs.references import read_bytes

PIXEL_LIMIT = 178_956_970  # where Pillow, too, speaks of a decompression bomb: half a gigabyte of RGB
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000")  # none runs another program
RESIZE_MODES = ("shortest", "longest", "squash")  # open_clip's words
SPARE = 3  # a picture decoded for `size` pixels keeps sides of SPARE · size, so that the last resize stays a fair one
DESCRIPTOR_SIDE = 16

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on odd files


class PictureError(ValueError):
    """A picture that cannot be used; the message is the reason, a few plain words."""


def decode(data: bytes, *, size: int | None = None) -> Image.Image:
    """Decode a picture to RGB: upright, on white, its first frame.

    With `size`, a larger picture may come back smaller than it is, never below three times that: this is much faster.
    A picture that cannot be used raises PictureError; a MemoryError says nothing about the picture.
    """
    return decode_measured(data, size=size)[0]


def decode_measured(data: bytes, *, size: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Decode as `decode` does and also return the width and height the upright picture has at full size."""
    if not data:
        raise PictureError("empty file")
    try:
        Image.init()
        image: Any = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
        if not image.width or not image.height:
            raise PictureError(f"no pixels: {image.width} × {image.height}")
        if image.width * image.height > PIXEL_LIMIT:
            raise Image.DecompressionBombError
        full = image.size
        drafted = size is not None and image.format == "JPEG" and image.draft(None, (SPARE * size, SPARE * size))
        image.load()
        full = full if drafted else image.size
        plain = _plain(image)
        factor = min(plain.size) // (SPARE * size) if size else 1
        if factor > 1:
            plain = plain.reduce(factor)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation in _UPRIGHT:
            plain = plain.transpose(_UPRIGHT[orientation])
            full = (full[1], full[0]) if orientation >= 5 else full
        if plain.mode in ("LA", "RGBA"):
            coloured, white = plain.convert("RGBA"), Image.new("RGB", plain.size, "white")
            white.paste(coloured, mask=coloured.getchannel("A"))
            return white, full
        return plain.convert("RGB"), full
    except (PictureError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(f"too large: more than {PIXEL_LIMIT // 1_000_000} megapixels") from error
    except UnidentifiedImageError as error:
        raise PictureError("not a picture, or its header is damaged") from error
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        text = str(error).strip().split("\n")[0]
        if shortage(error):
            raise MemoryError(text) from error
        truncated = "truncated" in text.lower()
        reason = "truncated file" if truncated else f"damaged file: {text or type(error).__name__}"
        raise PictureError(reason) from error


def _plain(image: Image.Image) -> Image.Image:
    """Return L, RGB or, where something shows through, LA or RGBA, eight bits each."""
    if image.mode == "F":
        raise PictureError("floating-point pixels")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would cut off at 255
        values = np.asarray(image).clip(0, 65535).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("L", "RGB", "LA", "RGBA") and "transparency" not in image.info:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def resize(image: Image.Image, size: int, mode: str) -> np.ndarray:
    """Bring an RGB picture to a square, uint8 [size, size, 3], with a bicubic filter that averages when it shrinks.

    `shortest` cuts the square from the middle, `longest` pads with white, `squash` ignores the shape.
    """
    if mode not in RESIZE_MODES:
        raise ValueError(f"resize mode must be one of {', '.join(RESIZE_MODES)}, not {mode!r}")
    width, height = image.size
    shape, box = (size, size), None
    if mode == "shortest":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    if mode == "longest":
        longer = max(width, height)
        shape = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
    inner = np.asarray(image.resize(shape, Image.Resampling.BICUBIC, box=box, reducing_gap=SPARE))
    if mode != "longest":
        return inner
    square = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
    square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return square


class Fact(NamedTuple):
    """What one picture is; `width` and `height` are the upright original's, 0 if it is unusable."""

    width: int = 0
    height: int = 0
    sha256: str = ""  # of the file's bytes; empty where they could not be read
    reason: str | None = None  # why it is unusable
    descriptor: bytes = bytes(3 * DESCRIPTOR_SIDE**2)  # the picture at 16 × 16


def check_chunk(
    chunk: list[tuple[int, str]], *, root: Path, size: int, resize_mode: str, pixels: Path | None
) -> list[tuple[int, Fact]]:
    """Read and decode pictures, given by row and reference, each once; return row and fact of each.

    Rows of `pixels`, a .npy file of uint8 [n_pictures, size, size, 3], are filled. Too many open files, a full disk or
    no memory raise: they are no fact of a picture.
    """
    facts = []
    for row, image in chunk:
        fact, square = _check(root, image, size, resize_mode)
        facts.append((row, fact))
        if pixels is not None and square is not None:
            # Written, not mapped: on a full disk a write to a map ends the process.
            with naming(pixels), pixels.open("r+b") as file:
                file.seek(np.load(pixels, mmap_mode="r").offset + row * square.nbytes)
                file.write(square.tobytes())
    return facts


def read_square(root: Path, image: str, *, size: int, resize_mode: str) -> np.ndarray:
    """Read one picture again and return its square, uint8 [size, size, 3]; a PictureError names the picture."""
    try:
        return resize(decode(read_bytes(root, image), size=size), size, resize_mode)
    except PictureError as error:
        raise PictureError(f"{image}: {error}") from error


def _check(root: Path, image: str, size: int, resize_mode: str) -> tuple[Fact, np.ndarray | None]:
    try:
        data = read_bytes(root, image)
    except (OSError, ValueError) as error:
        if shortage(error):
            raise
        return Fact(reason=str(error).replace(str(root), "the data set's folder")), None  # true wherever it is moved to
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        picture, (width, height) = decode_measured(data, size=size)
    except PictureError as error:
        return Fact(sha256=sha256, reason=str(error)), None
    # The filter is smooth on purpose: plain means of blocks change with the place of the block's edge.
    descriptor = picture.resize((DESCRIPTOR_SIDE, DESCRIPTOR_SIDE), Image.Resampling.BICUBIC).tobytes()
    return Fact(width, height, sha256, None, descriptor), resize(picture, size, resize_mode)
