"""The scores that compare members trained with and without a pair: clipmem with its uncertainty, and SSLMem."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from clipmem_core.columns import (
    ALIGNMENT,
    CLIPMEM,
    CLIPMEM_RELATIVE,
    CLIPMEM_SHRUNK,
    N_IN,
    N_OUT,
    P_VALUE,
    Q_VALUE,
    SCORED_GROUPS,
    SE,
    SIMILARITY,
    SSLMEM_IMAGE,
    SSLMEM_TEXT,
    TERMS,
)
from clipmem_core.scores.in_out import Sides, side_means
from clipmem_core.scores.shrinkage import Noise, shrunk
from clipmem_core.scores.significance import null_scores, p_values, q_values
from clipmem_core.scores.uncertainty import Errors, in_errors, standard_errors


def memorization_table(
    terms: Sequence[Mapping[str, np.ndarray]],
    sides: Sides,
    *,
    keep: Callable[[np.ndarray], np.ndarray] = lambda values: values,
) -> pd.DataFrame:
    """Score every pair: clipmem = alignment_in − alignment_out (the paper's CLIPMem, A(f) − A(g)).

    Raw clipmem is in cosine units, [−6, 6]: 0 not memorized, positive memorized by the members that are `in`. In
    protocol `paper`, in is f and out is g in every row, so independent pairs come out negative. In `ensemble`, in
    and out are members trained with and without the pair; an external pair gets one random labelling.
    clipmem_relative is raw / max |raw|, in [−1, 1]; the paper does not publish its normaliser, so read it only
    beside the paper's figures.

    Args:
        terms: what `pair_terms` returns, one mapping a member in column order, arrays [n_pairs].
        sides: which members count as in and out.
        keep: holds a column from when it is there, where all of them are too large for memory.

    Returns:
        One row a pair: n_in and n_out (members truly trained with and without it), clipmem, clipmem_relative, se,
        p_value, q_value, clipmem_shrunk, and `_in` and `_out` of alignment, positive, negative_text, negative_image
        and similarity. Similarity follows true membership; NaN where there is no such member.

    Raises:
        ValueError: as many mappings as members are wanted.
    """
    membership = sides.membership
    if len(terms) != len(membership.members):
        raise ValueError(f"terms must hold one mapping for each of {len(membership.members)} members, not {len(terms)}")
    means = {}
    for term in TERMS:
        side = membership.trained if term == SIMILARITY else sides.inside
        both = side_means([member[term] for member in terms], side)
        means[f"{term}_in"], means[f"{term}_out"] = map(keep, both)
    clipmem = keep(means[f"{ALIGNMENT}_in"] - means[f"{ALIGNMENT}_out"])

    alignments = [member[ALIGNMENT] for member in terms]
    errors = standard_errors(alignments, sides)
    null = null_scores(alignments, sides, errors)
    p = p_values(in_errors(clipmem, errors.variance, errors.degrees), null, membership.group)
    n_in = membership.trained.sum(axis=0)
    scores = {
        N_IN: n_in,
        N_OUT: len(terms) - n_in,
        CLIPMEM: clipmem,
        CLIPMEM_RELATIVE: relative(clipmem),
        SE: errors.se,
        P_VALUE: p,
        Q_VALUE: q_values(p, membership.group),
        CLIPMEM_SHRUNK: shrunk_by_group(clipmem, errors, membership.group, seed=sides.seed),
    }
    return pd.DataFrame(scores | means, copy=False)  # a copy of fresh columns costs as much as all the sums


def shrunk_by_group(clipmem: np.ndarray, errors: Errors, group: np.ndarray, *, seed: int) -> np.ndarray:
    """Return the clipmem to expect of each pair under other members, in its units, each group by itself.

    Args:
        clipmem: [n_pairs].
        errors: of clipmem.
        group: group names, [n_pairs].
        seed: of `shrunk`'s draws.

    Returns:
        [n_pairs]; NaN outside candidate, independent and scored, and in groups of fewer than 50 pairs.
    """
    found = np.full(len(clipmem), np.nan)
    for name in SCORED_GROUPS:
        rows = np.flatnonzero((group == name) & np.isfinite(clipmem))
        if len(rows):
            found[rows] = shrunk(clipmem[rows], noise_of(errors, rows), seed=seed)
    return found


def noise_of(errors: Errors, rows: np.ndarray) -> Noise:
    """Return the noise of pairs of one group."""
    return Noise(np.sqrt(errors.variance[rows]), float(errors.degrees[rows[0]]))


def relative(clipmem: np.ndarray) -> np.ndarray:
    """Scale clipmem by the largest absolute value of the audit, to [−1, 1]; does not compare across audits.

    Example:
        >>> relative(np.array([0.5, -0.25, np.nan]))
        array([ 1. , -0.5,  nan])
    """
    largest = np.max(np.abs(clipmem), initial=0.0, where=~np.isnan(clipmem))
    return clipmem / largest if largest > 0 else clipmem.copy()


def sslmem(
    image_square: Sequence[np.ndarray],
    text_square: Sequence[np.ndarray],
    sides: Sides,
    *,
    n_views: int | np.ndarray,
    n_captions: int | np.ndarray,
) -> pd.DataFrame:
    """Measure how much closer each encoder alone holds the views (or captions) of a pair that it trained on.

    SSLMem (ICLR 2024) with d = 1 − cosine: E d under out minus E d under in, in [−2, 2], positive memorized. The mean
    pairwise cosine of n unit vectors with mean μ is (n‖μ‖² − 1) / (n − 1).

    Args:
        image_square: ‖μ_I‖² of each member, [n_pairs], as `pair_terms` returns it.
        text_square: ‖μ_T‖² of each member, [n_pairs].
        sides: which members count as in and out; those of alignment.
        n_views: views behind each μ_I, one number or [n_pairs].
        n_captions: captions behind each μ_T, one number or [n_pairs].

    Returns:
        A table with sslmem_image and sslmem_text, one row a pair; NaN with fewer than two views or captions.
    """
    columns = {}
    for name, squares, count in ((SSLMEM_IMAGE, image_square, n_views), (SSLMEM_TEXT, text_square, n_captions)):
        mean_in, mean_out = side_means([_mean_cosine(square, count) for square in squares], sides.inside)
        columns[name] = mean_in - mean_out
    return pd.DataFrame(columns)


def _mean_cosine(square: np.ndarray, count: int | np.ndarray) -> np.ndarray:
    n = np.broadcast_to(np.asarray(count, dtype=np.float64), square.shape)
    return np.divide(n * square - 1, n - 1, out=np.full(square.shape, np.nan), where=n >= 2)
