import io
from pathlib import Path

import pytest
from PIL import Image

from clipmem_core.dashboard.thumbnails import SIDE, placeholder, thumbnail


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_picture_becomes_a_square_jpeg_with_its_shape_kept(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100), "navy").save(tmp_path / "a.png")
    data, fault = thumbnail(tmp_path, "a.png")
    image = opened(data)
    assert (image.format, image.size, fault) == ("JPEG", (SIDE, SIDE), "")
    assert min(image.getpixel((SIDE // 2, 10))) > 240  # white above the picture
    assert image.getpixel((SIDE // 2, SIDE // 2))[2] > 100


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("absent.png", "absent.png"),
        ("broken.png", "not a picture"),
        ("../up.png", "leaves"),
        ("no.tar/x.png", "no.tar"),
    ],
)
def test_what_cannot_be_read_becomes_a_grey_square_with_the_reason(tmp_path: Path, image: str, reason: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "broken.png").write_bytes(b"nothing")
    Image.new("RGB", (9, 9)).save(tmp_path / "up.png")
    data, fault = thumbnail(root, image)
    assert data == placeholder()
    assert reason in fault


def test_a_picture_that_comes_back_is_shown(tmp_path: Path) -> None:
    assert thumbnail(tmp_path, "late.png")[1]
    Image.new("RGB", (9, 9)).save(tmp_path / "late.png")
    assert not thumbnail(tmp_path, "late.png")[1]


def test_the_placeholder_is_grey() -> None:
    red, green, blue = opened(placeholder()).getpixel((5, 5))
    assert red == green == blue
