"""The bound on the wrong captions that remain, from random checks alone."""

import math

import numpy as np
import pytest

from clipmem_core.scores.certificate import Bound, bound_wrong


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
    bound = bound_wrong(drawn, first, decided_wrong)
    assert (len(bound.checks), bound.most) == slow_bound(drawn.tolist(), order, wrong)


def test_it_covers_if_the_reviewer_stops_when_the_number_pleases() -> None:
    """Nominal .95; of 400 reviews at most 32 may miss (P = .005 under .95)."""
    missed = 0
    for seed in range(400):
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
            bound = bound_wrong(drawn, first, wrong & (first > 0))
            if bound.most <= target:
                break
        missed += (wrong & (first == 0)).sum() > bound.most
    assert missed <= 32


def test_checks_are_those_in_random_order() -> None:
    drawn = np.arange(200)
    none = np.zeros(200, bool)
    at_once = np.where(drawn < 40, 1, 0)
    assert bound_wrong(drawn, at_once, none).checks == list(range(40))  # one event
    skipped = np.where(drawn == 0, 0, at_once)
    assert bound_wrong(drawn, skipped, none).checks == []
    ranked = np.where(drawn >= 160, drawn, 0)
    assert bound_wrong(drawn, ranked, none, more=50) == Bound([], 0, 160, 9)
    every = bound_wrong(drawn, drawn + 1, drawn < 7, more=50)
    assert every[1:] == (7, 0, 0)
    # more checks without an error lower it, as announced
    few, many = (bound_wrong(drawn, np.where(drawn < n, 1, 0), none, more=50) for n in (50, 100))
    assert many.most == few.most_if_right < few.most
