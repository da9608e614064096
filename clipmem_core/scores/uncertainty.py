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
from typing import Literal

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import false_discovery_control, norm, t
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer

from clipmem_core.columns import EXTERNAL, INDEPENDENT, SCORED_GROUPS
from clipmem_core.scores.membership import Sides, labellings, side_means

# Variances
CHUNK = 65_536  # pairs at a time, to bound memory
MIN_TRENDED = 100  # pairs below which s0² is one number
KNOTS = 4
_MOST_FITTED = 1_000_000  # pairs that the trend is fitted on; of more, evenly spaced ones
_TINY = 1e-8  # of the median: smaller variances are raised to it, since logs are taken
# Shrinkage
# values that the true clipmem may have, from the lowest to the highest observed
_GRID = 80
FINEST = 240
_STEPS = 30  # of EM from equal weights: at convergence all weight would be on a few values
# pairs of similar error that share a distribution, and the number of such strata
STRATUM = 250
MAX_STRATA = 4
_MIN_PAIRS = 50  # below, no distribution is fitted
FITTED_ON = 2_000  # pairs of a stratum at most, drawn at random
_RESAMPLED = 40
SHRUNK_CHUNK = 16_384
_SIZE = "size"
_SHARE = "share"
LOW = "low"
HIGH = "high"


@dataclass(frozen=True)
class Prior:
    """The prior of a pair's variance: `scale` (s0²), [n_pairs], with `degrees` (d0) of freedom."""

    scale: np.ndarray
    degrees: float


@dataclass(frozen=True, eq=False)
class Design:
    """How the error of clipmem is estimated from the members."""

    blocks: list[
        np.ndarray
    ]  # members that belong together, balanced over pairs; else one block of all members
    # differences are first computed inside a block, so that shared effects of a repeat cancel
    blocked: bool
    within: bool  # members of one side of a block also contribute to the variance
    degrees: int  # of freedom of a pair's own variance, 0 where it cannot be estimated


def design(inside: np.ndarray, blocks: Sequence[np.ndarray]) -> Design:
    """Choose how to estimate the error of clipmem.

    Where every pair has as many members in, and out, of each repeat or seed as any other (as every
    membership that is drawn here), clipmem is the mean over repeats of in minus out, and its error
    is that of these differences. With as many in as out, members of one side of a repeat estimate
    the same variance, with more degrees of freedom. For any other membership: two samples of
    independent members.

    Args: `blocks` are the positions of the members of each repeat or seed.
    """
    n_members = len(inside)
    counts = np.stack([inside[rows].sum(axis=0) for rows in blocks])  # [n_blocks, n_pairs]
    n_in = int(counts[0, 0])
    sizes = {len(rows) for rows in blocks}
    if (counts == n_in).all() and len(sizes) == 1 and 0 < n_in < len(blocks[0]):
        within = 2 * n_in == len(blocks[0])
        degrees = len(blocks) - 1 + (len(blocks) * (2 * n_in - 2) if within else 0)
        return Design(list(blocks), True, within, degrees)
    in_all = inside.sum(axis=0)
    enough = min(in_all.min(), n_members - in_all.max()) >= 2
    return Design([np.arange(n_members)], False, True, n_members - 2 if enough else 0)


