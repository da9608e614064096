"""Pictures as JPEG bytes: small ones, a large one, or a grey square where a picture cannot be read."""

import base64
import functools
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from clipmem_core.pairs.pictures import decode, decode_measured
from clipmem_core.pairs.references import read_bytes
from clipmem_core.shortage import shortage

SIDE = 320
FULL_SIDE = 4000  # of a picture at full size
GREY = (150, 150, 150)
KEPT_BYTES = 100_000_000
WORKERS = 2  # Pillow decodes outside Python's lock; the largest pictures take half a gigabyte each

Key = tuple[Path, str, int]


class Kept:
    """JPEG bytes by their key, the longest unused dropped first: at most `limit` bytes in all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._files: OrderedDict[Key, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> bytes | None:
        """Return what is kept under a key, as the latest used."""
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
            return self._files.get(key)

    def put(self, key: Key, data: bytes) -> None:
        """Keep bytes under a key."""
        with self._lock:
            self.size += len(data) - len(self._files.pop(key, b""))
            self._files[key] = data
            while self.size > self.limit:
                self.size -= len(self._files.popitem(last=False)[1])


_kept = Kept(KEPT_BYTES)


def thumbnail(root: Path, image: str, *, side: int = SIDE) -> tuple[bytes, str]:
    """Return a thumbnail and an empty string, or the placeholder and the reason.

    Args:
        root: the data set's folder.
        image: a reference relative to it.
        side: pixels of the longer side, at most.
    """
    key = (root, image, side)
    data = _kept.get(key)
    if data is not None:
        return data, ""
    try:
        picture = decode(read_bytes(root, image), size=side)
        picture.thumbnail((side, side))
        data = _jpeg(picture)
    except (OSError, ValueError, MemoryError) as error:  # InputError and PictureError are ValueErrors
        return placeholder(side), shortage(error) or str(error)  # not kept: a folder that comes back shows again
    _kept.put(key, data)
    return data, ""


def start_thumbnails(root: Path, images: Sequence[str], *, side: int = SIDE) -> list[Future[tuple[bytes, str]]]:
    """Return what `thumbnail` returns of each image, as soon as it is there: those to be made are made side by side."""
    return [_start(root, image, side) for image in images]


def _start(root: Path, image: str, side: int) -> Future[tuple[bytes, str]]:
    data = _kept.get((root, image, side))
    if data is None:
        return _workers().submit(thumbnail, root, image, side=side)
    ready: Future[tuple[bytes, str]] = Future()
    ready.set_result((data, ""))
    return ready


def data_uri(jpeg: bytes) -> str:
    """Return JPEG bytes as an address that holds them."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


@functools.cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(WORKERS, thread_name_prefix="thumbnail")


def alt_text(caption: str, fault: str) -> str:
    """Return what is said of a picture to those who cannot see it; with a fault, nobody can."""
    return "Picture cannot be read" if fault else f"Picture: {caption}"


@functools.cache
def placeholder(side: int = SIDE) -> bytes:
    """Return a grey square."""
    return _jpeg(Image.new("RGB", (side, side), GREY))


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


LARGE_SIDES = (900, 900)  # pixels, at most: more than the page has room for
LARGE_DECODED = 300  # `decode` keeps three times that


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


@functools.lru_cache(maxsize=64)
def _made(root: Path, image: str) -> tuple[bytes, tuple[int, int]]:
    """Failures are not kept: a folder that comes back shows again."""
    picture, size = decode_measured(read_bytes(root, image), size=LARGE_DECODED)
    picture.thumbnail(LARGE_SIDES)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue(), size
