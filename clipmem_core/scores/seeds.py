"""What can be said of values of several seeds: their mean with its interval, and the paired difference of two arms."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import chi2, norm, t

from clipmem_core.scores.uncertainty import MIN_REPLICATES

_QUANTILES = 1_000  # of the spread of a sample's standard deviation, that a power is averaged over


def seed_interval(values: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Return Student's t interval of the mean over seeds; NaN where they are too few to claim one.

    Args:
        values: one a seed, [n_seeds].
        level: its coverage.

    Example:
        >>> low, high = seed_interval(np.array([1.0, 2.0, 3.0]))
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    n = len(values)
    if n < MIN_REPLICATES:
        return float("nan"), float("nan")
    half = float(t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def over_seeds(table: pd.DataFrame, *, by: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """Average measures over seeds.

    Args:
        table: a row a seed of each thing that `by` tells apart; in the units of the measures.
        by: the columns that tell things apart.
        measures: columns of numbers; a missing value does not count.

    Returns:
        The columns of `by`, then measure, n (seeds), mean, low and high, in the order of the table; things without a
        value are left out.
    """
    long = table.melt(id_vars=list(by), value_vars=list(measures), var_name="measure").dropna(subset=["value"])
    rows = []
    for key, values in long.groupby([*by, "measure"], sort=False)["value"]:
        numbers = values.to_numpy(dtype=np.float64)
        rows.append([*key, len(numbers), float(numbers.mean()), *seed_interval(numbers)])
    return pd.DataFrame(rows, columns=[*by, "measure", "n", "mean", "low", "high"])


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences and what can be said about it; NaN where too few seeds leave it open."""

    n: int  # seeds that both arms have
    mean: float
    low: float
    high: float
    p_value: float  # two-sided
    detectable: float  # the smallest true difference that a run like this finds four times out of five

    def of_all(self, comparisons: int, *, level: float = 0.95) -> tuple[float, float]:
        """Return the ends of the simultaneous interval over so many comparisons: Bonferroni's t.

        All of them hold at once in `level` of all runs, however the comparisons depend on each other and however unlike
        their spreads are. Dunnett's are shorter, but take one spread for all arms.

        Args:
            comparisons: at least 1; of 1 it is the interval itself, where that is one at `level`.
            level: the coverage of all together.

        Example:
            >>> found = paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
            >>> found.of_all(1) == (found.low, found.high), [round(end, 2) for end in found.of_all(5)]
            (True, [-3.73, 7.73])
        """
        if self.n < 2 or comparisons == 1:
            return self.low, self.high
        usual, wide = (t.ppf(1 - (1 - level) / (2 * many), self.n - 1) for many in (1, comparisons))
        return tuple(float(self.mean + (end - self.mean) * wide / usual) for end in (self.low, self.high))  # type: ignore[return-value]


def paired_difference(values: Sequence[float], reference: Sequence[float], *, level: float = 0.95) -> Difference:
    """Compare two arms over the seeds they share: the mean difference with Student's t interval.

    What a seed does to both arms alike (split, initialisation, draws) cancels. In the units of the values; above 0:
    the arm has more than the reference. An interval that holds 0 says that nothing was found, not that nothing is
    there: `detectable` tells how large a difference had to be.

    Args:
        values: the arm's, one a seed, [n_seeds].
        reference: the reference arm's on the same seeds, [n_seeds].
        level: coverage of the interval.

    Returns:
        The difference; interval, p value and detectable are NaN with fewer than two seeds.

    Raises:
        ValueError: the two differ in length, or are empty.

    Example:
        >>> paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0]).mean
        2.0
    """
    if len(values) != len(reference) or not len(values):
        raise ValueError(f"values and reference must have one length above 0, not {len(values)} and {len(reference)}")
    differences = np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return Difference(n, mean, *[float("nan")] * 4)
    spread = float(differences.std(ddof=1))
    error = spread / np.sqrt(n)
    half = float(t.ppf((1 + level) / 2, n - 1) * error)
    return Difference(n, mean, mean - half, mean + half, _p_value(mean, error, n), smallest_detectable(spread, n))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p values for how many there are: Holm's step-down (Scandinavian Journal of Statistics, 1979).

    The chance that any true null is rejected at a level is at most that level, however they depend on each other.

    Args:
        p_values: one a comparison, [n]; NaN is none, and stays.

    Returns:
        Corrected p, [n], in [0, 1].

    Example:
        >>> holm(np.array([0.01, 0.04, np.nan, 0.03])).tolist()
        [0.03, 0.06, nan, 0.06]
    """
    corrected = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def _p_value(mean: float, error: float, n: int) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / error, n - 1))


def smallest_detectable(spread: float, n: int, *, level: float = 0.95, power: float = 0.8) -> float:
    """Return the true difference that a paired t test at this level would find in a share `power` of all runs.

    Args:
        spread: standard deviation of the paired differences, in their units.
        n: seeds, at least 2.
        level: 1 − the chance of a false alarm.
        power: the share of runs that find it, above 1 − level.

    Returns:
        The difference, ≥ 0, in the units of `spread`.

    Raises:
        ValueError: fewer than two seeds.

    Example:
        >>> round(smallest_detectable(1.0, 5), 2)
        1.68
    """
    if n < 2:
        raise ValueError(f"n must be at least 2 seeds, not {n}")
    return _detectable_errors(n, level, power) * spread / math.sqrt(n)


@functools.lru_cache(maxsize=64)
def _detectable_errors(n: int, level: float, power: float) -> float:
    """Return the smallest detectable difference in standard errors; a study asks for few n, very often."""
    threshold = float(t.ppf((1 + level) / 2, n - 1))
    # SciPy's noncentral t is NaN here and there at 1 and 2 degrees of freedom, so its power is averaged by hand.
    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    reach = threshold * np.sqrt(chi2.ppf(shares, n - 1) / (n - 1))

    def excess(shift: float) -> float:
        return float((norm.cdf(shift - reach) + norm.cdf(-shift - reach)).mean()) - power

    return float(brentq(excess, 0.0, 10 * threshold))
