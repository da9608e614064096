"""An image reference → the JPEG bytes of a square thumbnail, or a grey square where the picture cannot be read."""

import functools
import io
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image

from clipmem_core.pairs.pictures import decode, resize
from clipmem_core.pairs.references import read_bytes

SIDE = 320
GREY = (150, 150, 150)


def thumbnail(root: Path, image: str) -> tuple[bytes, str]:
    """Return a thumbnail and an empty string, or the placeholder and the reason.

    Args:
        root: the data set's folder.
        image: a reference relative to it.
    """
    try:
        return _made(root, image), ""
    except (OSError, ValueError) as error:  # InputError and PictureError are ValueErrors
        return placeholder(), str(error)


@st.cache_data(max_entries=2000, show_spinner=False)
def _made(root: Path, image: str) -> bytes:
    """Failures are not kept: a folder that comes back shows again."""
    return _jpeg(resize(decode(read_bytes(root, image), size=SIDE), SIDE, "longest"))


@functools.cache
def placeholder() -> bytes:
    """Return a grey square."""
    return _jpeg(np.full((SIDE, SIDE, 3), GREY, np.uint8))


def _jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()
