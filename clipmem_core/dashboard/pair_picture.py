"""An image reference → the picture as a JPEG that is large enough to judge it by, and the size it has."""

import io
from pathlib import Path

import streamlit as st

from clipmem_core.dashboard.thumbnails import placeholder
from clipmem_core.pairs.pictures import decode_measured
from clipmem_core.pairs.references import read_bytes
from clipmem_core.shortage import shortage

SIDES = (900, 900)  # pixels, at most: more than the page has room for
FULL = 300  # `decode` keeps three times that


def large_picture(root: Path, image: str) -> tuple[bytes, tuple[int, int] | None, str]:
    """Return the picture as a JPEG, its width and height in the file, and an empty string.

    Where it cannot be read these are the placeholder, None and the reason.

    Args:
        root: the data set's folder.
        image: a reference relative to it; one that leaves the folder is not read.
    """
    try:
        return *_made(root, image), ""
    except (OSError, ValueError, MemoryError) as error:  # InputError and PictureError are ValueErrors
        return placeholder(), None, shortage(error) or str(error)


@st.cache_data(max_entries=64, show_spinner=False)
def _made(root: Path, image: str) -> tuple[bytes, tuple[int, int]]:
    """Failures are not kept: a folder that comes back shows again."""
    picture, size = decode_measured(read_bytes(root, image), size=FULL)
    picture.thumbnail(SIDES)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue(), size
