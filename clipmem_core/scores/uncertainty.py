"""The error of clipmem, p and q values, and clipmem corrected for its noise.

A pair has few members, so its own variance says little: from four members it has one or two degrees
of freedom. It is pooled with that of similar pairs (moderated; Smyth, Statistical Applications in
Genetics and Molecular Biology 3, 2004; the R package limma): true variances are draws from a scaled
inverse chi-square distribution, s0² d0 / χ²(d0), and each pair gets the mean of its posterior,

    (d0 s0² + d s²) / (d0 + d), with d0 + d degrees of freedom.

s0² follows a trend over the pair's mean alignment, as limma's `trend=TRUE`. Scored and held-out
pairs have priors of their own. Alignments are one array a member, [n_pairs] each; `inside` is true
where the member is in, [n_members, n_pairs].

q says whether training has any effect on a pair, not how large it is: with more members smaller
effects are detected. The share of pairs above a size (`share_above`) does not grow with the number
of members.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import false_discovery_control, norm, t
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer

from clipmem_core.scores.membership import InOut, in_minus_out, in_out_means, labellings
from clipmem_core.utils import draws
from clipmem_core.utils.columns import INDEPENDENT, SCORED_GROUPS

# None of these is tuned on a data set
_MIN_TRENDED = 100  # pairs below which s0² is one number
_KNOTS = 4  # limma's trend has four degrees of freedom
_TINY = 1e-8  # of the median: smaller variances are raised to it, since logs are taken
# Values that the true clipmem may have, from the lowest to the highest observed: at least, at most
_COARSE_GRID = 80
_FINE_GRID = 240
_STEPS = 30  # of EM from equal weights: at convergence all weight would be on a few values
# Pairs of similar error that share a distribution, and the number of such strata
_STRATUM = 250
_MAX_STRATA = 4
_MIN_PAIRS = 50  # below, no distribution is fitted
_FITTED_ON = 2_000  # pairs of a stratum at most, drawn at random; they bound the time
_RESAMPLED = 40  # for a t interval with 39 degrees of freedom
_CHUNK = 16_384  # pairs in memory at a time
_INFINITE = 1e9  # degrees of freedom


def degrees_of_freedom(inside: np.ndarray, blocks: Sequence[np.ndarray]) -> int:
    """Return the degrees of freedom of the variance of clipmem that a pair's own members show; 0
    where they cannot show it.

    Every pair has as many members in, and out, of each replicate or seed as any other. So clipmem
    is the mean over replicates of d = mean in − mean out, and its variance is the sample variance
    of d over the number of replicates. With as many members in as out, it is pooled with the
    variance of the members that are in, and of those that are out, in each replicate, an estimate
    of the same quantity: together they have more degrees of freedom.

    Args:
        inside: true where the member is in, [n_members, n_pairs].
        blocks: positions of the members of each replicate or seed.
    """
    size = len(blocks[0])
    is_balanced = 2 * np.count_nonzero(inside[blocks[0], 0]) == size
    return len(blocks) - 1 + is_balanced * len(blocks) * (size - 2)


def error_variances(
    alignments: Sequence[np.ndarray], inside: np.ndarray, blocks: Sequence[np.ndarray], degrees: int
) -> np.ndarray:
    """Estimate the variance of each pair's clipmem from its own members: from the squares of the
    differences between blocks, and of the deviations of members within a block.

    Args:
        alignments: one array a member, [n_pairs] each.
        inside: true where the member is in, [n_members, n_pairs].
        blocks: positions of the members of each replicate or seed, balanced over pairs. Differences
            are first computed inside a block, so that shared effects of a replicate cancel.
        degrees: of freedom, as `degrees_of_freedom` returns them, at least one.

    Returns:
        float64 [n_pairs], in squared cosine units.
    """
    differences = []
    squares = np.zeros(inside.shape[1])
    for rows in blocks:
        is_in = inside[rows]
        block = np.stack([alignments[row] for row in rows]).astype(np.float64)
        mean_in, mean_out = in_out_means(list(block), is_in)
        differences.append(mean_in - mean_out)
        if degrees >= len(blocks):
            squares += ((block - np.where(is_in, mean_in, mean_out)) ** 2).sum(axis=0)
    n_in = is_in.sum(axis=0)
    # Variance of a block's difference, in units of a member's
    per_member = 1 / n_in + 1 / (len(is_in) - n_in)
    squares += len(differences) * np.var(differences, axis=0) / per_member
    return squares / degrees * per_member / len(differences)


def fit_prior(
    variance: np.ndarray, degrees: int, covariate: np.ndarray
) -> tuple[np.ndarray, float]:
    """Fit the prior of many variances by the moments of their logs (Smyth 2004, section 6.2).

    s0² follows a trend over the covariate, a cubic spline, from 100 pairs on; d0 is 10⁹, nearly
    infinite, where the logs vary no more than samples of one variance do.

    Args:
        variance: sample variances, [n_pairs].
        degrees: of freedom of each, at least 1.
        covariate: [n_pairs].

    Returns:
        s0² of each pair, and d0.
    """
    floor = max(_TINY * np.median(variance), np.finfo(float).tiny)
    logs = np.log(np.maximum(variance, floor)) - digamma(degrees / 2) + np.log(degrees / 2)
    fitted = np.full(len(logs), logs.mean())
    rank = 1
    if len(logs) >= _MIN_TRENDED:
        spline = SplineTransformer(n_knots=_KNOTS, knots="quantile")
        trend = make_pipeline(spline, LinearRegression()).fit(covariate[:, None], logs)
        fitted = trend.predict(covariate[:, None])
        rank = _KNOTS + 2
    residual_variance = ((logs - fitted) ** 2).sum() / (len(logs) - rank)
    beyond = residual_variance - polygamma(1, degrees / 2)
    if beyond <= 0:
        return np.exp(fitted), _INFINITE
    # trigamma(x) > 1/x² near 0, and < 1/x + 1/x²
    ends = min(1e-3, beyond**-0.5 / 10), 1 + 1 / beyond
    d0 = min(2 * brentq(lambda x: polygamma(1, x) - beyond, *ends), _INFINITE)
    return np.exp(fitted + digamma(d0 / 2) - np.log(d0 / 2)), d0


def moderate(variance: np.ndarray, degrees: int, scale: np.ndarray, d0: float) -> np.ndarray:
    """Return the mean of each variance's posterior, (d0 s0² + d s²) / (d0 + d).

    Args:
        variance: sample variances s², [n_pairs].
        degrees: d, of freedom of each.
        scale, d0: of the prior, as `fit_prior` returns them.

    Returns:
        [n_pairs], of d0 + d degrees of freedom.
    """
    return (d0 * scale + degrees * variance) / (d0 + degrees)


@dataclass(frozen=True)
class Errors:
    """The error of each pair's clipmem."""

    variance: np.ndarray  # of clipmem, in squared cosine units, [n_pairs]
    degrees: np.ndarray  # of freedom of this variance, [n_pairs]
    prior_scale: np.ndarray  # s0², [n_pairs]
    own_degrees: int  # of freedom of the variance that a pair's own members show; 0: they do not

    @property
    def kind(self) -> str:
        """How the error is estimated, see `standard_errors`."""
        return "moderated" if self.own_degrees else "sd of held-out"

    @property
    def se(self) -> np.ndarray:
        """Standard errors, [n_pairs], widened by the quantile of Student's t: clipmem ± 1.96 se
        covers 95 %."""
        return np.sqrt(self.variance) * t.ppf(0.975, self.degrees) / norm.ppf(0.975)

    def likelihood(self, clipmem: np.ndarray, grid: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the likelihood of some pairs' clipmem by true value, up to a factor a pair:
        Student's t. Errors below the grid's step count as the step.

        Args:
            clipmem: [n_pairs].
            grid: true values, [n_grid].
            rows: of the pairs, [n].

        Returns:
            [n, n_grid].
        """
        error = np.maximum(np.sqrt(self.variance[rows, None]), grid[1] - grid[0])
        degrees = self.degrees[rows, None]
        off = ((clipmem[rows, None] - grid) / error) ** 2
        return np.exp(-(degrees + 1) / 2 * np.log1p(off / degrees))


def standard_errors(alignments: Sequence[np.ndarray], in_out: InOut) -> Errors:
    """Estimate the error of each pair's clipmem.

    `moderated`: a pair's own variance (see `degrees_of_freedom`), pooled with that of pairs of its
    group with a similar alignment. Where members cannot estimate it (one seed; one replicate of
    folds), `sd of held-out`: one number for all, the standard deviation of the clipmem of held-out
    pairs.

    Args:
        alignments: one array a member, [n_pairs] each.
        in_out: which members count as in and out.

    Returns:
        The variance of each pair's clipmem, its degrees of freedom, and how it was estimated.
    """
    group = in_out.membership.group
    inside = in_out.inside
    blocks = in_out.replicates
    own_degrees = degrees_of_freedom(inside, blocks)
    if own_degrees == 0:
        spread = in_minus_out(alignments, inside)[in_out.held_out].var(ddof=1)
        variance = np.full(len(group), spread)
        return Errors(variance, np.full(len(group), _INFINITE), variance, 0)
    level = sum(alignments, np.zeros(len(group))) / len(alignments)  # mean over all members
    variance, degrees, prior_scale = np.empty((3, len(group)))
    for name in np.unique(group):
        rows = np.flatnonzero(group == name)
        of_group = [values[rows] for values in alignments]
        sample_variance = error_variances(of_group, inside[:, rows], blocks, own_degrees)
        scale, d0 = fit_prior(sample_variance, own_degrees, level[rows])
        variance[rows] = moderate(sample_variance, own_degrees, scale, d0)
        degrees[rows] = own_degrees + d0
        prior_scale[rows] = scale
    return Errors(variance, degrees, prior_scale, own_degrees)


def in_errors(clipmem: np.ndarray, variance: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Return clipmem in units of its error, [n_pairs]: the normal quantile of the same p, for any
    degrees of freedom.

    Args:
        clipmem, variance, degrees: of each pair, its error's variance and the degrees of freedom
            of that, [n_pairs].

    Example:
        >>> variance, degrees = np.array([0.01, 0.01, 0.04]), np.array([np.inf, np.inf, 2])
        >>> in_errors(np.array([0.2, -0.2, 0.4]), variance, degrees).round(2)
        array([ 2.  , -2.  ,  1.33])
    """
    ratio = np.abs(clipmem) / np.sqrt(variance)
    return np.sign(clipmem) * norm.isf(t.sf(ratio, degrees))


def null_scores(alignments: Sequence[np.ndarray], in_out: InOut, errors: Errors) -> np.ndarray:
    """Return clipmem of held-out pairs in units of its error: the distribution where nothing is
    memorized.

    Computed as `in_errors` computes it for other pairs, since held-out pairs may be more or less
    noisy; an offset that all pairs share, as where f is better than g, is in it too. Ensemble: of
    every held-out pair under all labellings that leave as many members out of each replicate as
    scored pairs have, or 256 drawn for each pair if there are more.

    Args:
        alignments: one array a member, [n_pairs] each.
        in_out: which members count as in and out.
        errors: as `standard_errors` returns them.

    Returns:
        [n_labellings × n_held_out].
    """
    rows = np.flatnonzero(in_out.held_out)
    held_out = [values[rows].astype(np.float64) for values in alignments]
    variance = errors.variance[rows]
    degrees = errors.degrees[rows]
    own_degrees = errors.own_degrees
    scores = []
    for inside in labellings(in_out, rows):
        clipmem = in_minus_out(held_out, inside)
        if own_degrees and in_out.protocol == "ensemble":
            sample_variance = error_variances(held_out, inside, in_out.replicates, own_degrees)
            d0 = degrees[0] - own_degrees
            variance = moderate(sample_variance, own_degrees, errors.prior_scale[rows], d0)
        scores.append(in_errors(clipmem, variance, degrees))
    return np.concatenate(scores)


def p_values(score: np.ndarray, null: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Compute one-sided p values, p = (1 + #{null ≥ s}) / (1 + #null) with s = clipmem in units of
    its error.

    Independent pairs are expected to be negative: s = −clipmem, against the negated null. In (0,
    1]; small p: memorized more than held-out pairs, which cannot be.

    Args:
        score: of `in_errors`, [n_pairs]; p is NaN where it is.
        null: of `null_scores`, [n_null].
        group: names of groups, [n_pairs].

    Returns:
        [n_pairs].
    """
    null = np.sort(null)
    at_least = len(null) - np.searchsorted(null, score)
    at_most = np.searchsorted(null, score, side="right")
    p = (1 + np.where(group == INDEPENDENT, at_most, at_least)) / (1 + len(null))
    return np.where(np.isnan(score), np.nan, p)


def q_values(p: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Adjust p values for multiple testing: Benjamini–Hochberg within candidate, independent and
    scored each.

    Args: p values and names of groups, [n_pairs] each.
    Returns: [n_pairs], in (0, 1]; NaN in other groups and where p is.
    """
    q = np.full(len(p), np.nan)
    for name in SCORED_GROUPS:
        rows = (group == name) & ~np.isnan(p)
        if rows.any():
            q[rows] = false_discovery_control(p[rows])
    return q


def shrunk_by_group(
    clipmem: np.ndarray, errors: Errors, group: np.ndarray, *, seed: int
) -> np.ndarray:
    """Return the clipmem to expect of each pair under other members, in its units: the mean of its
    posterior.

    The distribution of true values in a group is the nonparametric maximum-likelihood estimate of
    Kiefer and Wolfowitz (Annals of Mathematical Statistics 27, 1956), weights on a grid, by the EM
    algorithm as in Jiang and Zhang (Annals of Statistics 37, 2009). A normal distribution fits
    badly: most pairs lie near 0 and a few far above. Pairs of similar error have a distribution of
    their own, since memorized pairs are noisier.

    Args:
        clipmem: [n_pairs].
        errors: of all pairs.
        group: names of groups, [n_pairs].
        seed: of the pairs that are fitted on.

    Returns:
        [n_pairs]; NaN outside candidate, independent and scored, and in a group of fewer than 50
        pairs.
    """
    expected = np.full(len(clipmem), np.nan)
    for name in SCORED_GROUPS:
        of_group = np.flatnonzero((group == name) & np.isfinite(clipmem))
        for rows, grid, likelihood in _strata(clipmem, errors, of_group, seed):
            weights = _weights(likelihood, np.ones((1, len(likelihood))))
            for chunk in np.split(rows, range(_CHUNK, len(rows), _CHUNK)):
                posterior = weights * errors.likelihood(clipmem, grid, chunk)
                expected[chunk] = posterior @ grid / posterior.sum(axis=1)
    return expected


def share_above(
    clipmem: np.ndarray, errors: Errors, of_group: np.ndarray, sizes: np.ndarray, *, seed: int
) -> pd.DataFrame:
    """Estimate the share of pairs whose true clipmem exceeds a size, corrected for noise, with a 95
    % interval.

    The interval is a bootstrap over pairs, with distributions fitted anew each time. Below three
    times the noise a share depends on the model of the noise, which the interval does not cover.

    Args:
        clipmem: [n_pairs].
        errors: of all pairs.
        of_group: rows of the pairs of one group, [n].
        sizes: in cosine units, [n_sizes].
        seed: of the resamples, and as for `shrunk_by_group`.

    Returns:
        size, share, low, high, one row a size; no row where there are fewer than 50 pairs.
    """
    strata = list(_strata(clipmem, errors, of_group, seed))
    if not strata:
        sizes = sizes[:0]
    rng = draws.rng(seed, "clipmem resamples")
    shares = np.zeros((1 + _RESAMPLED, len(sizes)))  # of all pairs, and in each resample
    for rows, grid, likelihood in strata:
        # The part of the piece around each value that is above a size, [n_grid, n_sizes]
        beyond = np.clip((grid[:, None] - sizes) / (grid[1] - grid[0]) + 0.5, 0, 1)
        n = len(likelihood)
        resampled = rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLED)
        weights = _weights(likelihood, np.vstack([np.ones(n), resampled]))
        shares += len(rows) / len(of_group) * (weights @ beyond)
    share = shares[0]
    half = t.ppf(0.975, _RESAMPLED - 1) * shares[1:].std(axis=0, ddof=1)
    low, high = np.clip([share - half, share + half], 0, 1)
    return pd.DataFrame({"size": sizes, "share": share, "low": low, "high": high})


def _strata(
    clipmem: np.ndarray, errors: Errors, of_group: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield strata of equal size of pairs of similar error: their rows, the values that true
    clipmem may have (about two a typical error), [n_grid], and the likelihood of at most 2,000
    pairs, [n, n_grid]. None where no distribution can be fitted."""
    values = clipmem[of_group]
    if len(values) < _MIN_PAIRS:
        return
    error = np.sqrt(errors.variance[of_group])
    n_grid = np.clip(2 * np.ptp(values) / np.median(error), _COARSE_GRID, _FINE_GRID)
    grid = np.linspace(values.min(), values.max(), int(n_grid))
    count = 1
    if np.ptp(error) > 0:
        count = int(np.clip(len(values) // _STRATUM, 1, _MAX_STRATA))
    for rows in np.array_split(of_group[np.argsort(error, kind="stable")], count):
        some = rows
        if len(rows) > _FITTED_ON:
            some = draws.rng(seed, "fitted pairs").choice(rows, _FITTED_ON, replace=False)
        yield rows, grid, errors.likelihood(clipmem, grid, some)


def _weights(likelihood: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the weights of grid values by EM, [n_resamples, n_grid].

    Args:
        likelihood: of pairs, [n, n_grid].
        counts: how often each pair is drawn, [n_resamples, n].
    """
    weights = np.full((len(counts), likelihood.shape[1]), 1 / likelihood.shape[1])
    for _ in range(_STEPS):
        weights *= (counts / (weights @ likelihood.T)) @ likelihood
        weights /= weights.sum(axis=1, keepdims=True)
    return weights
