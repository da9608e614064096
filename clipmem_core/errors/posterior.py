"""The order of a review, and how many pairs still have a wrong caption: an estimate from the scores
and all decisions.

The estimate. A pair with the probability p by its scores has a wrong caption with the probability

    q = c + (1 − c) σ(a + b logit p)

where a and b recalibrate the scores, and c is the share of wrong captions that the scores do not
see. The priors are a ~ N(a₀, .7²), b ~ N(1, .2²), and a density of log c that falls as c^−.3 from
10⁻⁴ to .2; a₀ gives the count of all pairs the median Σ p. The reviewer's error rate is 3 %. The
likelihood of each decision is raised to the power 1/2, because the model is misspecified (Grünwald
& van Ommen, Bayesian Analysis 2017): no single decision moves the estimate far. The posterior is
computed on a grid (Gelman et al., Bayesian Data Analysis, chapter 3).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy

from clipmem_core.utils import draws

# data/results/constants.csv shows what half and double of each constant change.
_RANDOM_SHARE = 0.1  # of the positions in a review
# The estimate
_SLIP = 0.03  # probability that a person errs in a decision
_POWER = 0.5  # of the likelihood of a decision
_A = np.linspace(-2.5, 2.5, 31)  # a − a₀
_B = np.linspace(0.4, 1.6, 11)
_C = np.geomspace(1e-4, 0.2, 16)
_SD_A = 0.7
_SD_B = 0.2
_FALL = 0.3
_FURTHEST = 12.0  # log-odds of a pair, either way
_CELLS = 241  # pairs with about the same log-odds are counted together
_CENTRES = np.linspace(-3, 3, 25)  # of a₀
_LEVELS = (0.5, 0.025, 0.975)


@dataclass(frozen=True)
class ReviewOrder:
    """The order in which a person reviews pairs."""

    drawn: np.ndarray  # rows of the pairs with a priority, in random order
    order: np.ndarray  # the same rows in the order of the review
    at_random: np.ndarray  # true for positions in the order with a pair drawn at random


def plan_review(priority: np.ndarray, *, place: np.ndarray | None = None) -> ReviewOrder:
    """Order pairs for a review: the highest priority first, mixed with a tenth that is drawn at
    random.

    Args:
        priority: the highest is reviewed first; NaN for pairs that are not reviewed, [n_pairs].
        place: of each pair in the order where it is stored, as `review_place` returns it,
            [n_pairs].

    Returns:
        The order of the pairs with a priority.
    """
    rows = np.flatnonzero(np.isfinite(priority))
    drawn = draws.rng(0, "review order").permutation(rows)
    at_random = draws.rng(0, "spot checks").random(len(rows)) < _RANDOM_SHARE
    if place is not None:
        return ReviewOrder(drawn, rows[np.argsort(place[rows], kind="stable")], at_random)
    ranked = rows[np.argsort(-priority[rows], kind="stable")]
    queues = {False: iter(ranked.tolist()), True: iter(drawn.tolist())}
    order = dict[int, None]()  # a set that keeps its order
    for random in at_random.tolist():
        order[next(row for row in queues[random] if row not in order)] = None
    return ReviewOrder(drawn, np.array([*order], dtype=np.int64), at_random)


def review_place(priority: np.ndarray) -> np.ndarray:
    """Return each pair's place in the review, from 1.

    Args: as `priority` of `plan_review`, [n_pairs].
    Returns: float64 [n_pairs]; NaN for pairs without a priority.
    """
    order = plan_review(priority).order
    place = np.full(len(priority), np.nan)
    place[order] = np.arange(1, len(order) + 1)
    return place


class Remaining(NamedTuple):
    """How many pairs still have a wrong caption, with a 95 % interval."""

    estimate: float
    low: float
    high: float
    probabilities: np.ndarray  # that each pair has a wrong caption, by scores and decisions


@dataclass(frozen=True)
class Posterior:
    """The number of wrong captions of a data set by its scores, which `remaining` combines with
    decisions."""

    cell: np.ndarray  # of each pair, [n_pairs]
    log_odds: np.ndarray  # of each cell, [n_cells]
    centre: float  # a₀

    @classmethod
    def of(cls, probabilities: np.ndarray) -> "Posterior":
        """Centre the prior on the number of wrong captions by the scores.

        Args: the probability that each pair has a wrong caption, [n_pairs].
        """
        log_odds = np.clip(scipy.special.logit(probabilities), -_FURTHEST, _FURTHEST)
        cells = np.linspace(-_FURTHEST, _FURTHEST, _CELLS)
        cell = np.rint((log_odds + _FURTHEST) / (cells[1] - cells[0])).astype(int)
        counts = [cls(cell, cells, centre).before_review().estimate for centre in _CENTRES]
        return cls(cell, cells, float(np.interp(probabilities.sum(), counts, _CENTRES)))

    def before_review(self) -> Remaining:
        """Return how many pairs have a wrong caption by the scores alone."""
        none = np.zeros(len(self.cell), bool)
        return self.remaining(none, none, ~none)

    def remaining(self, kept: np.ndarray, wrong: np.ndarray, left: np.ndarray) -> Remaining:
        """Return how many of the pairs `left` have a wrong caption.

        Args: true for pairs that a person found right, for those found wrong, and for those that
        are counted, [n_pairs] each.
        """
        n_kept, n_wrong, n_left = (
            np.bincount(self.cell[chosen], minlength=_CELLS) for chosen in (kept, wrong, left)
        )
        a = _A[:, None, None] + self.centre
        seen = scipy.special.expit(a + _B[:, None] * self.log_odds)  # [31, 11, n_cells]
        weight = -0.5 * (_A[:, None, None] / _SD_A) ** 2 - 0.5 * ((_B[:, None] - 1) / _SD_B) ** 2
        weight = weight - _FALL * np.log(_C)  # [31, 11, 16]
        decided = np.flatnonzero(n_kept + n_wrong)
        if len(decided):
            q = _C[:, None] + (1 - _C[:, None]) * seen[..., None, decided]
            found = _SLIP + (1 - 2 * _SLIP) * q
            log_likelihood = np.log(found) @ n_wrong[decided] + np.log1p(-found) @ n_kept[decided]
            weight = weight + _POWER * log_likelihood
        weight = np.exp(weight - weight.max())
        weight /= weight.sum()
        first, second = ((seen**power @ n_left)[..., None] for power in (1, 2))  # moments of σ
        mean = _C * n_left.sum() + (1 - _C) * first
        squares = _C**2 * n_left.sum() + 2 * _C * (1 - _C) * first + (1 - _C) ** 2 * second
        deviation = np.sqrt(np.maximum(mean - squares, 0.0)) + 1e-6
        mixture = weight.ravel(), mean.ravel(), deviation.ravel()
        estimate, low, high = (max(_quantile(level, *mixture), 0.0) for level in _LEVELS)
        of_cells = np.sum(weight * _C) + np.tensordot(weight @ (1 - _C), seen)
        return Remaining(estimate, low, high, of_cells[self.cell])


def _quantile(level: float, weights: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> float:
    """Return a quantile of a mixture of normal distributions, [n] each."""

    def beyond(value: float) -> float:
        return weights @ scipy.special.ndtr((value - mean) / deviation) - level

    low = (mean - 8 * deviation).min() - 1
    high = (mean + 8 * deviation).max() + 1
    return float(scipy.optimize.brentq(beyond, low, high))
