"""Whether a pair is memorized at all: p and q values, from clipmem in units of its own error.

q answers one question: is there any effect of training on this pair? Not how large it is. With more members ever
smaller effects are told from none, so that more pairs have a small q: the share of pairs whose clipmem exceeds a size
(`shrinkage.share_above`) does not grow so.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import false_discovery_control

from clipmem_core.columns import EXTERNAL, INDEPENDENT, SCORED_GROUPS
from clipmem_core.scores.in_out import Sides, labellings, side_means
from clipmem_core.scores.moderated import Prior, error_variances, moderate
from clipmem_core.scores.uncertainty import Errors, in_errors


def null_scores(alignments: Sequence[np.ndarray], sides: Sides, errors: Errors) -> np.ndarray:
    """Return clipmem of external pairs only, in units of their own error: what comes out where nothing is memorized.

    Each in the same way as `in_errors` has it of real pairs: external pairs may be noisier than others, or less
    so, and what they tell is by how many errors, not by how much, clipmem differs from 0 by chance; an offset that all
    pairs share, as where f is better than g, is in it too. Ensemble: of every external pair under all labellings that
    leave as many members out of each repeat as real pairs have; under 256 drawn for each pair where there are more.

    Args:
        alignments: one array a member, [n_pairs] each.
        sides: which members count as in and out.
        errors: of clipmem, from `standard_errors`.

    Returns:
        Null values, [n_external] or [n_labellings × n_external].
    """
    rows = np.flatnonzero(sides.external)
    external = [np.asarray(values)[rows].astype(np.float64) for values in alignments]
    variance, degrees, prior = errors.variance[rows], errors.degrees[rows], errors.external
    if prior is not None:  # of the whole group: some of it may be set apart
        prior = Prior(prior.scale[sides.external[sides.membership.group == EXTERNAL]], prior.degrees)
    scores = []
    for inside in _insides(sides, rows):
        mean_in, mean_out = side_means(external, inside)
        if prior is not None and errors.plan is not None and sides.protocol == "ensemble":
            own = error_variances(external, inside, errors.plan)
            variance = moderate(own, errors.plan.degrees, prior)
        scores.append(in_errors(mean_in - mean_out, variance, degrees))
    return np.concatenate(scores) if scores else np.empty(0)


def _insides(sides: Sides, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield which members count as in for external pairs, one labelling after the other, [n_members, n_external]."""
    if sides.protocol == "paper":
        yield sides.inside[:, rows]
        return
    for label in labellings(sides, len(rows)):
        inside = np.ones((len(sides.inside), len(rows)), dtype=bool)
        np.put_along_axis(inside, label, False, axis=0)
        yield inside


def p_values(score: np.ndarray, null: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Compute one-sided p values, p = (1 + #{null ≥ s}) / (1 + #null) with s = clipmem in units of its error.

    Independent pairs are expected to be negative: s = −clipmem, against the null negated too. Small p: memorized
    more than external pairs, which cannot be. No p is smaller than 1 / (1 + #null).

    Args:
        score: clipmem in units of its error, from `in_errors`, [n_pairs].
        null: that of external pairs, from `null_scores`.
        group: group names, [n_pairs].

    Returns:
        p values in (0, 1], [n_pairs]; NaN where the score is.

    Raises:
        ValueError: the null is empty.

    Example:
        >>> p_values(np.array([0.5, 0.0]), np.array([-0.1, 0.0, 0.1]), np.array(["candidate", "candidate"]))
        array([0.25, 0.75])
    """
    if len(null) == 0:
        raise ValueError("null must hold clipmem of at least one external pair, not none")
    independent = group == INDEPENDENT
    p = np.empty(len(score))
    p[~independent] = _one_sided(score[~independent], null)
    p[independent] = _one_sided(-score[independent], -null)
    return np.where(np.isnan(score), np.nan, p)


def q_values(p: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Adjust p values for looking at many pairs: Benjamini–Hochberg within candidate, independent and scored each.

    Of the pairs with q ≤ 0.1 about one in ten is not memorized at all. q says whether there is any effect of training
    on a pair, not how large; the more members, the more pairs have a small one.

    Args:
        p: p values, [n_pairs].
        group: group names, [n_pairs].

    Returns:
        q values in (0, 1], [n_pairs]; NaN in other groups and where p is.

    Example:
        >>> q_values(np.array([0.01, 0.04, 0.5]), np.array(["scored", "scored", "external"]))
        array([0.02, 0.04,  nan])
    """
    q = np.full(len(p), np.nan)
    for name in SCORED_GROUPS:
        rows = (group == name) & ~np.isnan(p)
        if rows.any():
            q[rows] = false_discovery_control(p[rows])
    return q


def _one_sided(score: np.ndarray, null: np.ndarray) -> np.ndarray:
    at_least = len(null) - np.searchsorted(np.sort(null), score, side="left")
    return (1 + at_least) / (1 + len(null))
