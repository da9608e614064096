"""Pictures decode to upright RGB on white, or raise a PictureError."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from clipmem_core.dataset.pictures import PictureError, decode, resize


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of a file of that kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photograph(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Return smooth blobs of colour."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("kind", "orientation"), [*(("JPEG", n) for n in range(1, 9)), ("TIFF", 6), ("PNG", 1)]
)
def test_a_picture_is_upright_and_its_square_that_of_the_full_size(
    kind: str, orientation: int
) -> None:
    image = photograph(1499, 1101)
    exif = Image.Exif()
    image.paste((0, 0, 0), (400, 300, 700, 320))  # a hard edge
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    full = decode(data)
    small = decode(data, least=128)
    assert small[1] == full[1] == full[0].size == expected.size
    assert np.array_equal(np.asarray(full[0]), np.asarray(expected))
    assert small[0].width < 300
    difference = resize(expected, 64, "squash").astype(int) - resize(
        small[0], 64, "squash", small[2]
    )
    assert np.abs(difference).mean() < 0.5
    assert np.abs(difference).max() < 9


def test_transparent_pixels_are_white() -> None:
    half = decode(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 128)), "PNG"))[0]
    assert half.getpixel((0, 0)) == pytest.approx((255, 127, 127), abs=1)
    pixels = np.zeros(
        (320, 320, 4), np.uint8
    )  # transparent pixels are black: they must not darken the edge
    pixels[:, ::2] = (255, 0, 0, 255)
    small = np.asarray(decode(encoded(Image.fromarray(pixels), "PNG"), least=20)[0])
    assert np.abs(small.astype(int) - [255, 127, 127]).max() <= 1
    image = Image.new("P", (1, 1))
    by_index = decode(encoded(image, "PNG", transparency=0))[0]
    assert by_index.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_to_eight(kind: str) -> None:
    values = np.array([[0, 128, 257, 32768, 65535]], np.uint16)
    decoded = np.asarray(decode(encoded(Image.fromarray(values), kind))[0])[0, :, 0]
    assert decoded.tolist() == [round(value / 257) for value in values[0].tolist()]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<svg></svg>", "not a picture"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "not a picture",
        ),  # would run Ghostscript
        (b"GIF89a" + bytes(7), "no pixels|truncated|damaged|not a picture"),
        (b"P6 0 5 255\n", "no pixels|damaged|not a picture"),
        (b"P6 50000 50000 255\n", "too large"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
)
def test_an_unusable_picture_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode(data)


ORIGINALS = [encoded(photograph(40, 30), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")]


@settings(max_examples=40)
@given(
    st.sampled_from(ORIGINALS),
    st.integers(0, 2000),
    st.binary(min_size=1, max_size=6),
    st.sampled_from([None, 8]),
)
def test_any_damage_ends_in_a_picture_or_a_picture_error(
    original: bytes, at: int, new: bytes, size: int | None
) -> None:
    at %= len(original)
    with contextlib.suppress(PictureError):
        assert decode(original[:at] + new + original[at + len(new) :], least=size)[0].mode == "RGB"


def test_squares_are_cut_from_the_middle_padded_with_white_or_squashed() -> None:
    wide = Image.new("RGB", (30, 10), "red")
    wide.paste("blue", (10, 0, 20, 10))
    assert np.array_equal(
        resize(wide, 10, "shortest"), np.asarray(Image.new("RGB", (10, 10), "blue"))
    )
    square = resize(Image.new("RGB", (20, 40), "black"), 8, "longest")
    assert square[:, :, 0].tolist() == [[255, 255, 0, 0, 0, 0, 255, 255]] * 8
    image = photograph(150, 90)
    plain = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(resize(image, 64, "squash") - plain).max() <= 2
    for mode in ("shortest", "longest", "squash"):
        for shape in [(1, 1), (9000, 1), (1, 9000), (3, 7)]:
            assert resize(Image.new("RGB", shape, "navy"), 16, mode).shape == (16, 16, 3)
