"""The error of clipmem, p and q values, and clipmem corrected for its noise.

A pair has few members, so its own variance says little: from four members it has one or two degrees
of freedom. It is pooled with that of like pairs (moderated; Smyth, Statistical Applications in
Genetics and Molecular Biology 3, 2004; the R package limma): true variances are draws from a scaled
inverse chi-square distribution, s0² d0 / χ²(d0), and each pair gets the mean of its posterior,

    (d0 s0² + d s²) / (d0 + d), with d0 + d degrees of freedom.

s0² follows a trend over the pair's mean alignment, as limma's `trend=TRUE`. Scored and external
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

from clipmem_core import draws
from clipmem_core.columns import EXTERNAL, INDEPENDENT, SCORED_GROUPS
from clipmem_core.scores.membership import MemberSides, labellings, side_means

_MIN_TRENDED = 100  # pairs below which s0² is one number
_KNOTS = 4
_TINY = 1e-8  # of the median: smaller variances are raised to it, since logs are taken
# Values that the true clipmem may have, from the lowest to the highest observed: at least, at most
_COARSE_GRID = 80
_FINE_GRID = 240
_STEPS = 30  # of EM from equal weights: at convergence all weight would be on a few values
# Pairs of similar error that share a distribution, and the number of such strata
_STRATUM = 250
_MAX_STRATA = 4
_MIN_PAIRS = 50  # below, no distribution is fitted
_FITTED_ON = 2_000  # pairs of a stratum at most, drawn at random
_RESAMPLED = 40
_CHUNK = 16_384


@dataclass(frozen=True)
class Prior:
    """The prior of a pair's variance: `scale` (s0²), [n_pairs], with `degrees` (d0) of freedom."""

    scale: np.ndarray
    degrees: float


@dataclass(frozen=True, eq=False)
class Design:
    """How the error of clipmem is estimated from the members."""

    # Members that belong together, balanced over pairs; else one block of all members. Differences
    # are first computed inside a block, so that shared effects of a repeat cancel.
    blocks: list[np.ndarray]
    within: bool  # members of one side of a block also contribute to the variance
    degrees: int  # of freedom of a pair's own variance, 0 where it cannot be estimated


def design(inside: np.ndarray, blocks: Sequence[np.ndarray]) -> Design:
    """Choose how to estimate the error of clipmem.

    Where every pair has as many members in, and out, of each repeat or seed as any other (as every
    membership that is drawn here), clipmem is the mean over repeats of in minus out, and its error
    is that of these differences. With as many in as out, members of one side of a repeat estimate
    the same variance, with more degrees of freedom. For any other membership: two samples of
    independent members.

    Args:
        inside: true where the member is in, [n_members, n_pairs].
        blocks: positions of the members of each repeat or seed.

    Returns:
        The design, with 0 degrees of freedom where members cannot estimate the error.
    """
    counts = np.stack([inside[rows].sum(axis=0) for rows in blocks])  # [n_blocks, n_pairs]
    size = len(blocks[0])
    n_in = int(counts[0, 0])
    same_size = all(len(rows) == size for rows in blocks)
    if (counts == n_in).all() and same_size and 0 < n_in < size:
        within = 2 * n_in == size
        degrees = len(blocks) - 1 + (len(blocks) * (size - 2) if within else 0)
        return Design(list(blocks), within, degrees)
    n_members = len(inside)
    in_all = counts.sum(axis=0)
    enough = min(in_all.min(), n_members - in_all.max()) >= 2
    return Design([np.arange(n_members)], True, n_members - 2 if enough else 0)


def error_variances(
    alignments: Sequence[np.ndarray], inside: np.ndarray, plan: Design
) -> np.ndarray:
    """Estimate the variance of each pair's clipmem from its own members: from the squares of the
    differences between blocks, and within the sides of blocks.

    Args:
        alignments: one array a member, [n_pairs] each.
        inside: true where the member is in, [n_members, n_pairs].
        plan: as `design` returns it, with at least one degree of freedom.

    Returns:
        float64 [n_pairs], in squared cosine units.
    """
    differences = []
    squares = np.zeros(inside.shape[1])
    for rows in plan.blocks:
        is_in = inside[rows]
        block = np.stack([alignments[row] for row in rows]).astype(np.float64)
        mean_in, mean_out = side_means(list(block), is_in)
        differences.append(mean_in - mean_out)
        if plan.within:
            squares += ((block - np.where(is_in, mean_in, mean_out)) ** 2).sum(axis=0)
    n_in = is_in.sum(axis=0)
    # Variance of a block's difference, in units of a member's
    per_member = 1 / n_in + 1 / (len(is_in) - n_in)
    squares += len(differences) * np.var(differences, axis=0) / per_member
    return squares / plan.degrees * per_member / len(differences)


