"""How far a pair's clipmem may be off: its error variance, pooled with that of like pairs (moderated).

A pair has few members, so its own variance says little: from four members it has one or two degrees of freedom. Smyth
(Statistical Applications in Genetics and Molecular Biology 3, 2004; the R package limma) takes the true variances of
many rows for draws from a scaled inverse chi-square distribution, s0² d0 / χ²(d0), estimates d0 and s0² from the logs
of the sample variances by their first two moments, and gives each row the mean of its posterior,

    (d0 s0² + d s²) / (d0 + d), with d0 + d degrees of freedom.

s0² follows a trend here, as limma's `trend=TRUE`: log variance over the pair's mean alignment, since what a pair's
alignment is says much of how it varies. Scored and external pairs have priors of their own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer

CHUNK = 65_536  # pairs at a time, so that what is in between takes little memory
MIN_TRENDED = 100  # pairs below which s0² is one number
KNOTS = 4
MOST_FITTED = 1_000_000  # pairs that the trend is fitted on; of more, evenly spaced ones
_TINY = 1e-8  # of the median: variances below, as of pairs that are the same to all members, have no log to speak of


@dataclass(frozen=True)
class Prior:
    """What like pairs say of a pair's variance: `scale` (s0²), [n_pairs], worth `degrees` (d0) of its own freedom."""

    scale: np.ndarray
    degrees: float


@dataclass(frozen=True, eq=False)
class Design:
    """How the members of an audit tell the error of clipmem.

    Attributes:
        blocks: the members that belong together, of which each pair has as many in and as many out as any other; one
            block of all of them where that is not so.
        blocked: differences are taken inside a block first, so that what the members of a repeat share falls away, or
            adds where they are as unlike as complementary folds.
        within: members of one side of a block tell something too.
        degrees: of freedom of a pair's own variance, 0 where the members say nothing of it.
    """

    blocks: list[np.ndarray]
    blocked: bool
    within: bool
    degrees: int


def design(inside: np.ndarray, blocks: Sequence[np.ndarray]) -> Design:
    """Find out how the error of clipmem is told from members that are in and out.

    Where every pair has as many members in, and out, of each repeat or seed as any other (as every membership that is
    drawn here), clipmem is the mean over repeats of in minus out, and its error is that of these differences: members
    of a repeat with complementary folds share nothing but what no member shares, and are the less alike for it. With
    as many in as out, members of one side of a repeat tell the same variance, with more degrees of freedom. Any
    other membership: two samples, members taken for independent.

    Args:
        inside: true where the member is in, [n_members, n_pairs].
        blocks: the positions of the members of each repeat or seed.

    Example:
        >>> halves = np.array([[True, False], [True, True], [False, False], [False, True]])
        >>> design(halves, [np.arange(4)]).degrees, design(halves, [np.arange(2), np.arange(2, 4)]).degrees
        (2, 2)
    """
    n_members = len(inside)
    counts = np.stack([inside[rows].sum(axis=0) for rows in blocks])  # [n_blocks, n_pairs]
    n_in, sizes = int(counts[0, 0]), {len(rows) for rows in blocks}
    if (counts == n_in).all() and len(sizes) == 1 and 0 < n_in < len(blocks[0]):
        within = 2 * n_in == len(blocks[0])
        degrees = len(blocks) - 1 + (len(blocks) * (2 * n_in - 2) if within else 0)
        return Design(list(blocks), True, within, degrees)
    in_all = inside.sum(axis=0)
    enough = min(in_all.min(), n_members - in_all.max()) >= 2
    return Design([np.arange(n_members)], False, True, n_members - 2 if enough else 0)


def error_variances(alignments: Sequence[np.ndarray], inside: np.ndarray, plan: Design) -> np.ndarray:
    """Return the variance of each pair's clipmem as its own members tell it, in squared cosine units, [n_pairs].

    Args:
        alignments: one array a member, [n_pairs] each.
        inside: true where the member is in, [n_members, n_pairs].
        plan: from `design`, with degrees above 0.
    """
    found = np.empty(inside.shape[1])
    for chunk in _chunks(inside.shape[1]):
        values = np.stack([np.asarray(own[chunk], dtype=np.float64) for own in alignments])
        found[chunk] = _error_variances(values, inside[:, chunk], plan)
    return found


def _chunks(n_pairs: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, n_pairs, CHUNK))


