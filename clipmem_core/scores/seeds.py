"""Turns a table with a row a seed into means over the seeds, each with its interval where the seeds suffice for one."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t

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