def fit_prior(variance: np.ndarray, degrees: int, covariate: np.ndarray) -> Prior:
    """Fit the prior of many variances by the moments of their logs (Smyth 2004, section 6.2).

    s0² follows a trend over the covariate, a cubic spline, from 100 pairs on; d0 is infinite where
    the logs vary no more than samples of one variance do.

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
    if len(logs) >= _MIN_TRENDED and np.ptp(covariate) > 0:
        spline = SplineTransformer(n_knots=_KNOTS, knots="quantile")
        trend = make_pipeline(spline, LinearRegression()).fit(covariate[:, None], logs)
        fitted = trend.predict(covariate[:, None])
        rank = _KNOTS + 2
    residual_variance = ((logs - fitted) ** 2).sum() / max(len(logs) - rank, 1)
    beyond = residual_variance - polygamma(1, degrees / 2)
    if beyond <= 0:
        return Prior(np.exp(fitted), np.inf)
    # trigamma(x) > 1/x² near 0, and < 1/x + 1/x²
    ends = min(1e-3, beyond**-0.5 / 10), 1 + 1 / beyond
    d0 = 2 * brentq(lambda x: polygamma(1, x) - beyond, *ends)
    return Prior(np.exp(fitted + digamma(d0 / 2) - np.log(d0 / 2)), d0)


def moderate(variance: np.ndarray, degrees: int, prior: Prior) -> np.ndarray:
    """Return the mean of each variance's posterior, (d0 s0² + d s²) / (d0 + d).

    Args:
        variance: sample variances s², [n_pairs].
        degrees: d, of freedom of each.
        prior: s0² and d0.

    Returns:
        [n_pairs], of d0 + d degrees of freedom.
    """
    if np.isinf(prior.degrees):
        return prior.scale.copy()
    return (prior.degrees * prior.scale + degrees * variance) / (prior.degrees + degrees)


@dataclass(frozen=True, eq=False)
class Errors:
    """The error of each pair's clipmem."""

    variance: np.ndarray  # of clipmem, in squared cosine units, [n_pairs]
    degrees: np.ndarray  # of freedom of this variance, [n_pairs]
    prior_scale: np.ndarray  # s0², [n_pairs]
    plan: Design | None  # of external pairs; None where members cannot estimate it

    @property
    def kind(self) -> str:
        """How the error is estimated, see `standard_errors`."""
        return "moderated" if self.plan else "sd of external"

    @property
    def se(self) -> np.ndarray:
        """Standard errors, [n_pairs], widened by the quantile of Student's t: clipmem ± 1.96 se
        covers 95 %."""
        return np.sqrt(self.variance) * t.ppf(0.975, self.degrees) / norm.ppf(0.975)


def standard_errors(alignments: Sequence[np.ndarray], sides: MemberSides) -> Errors:
    """Estimate the error of each pair's clipmem.

    `moderated`: a pair's own variance (see `design`), pooled with that of pairs of its group that
    align alike. Where members cannot estimate it (one seed; one repeat of folds), `sd of external`:
    one number for all, the standard deviation of the clipmem of external pairs.

    Args:
        alignments: one array a member, [n_pairs] each.
        sides: which members count as in and out.

    Returns:
        The variance of each pair's clipmem, its degrees of freedom, and how it was estimated.
    """
    group = sides.membership.group
    inside = sides.inside
    plans = {name: design(inside[:, group == name], sides.replicates) for name in np.unique(group)}
    if min(plan.degrees for plan in plans.values()) == 0:
        mean_in, mean_out = side_means(alignments, inside)
        spread = (mean_in - mean_out)[sides.external].var(ddof=1)
        variance = np.full(len(group), spread)
        return Errors(variance, np.full(len(group), np.inf), variance, None)
    level = sum(alignments, np.zeros(len(group))) / len(alignments)  # mean over all members
    variance, degrees, prior_scale = np.empty((3, len(group)))
    for name, plan in plans.items():
        rows = np.flatnonzero(group == name)
        of_group = [values[rows] for values in alignments]
        sample_variance = error_variances(of_group, inside[:, rows], plan)
        prior = fit_prior(sample_variance, plan.degrees, level[rows])
        variance[rows] = moderate(sample_variance, plan.degrees, prior)
        degrees[rows] = plan.degrees + prior.degrees
        prior_scale[rows] = prior.scale
    return Errors(variance, degrees, prior_scale, plans[EXTERNAL])


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
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(clipmem) / np.sqrt(variance)
    ratio[clipmem == 0] = 0.0
    if np.isinf(degrees).all():  # normal already
        return np.copysign(ratio, clipmem)
    return np.sign(clipmem) * norm.isf(t.sf(ratio, degrees))


