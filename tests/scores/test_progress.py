"""The number of wrong captions that remain, from scores and decisions."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm

from clipmem_core.scores.certificate import plan_review
from clipmem_core.scores.progress import Posterior


def flags(n: int, *rows: int) -> np.ndarray:
    return np.isin(np.arange(n), rows)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_the_posterior_is_that_of_a_slow_loop() -> None:
    """Four groups of pairs, of which some are decided; a grid of the documented prior."""
    groups = {  # p: pairs, kept, wrong
        0.9: (20, 2, 5),
        0.5: (30, 4, 4),
        0.1: (50, 6, 0),
        0.01: (400, 20, 1),
    }
    p = np.repeat(list(groups), [n for n, *_ in groups.values()])
    kept, wrong = np.zeros((2, len(p)), bool)
    start = 0
    for n, n_kept, n_wrong in groups.values():
        kept[start : start + n_kept] = True
        wrong[start + n_kept : start + n_kept + n_wrong] = True
        start += n
    posterior = Posterior.of(p)
    weights, means, deviations = [], [], []
    for a, b, c in itertools.product(
        np.linspace(-2.5, 2.5, 31), np.linspace(0.4, 1.6, 11), np.geomspace(1e-4, 0.2, 16)
    ):
        log_weight = norm.logpdf(a, 0, 0.7) + norm.logpdf(b, 1, 0.2) - 0.3 * math.log(c)
        mean = variance = 0.0
        for value, (n, n_kept, n_wrong) in groups.items():
            seen = 1 / (1 + math.exp(-(posterior.centre + a + b * round(logit(value), 1))))
            q = c + (1 - c) * seen
            found = 0.97 * q + 0.03 * (1 - q)
            log_weight += 0.5 * (n_wrong * math.log(found) + n_kept * math.log(1 - found))
            mean += (n - n_kept - n_wrong) * q
            variance += (n - n_kept - n_wrong) * q * (1 - q)
        weights.append(math.exp(log_weight))
        means.append(mean)
        deviations.append(math.sqrt(variance))
    remaining = posterior.remaining(kept, wrong, ~(kept | wrong))
    for level, value in zip((0.5, 0.025, 0.975), remaining[:3], strict=True):
        below = norm.cdf((value - np.array(means)) / np.array(deviations))
        assert np.average(below, weights=weights) == pytest.approx(level, abs=1e-4)


@pytest.mark.parametrize("share", [0.0005, 0.02, 0.3])
def test_the_estimate_before_a_review_is_the_sum_of_the_probabilities(share: float) -> None:
    p = np.clip(np.random.default_rng(0).beta(share, 1 - share, 4000), 1e-6, 1 - 1e-6)
    before = Posterior.of(p).before_review()
    assert before.estimate == pytest.approx(p.sum(), rel=0.02, abs=4)
    assert before.low < before.estimate < before.high


def test_decisions_teach_and_slips_hardly_do() -> None:
    p = np.concatenate([np.full(80, 0.98), np.linspace(0.9, 0.01, 100), np.full(3800, 0.003)])
    posterior = Posterior.of(p)
    none = flags(len(p))
    before = posterior.before_review().estimate
    one, six = (
        posterior.remaining(flags(len(p), *range(n)), none, ~flags(len(p), *range(n))).estimate
        for n in (1, 6)
    )
    assert 0.9 * before < one < before
    assert 0.5 * before < six < one
    honest = posterior.remaining(none, flags(len(p), 0), ~flags(len(p), 0)).estimate
    assert honest == pytest.approx(before - 1, rel=0.02)
    # errors that the scores do not see, in random checks
    checked = np.arange(3900, 3950)
    unseen = posterior.remaining(
        flags(len(p), *checked[10:]), flags(len(p), *checked[:10]), ~flags(len(p), *checked)
    )
    assert unseen.estimate > 3 * before
    everything = posterior.remaining(~flags(len(p), 0), flags(len(p), 0), none)
    assert everything[:3] == pytest.approx((0, 0, 0), abs=0.01)


def test_the_interval_holds_what_remains_at_each_stop() -> None:
    """Probabilities that are too low, too high and blunt; of 48 stops at most 6 may miss."""
    missed = 0
    for seed, (shift, slope) in enumerate([(0.7, 1.0), (-0.7, 1.0), (0.0, 0.8), (0.0, 1.2)] * 2):
        rng = np.random.default_rng(seed)
        log_odds = rng.normal(-4, 2.5, 2000)
        wrong = rng.random(2000) < 1 / (1 + np.exp(-(shift + slope * log_odds)))
        posterior = Posterior.of(1 / (1 + np.exp(-log_odds)))
        order = plan_review(log_odds, seed=seed).order
        for stop in (1, 6, 20, 60, 200, 500):
            decided = flags(2000, *order[:stop])
            left = posterior.remaining(decided & ~wrong, decided & wrong, ~decided)
            missed += not round(left.low) <= (wrong & ~decided).sum() <= round(left.high)
    assert missed <= 6
