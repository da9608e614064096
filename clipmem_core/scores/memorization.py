"""Turns the alignment terms of all members into the table of clipmem: one row a pair, with its uncertainty."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from clipmem_core.columns import (
    ALIGNMENT,
    CLIPMEM,
    CLIPMEM_RELATIVE,
    N_IN,
    N_OUT,
    P_VALUE,
    Q_VALUE,
    SE,
    SIMILARITY,
    TERMS,
)
from clipmem_core.scores.membership import Membership
from clipmem_core.scores.sides import in_side, side_means
from clipmem_core.scores.uncertainty import null_scores, p_values, q_values, standard_errors


def memorization_table(
    terms: Sequence[Mapping[str, np.ndarray]], membership: Membership, *, protocol: str, seed: int
) -> pd.DataFrame:
    """Score every pair: clipmem = alignment_in − alignment_out (the paper's CLIPMem, A(f) − A(g)).

    Raw clipmem is in cosine units, [−6, 6]: 0 not memorized, positive memorized by the members that are `in`. In
    protocol `paper`, in is f and out is g in every row, so independent pairs come out negative. In `ensemble`, in
    and out are members trained with and without the pair; an external pair gets one random labelling.
    clipmem_relative is raw / max |raw|, in [−1, 1]; the paper does not publish its normaliser, so read it only
    beside the paper's figures.

    Args:
        terms: what `pair_terms` returns, one mapping a member in column order, arrays [n_pairs].
        membership: who trains on what.
        protocol: `ensemble` or `paper`.
        seed: start of the random labelling of external pairs.

    Returns:
        One row a pair: n_in and n_out (members truly trained with and without it), clipmem, clipmem_relative, se,
        p_value, q_value, and `_in` and `_out` of alignment, positive, negative_text, negative_image and similarity.
        Similarity follows true membership; NaN where there is no such member.

    Raises:
        ValueError: as many mappings as members are wanted.
    """
    if len(terms) != len(membership.members):
        raise ValueError(f"terms must hold one mapping for each of {len(membership.members)} members, not {len(terms)}")
    inside = in_side(membership, protocol=protocol, seed=seed)
    means = {}
    for term in TERMS:
        side = membership.trained if term == SIMILARITY else inside
        means[f"{term}_in"], means[f"{term}_out"] = side_means([member[term] for member in terms], side)
    clipmem = means[f"{ALIGNMENT}_in"] - means[f"{ALIGNMENT}_out"]

    alignments = [member[ALIGNMENT] for member in terms]
    null = null_scores(alignments, membership, protocol=protocol, seed=seed)
    p = p_values(clipmem, null, membership.group)
    n_in = membership.trained.sum(axis=0)
    scores = {
        N_IN: n_in,
        N_OUT: len(terms) - n_in,
        CLIPMEM: clipmem,
        CLIPMEM_RELATIVE: relative(clipmem),
        SE: standard_errors(alignments, membership, protocol=protocol, seed=seed)[0],
        P_VALUE: p,
        Q_VALUE: q_values(p, membership.group),
    }
    return pd.DataFrame(scores | means, copy=False)  # a copy of fresh columns costs as much as all the sums


def relative(clipmem: np.ndarray) -> np.ndarray:
    """Scale clipmem by the largest absolute value of the audit, to [−1, 1]; does not compare across audits.

    Example:
        >>> relative(np.array([0.5, -0.25, np.nan]))
        array([ 1. , -0.5,  nan])
    """
    largest = np.max(np.abs(clipmem), initial=0.0, where=~np.isnan(clipmem))
    return clipmem / largest if largest > 0 else clipmem.copy()
