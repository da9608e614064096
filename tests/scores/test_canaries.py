"""Swapped captions are held against the pair-by-pair score of a table in which they really are swapped."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from clipmem_core.scores import canaries
from clipmem_core.scores.canaries import swapped_csls
from clipmem_core.scores.detectors import fit_out

N, EXTERNAL = 40, 16


def members() -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image, text = ([rng.normal(size=(N, 6)) for _ in range(3)] for _ in range(2))
    external = np.arange(N) >= N - EXTERNAL
    trained = (rng.random((3, N)) < 0.5) & ~external
    trained[0] = ~external  # one member that knows all but the external pairs
    return image, text, trained, external


def test_a_swapped_caption_scores_as_csls_of_the_table_with_that_swap() -> None:
    image, text, trained, external = members()
    at_random, near = swapped_csls(image, text, trained, external, seed=0)
    matched = 0
    for row in np.flatnonzero(np.isfinite(at_random)):
        slow = {}
        for donor in np.flatnonzero(external):
            values = [one_csls(a[row], b[donor], a, b, external, donor) for a, b in zip(image, text, strict=True)]
            slow[donor] = np.mean([value for value, own in zip(values, trained[:, row], strict=True) if not own])
        for found in (at_random[row], near[row]):
            matched += np.isclose(found, list(slow.values())).any()
    assert matched == 2 * np.isfinite(at_random).sum() > 0


def one_csls(
    picture: np.ndarray, caption: np.ndarray, image: np.ndarray, text: np.ndarray, external: np.ndarray, donor: int
) -> float:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    others = [row for row in np.flatnonzero(external) if row != donor]
    captions = sorted((cosine(picture, text[row]) for row in others), reverse=True)[:10]
    pictures = sorted((cosine(image[row], caption) for row in others), reverse=True)[:10]
    return 2 * cosine(picture, caption) - float(np.mean(captions)) - float(np.mean(pictures))


def test_the_near_caption_is_the_one_most_like_its_own_of_those_that_say_something_else() -> None:
    image, text, trained, external = members()
    text[0][0], text[0][-1] = np.eye(6)[0], np.eye(6)[0]  # the last external caption says the same
    text[0][-2] = np.eye(6)[0] + 0.2 * np.eye(6)[1]
    trained[:, 0] = [True, False, True]
    found = swapped_csls(image, text, trained, external, seed=0)[1][0]
    assert np.isclose(found, one_csls(image[1][0], text[1][-2], image[1], text[1], external, N - 2))


def test_pairs_without_a_member_that_left_them_out_and_external_pairs_have_none() -> None:
    image, text, trained, external = members()
    trained[:, 0] = True
    at_random, near = swapped_csls(image, text, trained, external, seed=0)
    assert np.isnan(at_random[0])
    assert np.isnan(near[external]).all()
    assert np.isnan(swapped_csls(image, text, trained, np.arange(N) < 2, seed=0)[0]).all()


def test_of_many_pairs_some_are_swapped_and_these_score_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    image, text, trained, external = members()
    before = swapped_csls(image, text, trained, external, seed=0)
    monkeypatch.setattr(canaries, "MOST_SWAPPED", 5)
    for whole, some in zip(before, swapped_csls(image, text, trained, external, seed=0), strict=True):
        assert np.isfinite(some).sum() == 5
        np.testing.assert_allclose(some[np.isfinite(some)], whole[np.isfinite(some)])


def test_swapped_pairs_score_as_planted_ones_do() -> None:
    """Kolmogorov–Smirnov: captions swapped in the table, and those swapped for this, of one made-up member."""
    rng = np.random.default_rng(1)
    n, dim = 3000, 16
    meaning = rng.normal(size=(n, dim))
    external = np.arange(n) >= 2500
    told = meaning.copy()
    told[:1000] = meaning[rng.permutation(1000)]
    image, text = meaning + rng.normal(size=(n, dim)), told + rng.normal(size=(n, dim))
    trained = np.zeros((1, n), dtype=bool)
    planted = fit_out([image], [text], trained, external, [1.0])[0][:1000]
    swapped = swapped_csls([image], [text], trained, external, seed=0)[0][:2500]
    assert ks_2samp(planted, swapped).pvalue > 0.01
