"""The mean of a table of members × pairs, with an interval that holds for other members and for other pairs."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from clipmem_core.scores.uncertainty import MIN_REPLICATES

_LEVEL = 0.95
BOTH, PAIRS_ALONE = "members and pairs", "pairs, of these members alone"


@dataclass(frozen=True)
class CrossedMean:
    """A mean over members and pairs, its 95 % interval, and what that is over; None where there is none."""

    mean: float
    low: float | None
    high: float | None
    over: str


def crossed_mean(values: np.ndarray) -> CrossedMean:
    """Return the mean of members × pairs with an interval that takes both as drawn at random.

    A member moves all its pairs together, and a pair is as hard for all members: cells are not independent. The
    variance of the mean is that of the two-way random model without replication, by the method of moments (Searle,
    Casella & McCulloch, Variance Components, 1992, section 4.3): of member means over members, plus of pair means over
    pairs, less the cells' own, which is in both; no less than either. Student's t with the fewer of either, less one.

    Args:
        values: of each member (a row) and pair, in any unit, [n_members, n_pairs]; paired differences, for instance.

    Returns:
        The mean and its interval; with fewer than three members one over pairs alone, with fewer than two pairs none.

    Example:
        >>> found = crossed_mean(np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [3.0, 4.0, 5.0]]))
        >>> found.mean, round(found.low, 2), round(found.high, 2), found.over
        (3.0, -0.51, 6.51, 'members and pairs')
    """
    members, pairs = values.shape
    mean, by_member, by_pair = float(values.mean()), values.mean(axis=1), values.mean(axis=0)
    if pairs < 2:
        return CrossedMean(mean, None, None, PAIRS_ALONE)
    spread = float(by_pair.var(ddof=1)) / pairs
    few = members < MIN_REPLICATES
    if not few:
        own = float(by_member.var(ddof=1)) / members
        rest = values - by_member[:, None] - by_pair + mean
        cells = float((rest**2).sum()) / ((members - 1) * (pairs - 1)) / values.size
        spread = max(own + spread - cells, own, spread)
    degrees = (pairs if few else min(members, pairs)) - 1
    half = float(t.ppf((1 + _LEVEL) / 2, degrees)) * spread**0.5
    return CrossedMean(mean, mean - half, mean + half, PAIRS_ALONE if few else BOTH)