def null_scores(alignments: Sequence[np.ndarray], sides: MemberSides, errors: Errors) -> np.ndarray:
    """Return clipmem of external pairs in units of its error: the distribution where nothing is
    memorized.

    Computed as `in_errors` computes it for other pairs, since external pairs may be more or less
    noisy; an offset that all pairs share, as where f is better than g, is in it too. Ensemble: of
    every external pair under all labellings that leave as many members out of each repeat as scored
    pairs have, or 256 drawn for each pair if there are more.

    Args:
        alignments: one array a member, [n_pairs] each.
        sides: which members count as in and out.
        errors: as `standard_errors` returns them.

    Returns:
        [n_labellings × n_external].
    """
    rows = np.flatnonzero(sides.external)
    external = [values[rows].astype(np.float64) for values in alignments]
    variance = errors.variance[rows]
    degrees = errors.degrees[rows]
    plan = errors.plan
    scores = []
    for inside in labellings(sides, rows):
        mean_in, mean_out = side_means(external, inside)
        if plan and sides.protocol == "ensemble":
            prior = Prior(errors.prior_scale[rows], degrees[0] - plan.degrees)
            variance = moderate(error_variances(external, inside, plan), plan.degrees, prior)
        scores.append(in_errors(mean_in - mean_out, variance, degrees))
    return np.concatenate(scores)


