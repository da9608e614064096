from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import zscore
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from clipmem_core.scores.detectors import (
    _against_thresholds,
    caption_misfit,
    confident_learning,
    fit_out,
    learned,
    lemon,
    margin_over_epochs,
    mean_over_epochs,
    misfit,
)
from clipmem_core.training.trainer import partner_log_probability


def test_learned_is_the_mean_over_epochs_and_over_the_members_that_train_on_a_pair() -> None:
    trajectory = np.full((3, 4, 2), np.nan, dtype=np.float16)
    trajectory[:, 0] = [[0.5, -4], [0.5, -2], [0.5, -1.5]]
    trajectory[:2, 1] = [[0.1, -3], [0.1, -2]]
    trajectory[1, 2] = [0.9, -8]
    assert mean_over_epochs(trajectory).tolist()[:3] == [-2.5, -2.5, -8]
    assert np.isnan(mean_over_epochs(trajectory)[3])
    members = [np.array([-1.0, -2.0, np.nan]), np.array([-3.0, np.nan, np.nan])]
    np.testing.assert_array_equal(learned(members), [-2, -2, np.nan])
    with pytest.raises(ValueError, match="at least one member, not none"):
        learned([])


@pytest.mark.parametrize(("formula", "weight"), [(misfit, 2), (caption_misfit, 1)])
def test_misfit_is_minus_the_weighted_sum_of_scipys_z_scores(formula: Callable[..., np.ndarray], weight: int) -> None:
    late, strange = np.random.default_rng(0).normal(size=(2, 30))
    late[20:], strange[0] = np.nan, np.nan
    score = formula(late, strange)
    np.testing.assert_allclose(score[1:20], -(zscore(late[1:20]) + weight * zscore(strange[1:20])))
    assert np.isfinite(score).all()


def test_a_pair_with_one_part_gets_the_misfit_at_the_same_quantile() -> None:
    rng = np.random.default_rng(0)
    late, strange = rng.normal(size=(2, 2000))
    held_out = np.arange(2000) >= 1000
    late[held_out], late[1000] = np.nan, np.nan
    strange[1000] = np.nan
    score = misfit(late, strange)
    assert np.isnan(score[1000])
    known = score[~held_out]
    for row in range(1001, 2000):
        share = (strange[~held_out] > strange[row]).mean()
        if 0.01 < share < 0.99:
            assert np.quantile(known, share - 0.002) <= score[row] <= np.quantile(known, share + 0.002)
    assert known.min() <= score[1001:].min() <= score[1001:].max() <= known.max()


def test_misfit_of_four_pairs_by_hand() -> None:
    # z of the first is 1, −1, 1, −1, of the second 1, 1, −1, −1
    found = misfit(np.array([-1.0, -3.0, -1.0, -3.0]), np.array([-2.0, -2.0, -6.0, -6.0]))
    np.testing.assert_allclose(found, [-3, -1, 1, 3])


def test_misfit_of_equal_or_missing_values_says_nothing() -> None:
    assert misfit(np.zeros(3), np.array([1.0, 2.0, 3.0])).tolist() == pytest.approx([2 * 1.5**0.5, 0, -2 * 1.5**0.5])
    assert np.isnan(misfit(np.full(3, np.nan), np.zeros(3))).all()


def test_lemon_is_its_formula_in_slow_loops() -> None:
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 12, 5))
    near_images, near_texts = (np.stack([rng.permutation(12)[:3] for _ in range(12)]) for _ in range(2))

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    score = lemon(image, text, near_images, near_texts)
    for pair in range(12):
        by_image = [
            distance(text[pair], text[j])
            * np.exp(-0.1 * distance(image[pair], image[j]))
            * np.exp(-5 * distance(image[j], text[j]))
            for j in near_images[pair]
        ]
        by_text = [
            distance(image[pair], image[j])
            * np.exp(-0.1 * distance(text[pair], text[j]))
            * np.exp(-5 * distance(image[j], text[j]))
            for j in near_texts[pair]
        ]
        expected = distance(image[pair], text[pair]) + 5 * np.mean(by_image) + 5 * np.mean(by_text)
        assert score[pair] == pytest.approx(expected)


