"""Whether a model was trained on a set of pairs, when each pair tells little: a rank test of the set against pairs that
it cannot have seen, and how many pairs such a test needs."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import mannwhitneyu, norm, rankdata

RANKS = math.pi / 3  # pairs that a rank test needs, times those of a test of means, where both sides are Gaussian


@dataclass(frozen=True)
class SetTest:
    """A set of pairs beside pairs that the model cannot have seen.

    Attributes:
        auroc: chance that a pair of the set has the higher value, ties counting half; .5: no difference.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: one-sided, of the rank test that the set is not higher.
        suspected: pairs in the set.
        held_out: the others.
        detectable: the AUROC that a test of these sizes finds four times out of five.
    """

    auroc: float
    low: float
    high: float
    p_value: float
    suspected: int
    held_out: int
    detectable: float


def set_test(suspected: np.ndarray, held_out: np.ndarray, *, level: float = 0.95) -> SetTest:
    """Compare the values of a suspected set with those of pairs of the same distribution that were never seen.

    Args:
        suspected: alignment (or similarity) of each pair of the set under the model, [n].
        held_out: the same of pairs that it cannot have been trained on, [m].
        level: coverage of the interval, which is DeLong's (Biometrics 44, 1988): it holds for unequal spreads too.

    Raises:
        ValueError: fewer than two values on a side.

    Example:
        >>> found = set_test(np.array([0.4, 0.6, 0.8]), np.array([0.1, 0.3, 0.5]))
        >>> round(found.auroc, 3), found.suspected
        (0.889, 3)
    """
    n, m = len(suspected), len(held_out)
    if min(n, m) < 2:
        raise ValueError(f"suspected and held_out must have at least two values each, not {n} and {m}")
    every = rankdata(np.concatenate([suspected, held_out]))
    # Share of the other side that each value lies above: their means are the AUROC, their variances its error
    above = (every[:n] - rankdata(suspected)) / m
    below = (every[n:] - rankdata(held_out)) / n
    auroc = float(above.mean())
    half = float(norm.ppf((1 + level) / 2) * math.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m))
    p_value = float(mannwhitneyu(suspected, held_out, alternative="greater").pvalue)
    least = detectable_auroc(2 / (1 / n + 1 / m))
    return SetTest(auroc, max(auroc - half, 0.0), min(auroc + half, 1.0), p_value, n, m, least)


def pairs_a_side(auroc: float, *, efficiency: float = 1.0, level: float = 0.95, power: float = 0.8) -> float:
    """Return how many pairs on each side a test needs to find a difference of this AUROC.

    Two Gaussians of equal spread that lie d apart have an AUROC of Φ(d / √2), and a two-sided test of their means needs
    2 (z₁₋α/₂ + z_power)² / d² on each side. Noether's (JASA 82, 1987) for the rank test,
    (z + z)² / (6 (AUROC − ½)²), is this times `RANKS` where the AUROC is near ½.

    Args:
        auroc: above .5.
        efficiency: what the number is multiplied by; `RANKS` for a rank test.
        level: 1 − the chance of a false alarm.
        power: the share of tests that find it.

    Raises:
        ValueError: an AUROC that is not above .5 and below 1.

    Example:
        >>> [round(pairs_a_side(auroc)) for auroc in (0.51, 0.52, 0.55, 0.755)]
        [12489, 3120, 497, 16]
    """
    if not 0.5 < auroc < 1:
        raise ValueError(f"auroc must lie between 0.5 and 1, not be {auroc}")
    apart = math.sqrt(2) * norm.ppf(auroc)
    return float(efficiency * 2 * (norm.ppf((1 + level) / 2) + norm.ppf(power)) ** 2 / apart**2)


def detectable_auroc(n: float, *, level: float = 0.95, power: float = 0.8) -> float:
    """Return the AUROC that a rank test of n pairs on each side finds in a share `power` of all tests.

    Example:
        >>> round(detectable_auroc(pairs_a_side(0.52, efficiency=RANKS)), 6)
        0.52
    """
    apart = math.sqrt(RANKS * 2 / n) * (norm.ppf((1 + level) / 2) + norm.ppf(power))
    return float(norm.cdf(apart / math.sqrt(2)))
