"""How many captions are wrong, from the scores alone.

A mixture of captions that fit and of captions swapped at random (`OutFit`), the
known positives of positive-unlabelled learning (Elkan & Noto, KDD 2008). In general only an upper
bound of their share is identified (Blanchard, Lee & Scott, JMLR 2010; Scott, AISTATS 2015). Here
the assumed shape of the others identifies it: a two-piece Student t with one peak (Fernández &
Steel, JASA 93, 1998).

`fit` is larger where a caption fits better, [n_pairs], NaN for pairs without a score; `swapped` is
the same of pairs with a caption swapped at random, [n_swapped].
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

# data/results/constants.csv shows what half and double of each constant change.
_FEWEST_PAIRS = 5  # and swapped pairs, below which there is no count
# The share of wrong pairs from which a second round leaves them out, by the setting `rounds`.
# Members hardly improve below a hundredth; a second round finds clearly more from a tenth on.
SECOND_ROUND_FROM = {"2": 0.01, "auto": 0.1}
_CELLS = 200
_SHARES = 12  # shares that are tried at once
_POWER = 0.5  # of the likelihood
# Of the first of two kinds of swapped captions among the wrong ones
_KIND_SHARES = np.array([0.5, 0.75, 1.0])
_DROP = 18.0  # of log-likelihood, beyond which a share is ignored
_FLOOR = 1e-9
_SLOPE = 1e-3  # of the log-odds of the posterior, per standard deviation of the scores
# Peak, log width left and right, log degrees of freedom
_LIMITS = ((-4.0, 4.0), (-3.0, 2.0), (-3.0, 2.0), (0.7, 4.6))
_START = (0.0, 0.0, 0.0, 3.0)

# A function that is interpolated: its arguments in ascending order, and its values, [n] each
Curve = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]


@dataclass(frozen=True)
class WrongCount:
    """How many captions are wrong; all None, with the reason in `missing`, where that is
    unknown."""

    estimate: float | None = None
    missing: str = ""
    # The log-odds of the posterior, which descend, as a function of the scores
    curve: Curve = ((0.0,), (-np.inf,))
    # The log-likelihood ratio of wrong to right captions, which descends too: unlike the posterior
    # it does not depend on how many of these captions are wrong
    ratio: Curve = ((0.0,), (0.0,))


def estimate_wrong(fit: np.ndarray, *swapped: np.ndarray) -> WrongCount:
    """Estimate how many captions are wrong, from the scores of captions and of the same with
    swapped captions.

    The likelihood of the scores, in cells, is maximised over the shape of the captions that fit for
    each share of wrong ones (profile likelihood); share and count are averaged over it, with
    Jeffreys' prior on the share. With two kinds of swapped captions they are also averaged over the
    shares of both kinds among the wrong ones. No shape is exact: the square root of the likelihood
    is used.

    Args:
        fit: of the captions, [n]; NaN without a score.
        swapped: of captions swapped in one way, [n_swapped], and in a second way if there is one.

    Returns:
        The count among the captions with a score, and the curve of their probability.
    """
    values, *kinds = (part[np.isfinite(part)] for part in (fit, *swapped))
    reference = np.concatenate(kinds)
    if min(len(values), *map(len, kinds)) < _FEWEST_PAIRS:
        few = (
            f"a count needs {_FEWEST_PAIRS} pairs and swapped pairs with a score, not "
            f"{len(values)} and {len(reference)}"
        )
        return WrongCount(missing=few)
    middle = np.median(values)
    low, high = np.percentile(values, (16, 84))
    spread = (high - low) / 2  # the standard deviation of a normal distribution
    if spread == 0 or reference.std() == 0:
        return WrongCount(missing="the pairs do not differ in how well captions fit")
    standard, *references = ((part - middle) / spread for part in (values, *kinds))
    # Counted in cells, so that the time does not depend on the number of pairs
    ends = np.concatenate([standard, *references])
    edges = np.linspace(ends.min() - 1e-9, ends.max() + 1e-9, _CELLS + 1)
    counts = np.histogram(standard, edges)[0]
    middles = (edges[1:] + edges[:-1]) / 2
    samples = [part[:: max(1, len(part) // 5_000)] for part in references]
    densities = np.stack([scipy.stats.gaussian_kde(part)(middles) + _FLOOR for part in samples])
    densities /= densities.sum(axis=1, keepdims=True)
    if len(kinds) > 1:
        densities = np.column_stack([_KIND_SHARES, 1 - _KIND_SHARES]) @ densities
    profiles = [_profile(middles, counts, density) for density in densities]
    heights, wrong, ratios = (np.concatenate(parts) for parts in zip(*profiles, strict=True))
    weights = np.exp(heights - heights.max())
    weights /= weights.sum()
    # A fit that is worse never has a lower probability; the slope keeps the order of scores where
    # it is constant.
    isotonic = functools.partial(scipy.optimize.isotonic_regression, increasing=False)
    descending = isotonic(weights @ wrong, weights=counts + 1e-6).x
    log_odds = scipy.special.logit(np.clip(descending, 1e-12, 1 - 1e-12)) - _SLOPE * middles
    scores = middle + middles * spread
    # Real captions may be wrong more often than the swapped ones suggest: each bin gets equal
    # weight from swapped and from real pairs.
    filled = counts / len(values) + densities.mean(axis=0)
    ratio = isotonic(weights @ ratios, weights=filled).x - _SLOPE * middles
    estimate = float(weights @ wrong @ counts)
    return WrongCount(estimate, curve=(scores, log_odds), ratio=(scores, ratio))


def posterior_at(curve: Curve, fit: np.ndarray) -> np.ndarray:
    """Return the probability that captions with such scores are wrong.

    Args:
        curve: of a `WrongCount`.
        fit: scores, [n].

    Returns:
        [n], in [0, 1].
    """
    return scipy.special.expit(np.interp(fit, *curve))


def _profile(
    middles: np.ndarray, counts: np.ndarray, swapped: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the log of the weight of each share of wrong captions tried, [n_shares], each cell's
    probability of wrong by it, and its log-likelihood ratio, [n_shares, n_cells] each.

    Args: the middle of each cell, its number of pairs, and the probability of a swapped pair in it,
    [n_cells] each.
    """
    filled = counts > 0
    total = counts.sum()

    def loss(shape: np.ndarray, share: float) -> tuple[float, np.ndarray]:
        chance, slopes = _two_piece_t(middles, shape)
        both = (share * swapped + (1 - share) * chance)[filled]
        slope = slopes[:, filled] @ (counts[filled] * (1 - share) / both)
        return -float(counts[filled] @ np.log(both)) / total, -slope / total

    options = {"ftol": 1e-10, "gtol": 1e-6}
    ends = (np.log(0.05 / total), np.log(0.95 / 0.05))
    shape = np.array(_START)
    for _ in range(3):  # narrow the range of likely shares
        logits = np.linspace(*ends, _SHARES)
        shares = 1 / (1 + np.exp(-logits))
        fitted = [
            scipy.optimize.minimize(
                loss, shape, (share,), "L-BFGS-B", jac=True, bounds=_LIMITS, options=options
            )
            for share in shares
        ]
        heights = np.array([-total * solution.fun for solution in fitted])  # log-likelihoods
        shape = fitted[int(heights.argmax())].x
        likely = np.flatnonzero(heights > heights.max() - _DROP)
        ends = logits[max(likely[0] - 1, 0)], logits[min(likely[-1] + 1, _SHARES - 1)]
    # Jeffreys' prior of a share, by its logit; shares are closer to each other where fewer are
    # likely.
    weights = _POWER * heights + np.log(shares * (1 - shares)) / 2 + np.log(logits[1] - logits[0])
    fits = np.stack([_two_piece_t(middles, solution.x)[0] for solution in fitted])
    wrong = shares[:, None] * swapped
    ratios = np.log(swapped) - np.log(fits)
    return weights, wrong / (wrong + (1 - shares[:, None]) * fits), ratios


def _two_piece_t(values: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each cell under a two-piece Student t, and its gradient by the
    shape.

    Args:
        values: the middle of each cell, [n_cells].
        shape: peak, log width left and right, log degrees of freedom, [4].

    Returns:
        [n_cells] and [4, n_cells].
    """
    centre, left, right, log_df = shape
    below = values < centre
    df = np.exp(log_df)
    narrow = np.exp(-np.where(below, left, right))
    z = (values - centre) * narrow
    reach = 1 + z**2 / df
    density = reach ** (-(df + 1) / 2)
    pull = density * (df + 1) / df * z / reach
    by_df = density * ((df + 1) / 2 * (z**2 / df) / reach - df / 2 * np.log(reach))
    slopes = np.stack([pull * narrow, pull * z * below, pull * z * ~below, by_df])
    density += _FLOOR
    total = density.sum()
    chance = density / total
    return chance, (slopes - chance * slopes.sum(axis=1, keepdims=True)) / total