def p_values(score: np.ndarray, null: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Compute one-sided p values, p = (1 + #{null ≥ s}) / (1 + #null) with s = clipmem in units of
    its error.

    Independent pairs are expected to be negative: s = −clipmem, against the negated null. In (0,
    1]; small p: memorized more than external pairs, which cannot be.

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


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """The error distribution of observed values: Student's t with `degrees` of freedom times
    `error`, [n_pairs]."""

    error: np.ndarray
    degrees: float

    @classmethod
    def of(cls, errors: Errors, rows: np.ndarray) -> "NoiseModel":
        """Return the noise of pairs of one group.

        Args: errors of all pairs; the rows of these pairs, [n].
        """
        return cls(np.sqrt(errors.variance[rows]), float(errors.degrees[rows[0]]))

    def likelihood(self, clipmem: np.ndarray, grid: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the likelihood of some pairs' clipmem by true value, up to a factor a pair.

        Errors below the grid's step count as the step.

        Args:
            clipmem: [n_pairs].
            grid: true values, [n_grid].
            rows: of the pairs, [n_rows].

        Returns:
            [n_rows, n_grid].
        """
        error = np.maximum(self.error[rows, None], grid[1] - grid[0])
        off = ((clipmem[rows, None] - grid) / error) ** 2
        if np.isinf(self.degrees):
            return np.exp(-off / 2)
        return np.exp(-(self.degrees + 1) / 2 * np.log1p(off / self.degrees))


def shrunk(clipmem: np.ndarray, noise: NoiseModel, *, seed: int) -> np.ndarray:
    """Return the clipmem to expect of each pair under other members, in its units: the mean of its
    posterior.

    The distribution of true values is the nonparametric maximum-likelihood estimate of Kiefer and
    Wolfowitz (Annals of Mathematical Statistics 27, 1956), weights on a grid, by the EM algorithm
    as in Jiang and Zhang (Annals of Statistics 37, 2009). A normal distribution fits badly: most
    pairs lie near 0 and a few far above. Pairs of similar error have a distribution of their own,
    since memorized pairs are noisier.

    Args:
        clipmem: of pairs of one group, [n_pairs].
        noise: of these pairs.
        seed: of the pairs that are fitted on.

    Returns:
        [n_pairs]; all NaN with fewer than 50 pairs, or one value.
    """
    expected = np.full(len(clipmem), np.nan)
    if not _enough(clipmem):
        return expected
    grid = _grid(clipmem, noise)
    for rows, likelihood in _strata(clipmem, noise, grid, seed):
        weights = _weights(likelihood, np.ones((1, len(likelihood))))[0]
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            posterior = weights * noise.likelihood(clipmem, grid, chunk)
            expected[chunk] = posterior @ grid / posterior.sum(axis=1)
    return expected


def shrunk_by_group(
    clipmem: np.ndarray, errors: Errors, group: np.ndarray, *, seed: int
) -> np.ndarray:
    """Return `shrunk` clipmem of each group, [n_pairs]; NaN outside candidate, independent and
    scored.

    Args:
        clipmem: [n_pairs].
        errors: of all pairs.
        group: names of groups, [n_pairs].
        seed: as for `shrunk`.
    """
    expected = np.full(len(clipmem), np.nan)
    for name in SCORED_GROUPS:
        rows = np.flatnonzero((group == name) & np.isfinite(clipmem))
        if len(rows):
            expected[rows] = shrunk(clipmem[rows], NoiseModel.of(errors, rows), seed=seed)
    return expected


def share_above(
    clipmem: np.ndarray, noise: NoiseModel, sizes: np.ndarray, *, seed: int
) -> pd.DataFrame:
    """Estimate the share of pairs whose true clipmem exceeds a size, corrected for noise, with a 95
    % interval.

    The interval is a bootstrap over pairs, with distributions fitted anew each time. Below three
    times the noise a share depends on the model of the noise, which the interval does not cover.

    Args:
        clipmem: of pairs of one group, [n_pairs].
        noise: of these pairs.
        sizes: in cosine units, [n_sizes].
        seed: of the resamples, and as for `shrunk`.

    Returns:
        size, share, low, high, one row a size; no row where there are fewer than 50 pairs.
    """
    if not _enough(clipmem):
        return pd.DataFrame(columns=["size", "share", "low", "high"], dtype=float)
    grid = _grid(clipmem, noise)
    rng = draws.rng(seed, "clipmem resamples")
    # The part of the piece around each value that is above a size, [n_grid, n_sizes]
    beyond = np.clip((grid[:, None] - sizes) / (grid[1] - grid[0]) + 0.5, 0, 1)
    shares = np.zeros((1 + _RESAMPLED, len(sizes)))  # of all pairs, and in each resample
    for rows, likelihood in _strata(clipmem, noise, grid, seed):
        n = len(likelihood)
        resampled = rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLED)
        weights = _weights(likelihood, np.vstack([np.ones(n), resampled]))
        shares += len(rows) / len(clipmem) * (weights @ beyond)
    share = shares[0]
    half = t.ppf(0.975, _RESAMPLED - 1) * shares[1:].std(axis=0, ddof=1)
    low, high = np.clip([share - half, share + half], 0, 1)
    return pd.DataFrame({"size": sizes, "share": share, "low": low, "high": high})


def _enough(clipmem: np.ndarray) -> bool:
    """Return whether a distribution of true values can be fitted."""
    return len(clipmem) >= _MIN_PAIRS and bool(np.ptp(clipmem) > 0)


def _grid(clipmem: np.ndarray, noise: NoiseModel) -> np.ndarray:
    """Return the values that true clipmem may have, [n_grid]; about two a typical error."""
    error = max(np.median(noise.error), 1e-12)
    values = np.clip(2 * np.ptp(clipmem) / error, _COARSE_GRID, _FINE_GRID)
    return np.linspace(clipmem.min(), clipmem.max(), int(values))


def _strata(
    clipmem: np.ndarray, noise: NoiseModel, grid: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield strata of equal size of pairs of similar error: their rows, and the likelihood of at
    most 2,000 of them, [n, n_grid]."""
    count = 1
    if np.ptp(noise.error) > 0:
        count = int(np.clip(len(clipmem) // _STRATUM, 1, _MAX_STRATA))
    for rows in np.array_split(np.argsort(noise.error, kind="stable"), count):
        some = rows
        if len(rows) > _FITTED_ON:
            some = draws.rng(seed, "fitted pairs").choice(rows, _FITTED_ON, replace=False)
        yield rows, noise.likelihood(clipmem, grid, some)


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
