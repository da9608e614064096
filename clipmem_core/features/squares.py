"""Some pictures of a data set as squares of pixels: what the processes run that decode them. It imports little."""

import hashlib
from pathlib import Path

import numpy as np

from clipmem_core.pairs.pictures import PictureError, decode, resize
from clipmem_core.pairs.references import read_bytes
from clipmem_core.shortage import shortage


def read_squares(
    chunk: list[tuple[int, str, str]], *, root: Path, size: int, resize_mode: str
) -> list[tuple[int, np.ndarray | str]]:
    """Read and decode pictures.

    Args:
        chunk: row, reference and sha256 of each picture.
        root: the folder the references are relative to.
        size: side of the square, in pixels.
        resize_mode: shortest, longest or squash.

    Returns:
        Each row with its square, uint8 [size, size, 3], or why there is none.
    """
    return [(row, _square(root, image, sha256, size, resize_mode)) for row, image, sha256 in chunk]


def _square(root: Path, image: str, sha256: str, size: int, resize_mode: str) -> np.ndarray | str:
    try:
        data = read_bytes(root, image)
    except (OSError, ValueError) as error:
        if shortage(error):
            raise
        return str(error)
    if hashlib.sha256(data).hexdigest() != sha256:
        return "its file is not what it was when the data set was read"
    try:
        return resize(decode(data, size=size), size, resize_mode)
    except PictureError as error:
        return str(error)
