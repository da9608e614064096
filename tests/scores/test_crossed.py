"""Means over members and pairs: by hand, and on tables drawn from the model that the interval takes."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from clipmem_core.scores.crossed import BOTH, PAIRS_ALONE, crossed_mean


def drawn(seed: int, members: int, pairs: int, *, by_member: float, by_pair: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    own, each = by_member * rng.normal(size=(members, 1)), by_pair * rng.normal(size=(1, pairs))
    return 0.3 + own + each + rng.normal(size=(members, pairs))


@pytest.mark.parametrize(("by_member", "by_pair"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.3, 0.3)])
def test_the_interval_covers_for_other_members_and_other_pairs(by_member: float, by_pair: float) -> None:
    """Nominal .95; of 200 tables at most 19 may miss (P = .003 under .95)."""
    missed = 0
    for seed in range(200):
        found = crossed_mean(drawn(seed, 8, 60, by_member=by_member, by_pair=by_pair))
        assert found.low is not None
        assert found.high is not None
        missed += not found.low <= 0.3 <= found.high
    assert missed <= 19


def test_members_that_differ_make_it_wider_than_pairs_alone_would() -> None:
    values = drawn(0, 6, 400, by_member=1.0, by_pair=0.0)
    found = crossed_mean(values)
    over_members = ttest_1samp(values.mean(axis=1), 0).confidence_interval()
    over_pairs = ttest_1samp(values.mean(axis=0), 0).confidence_interval()
    assert found.over == BOTH
    assert found.low is not None
    assert found.low == pytest.approx(over_members.low, abs=0.02)
    assert found.low < over_pairs.low - 0.3


def test_of_two_members_only_other_pairs_are_spoken_of() -> None:
    values = np.array([[1.0, 2.0, 4.0], [3.0, 2.0, 6.0]])
    found = crossed_mean(values)
    expected = ttest_1samp([2.0, 2.0, 5.0], 0).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.over == PAIRS_ALONE
    assert crossed_mean(np.ones((5, 1))).low is None
