"""Values of several seeds: their mean with its interval, and the paired difference of two arms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import t, ttest_rel

from clipmem_core.scores.uncertainty import MIN_REPLICATES


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
    """The mean of paired differences with its interval and p value; NaN with fewer than two seeds."""

    n: int  # seeds that both arms have
    mean: float
    low: float
    high: float
    p_value: float  # two-sided


def paired_difference(values: ArrayLike, reference: ArrayLike, *, level: float = 0.95) -> Difference:
    """Compare two arms over the seeds they share: the mean difference, with the paired t test.

    What a seed does to both arms alike (split, initialisation, draws) cancels. In the units of the values; above 0:
    the arm has more than the reference.

    Args:
        values: the arm's, one a seed, [n_seeds].
        reference: the reference arm's on the same seeds, [n_seeds].
        level: coverage of the interval.

    Raises:
        ValueError: the two differ in length, or are empty.

    Example:
        >>> paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0]).mean
        2.0
    """
    values, reference = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if len(values) != len(reference) or not len(values):
        raise ValueError(f"values and reference must have one length above 0, not {len(values)} and {len(reference)}")
    differences = values - reference
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return Difference(n, mean, *[float("nan")] * 3)
    if differences.std() <= 1e-12 * abs(mean):  # constant, for which the test is not defined
        return Difference(n, mean, mean, mean, float(mean == 0))
    found = ttest_rel(values, reference)
    low, high = found.confidence_interval(level)
    return Difference(n, mean, float(low), float(high), float(found.pvalue))


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
