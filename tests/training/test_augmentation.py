"""Views are the parts of a picture that their boxes name, and boxes are fair crops."""

import numpy as np
import pytest
import torch
from scipy import stats

from clipmem_core.utils.draws import draw_keys
from tests.training.toys import view_maker

KEYS = draw_keys([f"pair-{number}" for number in range(2000)])
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
WHOLE = np.tile([0.0, 0.0, 1.0, 1.0], (2, 1))


def normalised(pixels: np.ndarray) -> np.ndarray:
    """Return (value / 255 - mean) / std, channels first, by plain numpy."""
    scaled = pixels.astype(np.float64) / 255
    return ((scaled - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ([0.5, 0.0, 0.5, 0.5], slice(0, 8), slice(8, 16)),
        ([0.25, 0.5, 0.5, 0.5], slice(8, 16), slice(4, 12)),
    ],
)
def test_a_box_cuts_the_part_it_names(box: list[float], rows: slice, columns: slice) -> None:
    part = PIXELS[:, rows, columns]
    boxes = np.array([box, box])
    views = view_maker()
    same = views.normalise(views.crop(PIXELS, boxes, "cpu"))
    assert same.dtype == torch.float32
    np.testing.assert_allclose(same.numpy(), normalised(part), atol=1e-4)


def test_area_is_uniform_and_aspect_log_uniform() -> None:
    x, y, width, height = view_maker(crop_scale=0.01).boxes(KEYS, 0).T
    assert min(x.min(), y.min()) >= 0
    assert max((x + width).max(), (y + height).max()) <= 1 + 1e-12
    share = width * height
    aspect = width / height
    whole = share < 0.74  # nothing is clipped there
    assert stats.kstest(share[whole], "uniform", args=(0.01, 0.73)).pvalue > 1e-3
    low = np.log(0.75)
    assert stats.kstest(np.log(aspect[whole]), "uniform", args=(low, -2 * low)).pvalue > 1e-3
