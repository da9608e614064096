import numpy as np
from scipy.stats import zscore

from clipmem_core.errors.misfit import (
    DECOY,
    HeldOut,
    caption_scores,
    csls_out,
    misfit,
    swapped_csls,
)
from clipmem_core.utils.embeddings import unit


def test_misfit_is_minus_the_weighted_sum_of_z_scores() -> None:
    late, strange = np.random.default_rng(0).normal(size=(2, 30))
    np.testing.assert_allclose(misfit(late, strange), -(zscore(late) + 6 * zscore(strange)))
    second = misfit(late, late, strange)
    np.testing.assert_allclose(second, -(zscore(late) + 6 * zscore(strange)))


def test_a_pair_with_one_part_gets_the_misfit_at_the_same_quantile() -> None:
    late, strange = np.random.default_rng(0).normal(size=(2, 2000))
    late[1000:] = np.nan
    strange[1000] = np.nan
    score = misfit(late, strange)
    assert np.isnan(score[1000])
    both = score[:1000]
    for row in range(1001, 2000, 10):
        share = (strange[:1000] > strange[row]).mean()
        low, high = np.quantile(both, np.clip([share - 0.002, share + 0.002], 0, 1))
        assert low <= score[row] <= high


def drawn_embeddings(n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, text = np.random.default_rng(0).normal(size=(2, n, 6)).astype(np.float32)
    return image, text + image, np.arange(n) % 3 == 0


def alone(image: np.ndarray, text: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Return CSLS of every pair under one member that saw none of them."""
    return csls_out([image], [text], np.zeros((1, len(image)), dtype=bool), held_out)


def one_csls(
    image: np.ndarray, text: np.ndarray, held_out: np.ndarray, row: int, source: int
) -> float:
    """CSLS of a picture with a caption, by sorting."""
    cosines = unit(image) @ unit(text).T
    others = held_out & (np.arange(len(image)) != source)
    captions = np.sort(cosines[row, others])[-10:]
    pictures = np.sort(cosines[others, source])[-10:]
    return float(2 * cosines[row, source] - captions.mean() - pictures.mean())


def test_csls_is_its_formula() -> None:
    image, text, held_out = drawn_embeddings()
    found = alone(image, text, held_out)
    expected = [one_csls(image, text, held_out, row, row) for row in range(40)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_fit_is_the_mean_over_members_that_never_saw_the_pair() -> None:
    image, text, held_out = drawn_embeddings()
    images = [image, text, image]
    texts = [text, image, text]
    trained = np.random.default_rng(1).random((3, 40)) < 0.5
    trained[:, held_out] = False
    trained[:, 4] = True
    found = csls_out(images, texts, trained, held_out)
    each = [alone(a, b, held_out) for a, b in zip(images, texts, strict=True)]
    expected = np.ma.array(each, mask=trained).mean(axis=0).filled(np.nan)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_swapped_caption_scores_as_csls_with_that_swap() -> None:
    rng = np.random.default_rng(0)
    image, text = (list(side) for side in rng.normal(size=(2, 3, 40, 6)))
    held_out = np.arange(40) >= 24
    trained = (rng.random((3, 40)) < 0.5) & ~held_out
    trained[0] = ~held_out
    trained[:, 0] = True
    swaps = rng.integers(24, 40, (40, 2))
    found = swapped_csls(image, text, trained, held_out, swaps)
    assert (np.isnan(found[:, 0]) == (trained.all(axis=0) | held_out)).all()
    for row in np.flatnonzero(np.isfinite(found[:, 0]))[:8]:
        unseen = np.flatnonzero(~trained[:, row])
        for swap, value in zip(swaps[row], found[row], strict=True):
            slow = [one_csls(image[m], text[m], held_out, row, swap) for m in unseen]
            assert np.isclose(value, np.mean(slow))


def test_scores_of_captions_are_those_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(30, 5))
    owner = np.repeat(np.arange(30), 2)
    beside = HeldOut.of(image, image, np.arange(30) >= 15)
    vectors = unit(rng.normal(size=(60, 5)))
    cosines = vectors @ unit(image).T
    found = np.transpose(caption_scores(vectors, 0, owner, np.empty(0, DECOY), image, beside)[1:])
    for caption, own in enumerate(owner):
        near = sorted(np.delete(cosines[caption], [*range(15), own]))[-10:]
        similarity = cosines[caption, own]
        np.testing.assert_allclose(found[caption], [similarity, similarity - np.mean(near)])