def error_variances(
    alignments: Sequence[np.ndarray], inside: np.ndarray, plan: Design
) -> np.ndarray:
    """Estimate the variance of each pair's clipmem from its own members, in squared cosine units,
    [n_pairs]: from the squares of the differences between blocks, and within the sides of
    blocks."""
    variance = np.empty(inside.shape[1])
    for chunk in (slice(start, start + CHUNK) for start in range(0, len(variance), CHUNK)):
        values = np.stack(
            [np.asarray(alignment[chunk], dtype=np.float64) for alignment in alignments]
        )
        differences = []
        squares = np.zeros(values.shape[1])
        for rows in plan.blocks:
            block = values[rows]
            is_in = inside[rows, chunk]
            n_in = is_in.sum(axis=0)
            n_out = len(rows) - n_in
            mean_in = (block * is_in).sum(axis=0) / n_in
            mean_out = (block * ~is_in).sum(axis=0) / n_out
            differences.append(mean_in - mean_out)
            if plan.within:
                squares += ((block - np.where(is_in, mean_in, mean_out)) ** 2).sum(axis=0)
        if not plan.within:
            variance[chunk] = np.var(differences, axis=0, ddof=1) / len(differences)
            continue
        per_member = (
            1 / n_in + 1 / n_out
        )  # variance of a block's difference, in units of a member's
        if plan.blocked:
            squares += len(differences) * np.var(differences, axis=0) / per_member
        variance[chunk] = squares / plan.degrees * per_member / len(plan.blocks)
    return variance


