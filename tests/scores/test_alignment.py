import itertools

import numpy as np
import pytest

from clipmem_core.scores.alignment import pair_components
from clipmem_core.utils.embeddings import unit

NAMES = ("positive", "negative_text", "negative_image", "alignment")
HELD_OUT = np.array([False, False, False, True, True, True])


def _units(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _expectation(left: np.ndarray, right: np.ndarray) -> float:
    """The mean cosine of every vector with every other, one at a time."""
    return float(np.mean([a @ b for a, b in itertools.product(left, right)]))


def test_the_closed_form_is_the_papers_expectation() -> None:
    rng = np.random.default_rng(0)
    views = _units(rng, 6, 4, 8)
    captions = [_units(rng, 1 + pair % 3, 8) for pair in range(6)]
    image = views.mean(axis=1)
    text = np.stack([some.mean(axis=0) for some in captions])
    components = pair_components(image, text, HELD_OUT)
    for pair in range(6):
        others = [other for other in np.flatnonzero(HELD_OUT) if other != pair]
        positive = _expectation(views[pair], captions[pair])
        negative_text = np.mean([_expectation(views[pair], captions[other]) for other in others])
        negative_image = np.mean([_expectation(views[other], captions[pair]) for other in others])
        found = [components[name][pair] for name in NAMES]
        alignment = positive - negative_text - negative_image
        assert found == pytest.approx(
            [positive, negative_text, negative_image, alignment], abs=1e-6
        )


def test_similarity_is_the_cosine_of_the_means_and_zero_without_length() -> None:
    image, text = np.random.default_rng(1).normal(size=(2, 6, 5)).astype(np.float32)
    image[0] = 0
    components = pair_components(image, text, HELD_OUT)
    cosines = np.vecdot(unit(image), unit(text))  # 0 for the image without length
    np.testing.assert_allclose(components["similarity"], cosines, atol=1e-6)
    for name, side in (("image_square", image), ("text_square", text)):
        np.testing.assert_allclose(components[name], (side**2).sum(axis=1), rtol=1e-5)
