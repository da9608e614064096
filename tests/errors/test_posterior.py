"""The order of a review, and the wrong captions that remain: from scores and decisions, from random
checks alone, and in the set that a sample is from."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm

from clipmem_core.errors.certificate import bound_wrong
from clipmem_core.errors.posterior import Posterior, plan_review


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
    assert posterior.before_review().estimate == pytest.approx(p.sum(), rel=0.02)
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


def test_the_interval_holds_what_remains_at_each_stop() -> None:
    """Probabilities that are too low, too high and blunt; of 48 stops at most 6 may miss."""
    missed = 0
    for seed, (shift, slope) in enumerate([(0.7, 1.0), (-0.7, 1.0), (0.0, 0.8), (0.0, 1.2)] * 2):
        rng = np.random.default_rng(seed)
        log_odds = rng.normal(-4, 2.5, 2000)
        wrong = rng.random(2000) < 1 / (1 + np.exp(-(shift + slope * log_odds)))
        posterior = Posterior.of(1 / (1 + np.exp(-log_odds)))
        order = plan_review(log_odds).order
        for stop in (1, 6, 20, 60, 200, 500):
            decided = flags(2000, *order[:stop])
            left = posterior.remaining(decided & ~wrong, decided & wrong, ~decided)
            missed += not round(left.low) <= (wrong & ~decided).sum() <= round(left.high)
    assert missed <= 6


def slow_bound(drawn: list[int], order: list[int], wrong: set[int]) -> tuple[int, int]:
    """The number of random checks, and the largest number of wrong captions besides those found
    for which the likelihood ratio was never 20; by the definition, one number at a time."""
    found = sum(row in wrong for row in order)
    possible = []
    for left in range(len(drawn) - len(order) + 1):
        ratio, highest, n_checks, n_wrong = 1.0, 1.0, 0, 0
        for place, row in enumerate(order):
            undecided = [each for each in drawn if each not in order[:place]]
            if row != undecided[0]:
                continue
            share = (left + found - sum(each in wrong for each in order[:place])) / len(undecided)
            predicted = (n_wrong + 0.5) / (n_checks + 30.5)
            under = share if row in wrong else 1 - share
            given = predicted if row in wrong else 1 - predicted
            ratio = ratio * given / under if under > 0 else math.inf
            highest = max(highest, ratio)
            n_checks += 1
            n_wrong += row in wrong
        if highest < 20:
            possible.append(left)
    return n_checks, max(possible, default=0)


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_is_that_of_a_slow_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(150)
    wrong = set(rng.choice(150, 12, replace=False).tolist())
    ranked = sorted(range(150), key=lambda row: (row in wrong) * -2 + rng.random())
    order = list[int]()
    first = np.zeros(150, int)
    for time in range(1, 91):
        queue = ranked if rng.random() < 0.3 else drawn.tolist()
        order.append(next(row for row in queue if row not in order))
        first[order[-1]] = time
    decided_wrong = np.isin(np.arange(150), [row for row in order if row in wrong])
    bound = bound_wrong(drawn, first, decided_wrong, kept=150)
    assert (len(bound.checks), bound.most) == slow_bound(drawn.tolist(), order, wrong)


def test_it_covers_if_the_reviewer_stops_when_the_number_pleases() -> None:
    """Nominal .95; of 120 reviews at most 13 may miss (P = .003 under .95)."""
    missed = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        wrong = rng.random(1000) < rng.choice([0.01, 0.05, 0.2])
        ranked = np.argsort(-rng.normal(size=1000) - rng.choice([0, 1, 3]) * wrong)
        drawn = rng.permutation(1000)
        first = np.zeros(1000, int)
        target = rng.choice([20, 50, 100])
        for look in range(1, 9):
            queue = drawn if rng.random() < 0.6 else ranked
            chosen = queue[first[queue] == 0][:60]
            first[chosen] = 100 * look + np.arange(60)
            bound = bound_wrong(drawn, first, wrong & (first > 0), kept=1000)
            if bound.most <= target:
                break
        missed += (wrong & (first == 0)).sum() > bound.most
    assert missed <= 13


def test_a_tenth_of_the_places_is_random() -> None:
    priority = np.arange(2000.0)
    priority[:100] = np.nan
    review = plan_review(priority)
    assert sorted(review.order) == list(range(100, 2000))
    assert 0.08 < review.at_random.mean() < 0.12
    by_priority = priority[review.order[:100][~review.at_random[:100]]]
    assert (np.diff(by_priority) < 0).all()
    at_random = priority[review.order[:200][review.at_random[:200]]]
    assert at_random.mean() == pytest.approx(1050, abs=350)
