"""Small pictures drawn for the readers' tests."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from clipmem_core.config import SourceOptions
from clipmem_core.dataset.source import RawPairs, read_source


def read(source: Path | str, *, data: Path = Path("data"), **options: str) -> RawPairs:
    """Read a data set; options are those of the source."""
    return read_source(str(source), SourceOptions(**options), data=data)


def check_reasons(raw: RawPairs, expected: dict[str, str]) -> None:
    """Check that only these sources are in quarantine, each with these words in its reason."""
    reasons = dict(zip(raw.quarantine.source, raw.quarantine.reason, strict=True))
    assert set(reasons) == set(expected)
    assert not [
        (source, reasons[source])
        for source, words in expected.items()
        if words not in reasons[source]
    ]
    assert raw.rows == len(expected) + sum(map(len, raw.pairs.captions))


def picture_bytes(shade: int = 100, *, format: str = "PNG") -> bytes:
    """Return an 8 × 8 picture of one colour, encoded."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 80, 20)).save(stream, format=format)
    return stream.getvalue()


def drawing(seed: int, *, side: int = 256) -> Image.Image:
    """Draw a few coloured shapes on a coloured ground."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(rng.integers(120, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.integers(0, side * 3 // 4, 2).tolist()
        width, height = rng.integers(side // 8, side // 2, 2).tolist()
        colour = tuple(rng.integers(0, 256, 3).tolist())
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + width, y + height), fill=colour)
    return image


def draw(folder: Path, *names: str) -> None:
    """Draw a picture of its own shade for each name."""
    for at, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(at))


def write_tar(
    path: Path, members: dict[str, bytes | str] | Iterable[tuple[str, bytes | str]]
) -> None:
    """Write a tar of files, text as UTF-8."""
    with tarfile.open(path, "w") as tar:
        for name, value in members.items() if isinstance(members, dict) else members:
            data = value.encode() if isinstance(value, str) else value
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
