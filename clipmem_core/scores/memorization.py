"""The scores that compare members trained with and without a pair (clipmem, SSLMem), and how stable
they are.

Alignments are one array a member, [n_pairs] each; `in_out` says which members count as in and out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from clipmem_core.scores.alignment import IMAGE_SQUARE, TEXT_SQUARE
from clipmem_core.scores.membership import (
    InOut,
    Membership,
    in_minus_out,
    in_out_means,
    replicate_clipmem,
)
from clipmem_core.scores.metrics import MIN_REPLICATES, half_width
from clipmem_core.scores.uncertainty import (
    in_errors,
    null_scores,
    p_values,
    q_values,
    shrunk_by_group,
    standard_errors,
)
from clipmem_core.utils import columns as c


def memorization_table(
    components: Sequence[Mapping[str, np.ndarray]], in_out: InOut
) -> pd.DataFrame:
    """Score every pair: clipmem = alignment_in − alignment_out (the paper's CLIPMem, A(f) − A(g)).

    Raw clipmem is in cosine units, [−6, 6]: 0 not memorized, positive memorized by the members that
    are `in`. In protocol `paper`, in is f and out is g in every row, so independent pairs come out
    negative. In `ensemble`, in and out are members trained with and without the pair; a held-out
    pair gets one random labelling. clipmem_relative is raw / max |raw|, in [−1, 1]; the paper does
    not publish its normaliser.

    Args:
        components: as of `pair_components`, one mapping a member in column order, arrays [n_pairs].
        in_out: which members count as in and out.

    Returns:
        One row a pair: n_in and n_out (members trained with and without it), clipmem,
        clipmem_relative, se, p_value, q_value, clipmem_shrunk, and `_in` and `_out` of alignment,
        positive, negative_text, negative_image and similarity. Similarity follows true membership;
        NaN without such a member.
    """
    membership = in_out.membership
    means = {}
    for component in c.COMPONENTS:
        inside = membership.trained if component == c.SIMILARITY else in_out.inside
        both = in_out_means([member[component] for member in components], inside)
        means[f"{component}_in"], means[f"{component}_out"] = both
    clipmem = means[f"{c.ALIGNMENT}_in"] - means[f"{c.ALIGNMENT}_out"]

    alignments = [member[c.ALIGNMENT] for member in components]
    errors = standard_errors(alignments, in_out)
    null = null_scores(alignments, in_out, errors)
    p = p_values(in_errors(clipmem, errors.variance, errors.degrees), null, membership.group)
    n_in = membership.trained.sum(axis=0)
    scores = {
        c.N_IN: n_in,
        c.N_OUT: len(components) - n_in,
        c.CLIPMEM: clipmem,
        c.CLIPMEM_RELATIVE: clipmem / np.nanmax(np.abs(clipmem)),
        c.SE: errors.se,
        c.P_VALUE: p,
        c.Q_VALUE: q_values(p, membership.group),
        c.CLIPMEM_SHRUNK: shrunk_by_group(clipmem, errors, membership.group, seed=in_out.seed),
    }
    # A copy of fresh columns costs as much as all the sums
    return pd.DataFrame(scores | means, copy=False)


def sslmem(
    components: Sequence[Mapping[str, np.ndarray]],
    in_out: InOut,
    *,
    n_views: int | np.ndarray,
    n_captions: int | np.ndarray,
) -> pd.DataFrame:
    """Measure how much closer each encoder alone puts the views (or captions) of a pair that it
    trained on.

    SSLMem (ICLR 2024) with d = 1 − cosine: E d under out minus E d under in, in [−2, 2], positive
    memorized. The mean pairwise cosine of n unit vectors with mean μ is (n‖μ‖² − 1) / (n − 1); NaN
    with fewer than two.

    Args:
        components: as of `pair_components`, with ‖μ_I‖² and ‖μ_T‖², one mapping a member.
        in_out: which members count as in and out.
        n_views, n_captions: behind each μ_I and μ_T, one number or [n_pairs].

    Returns:
        sslmem_image and sslmem_text, one row a pair.
    """
    columns = {}
    for name, square, count in (
        (c.SSLMEM_IMAGE, IMAGE_SQUARE, n_views),
        (c.SSLMEM_TEXT, TEXT_SQUARE, n_captions),
    ):
        n = np.broadcast_to(count, len(in_out.membership.group))
        divisor = np.where(n >= 2, n - 1.0, np.nan)
        cosines = [(n * member[square] - 1) / divisor for member in components]
        columns[name] = in_minus_out(cosines, in_out.inside)
    return pd.DataFrame(columns)


def group_summary(alignments: Sequence[np.ndarray], in_out: InOut) -> pd.DataFrame:
    """Summarise clipmem by group, with a t interval over seeds or replicates where there are at
    least three.

    With fewer, low and high are one standard deviation over the pairs either side of the mean. The
    held-out group is the offset to compare the others with.

    Args:
        alignments: one array a member, [n_pairs] each.
        in_out: which members count as in and out.

    Returns:
        One row a group: group, n, mean, low, high, and kind of the interval.
    """
    replicates = replicate_clipmem(alignments, in_out.replicates, in_out.inside)
    clipmem = in_minus_out(alignments, in_out.inside)
    of_pairs = pd.Series(clipmem).groupby(in_out.membership.group)
    table = of_pairs.agg(n="size", mean="mean", half="std")
    kind = "SD over pairs"
    if len(replicates) >= MIN_REPLICATES:
        groups = of_pairs.indices.items()
        half = {name: half_width(replicates[:, rows].mean(axis=1)) for name, rows in groups}
        table["half"] = pd.Series(half)
        kind = f"95% interval over {'seeds' if in_out.protocol == 'paper' else 'replicates'}"
    half = table.pop("half")
    table = table.assign(low=table["mean"] - half, high=table["mean"] + half, kind=kind)
    names = [name for name in c.GROUPS if name in table.index]
    return table.loc[names].rename_axis(c.GROUP).reset_index()


def membership_auroc(alignments: Sequence[np.ndarray], membership: Membership) -> float:
    """Measure how well each member's alignment separates pairs it trained on from pairs it did not.

    In [0, 1]: 0.5 nothing memorized, 1 every trained pair above every other. Over candidate,
    independent and scored pairs.

    Args:
        alignments: one array a member, [n_pairs] each.
        membership: who trained on what.

    Returns:
        The mean over members that trained on some of the pairs, and not on all.
    """
    scored = np.isin(membership.group, c.SCORED_GROUPS)
    values = [
        roc_auc_score(trained, np.asarray(alignment)[scored])
        for alignment, trained in zip(alignments, membership.trained[:, scored], strict=True)
        if trained.any() and not trained.all()
    ]
    return float(np.mean(values)) if values else float("nan")


def ranking_stability(alignments: Sequence[np.ndarray], in_out: InOut) -> float:
    """Correlate the clipmem ranking of two disjoint halves of the replicates (ensemble) or seeds
    (paper), by Spearman.

    In [−1, 1]: 1 the same order, 0 no relation. Over candidate, independent and scored pairs, each
    by true membership, so that the sign that separates candidate from independent does not count as
    agreement. Of an odd number of replicates or seeds the last is not used.

    Args:
        alignments: one array a member, [n_pairs] each.
        in_out: which members count as in and out.

    Returns:
        NaN with only one replicate or seed.
    """
    scored = np.isin(in_out.membership.group, c.SCORED_GROUPS)
    trained = in_out.membership.trained
    replicates = replicate_clipmem(alignments, in_out.replicates, trained)[:, scored]
    half = len(replicates) // 2
    if half == 0:
        return float("nan")
    halves = replicates[:half].mean(axis=0), replicates[half : 2 * half].mean(axis=0)
    return float(spearmanr(*halves).statistic)


def ranking_reliability(stability: float, replicates: int) -> float:
    """Return the reliability of scores that are means over all replicates or seeds, from the
    agreement of two halves.

    The formula of Spearman and Brown (both in British Journal of Psychology 3, 1910): a measurement
    k times as long as one of reliability r has k r / (1 + (k − 1) r). It is the correlation to
    expect with a second, independent audit of as many members. We use a rank correlation instead of
    Pearson's, for which it was derived.

    Args:
        stability: Spearman correlation of the halves, as `ranking_stability` returns it.
        replicates: replicates or seeds behind the scores, at least 2; of an odd number the halves
            leave one out.

    Example:
        >>> ranking_reliability(0.5, replicates=2), ranking_reliability(0.5, replicates=3)
        (0.6666666666666666, 0.75)
    """
    if np.isnan(stability):
        return float("nan")
    longer = replicates / (replicates // 2)
    agreement = max(stability, 0.0)
    return longer * agreement / (1 + (longer - 1) * agreement)
