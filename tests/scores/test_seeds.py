import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from clipmem_core.scores.seeds import (
    PAIRS_ALONE,
    crossed_mean,
    holm,
    over_seeds,
    paired_difference,
    seed_interval,
)


@pytest.mark.parametrize("values", [[0.1, 0.4, -0.3], [3.0, 5.0, 4.0, 9.0, 1.0]])
def test_the_interval_is_that_of_a_t_test_from_three_seeds_on(values: list[float]) -> None:
    expected = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert seed_interval(np.array(values)) == pytest.approx((expected.low, expected.high))
    assert np.isnan(seed_interval(np.array(values[:2]))).all()


def test_means_are_over_seeds() -> None:
    table = pd.DataFrame({"setting": ["a", "a", "a", "b", "c"], "x": [1.0, 2.0, 3.0, 5.0, np.nan]})
    found = over_seeds(table, by=["setting"], measure="x")
    assert found[["setting", "n", "mean"]].to_numpy().tolist() == [["a", 3, 2.0], ["b", 1, 5.0]]
    # SD 1, three seeds, t.975 with two degrees of freedom 4.3027
    assert found["high"][0] == pytest.approx(2 + 4.3027 / np.sqrt(3), abs=1e-4)
    assert found["high"][1:].isna().all()
    assert over_seeds(table[:0], by=["setting"], measure="x").empty


def test_paired_differences_are_those_of_a_t_test() -> None:
    values = np.array([3.0, 5.0, 7.0])
    reference = np.array([2.0, 3.0, 4.5])
    test = ttest_rel(values, reference)
    interval = test.confidence_interval()
    found = dataclasses.astuple(paired_difference(values, reference))
    mean = (values - reference).mean()
    assert found == pytest.approx((3, mean, interval.low, interval.high, test.pvalue))


def test_holm_by_hand() -> None:
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1: .02, .03, .06, .04, and no smaller than the one
    # before.
    found = holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    np.testing.assert_allclose(found, [0.03, 0.06, np.nan, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("by_member", "by_pair"), [(0.0, 0.0), (0.3, 0.3)])
def test_the_interval_covers_for_other_members_and_other_pairs(
    by_member: float, by_pair: float
) -> None:
    """Nominal .95; of 200 tables at most 19 may miss (P = .003 under .95)."""
    missed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        effects = by_member * rng.normal(size=(8, 1)) + by_pair * rng.normal(size=(1, 60))
        found = crossed_mean(0.3 + effects + rng.normal(size=(8, 60)))
        missed += not found.low <= 0.3 <= found.high
    assert missed <= 19


def test_the_interval_of_two_members_is_over_pairs() -> None:
    values = np.array([[1.0, 2.0, 4.0], [3.0, 2.0, 6.0]])
    found = crossed_mean(values)
    expected = ttest_1samp([2.0, 2.0, 5.0], 0).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.over == PAIRS_ALONE
    assert crossed_mean(np.ones((5, 1))).low is None
