"""Statistics over training seeds: means with intervals, paired differences of arms, means over members and pairs, and
power laws fitted seed by seed. All intervals cover 95 %."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import chi2, linregress, norm, t

MIN_REPLICATES = 3  # an interval over fewer seeds or repeats would claim too much
LEVEL = 0.95
BOTH, PAIRS_ALONE = "members and pairs", "pairs, of these members alone"
_QUANTILES = 1_000  # of the distribution of a sample's standard deviation, to average a power over


def half_width(values: np.ndarray) -> float:
    """Return half the width of Student's t interval of a mean."""
    n = len(values)
    return float(t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


def seed_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's t interval of the mean over seeds; NaN with fewer than three.

    Example:
        >>> low, high = seed_interval(np.array([1.0, 2.0, 3.0]))
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    if len(values) < MIN_REPLICATES:
        return float("nan"), float("nan")
    mean, half = float(np.mean(values)), half_width(values)
    return mean - half, mean + half


def over_seeds(table: pd.DataFrame, *, by: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """Average measures over seeds.

    Args:
        table: one row for each seed and combination of `by`.
        by: the columns to group by.
        measures: numeric columns; missing values are skipped.

    Returns:
        The columns of `by`, then measure, n (seeds), mean, low and high, in the order of the table; groups without a
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
    """The mean of paired differences with its interval; NaN where there are too few seeds."""

    n: int  # seeds that both arms have
    mean: float
    low: float
    high: float
    p_value: float  # two-sided
    detectable: float  # the smallest true difference that a study like this detects with a power of 80 %

    def of_all(self, comparisons: int) -> tuple[float, float]:
        """Return the ends of the simultaneous interval over several comparisons: Bonferroni's t.

        All intervals hold at once in 95 % of all runs, for any dependence between comparisons and any spreads.
        Dunnett's are shorter, but assume one spread for all arms.

        Example:
            >>> found = paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
            >>> found.of_all(1) == (found.low, found.high), [round(end, 2) for end in found.of_all(5)]
            (True, [-3.73, 7.73])
        """
        if self.n < 2 or comparisons == 1:
            return self.low, self.high
        usual, wide = (t.ppf(1 - (1 - LEVEL) / (2 * many), self.n - 1) for many in (1, comparisons))
        low, high = (float(self.mean + (end - self.mean) * wide / usual) for end in (self.low, self.high))
        return low, high


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Difference:
    """Compare two arms over the seeds they share: the mean difference with Student's t interval.

    Effects that a seed has on both arms (split, initialisation, draws) cancel. In the units of the values; above 0:
    the arm has more than the reference.

    Args:
        values: the arm's, [n_seeds].
        reference: the reference arm's on the same seeds, [n_seeds].

    Returns:
        The difference; interval, p value and detectable are NaN with fewer than two seeds.

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
    half = float(t.ppf((1 + LEVEL) / 2, n - 1) * error)
    p_value = float(mean == 0) if error == 0 else float(2 * t.sf(abs(mean) / error, n - 1))
    return Difference(n, mean, mean - half, mean + half, p_value, smallest_detectable(spread, n))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p values for multiple comparisons: Holm's step-down (Scandinavian Journal of Statistics, 1979).

    Args:
        p_values: one for each comparison, [n]; NaN is skipped, and stays.

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


def smallest_detectable(spread: float, n: int) -> float:
    """Return the true difference that a paired t test at 5 % detects with a power of 80 %, in units of `spread`.

    Args:
        spread: standard deviation of the paired differences.
        n: seeds, at least 2.

    Example:
        >>> round(smallest_detectable(1.0, 5), 2)
        1.68
    """
    return _detectable_errors(n) * spread / math.sqrt(n)


@functools.lru_cache(maxsize=64)
def _detectable_errors(n: int) -> float:
    """Return the smallest detectable difference in standard errors."""
    threshold = float(t.ppf((1 + LEVEL) / 2, n - 1))
    # SciPy's noncentral t is sometimes NaN at 1 and 2 degrees of freedom, so its power is averaged here.
    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    reach = threshold * np.sqrt(chi2.ppf(shares, n - 1) / (n - 1))

    def excess(shift: float) -> float:
        return float((norm.cdf(shift - reach) + norm.cdf(-shift - reach)).mean()) - 0.8

    return float(brentq(excess, 0.0, 10 * threshold))


@dataclass(frozen=True)
class CrossedMean:
    """A mean over members and pairs with its interval; `over` names what the interval covers."""

    mean: float
    low: float | None
    high: float | None
    over: str


def crossed_mean(values: np.ndarray) -> CrossedMean:
    """Return the mean of members × pairs with an interval that treats both as drawn at random.

    The variance of the mean is that of the two-way random model without replication, by the method of moments (Searle,
    Casella & McCulloch, Variance Components, 1992, section 4.3): of member means over members, plus of pair means over
    pairs, less the cells' own, which is in both; no less than either. Student's t with the fewer of either, less one.

    Args:
        values: of each member and pair, in any unit, [n_members, n_pairs].

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
    half = float(t.ppf((1 + LEVEL) / 2, degrees)) * spread**0.5
    return CrossedMean(mean, mean - half, mean + half, PAIRS_ALONE if few else BOTH)


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """value = constant × size^slope, fitted seed by seed.

    Attributes:
        slope: mean over seeds of the slope in log–log, with Student's t interval.
        bend: the same of the coefficient of log² size where it is fitted too: 0 is a straight line; None for two sizes.
        sizes: those that were fitted.
        dropped: those at which some seed has no value above 0.
        lines: intercept and slope of each seed, [n_seeds, 2].
    """

    slope: Difference
    bend: Difference | None
    sizes: tuple[float, ...]
    dropped: tuple[float, ...]
    lines: np.ndarray

    def at(self, size: float) -> Difference:
        """Return the extrapolation to another size: geometric mean over seeds, with its interval."""
        logs = self.lines @ [1.0, np.log(size)]
        found = paired_difference(logs.tolist(), [0.0] * len(logs))
        mean, low, high = (float(np.exp(end)) for end in (found.mean, found.low, found.high))
        return Difference(found.n, mean, low, high, found.p_value, float("nan"))


def power_law(sizes: np.ndarray, values: np.ndarray) -> PowerLaw | None:
    """Fit each seed's values by least squares in logarithms.

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