def _error_variances(values: np.ndarray, inside: np.ndarray, plan: Design) -> np.ndarray:
    """Return `error_variances` of a chunk; sums of squares of differences between blocks, and inside their sides."""
    differences, squares = [], np.zeros(values.shape[1])
    for rows in plan.blocks:
        own, is_in = values[rows], inside[rows]
        n_in = is_in.sum(axis=0)
        n_out = len(rows) - n_in
        mean_in = (own * is_in).sum(axis=0) / n_in
        mean_out = (own * ~is_in).sum(axis=0) / n_out
        differences.append(mean_in - mean_out)
        if plan.within:
            squares += ((own - np.where(is_in, mean_in, mean_out)) ** 2).sum(axis=0)
    if not plan.within:
        return np.var(differences, axis=0, ddof=1) / len(differences)
    per_member = 1 / n_in + 1 / n_out  # the variance of a block's difference, in that of a member
    if plan.blocked:
        squares += len(differences) * np.var(differences, axis=0) / per_member
    return squares / plan.degrees * per_member / len(plan.blocks)


def fit_prior(variance: np.ndarray, degrees: int, covariate: np.ndarray) -> Prior:
    """Fit the prior of many variances by the moments of their logs (Smyth 2004, section 6.2).

    Args:
        variance: sample variances, [n_pairs].
        degrees: of freedom of each, at least 1.
        covariate: what s0² follows a trend over, [n_pairs]; from 100 pairs on, a cubic spline.

    Returns:
        s0² of each pair and d0, which is infinite where the logs vary no more than samples of one variance do.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> true = 4 * 10 / rng.chisquare(10, 20_000)  # s0² = 4 with d0 = 10
        >>> prior = fit_prior(true * rng.chisquare(3, 20_000) / 3, 3, rng.normal(size=20_000))
        >>> round(prior.degrees), round(float(prior.scale.mean()), 1)
        (10, 4.0)
    """
    floor = _TINY * np.median(variance)
    if floor <= 0:  # most pairs do not vary at all
        return Prior(np.full(len(variance), float(variance.mean())), 0.0)
    logs = np.log(np.maximum(variance, floor)) - digamma(degrees / 2) + np.log(degrees / 2)
    fitted, rank = np.full(len(logs), logs.mean()), 1
    if len(logs) >= MIN_TRENDED and np.ptp(covariate) > 0:
        steps = make_pipeline(SplineTransformer(n_knots=KNOTS, knots="quantile"), LinearRegression())
        some = slice(None, None, -(-len(logs) // MOST_FITTED))
        steps.fit(covariate[some, None], logs[some])
        parts = np.split(covariate[:, None], range(MOST_FITTED, len(logs), MOST_FITTED))
        fitted, rank = np.concatenate([steps.predict(part) for part in parts]), KNOTS + 2
    beyond = ((logs - fitted) ** 2).sum() / max(len(logs) - rank, 1) - float(polygamma(1, degrees / 2))
    if beyond <= 0:
        return Prior(np.exp(fitted), np.inf)
    d0 = 2 * _inverse_trigamma(beyond)
    return Prior(np.exp(fitted + digamma(d0 / 2) - np.log(d0 / 2)), d0)


def _inverse_trigamma(value: float) -> float:
    low, high = min(1e-3, value**-0.5 / 10), 1 + 1 / value  # trigamma(x) > 1/x² near 0, and < 1/x + 1/x²
    return float(brentq(lambda x: float(polygamma(1, x)) - value, low, high))


def moderate(variance: np.ndarray, degrees: int, prior: Prior) -> np.ndarray:
    """Return the mean of each variance's posterior, of `degrees + prior.degrees` degrees of freedom, [n_pairs].

    Example:
        >>> moderate(np.array([1.0, 4.0]), 2, Prior(np.array([2.0, 2.0]), 2.0))
        array([1.5, 3. ])
    """
    if np.isinf(prior.degrees):
        return prior.scale.copy()
    return (prior.degrees * prior.scale + degrees * variance) / (prior.degrees + degrees)


def levels(alignments: Sequence[np.ndarray]) -> np.ndarray:
    """Return each pair's mean alignment over all members, [n_pairs]: what the noise of like pairs is alike in."""
    total = np.zeros(len(alignments[0]))
    for own in alignments:
        total += own
    return total / len(alignments)
