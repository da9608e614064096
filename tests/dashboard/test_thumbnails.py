import io
from pathlib import Path

import pytest
from PIL import Image

from clipmem_core.dashboard.cards import SIDE, placeholder, start_thumbnails, thumbnail


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_picture_becomes_a_small_jpeg_of_the_same_shape(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1000), "navy").save(tmp_path / "a.png")
    data, fault = thumbnail(tmp_path, "a.png")
    image = opened(data)
    assert (image.format, image.size, fault) == ("JPEG", (SIDE, SIDE // 2), "")
    assert image.getpixel((SIDE // 2, 10))[2] > 100
    assert opened(thumbnail(tmp_path, "a.png", side=64)[0]).size == (64, 32)
    Image.new("RGB", (20, 10), "navy").save(tmp_path / "small.png")
    assert opened(thumbnail(tmp_path, "small.png")[0]).size == (20, 10)
    assert thumbnail(tmp_path, "late.png")[1]
    Image.new("RGB", (9, 9)).save(tmp_path / "late.png")
    assert not thumbnail(tmp_path, "late.png")[1]


def test_many_are_made_side_by_side_and_each_is_its_own(tmp_path: Path) -> None:
    for side in range(1, 30):
        Image.new("RGB", (side, 1)).save(tmp_path / f"{side}.png")
    images = [f"{side}.png" for side in range(1, 31)]
    for _ in range(2):
        found = [picture.result() for picture in start_thumbnails(tmp_path, images)]
        assert [opened(data).width for data, fault in found if not fault] == list(range(1, 30))
        assert found[29][0] == placeholder()


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
    assert len(set(opened(data).getpixel((5, 5)))) == 1
    assert reason in fault
