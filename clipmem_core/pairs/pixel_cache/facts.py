"""One picture of a data set → what is known of it: size, hash, why it is unusable, a descriptor, its square of pixels.

This is what the processes of `pixels` run: it imports little and starts quickly.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clipmem_core.atomic import naming
from clipmem_core.pairs.pictures import PIXEL_LIMIT, PictureError, decode_measured, resize
from clipmem_core.pairs.references import read_bytes
from clipmem_core.shortage import shortage

DESCRIPTOR_SIDE = 16
DESCRIPTOR_LENGTH = DESCRIPTOR_SIDE * DESCRIPTOR_SIDE * 3
ROOM = 16 * PIXEL_LIMIT  # bytes: no picture within the limits takes more while it is decoded


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
