"""A straight line through logarithms, value = constant × size^slope, fitted seed by seed."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import linregress

from clipmem_core.scores.seeds import Difference, paired_difference


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """What each seed's values do with size.

    Attributes:
        slope: mean over seeds of the slope in log–log, with Student's t interval; −1: as one over size.
        bend: the same of the coefficient of log² size where it is fitted too: 0 is a straight line; None for two sizes.
        sizes: those that were fitted.
        dropped: those at which some seed has no value above 0, whose logarithm is not defined.
        lines: intercept and slope of each seed, [n_seeds, 2].
    """

    slope: Difference
    bend: Difference | None
    sizes: tuple[float, ...]
    dropped: tuple[float, ...]
    lines: np.ndarray

    def at(self, size: float) -> Difference:
        """Return the value that the lines give at another size: geometric mean over seeds, interval of the same kind.

        It is about the line, and says nothing of whether the line goes on so far.
        """
        logs = self.lines @ [1.0, np.log(size)]
        found = paired_difference(logs.tolist(), [0.0] * len(logs))
        mean, low, high = (float(np.exp(end)) for end in (found.mean, found.low, found.high))
        return Difference(found.n, mean, low, high, found.p_value, float("nan"))


def power_law(sizes: np.ndarray, values: np.ndarray) -> PowerLaw | None:
    """Fit each seed's values by least squares in logarithms.

    Seeds, not single values, are what intervals are over: what a seed's split does to all of its sizes is one draw.

    Args:
        sizes: above 0, [n_sizes], each once.
        values: of each seed at each size, [n_seeds, n_sizes].

    Returns:
        The fit; None where fewer than two sizes have values above 0 in all seeds.

    Example:
        >>> found = power_law(np.array([1.0, 10.0, 100.0]), np.array([[8.0, 0.8, 0.08], [4.0, 0.4, 0.04]]))
        >>> round(found.slope.mean, 6), abs(round(found.bend.mean, 6)), round(found.at(1000.0).mean, 5)
        (-1.0, 0.0, 0.00566)
    """
    known = (values > 0).all(axis=0)
    if known.sum() < 2:
        return None
    x, y = np.log(sizes[known]), np.log(values[:, known])
    fits = [linregress(x, own) for own in y]
    lines = np.array([[fit.intercept, fit.slope] for fit in fits])
    bends = [float(np.polyfit(x, own, 2)[0]) for own in y] if known.sum() > 2 else []
    zeros = [0.0] * len(y)
    return PowerLaw(
        slope=paired_difference(lines[:, 1].tolist(), zeros),
        bend=paired_difference(bends, zeros) if bends else None,
        sizes=tuple(sizes[known].tolist()),
        dropped=tuple(sizes[~known].tolist()),
        lines=lines,
    )
