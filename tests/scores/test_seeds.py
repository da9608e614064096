import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from clipmem_core.scores.seeds import (
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
