import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from clipmem_core.scores.seeds import over_seeds, seed_interval


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=8).filter(lambda values: np.std(values) > 1e-6))
def test_the_interval_is_that_of_a_t_test(values: list[float]) -> None:
    expected = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert seed_interval(np.array(values)) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("values", [[], [0.1], [0.1, 0.2]])
def test_fewer_than_three_seeds_claim_no_interval(values: list[float]) -> None:
    assert np.isnan(seed_interval(np.array(values))).all()


def test_means_are_taken_over_the_seeds_of_each_thing() -> None:
    table = pd.DataFrame(
        {"arm": ["a", "a", "a", "b"], "seed": [0, 1, 2, 0], "x": [1.0, 2.0, 3.0, 5.0], "y": [np.nan, 1.0, 3.0, np.nan]}
    )
    found = over_seeds(table, by=["arm"], measures=["x", "y"])
    assert found[["arm", "measure", "n", "mean"]].to_numpy().tolist() == [
        ["a", "x", 3, 2.0],
        ["b", "x", 1, 5.0],
        ["a", "y", 2, 2.0],
    ]
    # SD 1, three seeds, t.975 with two degrees of freedom 4.3027
    assert found["high"][0] == pytest.approx(2 + 4.3027 / np.sqrt(3), abs=1e-4)
    assert found["high"][1:].isna().all()


def test_no_seed_is_no_row() -> None:
    empty = pd.DataFrame({"arm": [], "seed": [], "x": []})
    assert over_seeds(empty, by=["arm"], measures=["x"]).empty