def fit_prior(variance: np.ndarray, degrees: int, covariate: np.ndarray) -> Prior:
    """Fit the prior of many variances by the moments of their logs (Smyth 2004, section 6.2).

    s0² follows a trend over the covariate, a cubic spline, from 100 pairs on; d0 is infinite where
    the logs vary no more than samples of one variance do.

    Args: sample variances [n_pairs], the degrees of freedom of each, at least 1, and the covariate
    [n_pairs].
    """
    floor = _TINY * np.median(variance)
    if floor <= 0:  # most pairs do not vary at all
        return Prior(np.full(len(variance), float(variance.mean())), 0.0)
    logs = np.log(np.maximum(variance, floor)) - digamma(degrees / 2) + np.log(degrees / 2)
    fitted = np.full(len(logs), logs.mean())
    rank = 1
    if len(logs) >= MIN_TRENDED and np.ptp(covariate) > 0:
        steps = make_pipeline(
            SplineTransformer(n_knots=KNOTS, knots="quantile"), LinearRegression()
        )
        some = slice(None, None, -(-len(logs) // _MOST_FITTED))
        steps.fit(covariate[some, None], logs[some])
        parts = np.split(covariate[:, None], range(_MOST_FITTED, len(logs), _MOST_FITTED))
        fitted = np.concatenate([steps.predict(part) for part in parts])
        rank = KNOTS + 2
    beyond = ((logs - fitted) ** 2).sum() / max(len(logs) - rank, 1) - float(
        polygamma(1, degrees / 2)
    )
    if beyond <= 0:
        return Prior(np.exp(fitted), np.inf)
    ends = (
        min(1e-3, beyond**-0.5 / 10),
        1 + 1 / beyond,
    )  # trigamma(x) > 1/x² near 0, and < 1/x + 1/x²
    d0 = 2 * float(brentq(lambda x: float(polygamma(1, x)) - beyond, *ends))
    return Prior(np.exp(fitted + digamma(d0 / 2) - np.log(d0 / 2)), d0)


def moderate(variance: np.ndarray, degrees: int, prior: Prior) -> np.ndarray:
    """Return the mean of each variance's posterior, of `degrees + prior.degrees` degrees of
    freedom, [n_pairs]."""
    if np.isinf(prior.degrees):
        return prior.scale.copy()
    return (prior.degrees * prior.scale + degrees * variance) / (prior.degrees + degrees)


@dataclass(frozen=True, eq=False)
class Errors:
    """The error of each pair's clipmem."""

    variance: np.ndarray  # of clipmem, in squared cosine units, [n_pairs]
    degrees: np.ndarray  # of freedom of this variance, [n_pairs]
    kind: Literal["moderated", "sd of external"]
    plan: Design | None = None  # how the variance of external pairs is estimated from members
    external: Prior | None = None  # of the variance of external pairs

    @property
    def se(self) -> np.ndarray:
        """Standard errors, [n_pairs], widened by the quantile of Student's t: clipmem ± 1.96 se
        covers 95 %."""
        return np.sqrt(self.variance) * t.ppf(0.975, self.degrees) / float(norm.ppf(0.975))


def standard_errors(alignments: Sequence[np.ndarray], sides: Sides) -> Errors:
    """Estimate the error of each pair's clipmem.

    `moderated`: a pair's own variance (see `design`), pooled with that of pairs of its group that
    align alike. Where members cannot estimate it (one seed; one repeat of folds), `sd of external`:
    one number for all, the standard deviation of the clipmem of external pairs.
    """
    group = sides.membership.group
    inside = sides.inside
    plans = {name: design(inside[:, group == name], sides.replicates) for name in np.unique(group)}
    if min(plan.degrees for plan in plans.values()) == 0:
        mean_in, mean_out = side_means(alignments, inside)
        spread = (mean_in - mean_out)[sides.external].var(ddof=1)
        return Errors(np.full(len(group), spread), np.full(len(group), np.inf), "sd of external")
    level = sum(alignments, np.zeros(len(group))) / len(alignments)  # mean over all members
    variance = np.empty(len(group))
    degrees = np.empty(len(group))
    priors = {}
    for name, plan in plans.items():
        rows = np.flatnonzero(group == name)
        sample_variance = error_variances(
            [np.asarray(values)[rows] for values in alignments], inside[:, rows], plan
        )
        priors[name] = fit_prior(sample_variance, plan.degrees, level[rows])
        variance[rows] = moderate(sample_variance, plan.degrees, priors[name])
        degrees[rows] = plan.degrees + priors[name].degrees
    return Errors(variance, degrees, "moderated", plans.get(EXTERNAL), priors.get(EXTERNAL))


def in_errors(clipmem: np.ndarray, variance: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Return clipmem in units of its error, [n_pairs]: the normal quantile of the same p, for any
    degrees of freedom.

    Example:
        >>> in_errors(np.array([0.2, -0.2, 0.4]), np.array([0.01, 0.01, 0.04]), np.array([np.inf,
        np.inf, 2])).round(2) array([ 2.  , -2.  ,  1.33])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(clipmem) / np.sqrt(variance)
    ratio[clipmem == 0] = 0.0
    if np.isinf(degrees).all():  # normal already
        return np.copysign(ratio, clipmem)
    return np.sign(clipmem) * norm.isf(t.sf(ratio, degrees))


def null_scores(alignments: Sequence[np.ndarray], sides: Sides, errors: Errors) -> np.ndarray:
    """Return clipmem of external pairs in units of its error: the distribution where nothing is
    memorized.

    Computed as `in_errors` computes it for other pairs, since external pairs may be more or less
    noisy; an offset that all pairs share, as where f is better than g, is in it too. Ensemble: of
    every external pair under all labellings that leave as many members out of each repeat as scored
    pairs have, or 256 drawn for each pair if there are more; [n_labellings × n_external].
    """
    rows = np.flatnonzero(sides.external)
    external = [np.asarray(values)[rows].astype(np.float64) for values in alignments]
    variance = errors.variance[rows]
    degrees = errors.degrees[rows]
    prior = errors.external
    if (
        prior is not None
    ):  # the prior covers the whole group, with the pairs that only utility is measured on
        prior = Prior(
            prior.scale[sides.external[sides.membership.group == EXTERNAL]], prior.degrees
        )
    scores = []
    for inside in _null_sides(sides, rows):
        mean_in, mean_out = side_means(external, inside)
        if prior is not None and errors.plan is not None and sides.protocol == "ensemble":
            sample_variance = error_variances(external, inside, errors.plan)
            variance = moderate(sample_variance, errors.plan.degrees, prior)
        scores.append(in_errors(mean_in - mean_out, variance, degrees))
    return np.concatenate(scores)


def _null_sides(sides: Sides, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield which members count as in for external pairs, one labelling after the other,
    [n_members, n_external]."""
    if sides.protocol == "paper":
        yield sides.inside[:, rows]
        return
    for label in labellings(sides, len(rows)):
        inside = np.ones((len(sides.inside), len(rows)), dtype=bool)
        np.put_along_axis(inside, label, False, axis=0)
        yield inside


def p_values(score: np.ndarray, null: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Compute one-sided p values, p = (1 + #{null ≥ s}) / (1 + #null) with s = clipmem in units of
    its error.

    Independent pairs are expected to be negative: s = −clipmem, against the negated null. In (0,
    1]; small p: memorized more than external pairs, which cannot be.

    Args: `score` and `null` from `in_errors` and `null_scores`; p is NaN where the score is. Group
    names, [n_pairs].
    """
    p = np.empty(len(score))
    for rows, sign in ((group == INDEPENDENT, -1), (group != INDEPENDENT, 1)):
        at_least = len(null) - np.searchsorted(
            np.sort(sign * null), sign * score[rows], side="left"
        )
        p[rows] = (1 + at_least) / (1 + len(null))
    return np.where(np.isnan(score), np.nan, p)


def q_values(p: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Adjust p values for multiple testing: Benjamini–Hochberg within candidate, independent and
    scored each.

    In (0, 1], [n_pairs]; NaN in other groups and where p is.
    """
    q = np.full(len(p), np.nan)
    for name in SCORED_GROUPS:
        rows = (group == name) & ~np.isnan(p)
        if rows.any():
            q[rows] = false_discovery_control(p[rows])
    return q


@dataclass(frozen=True, eq=False)
class Noise:
    """The error distribution of observed values: Student's t with `degrees` of freedom times
    `error`, [n_pairs]."""

    error: np.ndarray
    degrees: float

    @classmethod
    def of(cls, errors: Errors, rows: np.ndarray) -> "Noise":
        """Return the noise of pairs of one group."""
        return cls(np.sqrt(errors.variance[rows]), float(errors.degrees[rows[0]]))

    def likelihood(self, clipmem: np.ndarray, grid: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the likelihood of some pairs' clipmem by true value, up to a factor a pair,
        [n_rows, n_grid].

        Errors below the grid's step count as the step.
        """
        error = np.maximum(self.error[rows, None], grid[1] - grid[0])
        off = ((clipmem[rows, None] - grid) / error) ** 2
        if np.isinf(self.degrees):
            return np.exp(-off / 2)
        return np.exp(-(self.degrees + 1) / 2 * np.log1p(off / self.degrees))


def shrunk(clipmem: np.ndarray, noise: Noise, *, seed: int) -> np.ndarray:
    """Return the clipmem to expect of each pair under other members, in its units: the mean of its
    posterior.

    The distribution of true values is the nonparametric maximum-likelihood estimate of Kiefer and
    Wolfowitz (Annals of Mathematical Statistics 27, 1956), weights on a grid, by the EM algorithm
    as in Jiang and Zhang (Annals of Statistics 37, 2009). A normal distribution fits badly: most
    pairs lie near 0 and a few far above. Pairs of similar error have a distribution of their own,
    since memorized pairs are noisier.

    Args: clipmem of pairs of one group, [n_pairs] (all NaN where there are fewer than 50, or one
    value), and its noise.
    """
    expected = np.full(len(clipmem), np.nan)
    if not _enough(clipmem):
        return expected
    grid = _grid(clipmem, noise)
    for rows in _strata(noise.error):
        some = _some(rows, seed)
        weights = _weights(noise.likelihood(clipmem, grid, some), np.ones((1, len(some))))[0]
        for start in range(0, len(rows), SHRUNK_CHUNK):
            chunk = rows[start : start + SHRUNK_CHUNK]
            posterior = weights * noise.likelihood(clipmem, grid, chunk)
            expected[chunk] = posterior @ grid / posterior.sum(axis=1)
    return expected


def shrunk_by_group(
    clipmem: np.ndarray, errors: Errors, group: np.ndarray, *, seed: int
) -> np.ndarray:
    """Return `shrunk` clipmem of each group; NaN outside candidate, independent and scored,
    [n_pairs]."""
    expected = np.full(len(clipmem), np.nan)
    for name in SCORED_GROUPS:
        rows = np.flatnonzero((group == name) & np.isfinite(clipmem))
        if len(rows):
            expected[rows] = shrunk(clipmem[rows], Noise.of(errors, rows), seed=seed)
    return expected


def share_above(clipmem: np.ndarray, noise: Noise, sizes: np.ndarray, *, seed: int) -> pd.DataFrame:
    """Estimate the share of pairs whose true clipmem exceeds a size, corrected for noise, with a 95
    % interval.

    The interval is a bootstrap over pairs, with distributions fitted anew each time. Below three
    times the noise a share depends on the model of the noise, which the interval does not cover.

    Args: clipmem of pairs of one group, [n_pairs], their errors, and sizes in cosine units.
    Returns: size, share, low, high, one row a size; no row where there are fewer than 50 pairs.
    """
    if not _enough(clipmem):
        return pd.DataFrame(columns=[_SIZE, _SHARE, LOW, HIGH], dtype=float)
    grid = _grid(clipmem, noise)
    rng = np.random.default_rng(seed)
    step = grid[1] - grid[0]
    beyond = np.clip(
        (grid[:, None] - sizes) / step + 0.5, 0, 1
    )  # of the piece around each value, [n_grid, n_sizes]
    share = np.zeros(len(sizes))
    resampled = np.zeros((_RESAMPLED, len(sizes)))
    for rows in _strata(noise.error):
        part = len(rows) / len(clipmem)
        some = _some(rows, seed)
        likelihood = noise.likelihood(clipmem, grid, some)
        share += part * (_weights(likelihood, np.ones((1, len(some)))) @ beyond)[0]
        counts = rng.multinomial(len(some), np.full(len(some), 1 / len(some)), size=_RESAMPLED)
        resampled += part * (_weights(likelihood, counts) @ beyond)
    half = t.ppf(0.975, _RESAMPLED - 1) * resampled.std(axis=0, ddof=1)
    low, high = np.clip([share - half, share + half], 0, 1)
    return pd.DataFrame({_SIZE: sizes, _SHARE: share, LOW: low, HIGH: high})


def _enough(clipmem: np.ndarray) -> bool:
    return len(clipmem) >= _MIN_PAIRS and bool(np.ptp(clipmem) > 0)


def _grid(clipmem: np.ndarray, noise: Noise) -> np.ndarray:
    """Return the values that true clipmem may have, [n_grid]; about two a typical error."""
    error = max(float(np.median(noise.error)), float(np.ptp(clipmem)) / FINEST)
    return np.linspace(
        clipmem.min(), clipmem.max(), int(np.clip(2 * np.ptp(clipmem) / error, _GRID, FINEST))
    )


def _strata(error: np.ndarray) -> list[np.ndarray]:
    """Return the rows of pairs of similar error, in strata of equal size."""
    count = int(np.clip(len(error) // STRATUM, 1, MAX_STRATA)) if np.ptp(error) > 0 else 1
    return np.array_split(np.argsort(error, kind="stable"), count)


def _some(rows: np.ndarray, seed: int) -> np.ndarray:
    if len(rows) <= FITTED_ON:
        return rows
    return np.random.default_rng(seed).choice(rows, FITTED_ON, replace=False)


def _weights(likelihood: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the weights of grid values by EM, for the counts of rows of each resample,
    [n_resamples, n_grid]."""
    weights = np.full((len(counts), likelihood.shape[1]), 1 / likelihood.shape[1])
    for _ in range(_STEPS):
        weights *= (counts / (weights @ likelihood.T)) @ likelihood
        weights /= weights.sum(axis=1, keepdims=True)
    return weights
