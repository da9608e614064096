"""Colours of a training view, against torchvision's functions one picture at a time."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from clipmem_core.draws import draw_keys
from clipmem_core.training.mitigation.colour import draw_factors, jitter
from clipmem_core.training.views import ViewMaker

KEYS = draw_keys([f"pair-{number}" for number in range(2000)])
PICTURES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 9, 9)).astype(np.float32))


def test_it_is_torchvisions_brightness_contrast_and_saturation() -> None:
    factors = draw_factors(KEYS[:6], 0.8, 0, 1)
    changed = jitter(PICTURES, factors)
    for picture, own, (brightness, contrast, saturation) in zip(PICTURES, changed, factors, strict=True):
        bright = tv.adjust_brightness(picture / 255, brightness)
        theirs = tv.adjust_saturation(tv.adjust_contrast(bright, contrast), saturation)
        torch.testing.assert_close(own / 255, theirs, atol=1e-5, rtol=0)


def test_factors_are_uniform_around_1() -> None:
    factors = draw_factors(KEYS, 0.4, 0, 0)
    assert factors.min() >= 0.6
    assert factors.max() <= 1.4
    assert factors.mean(axis=0) == pytest.approx([1, 1, 1], abs=0.03)
    assert factors.std(axis=0) == pytest.approx([0.4 / 3**0.5] * 3, rel=0.05)


def test_views_to_train_on_change_colour_and_views_to_measure_on_do_not() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 10, 10, 3), dtype=np.uint8)
    plain, coloured = (ViewMaker(8, 0.5, (0.5,) * 3, (0.2,) * 3, 0, colour) for colour in (0.0, 0.5))
    boxes = plain.boxes(KEYS[:5], 3)
    assert (coloured.boxes(KEYS[:5], 3) == boxes).all()
    assert torch.equal(coloured.images(pixels, boxes), plain.images(pixels, boxes))
    assert torch.equal(plain.training_images(pixels, KEYS[:5], 3), plain.images(pixels, boxes))
    assert not torch.allclose(coloured.training_images(pixels, KEYS[:5], 3), plain.images(pixels, boxes))
    whole = coloured.training_images(pixels, KEYS[:5], 3)
    assert torch.allclose(coloured.training_images(pixels[[4, 1]], KEYS[[4, 1]], 3), whole[[4, 1]], atol=1e-6)
