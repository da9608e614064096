import math

import numpy as np
import pytest
from scipy.stats import bootstrap, mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from clipmem_core.scores.set_membership import RANKS, detectable_auroc, pairs_a_side, set_test


@pytest.mark.parametrize(("auroc", "pairs"), [(0.51, 12_500), (0.52, 3_100), (0.55, 500), (0.755, 16)])
def test_pairs_for_eight_tests_in_ten(auroc: float, pairs: int) -> None:
    assert pairs_a_side(auroc) == pytest.approx(pairs, rel=0.03)


def test_near_one_half_a_rank_test_needs_what_noether_says() -> None:
    z = norm.ppf(0.975) + norm.ppf(0.8)
    assert pairs_a_side(0.51, efficiency=RANKS) == pytest.approx(z**2 / (6 * 0.01**2), rel=0.001)


@pytest.mark.parametrize("auroc", [0.55, 0.6])
def test_so_many_pairs_are_found_four_times_out_of_five(auroc: float) -> None:
    n, rng = round(pairs_a_side(auroc, efficiency=RANKS)), np.random.default_rng(0)
    apart = math.sqrt(2) * norm.ppf(auroc)
    drawn = rng.normal(size=(2, 1_500, n)) + [[[apart]], [[0.0]]]
    found = mannwhitneyu(drawn[0], drawn[1], axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.04)
    assert detectable_auroc(n) == pytest.approx(auroc, abs=0.002)


def test_the_effect_is_scikit_learns_auroc_and_the_test_scipys_ties_among_them() -> None:
    rng = np.random.default_rng(0)
    suspected, held_out = np.round(rng.normal(0.3, 1, 80), 1), np.round(rng.normal(0, 2, 120), 1)
    found = set_test(suspected, held_out)
    labels = np.repeat([1, 0], [80, 120])
    assert found.auroc == pytest.approx(roc_auc_score(labels, np.concatenate([suspected, held_out])))
    assert found.p_value == mannwhitneyu(suspected, held_out, alternative="greater").pvalue
    assert (found.suspected, found.held_out) == (80, 120)


def test_the_interval_is_about_that_of_a_bootstrap() -> None:
    rng = np.random.default_rng(1)
    sides = (rng.normal(0.5, 1, 150), rng.normal(0, 2, 90))

    def auroc(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return mannwhitneyu(a, b, axis=axis).statistic / (a.shape[axis] * b.shape[axis])

    expected = bootstrap(sides, auroc, n_resamples=800, method="percentile", rng=0).confidence_interval
    found = set_test(*sides)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.015)


def test_the_interval_covers_where_the_set_was_not_trained_on() -> None:
    rng = np.random.default_rng(0)
    found = [set_test(rng.normal(size=40), rng.normal(size=60)) for _ in range(1_000)]
    assert np.mean([one.low <= 0.5 <= one.high for one in found]) == pytest.approx(0.95, abs=0.025)
    assert np.mean([one.p_value <= 0.05 for one in found]) == pytest.approx(0.05, abs=0.025)


def test_one_pair_is_no_set() -> None:
    with pytest.raises(ValueError, match="at least two values each, not 1 and 5"):
        set_test(np.zeros(1), np.zeros(5))
    with pytest.raises(ValueError, match=r"between 0\.5 and 1, not be 0\.5"):
        pairs_a_side(0.5)
