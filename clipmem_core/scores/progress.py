"""The number of pairs that still have a wrong caption: one posterior of the scores and of all
decisions, ranked or at random.

A pair with the probability p by its scores has a wrong caption with the probability

    q = c + (1 − c) σ(a + b logit p)

where a and b recalibrate the scores, and c is the share of wrong captions that the scores do not
see. The priors are a ~ N(a₀, .7²), b ~ N(1, .2²), and a density of log c that falls as c^−.3 from
10⁻⁴ to .2; a₀ gives the count of all pairs the median Σ p. A person errs in 3 % of the decisions,
and a decision counts with the square root of its likelihood (Grünwald & van Ommen, Bayesian
Analysis 2017), since the model is not exact: so no single decision moves the estimate far. The
posterior is computed on a grid (Gelman et al., Bayesian Data Analysis, chapter 3).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy

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


class Remaining(NamedTuple):
    """How many pairs still have a wrong caption, with a 95 % interval."""

    estimate: float
    low: float
    high: float
    probabilities: np.ndarray  # that each pair has a wrong caption, by scores and decisions


@dataclass(frozen=True, eq=False)
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
        estimate, low, high = (
            _quantile(level, weight.ravel(), mean.ravel(), deviation.ravel()) for level in _LEVELS
        )
        of_cells = np.sum(weight * _C) + np.tensordot(weight @ (1 - _C), seen)
        return Remaining(max(estimate, 0.0), max(low, 0.0), max(high, 0.0), of_cells[self.cell])


def _quantile(level: float, weights: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> float:
    """Return a quantile of a mixture of normal distributions, [n] each."""

    def beyond(value: float) -> float:
        return weights @ scipy.special.ndtr((value - mean) / deviation) - level

    low = (mean - 8 * deviation).min() - 1
    high = (mean + 8 * deviation).max() + 1
    return float(scipy.optimize.brentq(beyond, low, high))
