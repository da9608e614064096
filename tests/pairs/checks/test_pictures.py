import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from clipmem_core.pairs.checks import pictures
from clipmem_core.pairs.pictures import resize

SIZE = 64


def drawn(side: int = 256) -> Image.Image:
    """A picture with edges: rectangles of random colours."""
    rng = np.random.default_rng(3)
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top, wide, high = (int(value) for value in rng.integers(10, side // 2, 4))
        draw.rectangle((left, top, left + wide, top + high), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    return image


def measured(*images: Image.Image, mode: str = "squash") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    squares = np.stack([resize(image, SIZE, mode) for image in images])
    shape = np.array([image.size for image in images])
    return pictures.measure(lambda rows: squares[rows], shape, padded=mode == "longest")


def test_a_picture_with_edges_passes_and_dark_blurred_and_blank_ones_do_not() -> None:
    sharp = drawn()
    dark, blurred = sharp.point(lambda value: value // 5), sharp.filter(ImageFilter.GaussianBlur(12))
    blank = Image.new("RGB", sharp.size, (200, 190, 180))
    brightness, contrast, sharpness = measured(sharp, dark, blurred, blank)
    assert pictures.dark(brightness).tolist() == [False, True, False, False]
    assert pictures.blurred(sharpness).tolist() == [False, False, True, False]
    assert pictures.uniform(contrast).tolist() == [False, False, False, True]
    assert np.isinf(sharpness[3])


def test_the_numbers_are_those_of_a_slow_count() -> None:
    square = resize(drawn(), SIZE, "squash").astype(float)
    brightness, contrast, sharpness = (values[0] for values in measured(drawn()))
    perceived = sorted(np.sqrt(square**2 @ [0.241, 0.691, 0.068]).ravel() / 255)
    assert brightness == pytest.approx(perceived[round(0.99 * (SIZE**2 - 1))], abs=1e-5)
    assert contrast == pytest.approx(max(square[..., channel].std() for channel in range(3)), rel=1e-4)
    grey, bends = square.mean(axis=2), []
    for row in range(1, SIZE - 1):
        for column in range(1, SIZE - 1):
            around = (grey[row - 1, column], grey[row + 1, column], grey[row, column - 1], grey[row, column + 1])
            bends.append(abs(4 * grey[row, column] - sum(around)))
    flat = sorted(grey.ravel())
    low, high = (flat[round(share * (SIZE**2 - 1))] for share in (0.01, 0.99))
    assert sharpness == pytest.approx(sorted(bends)[round(0.99 * (len(bends) - 1))] / (high - low), rel=1e-4)


def test_a_blurred_step_has_the_sharpness_that_calculus_gives() -> None:
    from scipy.stats import norm

    for width in (1.5, 2.0, 3.0):
        step = 255 * norm.cdf((np.arange(SIZE) - 31.5) / width)
        square = np.broadcast_to(step[None, :, None], (SIZE, SIZE, 3)).round().astype(np.uint8)
        sharpness = pictures.measure(lambda rows, s=square: s[None], np.array([[SIZE, SIZE]]), padded=False)[2][0]
        assert sharpness == pytest.approx(0.242 / width**2, rel=0.12)  # the largest φ′(x) is .242


def test_the_white_beside_a_padded_picture_is_not_looked_at() -> None:
    dark = drawn().point(lambda value: value // 5).resize((256, 64))
    brightness, _, _ = measured(dark, mode="longest")
    assert pictures.dark(brightness).tolist() == [True]
    tall = Image.new("RGB", (1, 3000))
    assert measured(tall, mode="longest")[1][0] == 0


def test_many_pictures_are_measured_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (300, 8, 8, 3), dtype=np.uint8)
    shape = np.full((300, 2), 8)
    together = pictures.measure(lambda rows: squares[rows], shape, padded=False)
    alone = pictures.measure(lambda rows: squares[rows + 299], shape[:1], padded=False)
    assert [values[299] for values in together] == [values[0] for values in alone]


def test_sides_and_groups() -> None:
    assert pictures.tiny(np.array([63, 64, 1000])).tolist() == [True, False, False]
    assert pictures.lookalike(np.array([0, 1, 0, 3, 3])).tolist() == [True, False, True, True, True]
