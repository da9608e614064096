import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel

from clipmem_core.scores.seeds import holm, over_seeds, paired_difference, seed_interval

VALUES = st.lists(st.tuples(st.integers(-100, 100), st.integers(-100, 100)), min_size=2, max_size=12)


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
    empty = pd.DataFrame({"arm": [], "seed": [], "x": []})
    assert over_seeds(empty, by=["arm"], measures=["x"]).empty


def test_a_hand_worked_case() -> None:
    # Differences 1, 2, 3: mean 2, SD 1, error 1/√3; t.975 with two degrees of freedom is 4.3027.
    found = paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    assert (found.n, found.mean) == (3, 2.0)
    assert found.low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-4)
    assert found.high == pytest.approx(2 + 4.3027 / math.sqrt(3), abs=1e-4)


@given(VALUES)
def test_interval_and_p_value_are_those_of_scipys_paired_t_test(drawn: list[tuple[int, int]]) -> None:
    values, reference = (np.array(side, dtype=float) for side in zip(*drawn, strict=True))
    if np.ptp(values - reference) == 0:
        return
    found, known = paired_difference(values, reference), ttest_rel(values, reference)
    interval = known.confidence_interval(0.95)
    assert [found.low, found.high] == pytest.approx([interval.low, interval.high], rel=1e-9, abs=1e-9)
    assert found.p_value == pytest.approx(known.pvalue, rel=1e-9)


def test_swapping_the_arms_turns_the_sign() -> None:
    there, back = paired_difference([1.0, 4.0, 2.0], [0.0, 1.0, 5.0]), paired_difference([0, 1, 5], [1, 4, 2])
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    rng = np.random.default_rng(0)
    arm, reference, of_seed = rng.normal(size=(3, 6))
    alone, together = paired_difference(arm, reference), paired_difference(arm + 50 * of_seed, reference + 50 * of_seed)
    assert (alone.mean, alone.low, alone.high) == pytest.approx((together.mean, together.low, together.high))


@pytest.mark.parametrize("n", [3, 5])
def test_a_95_percent_interval_holds_the_truth_95_times_in_a_hundred(n: int) -> None:
    rng, runs = np.random.default_rng(n), 1500
    of_seed = rng.normal(0, 5, (runs, n))
    arm, reference = rng.normal(0.7, 1, (runs, n)) + of_seed, rng.normal(0, 0.5, (runs, n)) + of_seed
    found = [paired_difference(a, b) for a, b in zip(arm, reference, strict=True)]
    held = np.mean([one.low <= 0.7 <= one.high for one in found])
    assert held == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / runs))


def test_one_seed_claims_nothing() -> None:
    found = paired_difference([2.0], [1.0])
    assert (found.n, found.mean) == (1, 1.0)
    assert all(math.isnan(value) for value in (found.low, found.high, found.p_value))
    found = paired_difference([2.0, 3.0], [2.0, 3.0])
    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert paired_difference([2.0, 3.0], [1.0, 2.0]).p_value == 0


def test_seeds_must_be_paired() -> None:
    with pytest.raises(ValueError, match="one length above 0, not 2 and 3"):
        paired_difference([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="not 0 and 0"):
        paired_difference([], [])


def test_holms_p_is_worked_out_by_hand() -> None:
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1: .02, .03, .06, .04, and no smaller than the one before.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert np.isnan(holm(np.array([np.nan]))).all()


def test_simultaneous_intervals_hold_for_all_comparisons_at_once() -> None:
    # Twelve arms against one reference, five splits, nothing true: as dependent as arms of a study are.
    rng, runs, arms = np.random.default_rng(0), 400, 12
    none, others = rng.normal(size=(runs, 1, 5)), rng.normal(size=(runs, arms, 5))
    covered = {"each": 0, "all": 0}
    for own, base in zip(others, none, strict=True):
        for name, level in (("each", 0.95), ("all", 1 - 0.05 / arms)):
            found = [paired_difference(arm, base[0], level=level) for arm in own]
            covered[name] += all(one.low <= 0 <= one.high for one in found)
    assert covered["each"] / runs < 0.8
    assert covered["all"] / runs > 0.95 - 2 * (0.05 * 0.95 / runs) ** 0.5
