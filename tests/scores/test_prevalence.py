"""Counts of wrong captions from scores, on drawn sets where the number is known."""

import numpy as np
import pytest

from clipmem_core.scores.prevalence import (
    WrongCount,
    _two_piece_t,
    estimate_wrong,
    left_after,
    likely_wrong,
    most_wrong,
    p_wrong,
    suggest_stop,
    told_count,
)


def drawn(seed: int, wrong: int, *, pairs: int = 1000, apart: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of pairs, the wrong ones first, and of as many swapped pairs."""
    rng = np.random.default_rng(seed)
    fit = np.concatenate([rng.normal(0, 1, wrong), rng.normal(apart, 1, pairs - wrong)])
    return fit, rng.normal(0, 1, pairs)


def test_the_interval_holds_the_number_of_swapped_captions_from_1_to_40_percent() -> None:
    """Nominal .95; of 16 sets at most four may miss (P = .0009 under .95)."""
    missed, widths = 0, []
    for seed in range(4):
        for wrong in (10, 50, 200, 400):
            found = estimate_wrong(*drawn(seed, wrong))
            assert found.low is not None
            assert found.high is not None
            missed += not found.low <= wrong <= found.high
            widths.append((found.high - found.low) / wrong)
    assert missed <= 4
    assert np.median(widths) < 0.6  # and it says something


def test_the_upper_bound_needs_no_shape_of_the_scores_of_right_captions() -> None:
    """Two peaks, one of them below most swapped captions: the count goes wrong, its upper bound does not."""
    rng = np.random.default_rng(0)
    for wrong in (20, 200):
        fit = np.concatenate([rng.normal(0, 1, wrong), rng.normal(4, 1, 900), rng.normal(0.5, 0.3, 100)])
        canaries = rng.normal(0, 1, 1000)
        assert most_wrong(fit, canaries) >= wrong
        high = estimate_wrong(fit, canaries).high
        assert high is not None
        assert high >= most_wrong(fit, canaries) - 1e-9


def test_the_upper_bound_by_near_captions_holds_where_the_wrong_ones_are_near_and_says_something() -> None:
    """Wrong captions one standard deviation below right ones, of which the count by random swaps knows none."""
    bounds = [[most_wrong(*drawn(seed, wrong, apart=1.0)) for seed in range(100)] for wrong in (10, 50, 200, 400)]
    held = [np.mean(np.array(own) >= wrong) for own, wrong in zip(bounds, (10, 50, 200, 400), strict=True)]
    assert min(held) >= 0.95  # of one side .975 at least
    assert np.mean(bounds[0]) < 500


def test_the_posterior_is_that_of_two_known_densities() -> None:
    """Bayes' rule with the true normal densities is the independent answer."""
    fit, canaries = drawn(0, 300, pairs=4000, apart=3.0)
    found = estimate_wrong(fit, canaries)
    wrong, right = 300 * np.exp(-(fit**2) / 2), 3700 * np.exp(-((fit - 3) ** 2) / 2)
    assert np.abs(found.posterior - wrong / (wrong + right)).mean() < 0.02
    assert found.estimate == pytest.approx(found.posterior.sum(), rel=0.01)


def test_the_slopes_of_the_shape_are_those_of_finite_differences() -> None:
    cells, shape = np.linspace(-4, 4, 50), np.array([0.3, -0.2, 0.4, 1.5])
    _, slopes = _two_piece_t(cells, shape)
    for place in range(4):
        step = np.eye(4)[place] * 1e-6
        slow = (_two_piece_t(cells, shape + step)[0] - _two_piece_t(cells, shape - step)[0]) / 2e-6
        np.testing.assert_allclose(slopes[place], slow, atol=1e-7)


def test_pairs_that_are_not_judged_have_no_probability_and_do_not_count() -> None:
    fit, canaries = drawn(0, 50)
    posterior = p_wrong(np.concatenate([fit, np.full(500, np.nan)]), canaries)
    assert np.isnan(posterior[1000:]).all()
    np.testing.assert_allclose(posterior[:1000], estimate_wrong(fit, canaries).posterior)


def test_too_few_pairs_or_no_difference_give_a_reason_and_no_number() -> None:
    few = estimate_wrong(np.arange(50.0), np.arange(500.0))
    assert (few.estimate, few.low, few.high) == (None, None, None)
    assert "needs 100 pairs" in few.missing
    assert "do not differ" in estimate_wrong(np.ones(200), np.arange(200.0)).missing
    told = told_count(np.arange(50.0), np.arange(500.0), np.arange(500.0), -np.arange(50.0))
    assert told["estimate"] is None
    assert told["missing"] == few.missing
    assert "stop" not in told


def test_a_second_round_leaves_out_the_most_suspicious_as_many_as_are_counted() -> None:
    fit, canaries = drawn(0, 50)
    more = np.concatenate([fit, np.full(500, np.nan)])
    suspicion = np.where(np.isnan(more), np.nan, np.random.default_rng(3).permutation(1500).astype(float))
    out = likely_wrong(suspicion, more, canaries, least=0.01)
    count = round(estimate_wrong(fit, canaries).estimate)
    assert out.sum() == count > 30
    assert suspicion[out].min() > np.nanmax(suspicion[~out])
    assert not likely_wrong(suspicion, more, canaries, least=0.1).any()
    assert not likely_wrong(suspicion[:50], more[:50], canaries, least=0.01).any()


def test_at_least_fifty_pairs_are_reviewed_even_where_no_caption_is_counted() -> None:
    fit, canaries = drawn(0, 0)
    told = told_count(fit, canaries, canaries, -fit)
    assert told["estimate"] < 3
    assert told["stop"] == 50


def test_looking_stops_where_hardly_one_in_ten_of_the_next_is_wrong() -> None:
    posterior = np.concatenate([np.full(40, 0.8), np.full(400, 0.01), [np.nan] * 5])
    assert suggest_stop(posterior, np.concatenate([-np.arange(440.0), [9.0] * 5])) == 40
    assert suggest_stop(np.zeros(100), -np.arange(100.0)) == 0
    assert suggest_stop(np.ones(30), -np.arange(30.0)) == 30


def test_what_is_left_are_the_probabilities_of_the_others_and_nothing_once_all_were_looked_at() -> None:
    count = WrongCount(20.0, 10.0, 40.0, np.array([1.0] * 15 + [0.5] * 10))
    left, low, high = left_after(count, np.arange(25) < 15)
    assert left == 5.0
    assert 0 < low < 5 < high < 15
    assert left_after(count, np.ones(25, dtype=bool)) == (0.0, 0.0, 0.0)