def drawn_embeddings(n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, text = np.random.default_rng(0).normal(size=(2, n, 6)).astype(np.float32)
    return image, text + image, np.arange(n) % 3 == 0


def alone(
    image: np.ndarray, text: np.ndarray, external: np.ndarray, *, logit_scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return CSLS and log-probability of every pair under one member that saw none of them."""
    return fit_out([image], [text], np.zeros((1, len(image)), dtype=bool), external, [logit_scale])


def test_csls_is_its_formula_with_the_neighbours_that_scikit_learn_finds() -> None:
    image, text, external = drawn_embeddings()
    a, b = normalize(image), normalize(text)
    expected = []
    for pair in range(len(image)):
        others = np.flatnonzero(external & (np.arange(len(image)) != pair))
        near = [
            1 - NearestNeighbors(n_neighbors=10, metric="cosine").fit(there[others]).kneighbors(here[[pair]])[0].mean()
            for here, there in ((a, b), (b, a))
        ]
        expected.append(2 * a[pair] @ b[pair] - near[0] - near[1])
    np.testing.assert_allclose(alone(image, text, external)[0], expected, atol=1e-5)


@pytest.mark.parametrize("scale", [7.0, 100.0])
def test_the_log_probability_is_torchs_cross_entropy_among_the_external_partners(scale: float) -> None:
    image, text, external = drawn_embeddings()
    a, b = (torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1) for vectors in (image, text))
    expected = []
    for pair in range(len(image)):
        partners = [pair, *(row for row in np.flatnonzero(external).tolist() if row != pair)]
        both = [
            torch.nn.functional.cross_entropy(scale * here[pair] @ there[partners].T, torch.tensor(0))
            for here, there in ((a, b), (b, a))
        ]
        expected.append(-float(sum(both)) / 2)
    np.testing.assert_allclose(alone(image, text, external, logit_scale=scale)[1], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("external", [600, 1_500])
def test_of_many_external_pairs_a_thousand_are_enough(external: int) -> None:
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 1_600, 5))
    among = np.arange(1_600) < external
    taken = among & np.isin(np.arange(1_600), np.arange(1_000) * external // 1_000)
    for measure in (0, 1):
        some, all_of_them = (alone(image, text, external)[measure] for external in (taken, among))
        np.testing.assert_allclose(some[-10:], all_of_them[-10:], atol=1e-5)


def test_what_cannot_be_held_against_external_pairs_is_refused() -> None:
    image, text, external = drawn_embeddings()
    with pytest.raises(ValueError, match=r"one shape, not \(40, 6\) and \(40, 5\)"):
        alone(image, text[:, :5], external)
    with pytest.raises(ValueError, match="at least 2 pairs, since a pair leaves itself out, not 1"):
        alone(image, text, np.arange(40) == 3)


def test_fit_is_the_mean_over_members_that_never_saw_the_pair() -> None:
    members = [drawn_embeddings()[:2], drawn_embeddings()[1::-1], drawn_embeddings()[:2]]
    external, scales = drawn_embeddings()[2], [3.0, 9.0, 20.0]
    trained = np.random.default_rng(1).random((3, 40)) < 0.5
    trained[:, external], trained[:, 4] = False, True
    found = fit_out([a for a, _ in members], [b for _, b in members], trained, external, scales)
    each = [alone(a, b, external, logit_scale=scale) for (a, b), scale in zip(members, scales, strict=True)]
    for pair in range(40):
        seen = [own for own, inside in zip(each, trained[:, pair], strict=True) if not inside]
        for measure, values in enumerate(found):
            expected = np.mean([own[measure][pair] for own in seen]) if seen else np.nan
            assert values[pair] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_a_member_of_unknown_logit_scale_has_no_part_in_the_log_probability_and_costs_no_other_score() -> None:
    image, text, external = drawn_embeddings()
    unseen = np.zeros((2, 40), dtype=bool)
    known = alone(image, text, external, logit_scale=5.0)
    fit, sure = fit_out([image] * 2, [text] * 2, unseen, external, [5.0, np.nan])
    np.testing.assert_allclose([fit, sure], known)
    assert np.isnan(fit_out([image], [text], unseen[:1], external, [np.nan])[1]).all()


def test_the_margin_is_the_own_logit_less_torchs_logsumexp_of_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.nn.functional.normalize(torch.randn(9, 4, generator=generator), dim=1) for _ in range(3)]
    trajectory, expected = np.full((4, 10, 2), np.nan), []
    for epoch, same in enumerate(vectors):  # equal towers: both directions have one probability
        logits = 5 * same @ same.T
        others = torch.where(torch.eye(9, dtype=torch.bool), -torch.inf, logits)
        expected.append(logits.diagonal() - torch.logsumexp(others, dim=1))
        _, log_probability_ = partner_log_probability(same, same, torch.tensor(5.0))
        trajectory[epoch, :9, 1] = log_probability_
    found = margin_over_epochs(trajectory)
    np.testing.assert_allclose(found[:9], torch.stack(expected).mean(dim=0), atol=1e-4)
    assert np.isnan(found[9])


def test_a_pair_that_is_sure_in_float16_has_a_finite_margin() -> None:
    trajectory = np.array([[[1, 0], [1, -60]]], dtype=np.float16)
    np.testing.assert_allclose(margin_over_epochs(trajectory), [13.8, -13.8], atol=0.1)


def test_confident_learning_holds_classes_against_their_thresholds_as_a_slow_loop_does() -> None:
    rng = np.random.default_rng(0)
    probability, classes = rng.dirichlet(np.ones(4), size=50), rng.permutation(np.arange(50) % 4)
    found = _against_thresholds(probability, classes)
    threshold = [np.mean([p[k] for p, own in zip(probability, classes, strict=True) if own == k]) for k in range(4)]
    for p, own, score in zip(probability, classes, found, strict=True):
        others = [p[k] - threshold[k] for k in range(4) if k != own]
        assert score == pytest.approx(max(others) - (p[own] - threshold[own]))


def test_confident_learning_finds_captions_that_go_with_another_label() -> None:
    rng = np.random.default_rng(0)
    classes = np.arange(300) % 3
    features = rng.normal(size=(300, 8)) + 3 * np.eye(8)[classes]
    labels = np.array([f"c{k}" for k in classes], dtype=object)
    labels[:30] = [f"c{(k + 1) % 3}" for k in classes[:30]]
    labels[290:], labels[280:284] = None, "rare"
    score = confident_learning(features, labels, seed=0)
    assert roc_auc_score(np.arange(280) < 30, score[:280]) > 0.98
    assert (score[280:284] == 0).all()
    assert (score[290:] == 0).all()
    with pytest.raises(ValueError, match="fewer than two labels have 5 pairs or more"):
        confident_learning(features, np.array(["a"] * 300, dtype=object), seed=0)
