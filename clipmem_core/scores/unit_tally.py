"""UnitMem, how far one pair alone sets a unit off, from activations that are streamed a batch of pairs at a time."""

import numpy as np
import pandas as pd

BINS = 512  # of a unit's histogram, a power of two


def unitmem(highest: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return UnitMem = (μ_max − μ_rest) / (μ_max + μ_rest), the definition of "Localizing Memorization in SSL Vision
    Encoders" (Wang et al., NeurIPS 2024).

    In [0, 1]: 1 is a unit that fires for one pair alone, 0 one that fires alike for all.

    Args:
        highest: mean activation on the pair that sets the unit off most, at least 0, [n_units].
        rest: mean (the paper) or median (its code) of that over the other pairs, at least 0, [n_units].

    Returns:
        float64 [n_units]; NaN for a silent unit, whose activation is 0 everywhere.

    Example:
        >>> unitmem(np.array([3.0, 1.0, 0.0]), np.array([0.0, 0.5, 0.0])).round(3)
        array([1.   , 0.333,   nan])
    """
    highest, rest = np.asarray(highest, np.float64), np.asarray(rest, np.float64)
    total = highest + rest
    return np.divide(highest - rest, total, out=np.full(total.shape, np.nan), where=total > 0)


class UnitTally:
    """Counts activations, batch by batch, in memory that depends on the number of units alone.

    UnitMem is bounded where activations are not negative, as those of the paper's ReLU networks; a transformer's GELU
    goes down to −0.17, and with signed means the ratio has no bounds and can divide by zero. So activations below 0
    count as 0 (token by token, before any mean), and `clipped` says how much that left out.

    The mean variant is exact. The median is read from a histogram of `bins` bins over [0, 2^e), the least power of two
    above the unit's largest activation. When that grows, neighbouring bins are added together, so that one pass is
    enough and the order of batches changes nothing. The median is off by half a bin at most, and UnitMem by no more
    than `median_error` ≤ 2 / bins, about 0.004; a median of exactly 0 is exact, since zeros are counted
    apart.
    """

    def __init__(self, n_units: int, *, bins: int = BINS) -> None:
        self.bins, self.count = bins, 0
        self.total, self.below = np.zeros(n_units), np.zeros(n_units)
        self.highest, self.second = np.zeros(n_units, np.float32), np.zeros(n_units, np.float32)
        self.row = np.full(n_units, -1, dtype=np.int64)
        self.zeros = np.zeros(n_units, dtype=np.int64)
        self.histogram = np.zeros((n_units, bins), dtype=np.int32)

    def add(self, rows: np.ndarray, values: np.ndarray, below: np.ndarray) -> None:
        """Count a batch of pairs, each of which comes once.

        Args:
            rows: numbers of the pairs, int64 [n].
            values: each unit's mean activation on them, those below 0 counted as 0, float32 [n, n_units].
            below: what that left out, as a mean absolute value, float32 [n, n_units].

        Raises:
            ValueError: a shape is wrong, or a value is negative or not finite.
        """
        if values.shape != (len(rows), len(self.total)) or below.shape != values.shape:
            wanted = f"[{len(rows)}, {len(self.total)}]"
            raise ValueError(f"values and below must be {wanted}, not {values.shape} and {below.shape}")
        if not len(rows):
            return
        # A plain minimum passes NaN on, and a plain maximum infinity.
        if not (values.min() >= 0 and values.max() < np.inf):
            raise ValueError("values must be finite and at least 0: count activations below 0 as 0")
        values = values.astype(np.float32, copy=False)
        self.count += len(rows)
        self.total += values.sum(axis=0, dtype=np.float64)
        self.below += below.sum(axis=0, dtype=np.float64)
        before = np.frexp(self.highest)[1]
        self._rank(rows, values)
        self._widen(before)
        self._place(values)

    def _rank(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Keep the two largest activations, and of equal ones the pair with the smaller number."""
        order = np.argsort(rows, kind="stable")
        ranked = values[order]
        best, units = ranked.argmax(axis=0), np.arange(values.shape[1])
        high, row = ranked[best, units], np.asarray(rows)[order][best]
        ranked[best, units] = 0
        self.second = np.maximum(np.minimum(self.highest, high), np.maximum(self.second, ranked.max(axis=0)))
        tied = (high == self.highest) & (high > 0) & (row < self.row)
        self.row = np.where((high > self.highest) | tied, row, self.row)
        self.highest = np.maximum(self.highest, high)

    def _widen(self, before: np.ndarray) -> None:
        """Double the range of units that outgrew theirs, adding bins two by two.

        Until a unit fires its histogram is empty, and widening it does nothing.
        """
        doublings = np.minimum(np.frexp(self.highest)[1] - before, int(np.log2(self.bins)))
        for turn in range(max(0, doublings.max(initial=0))):
            units = np.flatnonzero(doublings > turn)
            folded = self.histogram[units].reshape(len(units), self.bins // 2, 2).sum(axis=2)
            self.histogram[units, : self.bins // 2] = folded
            self.histogram[units, self.bins // 2 :] = 0

    def _place(self, values: np.ndarray) -> None:
        self.zeros += (values == 0).sum(axis=0)
        places = self._bin(values) + np.arange(values.shape[1]) * self.bins
        # The type matters: a weight of another than the histogram's takes a hundred times as long.
        np.add.at(self.histogram.reshape(-1), places.reshape(-1), (values > 0).astype(np.int32).reshape(-1))

    def _bin(self, values: np.ndarray) -> np.ndarray:
        """Return the bin of activations [..., n_units]; scaling by a power of two is exact."""
        return (values * np.ldexp(float(self.bins), -np.frexp(self.highest)[1])).astype(np.int64)

    def scores(self) -> pd.DataFrame:
        """Turn the counts into UnitMem.

        Returns:
            A row a unit: unitmem_mean (the others by their mean, as the paper has it; exact), unitmem_median (by their
            median, as its authors' code has it), median_error (how far from its exact value that lies at most), max
            (activation on the pair that sets the unit off most), second (on the next one: max − second is the margin),
            rest_mean, rest_median, clipped (share of the activation, in absolute value, that was below 0 and was
            counted as 0), and row (the pair behind `max`; -1 for a silent unit).

        Raises:
            ValueError: fewer than two pairs were counted.
        """
        if self.count < 2:
            raise ValueError(f"UnitMem compares a pair with the others: it needs two pairs at least, not {self.count}")
        highest, whole = self.highest.astype(np.float64), self.below + self.total
        rest_mean = np.maximum(self.total - highest, 0) / (self.count - 1)
        rest_median, spread = self._rest_median()
        median = unitmem(highest, rest_median)
        ends = [unitmem(highest, np.clip(rest_median + s, 0, highest)) for s in (-spread, spread)]
        columns = {
            "unitmem_mean": unitmem(highest, np.minimum(rest_mean, highest)),
            "unitmem_median": median,
            "median_error": np.maximum(ends[0] - median, median - ends[1]),
            "max": highest,
            "second": self.second.astype(np.float64),
            "rest_mean": rest_mean,
            "rest_median": rest_median,
            "clipped": np.divide(self.below, whole, out=np.zeros(len(highest)), where=whole > 0),
            "row": self.row,
        }
        return pd.DataFrame(columns)

    def _rest_median(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the median over all pairs but the one behind `max`, and how far off it may be, [n_units] each."""
        others = self.histogram.copy()
        fired = np.flatnonzero(self.highest > 0)
        others[fired, self._bin(self.highest)[fired]] -= 1
        reached = others.cumsum(axis=1, dtype=np.int32)
        width = np.ldexp(1 / self.bins, np.frexp(self.highest)[1])
        median, spread = np.zeros(len(width)), np.zeros(len(width))
        for place in ((self.count - 2) // 2, (self.count - 1) // 2):
            # Zeros come first; a place beyond them is that of a value in some bin.
            above = self.zeros <= place
            middle = (reached <= (place - self.zeros)[:, None]).sum(axis=1) + 0.5
            median += np.where(above, middle * width, 0.0) / 2
            spread += np.where(above, width / 2, 0.0) / 2
        return np.minimum(median, self.highest), np.where(self.highest > 0, spread, 0.0)
