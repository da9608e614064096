"""Decodes each picture of a data set once, in processes that may crash, to upright RGB on white,
resizes it to a square, collects its facts, and caches both in a folder:

    facts.parquet      one row a picture: width, height, sha256, reason
    descriptors.npy    uint8 [n_pictures, 768], for `near_duplicates`
    pixels.npy         uint8 [n_pictures, size, size, 3]; only if it fits the budget, else decoded
                       at every use
"""

import functools
import hashlib
import io
import math
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import PIL
from pebble import ProcessExpired, ProcessPool
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from clipmem_core.config import fingerprint
from clipmem_core.dataset.containers import read_bytes, source_stamp
from clipmem_core.utils.io import Spawn, cached_folder, cores, naming, shortage

Image.init()
# formats of Pillow, none of which runs another program; AVIF needs a newer version
_FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"]
_FORMATS += ["AVIF"] if "AVIF" in Image.OPEN else []
# pictures are decoded to sides of at least SPARE · size before they are resized to `size`
SPARE = 2
# the same for a tower, and Pillow's `reducing_gap`: the result is nearly that of a resize in one
# step
GAP = 3
DESCRIPTOR_SIDE = 16
VERSION = 3  # of what is stored and how it is computed; a new number leaves old caches behind
FACTS_FILE = "facts.parquet"
DESCRIPTORS_FILE = "descriptors.npy"
PIXELS_FILE = "pixels.npy"

_BLOCK = 256  # pictures whose squares are in memory at once

Box = tuple[float, float, float, float]  # left, top, right, bottom

warnings.filterwarnings("ignore", module=r"PIL\.")


class PictureError(ValueError):
    """A picture that cannot be used; the message is a short reason."""


