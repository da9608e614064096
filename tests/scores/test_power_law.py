import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from clipmem_core.scores.power_law import power_law

SIZES = np.array([500.0, 1_000.0, 2_000.0, 4_000.0])


def drawn(seeds: int, *, slope: float = -1.0, seed: int = 0) -> np.ndarray:
    """Values of a power law whose constant and slope differ from seed to seed, with noise on each."""
    rng = np.random.default_rng(seed)
    slopes = slope + 0.1 * rng.normal(size=seeds)[:, None]
    return np.exp(4 + rng.normal(size=seeds)[:, None] + slopes * np.log(SIZES) + 0.05 * rng.normal(size=(seeds, 4)))


def test_slope_and_interval_are_those_of_least_squares_seed_by_seed() -> None:
    values = drawn(5)
    found = power_law(SIZES, values)
    assert found is not None
    slopes = [
        np.linalg.lstsq(np.column_stack([np.ones(4), np.log(SIZES)]), np.log(own), rcond=None)[0] for own in values
    ]
    test = ttest_1samp([own[1] for own in slopes], 0).confidence_interval()
    np.testing.assert_allclose(
        [found.slope.mean, found.slope.low, found.slope.high],
        [np.mean([own[1] for own in slopes]), test.low, test.high],
    )
    logs = np.array([own @ [1, np.log(1e6)] for own in slopes])
    half = t.ppf(0.975, 4) * logs.std(ddof=1) / np.sqrt(5)
    at = found.at(1e6)
    np.testing.assert_allclose([at.mean, at.low, at.high], np.exp(logs.mean() + np.array([0, -half, half])))


def test_the_intervals_of_slope_and_extrapolation_cover() -> None:
    found = [power_law(SIZES, drawn(5, seed=seed)) for seed in range(600)]
    slope = np.mean([one.slope.low <= -1 <= one.slope.high for one in found if one])
    far = np.mean([one.at(1e6).low <= np.exp(4 - np.log(1e6)) <= one.at(1e6).high for one in found if one])
    assert slope == pytest.approx(0.95, abs=0.03)
    assert far == pytest.approx(0.95, abs=0.03)


def test_a_line_that_bends_is_told() -> None:
    values = np.exp(10 - 3 * np.log(SIZES) + 0.15 * np.log(SIZES) ** 2) * np.array([[1.0], [1.1], [0.9]])
    found = power_law(SIZES, values)
    assert found is not None
    assert found.bend is not None
    assert found.bend.mean == pytest.approx(0.15)
    straight = power_law(SIZES[:2], values[:, :2])
    assert straight is not None
    assert straight.bend is None


def test_sizes_without_a_logarithm_are_left_out_and_named() -> None:
    values = drawn(3)
    values[1, 3] = -0.001
    found = power_law(SIZES, values)
    assert found is not None
    assert (found.sizes, found.dropped) == ((500.0, 1_000.0, 2_000.0), (4_000.0,))
    assert power_law(SIZES, -values) is None
