"""clipmem without its noise: of each pair (shrunken values), and the share of pairs beyond a size.

The pairs at the top of a list are there also because their noise was kind: their clipmem is lower under other members.
What corrects for that is the distribution of the true values, which the observed ones and their errors tell: the
nonparametric maximum-likelihood estimate of Kiefer and Wolfowitz (Annals of Mathematical Statistics 27, 1956), weights
on a grid, by the EM algorithm as Jiang and Zhang (Annals of Statistics 37, 2009) use it for shrinkage. A normal
distribution of true values, the usual choice, fits clipmem badly: most pairs lie near 0 and a few far above, and it
pulls just these down too far. Pairs of like error have a distribution of their own: what is memorized is noisier.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

GRID, FINEST = 80, 240  # values that the true clipmem may have, from the lowest to the highest observed
STEPS = 30  # of EM from equal weights: more would put all weight on a few values, as the maximum itself does
STRATUM, MAX_STRATA = 250, 4  # pairs of like error that have a distribution of their own, and how many such there are
MIN_PAIRS = 50  # below, there is no distribution to speak of
FITTED_ON = 2_000  # pairs of a stratum at most, drawn at random
RESAMPLED = 40
CHUNK = 16_384
SIZE, SHARE, LOW, HIGH = "size", "share", "low", "high"


@dataclass(frozen=True, eq=False)
class Noise:
    """How far observed values may be off: Student's t with `degrees` of freedom times `error`, [n_pairs]."""

    error: np.ndarray
    degrees: float

    def likelihood(self, clipmem: np.ndarray, grid: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return how likely some pairs' clipmem is with each true value, up to a factor a pair, [n_rows, n_grid].

        Errors below the grid's step count as the step.
        """
        error = np.maximum(self.error[rows, None], grid[1] - grid[0])
        off = ((clipmem[rows, None] - grid) / error) ** 2
        if np.isinf(self.degrees):
            return np.exp(-off / 2)
        return np.exp(-(self.degrees + 1) / 2 * np.log1p(off / self.degrees))


def shrunk(clipmem: np.ndarray, noise: Noise, *, seed: int) -> np.ndarray:
    """Return what clipmem to expect of each pair under other members, in its units: the mean of its posterior.

    Args:
        clipmem: of pairs of one group, [n_pairs].
        noise: the errors of these.
        seed: of the draw of pairs that distributions are fitted on where there are many.

    Returns:
        [n_pairs]; NaN where there are fewer than 50 pairs, or all have one value.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> true = np.where(np.arange(2_000) < 200, 1.0, 0.0)
        >>> seen = true + 0.5 * rng.normal(size=2_000)
        >>> top = np.argsort(-seen)[:50]
        >>> expected = shrunk(seen, Noise(np.full(2_000, 0.5), np.inf), seed=0)[top].mean()
        >>> print(f"true {true[top].mean():.1f}, seen {seen[top].mean():.1f}, expected {expected:.1f}")
        true 0.9, seen 1.6, expected 0.8
    """
    found = np.full(len(clipmem), np.nan)
    if not _enough(clipmem):
        return found
    grid = _grid(clipmem, noise)
    for rows in _strata(noise.error):
        some = _some(rows, seed)
        weights = _weights(noise.likelihood(clipmem, grid, some), np.ones((1, len(some))))[0]
        for chunk in _chunks(rows):
            posterior = weights * noise.likelihood(clipmem, grid, chunk)
            found[chunk] = posterior @ grid / posterior.sum(axis=1)
    return found


def share_above(
    clipmem: np.ndarray, noise: Noise, sizes: np.ndarray, *, seed: int, level: float = 0.95
) -> pd.DataFrame:
    """Estimate the share of pairs whose true clipmem exceeds a size, corrected for noise, with an interval.

    A share that does not grow with the number of members, unlike that of pairs with a small q. The interval is a
    bootstrap over pairs, distributions fitted anew each time.

    Args:
        clipmem: of pairs of one group, [n_pairs].
        noise: the errors of these.
        sizes: in cosine units. Below three times the noise a share depends on how the noise is taken off: the interval
            does not cover that.
        seed: of the resamples.
        level: coverage of the interval.

    Returns:
        size, share, low, high, one row a size; no row where there are fewer than 50 pairs.
    """
    if not _enough(clipmem):
        return pd.DataFrame(columns=[SIZE, SHARE, LOW, HIGH], dtype=float)
    grid, rng = _grid(clipmem, noise), np.random.default_rng(seed)
    step = grid[1] - grid[0]
    beyond = np.clip((grid[:, None] - sizes) / step + 0.5, 0, 1)  # of the piece around each value, [n_grid, n_sizes]
    share, resampled = np.zeros(len(sizes)), np.zeros((RESAMPLED, len(sizes)))
    for rows in _strata(noise.error):
        part, some = len(rows) / len(clipmem), _some(rows, seed)
        likelihood = noise.likelihood(clipmem, grid, some)
        share += part * (_weights(likelihood, np.ones((1, len(some)))) @ beyond)[0]
        counts = rng.multinomial(len(some), np.full(len(some), 1 / len(some)), size=RESAMPLED)
        resampled += part * (_weights(likelihood, counts) @ beyond)
    half = t.ppf((1 + level) / 2, RESAMPLED - 1) * resampled.std(axis=0, ddof=1)
    low, high = np.clip([share - half, share + half], 0, 1)
    return pd.DataFrame({SIZE: sizes, SHARE: share, LOW: low, HIGH: high})


def _enough(clipmem: np.ndarray) -> bool:
    return len(clipmem) >= MIN_PAIRS and bool(np.ptp(clipmem) > 0)


def _grid(clipmem: np.ndarray, noise: Noise) -> np.ndarray:
    """Return the values, [n_grid]; two a typical error where there is room for as many."""
    error = max(float(np.median(noise.error)), float(np.ptp(clipmem)) / FINEST)
    return np.linspace(clipmem.min(), clipmem.max(), int(np.clip(2 * np.ptp(clipmem) / error, GRID, FINEST)))


def _strata(error: np.ndarray) -> list[np.ndarray]:
    """Return the rows of pairs of like error, few strata of as many pairs each."""
    count = int(np.clip(len(error) // STRATUM, 1, MAX_STRATA)) if np.ptp(error) > 0 else 1
    return np.array_split(np.argsort(error, kind="stable"), count)


def _some(rows: np.ndarray, seed: int) -> np.ndarray:
    if len(rows) <= FITTED_ON:
        return rows
    return np.random.default_rng(seed).choice(rows, FITTED_ON, replace=False)


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _weights(likelihood: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the weights of values by EM, for each resample that has each row so many times, [n_resamples, n_grid]."""
    weights = np.full((len(counts), likelihood.shape[1]), 1 / likelihood.shape[1])
    for _ in range(STEPS):
        weights *= (counts / (weights @ likelihood.T)) @ likelihood
        weights /= weights.sum(axis=1, keepdims=True)
    return weights