def decode(data: bytes, *, least: int | None = None) -> tuple[Image.Image, tuple[int, int], Box]:
    """Decode the first frame to upright RGB on white, or raise PictureError.

    Return the picture, its width and height at full size, and the box of its filled pixels. With
    `least`, a large picture is decoded at a smaller scale, to sides of at least `least` pixels; its
    last column and row may then be partly empty.
    """
    if not data:
        raise PictureError("empty file")
    try:
        image: Any = Image.open(io.BytesIO(data), formats=_FORMATS)
        if not image.width or not image.height:
            raise PictureError(f"no pixels: {image.width} × {image.height}")
        full = image.size
        drafted = least and image.format == "JPEG" and image.draft(None, (least, least))
        image.load()
        full, filled = (full, drafted[1][2:]) if drafted else (image.size, image.size)
        # A picture decoded smaller may fill its last column and row in part; turned upright, that
        # is another side.
        right = image.width - filled[0]
        below = image.height - filled[1]
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        ImageOps.exif_transpose(image, in_place=True)
        if orientation in (5, 6, 7, 8):
            full, right, below = full[::-1], below, right
        left = right * (orientation in (2, 3, 6, 7))
        top = below * (orientation in (3, 4, 7, 8))
        box = left, top, left + image.width - right, top + image.height - below
        plain = _plain(image)
        factor = min(plain.size) // least if least else 1
        if factor > 1:
            plain = plain.reduce(factor)
            box = box[0] / factor, box[1] / factor, box[2] / factor, box[3] / factor
        if plain.mode in ("LA", "RGBA"):
            white = Image.new("RGB", plain.size, "white")
            white.paste(plain, mask=plain)
            return white, full, box
        return plain.convert("RGB"), full, box
    except (PictureError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PictureError("too large: more than 178 megapixels") from error  # Pillow's limit
    except UnidentifiedImageError as error:
        raise PictureError("not a picture, or its header is damaged") from error
    except Exception as error:  # decoders raise many classes on damaged bytes
        text = str(error).strip().split("\n")[0]
        if shortage(error):
            raise MemoryError(text) from error
        truncated = "truncated" in text.lower()
        reason = "truncated file" if truncated else f"damaged file: {text or type(error).__name__}"
        raise PictureError(reason) from error


def _plain(image: Image.Image) -> Image.Image:
    """Convert to eight bits of L or RGB, or to LA or RGBA if a picture is transparent."""
    if image.mode == "F":
        raise PictureError("floating-point pixels")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        values = np.asarray(image).clip(0, 65535).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("L", "RGB", "LA", "RGBA") and "transparency" not in image.info:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def resize(image: Image.Image, size: int, mode: str, box: Box | None = None) -> np.ndarray:
    """Resize an RGB picture, or the box in it, to a square, uint8 [size, size, 3], with an
    antialiased bicubic filter.

    `shortest` crops the middle, `longest` pads with white, `squash` ignores the aspect ratio.
    """
    box = box or (0, 0, *image.size)
    width = box[2] - box[0]
    height = box[3] - box[1]
    shape = (size, size)
    if mode == "shortest":
        side = min(width, height)
        left = box[0] + (width - side) / 2
        top = box[1] + (height - side) / 2
        box = left, top, left + side, top + side
    if mode == "longest":
        longer = max(width, height)
        shape = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
    inner = image.resize(shape, Image.Resampling.BICUBIC, box=box, reducing_gap=GAP)
    if mode != "longest":
        return np.asarray(inner)
    square = Image.new("RGB", (size, size), "white")
    square.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return np.asarray(square)


class Fact(NamedTuple):
    """The facts about a picture; `width` and `height` are the upright original's, 0 if it is
    unusable."""

    width: int = 0
    height: int = 0
    sha256: str = ""  # of the file's bytes; empty if they cannot be read
    reason: str | None = None  # why it is unusable
    descriptor: bytes = bytes(3 * DESCRIPTOR_SIDE**2)  # the picture at 16 × 16


def check_picture(image: str, *, root: Path, size: int, resize_mode: str) -> tuple[Fact, bytes]:
    """Decode the picture of a reference; return its facts and its square, empty if it is unusable.
    A shortage of the machine raises."""
    sha256 = ""
    try:
        data = read_bytes(root, image)
        sha256 = hashlib.sha256(data).hexdigest()
        picture, (width, height), box = decode(data, least=SPARE * size)
    except (OSError, ValueError) as error:
        if shortage(error):
            raise
        return Fact(sha256=sha256, reason=str(error)), b""
    # The smooth filter is on purpose: plain means of blocks change with the positions of the
    # blocks.
    descriptor = picture.resize(
        (DESCRIPTOR_SIDE, DESCRIPTOR_SIDE), Image.Resampling.BICUBIC, box=box
    ).tobytes()
    square = resize(picture, size, resize_mode, box).tobytes()
    return Fact(width, height, sha256, None, descriptor), square


def read_square(root: Path, image: str, *, size: int, resize_mode: str) -> np.ndarray:
    """Read a picture and return its square, uint8 [size, size, 3]; a PictureError names the
    picture."""
    try:
        picture, _, box = decode(read_bytes(root, image), least=SPARE * size)
        return resize(picture, size, resize_mode, box)
    except PictureError as error:
        raise PictureError(f"{image}: {error}") from error


@dataclass(eq=False)
class Pixels:
    """Squares of some pictures of a cache, numbered from 0: mapped from its file, or decoded at
    every use."""

    folder: Path  # of the cache
    rows: np.ndarray  # int64 [n], the row of each picture in the cache
    size: int  # pixels of a square's side
    images: Sequence[str] = ()  # reference of each picture
    read: Callable[[str], np.ndarray] | None = None  # decodes the square of a reference
    # uint8 [n_cached, size, size, 3]; None: the cache has no squares
    stored: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def descriptors(self) -> np.ndarray:
        """Return the descriptors of the pictures for `near_duplicate_clusters`, uint8 [n, 768]."""
        return np.load(self.folder / DESCRIPTORS_FILE)[self.rows]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the squares of rows in 0 … len − 1, uint8 [len(rows), size, size, 3]; they must
        have no `reason`."""
        if self.stored is not None:
            return self.stored[self.rows[rows]]
        assert self.read is not None
        with ThreadPoolExecutor(cores()) as threads:
            return np.stack(list(threads.map(self.read, [self.images[row] for row in rows])))

    def select(self, rows: np.ndarray) -> "Pixels":
        """Return a selection: picture i of the result is picture rows[i] of this."""
        return replace(self, rows=self.rows[rows], images=[self.images[row] for row in rows])


def open_pixels(
    folder: Path,
    *,
    rows: np.ndarray,
    root: Path,
    images: Sequence[str],
    size: int,
    resize_mode: str,
) -> Pixels:
    """Open squares that `check_pictures` stored; `images` has the reference of each row, relative
    to `root`."""
    file = folder / PIXELS_FILE
    stored = np.asarray(np.load(file, mmap_mode="r")) if file.exists() else None
    read = functools.partial(read_square, root, size=size, resize_mode=resize_mode)
    return Pixels(folder, rows, size, images, read, stored)


def check_pictures(
    root: Path,
    images: Sequence[str],
    *,
    size: int,
    resize_mode: str,
    cache: Path,
    budget_bytes: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[pd.DataFrame, Pixels]:
    """Decode every picture of a data set once, or read what an earlier run stored; return a `Fact`
    of each, without its descriptor, and their squares.

    Above `budget_bytes`, no squares are stored. A full disk or a lack of memory raises OSError or
    MemoryError, stores nothing, and marks no picture as unusable.
    """
    shape = (len(images), size, size, 3)
    fits = 0 < math.prod(shape) <= budget_bytes
    content = [VERSION, PIL.__version__, size, resize_mode, fits, source_stamp(root, images)]

    def decode_all(folder: Path) -> None:
        check = functools.partial(check_picture, root=root, size=size, resize_mode=resize_mode)
        facts = list[Fact]()
        # written, not mapped: on a full disk a write to a map ends the process
        path = folder / PIXELS_FILE if fits else Path(os.devnull)
        with ProcessPool(cores(), context=Spawn()) as pool, path.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(images), _BLOCK):
                block = images[start : start + _BLOCK]
                for checked in [pool.schedule(check, [image]) for image in block]:
                    try:
                        fact, square = checked.result()
                    except ProcessExpired as error:
                        if error.exitcode == -signal.SIGKILL:
                            raise MemoryError from error
                        fact, square = Fact(reason="its decoder crashed"), b""
                    facts.append(fact)
                    file.write(square or bytes(math.prod(shape[1:])))
                if progress is not None:
                    progress(len(facts), len(images))
        table = pd.DataFrame(facts, columns=Fact._fields)
        descriptors = np.frombuffer(b"".join(table.pop("descriptor")), np.uint8)
        np.save(folder / DESCRIPTORS_FILE, descriptors.reshape(len(table), len(Fact().descriptor)))
        table.to_parquet(folder / FACTS_FILE, index=False)

    folder = cache / fingerprint(content)
    with naming(folder):
        cached_folder(folder, decode_all)
    rows = np.arange(len(images))
    pixels = open_pixels(
        folder, rows=rows, root=root, images=images, size=size, resize_mode=resize_mode
    )
    return pd.read_parquet(folder / FACTS_FILE), pixels
