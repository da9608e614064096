"""Small pictures drawn for the readers' tests."""

import io
import tarfile
from pathlib import Path

from PIL import Image


def picture_bytes(shade: int = 100, *, format: str = "PNG") -> bytes:
    """Return an 8 × 8 picture of one colour, encoded."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 80, 20)).save(stream, format=format)
    return stream.getvalue()


def draw(folder: Path, *names: str) -> None:
    """Draw a picture of its own shade for each name."""
    for at, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(at))


def write_tar(path: Path, members: dict[str, bytes | str]) -> None:
    """Write a tar of files, text as UTF-8."""
    with tarfile.open(path, "w") as tar:
        for name, value in members.items():
            data = value.encode() if isinstance(value, str) else value
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
