"""What a count in a random sample of pairs says of the whole set that it was drawn from.

Of N pairs, K of some kind, n are drawn without replacement. How many of them are of the kind is hypergeometric, with
mean n K/N and variance n (K/N) (1 − K/N) (N − n)/(N − 1) (Cochran, Sampling Techniques, 3rd ed. 1977, chapter 3). The
limits of K are the numbers under which what was found, or more, and what was found, or less, still have a
probability of 2.5 % each: they hold for small counts too, and at n = N they are the count itself.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import hypergeom

TAIL = 0.025


def whole_count(
    found: float, drawn: int, total: int, *, low: float | None = None, high: float | None = None
) -> tuple[float, float, float]:
    """Estimate how many pairs of a set are of a kind, from how many of a random sample are.

    Where the count in the sample is an estimate itself, with an interval, its errors and those of sampling are
    independent: their distances from the estimate are added in quadrature, on either side (the method of variance
    estimates recovery; Zou & Donner, Statistics in Medicine 27, 2008).

    Args:
        found: pairs of the kind in the sample; a fraction where it was estimated.
        drawn: pairs in the sample, at least 1.
        total: pairs in the set, at least as many.
        low: of a 95 % interval of the count in the sample; None where it was counted.
        high: the other end.

    Returns:
        Estimate, and low and high of a 95 % interval.

    Raises:
        ValueError: the sample is larger than the set, or its count larger than the sample.

    Example:
        >>> whole_count(10, 100, 1_000)
        (100.0, 52.0, 172.0)
        >>> whole_count(10, 100, 100)
        (10.0, 10.0, 10.0)
    """
    if not 0 <= found <= drawn <= total or drawn < 1:
        raise ValueError(f"found, drawn and total must ascend from 0, not {found}, {drawn}, {total}")
    scale = total / drawn
    estimate = found * scale
    below, above = int(np.floor(found)), int(np.ceil(found))
    least = _first(lambda kind: hypergeom.sf(below - 1, total, kind, drawn) > TAIL, below, total)
    most = _first(lambda kind: hypergeom.cdf(above, total, kind, drawn) <= TAIL, above, total + 1) - 1
    most = min(most, total - (drawn - above))
    model = scale * (found - (found if low is None else low)), scale * ((found if high is None else high) - found)
    ends = estimate - np.hypot(estimate - least, model[0]), estimate + np.hypot(most - estimate, model[1])
    return float(estimate), float(max(ends[0], 0.0)), float(min(ends[1], total))


def _first(holds: Callable[[int], bool], start: int, stop: int) -> int:
    """Return the first number from which on something holds, or `stop`."""
    while start < stop:
        middle = (start + stop) // 2
        start, stop = (start, middle) if holds(middle) else (middle + 1, stop)
    return start
