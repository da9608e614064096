import itertools
from pathlib import Path

import numpy as np
import pytest

from clipmem_core.scores.alignment import external_means, pair_terms

EXTERNAL = np.array([False, False, False, True, True, True])


def _units(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _expectation(left: np.ndarray, right: np.ndarray) -> float:
    """The mean cosine of every vector with every other, one at a time."""
    return float(np.mean([a @ b for a, b in itertools.product(left, right)]))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_closed_form_is_the_papers_expectation_as_a_slow_double_loop(threads: int) -> None:
    rng = np.random.default_rng(0)
    views, captions = _units(rng, 6, 4, 8), [_units(rng, 1 + pair % 3, 8) for pair in range(6)]
    image, text = views.mean(axis=1), np.stack([some.mean(axis=0) for some in captions])
    terms = pair_terms(image, text, EXTERNAL, chunk=2, threads=threads)
    for pair in range(6):
        others = [other for other in np.flatnonzero(EXTERNAL) if other != pair]
        positive = _expectation(views[pair], captions[pair])
        negative_text = np.mean([_expectation(views[pair], captions[other]) for other in others])
        negative_image = np.mean([_expectation(views[other], captions[pair]) for other in others])
        assert terms["positive"][pair] == pytest.approx(positive, abs=1e-6)
        assert terms["negative_text"][pair] == pytest.approx(negative_text, abs=1e-6)
        assert terms["negative_image"][pair] == pytest.approx(negative_image, abs=1e-6)
        assert terms["alignment"][pair] == pytest.approx(positive - negative_text - negative_image, abs=1e-6)


def test_similarity_is_the_cosine_of_the_means_and_zero_without_length() -> None:
    image, text = np.random.default_rng(1).normal(size=(2, 6, 5)).astype(np.float32)
    image[0] = 0
    terms = pair_terms(image, text, EXTERNAL)
    for pair in range(1, 6):
        cosine = image[pair] @ text[pair] / np.linalg.norm(image[pair]) / np.linalg.norm(text[pair])
        assert terms["similarity"][pair] == pytest.approx(cosine, abs=1e-6)
    assert terms["similarity"][0] == 0
    np.testing.assert_allclose(terms["image_square"], np.linalg.norm(image, axis=1) ** 2, rtol=1e-5)
    np.testing.assert_allclose(terms["text_square"], np.linalg.norm(text, axis=1) ** 2, rtol=1e-5)


def test_chunks_threads_and_memory_maps_change_no_term(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    image, text = rng.normal(size=(2, 3_000, 96)).astype(np.float32)
    external = rng.random(3_000) < 0.1
    image.tofile(tmp_path / "image")
    mapped = np.memmap(tmp_path / "image", dtype=np.float32, mode="r", shape=image.shape)
    whole = pair_terms(image, text, external, chunk=3_000, threads=1)
    parts = pair_terms(mapped, text, external, chunk=701, threads=2)
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, atol=1e-5)
    assert {values.dtype for values in whole.values()} == {np.dtype(np.float32)}


def test_external_means_take_a_mask_or_rows() -> None:
    image, text = np.random.default_rng(3).normal(size=(2, 6, 4))
    by_mask, by_rows = external_means(image, text, EXTERNAL), external_means(image, text, np.array([3, 4, 5]))
    for mask, rows, matrix in zip(by_mask, by_rows, (image, text), strict=True):
        np.testing.assert_allclose(mask, matrix[3:].mean(axis=0))
        np.testing.assert_allclose(mask, rows)


def test_matrices_and_external_rows_that_do_not_fit_are_named() -> None:
    matrix = np.ones((6, 4))
    with pytest.raises(ValueError, match=r"one shape, not \(6, 4\) and \(6, 3\)"):
        pair_terms(matrix, np.ones((6, 3)), EXTERNAL)
    with pytest.raises(ValueError, match="at least 2 pairs, since a pair leaves itself out, not 1"):
        pair_terms(matrix, matrix, np.arange(6) == 0)
    with pytest.raises(ValueError, match="one entry for each of 6 pairs, not 5"):
        pair_terms(matrix, matrix, EXTERNAL[:5])
