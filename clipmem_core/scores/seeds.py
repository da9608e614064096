"""Statistics over training seeds: means with intervals, paired differences of settings, means over
members and pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike

MIN_REPLICATES = 3  # an interval over fewer seeds or replicates would claim too much
_LEVEL = 0.95


def half_width(values: np.ndarray) -> float:
    """Return half the width of Student's t interval of a mean: t₀.₉₇₅(n − 1) s / √n.

    Args: values, [n], at least two.
    """
    n = len(values)
    return float(scipy.stats.t.ppf((1 + _LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


def seed_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's t interval of the mean over seeds.

    Args: one value a seed, [n_seeds]. Returns: its ends; NaN with fewer than three seeds.
    """
    if len(values) < MIN_REPLICATES:
        return float("nan"), float("nan")
    mean = float(np.mean(values))
    half = half_width(values)
    return mean - half, mean + half


def interval_text(mean: float, low: Any, high: Any, spec: str = ".3f", unit: str = "") -> str:
    """Return a number, and in brackets its interval if it has one: −0.120 [−0.200, −0.040]."""
    interval = "" if pd.isna(low) else f" [{low:{spec}}, {high:{spec}}]"
    return f"{mean:{spec}}{unit}{interval}".replace("-", "−")


def over_seeds(table: pd.DataFrame, *, by: Sequence[str], measure: str) -> pd.DataFrame:
    """Average a measure over seeds, with a t interval; missing values are skipped, groups without a
    value left out.

    Args:
        table: a row for each seed and combination of the columns `by`.
        by: names of columns.
        measure: name of a numeric column.

    Returns:
        The columns of `by`, then n (seeds), mean, low and high.
    """
    rows = []
    for key, values in table.dropna(subset=[measure]).groupby(list(by), sort=False)[measure]:
        numbers = values.to_numpy(dtype=np.float64)
        rows.append([*key, len(numbers), float(numbers.mean()), *seed_interval(numbers)])
    return pd.DataFrame(rows, columns=[*by, "n", "mean", "low", "high"])


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences with its interval and p value; NaN with fewer than two
    seeds."""

    n: int  # seeds that both settings have
    mean: float
    low: float
    high: float
    p_value: float  # two-sided


def paired_difference(values: ArrayLike, reference: ArrayLike) -> Difference:
    """Compare two settings over the seeds they share: the mean difference, with the paired t test.

    Effects that a seed has on both settings (split, initialisation, draws) cancel. In the units of
    the values; above 0: the setting has more than the reference.

    Args:
        values, reference: of both settings on the same seeds, [n_seeds] each.

    Returns:
        The mean of values − reference, its interval and p value.
    """
    differences = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
    n = len(differences)
    mean = float(differences.mean())
    if n < 2:
        return Difference(n, mean, *[float("nan")] * 3)
    if differences.std() <= 1e-12 * abs(mean):  # constant, for which the test is not defined
        return Difference(n, mean, mean, mean, float(mean == 0))
    test = scipy.stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval(_LEVEL)
    return Difference(n, mean, float(low), float(high), float(test.pvalue))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p values for multiple comparisons: Holm's step-down (Scandinavian Journal of
    Statistics, 1979).

    Args: one p for each comparison, [n]. Returns: [n]; NaN is skipped, and stays.
    """
    corrected = np.full(len(p_values), np.nan)
    finite = np.flatnonzero(~np.isnan(p_values))
    order = finite[np.argsort(p_values[finite], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected
