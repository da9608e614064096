import numpy as np
import pytest
import torch
from scipy.stats import zscore

from clipmem_core.scores import detectors
from clipmem_core.scores.detectors import fit_out, learned, misfit, swapped_csls


def test_learned_is_the_mean_over_epochs_and_over_the_members_that_train_on_a_pair() -> None:
    trajectory = np.full((3, 4, 2), np.nan, dtype=np.float16)
    trajectory[:, 0] = [[0.5, -4], [0.5, -2], [0.5, -1.5]]
    trajectory[:2, 1] = [[0.1, -3], [0.1, -2]]
    trajectory[1, 2] = [0.9, -8]
    assert detectors.mean_over_epochs(trajectory).tolist()[:3] == [-2.5, -2.5, -8]
    assert np.isnan(detectors.mean_over_epochs(trajectory)[3])
    members = [np.array([-1.0, -2.0, np.nan]), np.array([-3.0, np.nan, np.nan])]
    np.testing.assert_array_equal(learned(members), [-2, -2, np.nan])


def test_misfit_is_minus_the_weighted_sum_of_scipys_z_scores() -> None:
    late, strange = np.random.default_rng(0).normal(size=(2, 30))
    late[20:] = np.nan
    strange[0] = np.nan
    pair = misfit(late, strange)
    np.testing.assert_allclose(pair[1:20], -(zscore(late[1:20]) + 2 * zscore(strange[1:20])))
    assert np.isfinite(pair).all()


def test_a_pair_with_one_part_gets_the_misfit_at_the_same_quantile() -> None:
    rng = np.random.default_rng(0)
    late, strange = rng.normal(size=(2, 2000))
    held_out = np.arange(2000) >= 1000
    late[held_out] = np.nan
    late[1000] = np.nan
    strange[1000] = np.nan
    score = misfit(late, strange)
    assert np.isnan(score[1000])
    both = score[~held_out]
    for row in range(1001, 2000, 10):
        share = (strange[~held_out] > strange[row]).mean()
        if 0.01 < share < 0.99:
            assert (
                np.quantile(both, share - 0.002) <= score[row] <= np.quantile(both, share + 0.002)
            )
    assert both.min() <= score[1001:].min() <= score[1001:].max() <= both.max()


def test_misfit_of_four_pairs_by_hand() -> None:
    # z of the first is 1, −1, 1, −1, of the second 1, 1, −1, −1
    parts = np.array([-1.0, -3.0, -1.0, -3.0]), np.array([-2.0, -2.0, -6.0, -6.0])
    np.testing.assert_allclose(misfit(*parts), [-3, -1, 1, 3])
    np.testing.assert_allclose(misfit(*parts, second=True), [-5, -3, 3, 5])


def drawn_embeddings(n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, text = np.random.default_rng(0).normal(size=(2, n, 6)).astype(np.float32)
    return image, text + image, np.arange(n) % 3 == 0


def alone(
    image: np.ndarray, text: np.ndarray, external: np.ndarray, *, logit_scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return CSLS and log-probability of every pair under one member that saw none of them."""
    return fit_out([image], [text], np.zeros((1, len(image)), dtype=bool), external, [logit_scale])


def test_csls_is_its_formula_in_a_slow_loop() -> None:
    image, text, external = drawn_embeddings()
    for row, found in enumerate(alone(image, text, external)[0]):
        assert found == pytest.approx(
            one_csls(image[row], text[row], image, text, external, row), abs=1e-5
        )


@pytest.mark.parametrize("scale", [7.0, 100.0])
def test_the_log_probability_is_torchs_cross_entropy_among_the_external_partners(
    scale: float,
) -> None:
    image, text, external = drawn_embeddings()
    a, b = (
        torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1) for vectors in (image, text)
    )
    expected = []
    for pair in range(len(image)):
        partners = [pair, *(row for row in np.flatnonzero(external).tolist() if row != pair)]
        both = [
            torch.nn.functional.cross_entropy(
                scale * here[pair] @ there[partners].T, torch.tensor(0)
            )
            for here, there in ((a, b), (b, a))
        ]
        expected.append(-float(sum(both)) / 2)
    np.testing.assert_allclose(
        alone(image, text, external, logit_scale=scale)[1], expected, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("external", [600, 1_500])
def test_of_many_external_pairs_a_thousand_are_enough(external: int) -> None:
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 1_600, 5))
    among = np.arange(1_600) < external
    taken = among & np.isin(np.arange(1_600), np.arange(1_000) * external // 1_000)
    for measure in (0, 1):
        some, all_of_them = (alone(image, text, external)[measure] for external in (taken, among))
        np.testing.assert_allclose(some[-10:], all_of_them[-10:], atol=1e-5)


def test_fit_is_the_mean_over_members_that_never_saw_the_pair() -> None:
    members = [drawn_embeddings()[:2], drawn_embeddings()[1::-1], drawn_embeddings()[:2]]
    external = drawn_embeddings()[2]
    scales = [3.0, 9.0, 20.0]
    trained = np.random.default_rng(1).random((3, 40)) < 0.5
    trained[:, external] = False
    trained[:, 4] = True
    found = fit_out([a for a, _ in members], [b for _, b in members], trained, external, scales)
    each = [
        alone(a, b, external, logit_scale=scale)
        for (a, b), scale in zip(members, scales, strict=True)
    ]
    for pair in range(40):
        seen = [own for own, inside in zip(each, trained[:, pair], strict=True) if not inside]
        for measure, values in enumerate(found):
            expected = np.mean([own[measure][pair] for own in seen]) if seen else np.nan
            assert values[pair] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_a_member_of_unknown_logit_scale_is_left_out_of_the_log_probability_only() -> None:
    image, text, external = drawn_embeddings()
    found = fit_out([image] * 2, [text] * 2, np.zeros((2, 40), dtype=bool), external, [5.0, np.nan])
    np.testing.assert_allclose(found, alone(image, text, external, logit_scale=5.0))
    assert np.isnan(alone(image, text, external, logit_scale=np.nan)[1]).all()


def members() -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image, text = ([rng.normal(size=(40, 6)) for _ in range(3)] for _ in range(2))
    external = np.arange(40) >= 24
    trained = (rng.random((3, 40)) < 0.5) & ~external
    trained[0] = ~external
    return image, text, trained, external


def test_a_swapped_caption_scores_as_csls_of_the_table_with_that_swap() -> None:
    image, text, trained, external = members()
    at_random = swapped_csls(image, text, trained, external, seed=0)
    assert np.isfinite(at_random).sum() > 10
    for row in np.flatnonzero(np.isfinite(at_random))[:8]:
        unseen = [(a, b) for a, b, own in zip(image, text, trained[:, row], strict=True) if not own]
        slow = [
            np.mean([one_csls(a[row], b[donor], a, b, external, donor) for a, b in unseen])
            for donor in np.flatnonzero(external)
        ]
        assert np.isclose(at_random[row], slow).any()


def one_csls(
    picture: np.ndarray,
    caption: np.ndarray,
    image: np.ndarray,
    text: np.ndarray,
    external: np.ndarray,
    donor: int,
) -> float:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    others = [row for row in np.flatnonzero(external) if row != donor]
    captions = sorted((cosine(picture, text[row]) for row in others), reverse=True)[:10]
    pictures = sorted((cosine(image[row], caption) for row in others), reverse=True)[:10]
    return 2 * cosine(picture, caption) - float(np.mean(captions)) - float(np.mean(pictures))


def test_some_of_the_pairs_that_a_member_left_out_are_swapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, text, trained, external = members()
    trained[:, 0] = True
    whole = swapped_csls(image, text, trained, external, seed=0)
    assert np.isnan(whole[0])
    assert np.isnan(whole[external]).all()
    assert np.isnan(swapped_csls(image, text, trained, np.arange(40) < 2, seed=0)).all()
    monkeypatch.setattr(detectors, "MOST_SWAPPED", 5)
    some = swapped_csls(image, text, trained, external, seed=0)
    assert np.isfinite(some).sum() == 5
    np.testing.assert_allclose(some[np.isfinite(some)], whole[np.isfinite(some)])


def test_the_margin_is_that_of_a_slow_loop_and_leaves_a_pairs_own_picture_out() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(30, 5))
    owner = np.repeat(np.arange(30), 2)
    beside = np.arange(15, 30)
    vectors = rng.normal(size=(60, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = detectors.similarities(vectors, image, owner)
    found = detectors.margins(vectors, similarity, owner, image, beside)
    for caption in range(60):
        cosines = {
            row: vectors[caption] @ image[row] / np.linalg.norm(image[row]) for row in range(30)
        }
        near = sorted((cosines[row] for row in beside if row != owner[caption]), reverse=True)[:10]
        assert np.isclose(similarity[caption], cosines[owner[caption]])
        assert np.isclose(found[caption], cosines[owner[caption]] - np.mean(near))


def test_captions_of_late_epochs_do_not_look_better_learned() -> None:
    """Every pair gains one with each epoch, and nothing depends on the caption: all captions come
    out at 0."""
    log_probability = np.arange(6.0)[:, None] + np.zeros((6, 4))
    log_probability[:, 3] = np.nan
    rng = np.random.default_rng(0)
    drawn = [np.array([0, 2, 4]) + rng.integers(2, size=3) for _ in range(6)]
    found = detectors.learned_by_caption(log_probability, np.arange(3), drawn, 8)
    assert np.nanmax(np.abs(found)) == 0
    assert np.isnan(found[6:]).all()
