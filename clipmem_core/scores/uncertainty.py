"""What can be claimed from the alignments of several members: errors, p and q values, intervals, stability."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, spearmanr, t
from sklearn.metrics import roc_auc_score

from clipmem_core.columns import GROUP, GROUPS, INDEPENDENT, SCORED_GROUPS
from clipmem_core.scores.in_out import Sides, labellings, replicate_clipmem, side_means
from clipmem_core.scores.membership import Membership

SeKind = Literal["paired over seeds", "welch", "sd of external"]
MIN_REPLICATES = 3  # an interval over fewer seeds or repeats would claim too much
# The se of a pair from fewer members is kept in its column, and shown to nobody: from two a side, which are two
# degrees of freedom of Student's t, ± se covers at most 58 % and ± 1.96 se 81 %; from four a side 64 % and 90 %.
MIN_MEMBERS_FOR_SE = 8


def standard_errors(alignments: Sequence[np.ndarray], sides: Sides) -> tuple[np.ndarray, SeKind]:
    """Estimate the standard error of each pair's clipmem, in its units (cosine, ≥ 0), and say how.

    Paper with two or more seeds: paired, from the differences f-s − g-s. Ensemble where every pair has two or more
    members on both sides: Welch. Otherwise one number for all, the standard deviation of external clipmem: the
    spread of pairs that nobody memorized.

    Args:
        alignments: one array a member, [n_pairs] each.
        sides: which members count as in and out.

    Returns:
        Standard errors, [n_pairs], and `paired over seeds`, `welch` or `sd of external`.
    """
    inside = sides.inside
    n_in = inside.sum(axis=0)
    if sides.protocol == "paper" and len(sides.replicates) >= 2:
        differences = replicate_clipmem(alignments, sides.replicates, inside)
        return differences.std(axis=0, ddof=1) / np.sqrt(len(differences)), "paired over seeds"
    if sides.protocol == "ensemble" and min(n_in.min(), len(inside) - n_in.max()) >= 2:
        return np.sqrt(_squared_error(alignments, inside) + _squared_error(alignments, ~inside)), "welch"
    mean_in, mean_out = side_means(alignments, inside)
    external = (mean_in - mean_out)[sides.external]
    return np.full(inside.shape[1], external.std(ddof=1)), "sd of external"


def null_scores(alignments: Sequence[np.ndarray], sides: Sides) -> np.ndarray:
    """Return clipmem of external pairs only: what comes out where nothing can be memorized.

    Ensemble: of every external pair under all labellings that leave as many members out of each repeat as real pairs
    have; under 256 drawn for each pair where there are more.

    Args:
        alignments: one array a member, [n_pairs] each.
        sides: which members count as in and out.

    Returns:
        Null values, [n_external] or [n_labellings × n_external].
    """
    external = np.stack([np.asarray(values)[sides.external] for values in alignments]).astype(np.float64)
    if sides.protocol == "paper":
        is_f = sides.inside[:, 0]
        return external[is_f].mean(axis=0) - external[~is_f].mean(axis=0)
    total, scores = external.sum(axis=0), []
    for label in labellings(sides, external.shape[1]):
        out = np.take_along_axis(external, label, axis=0).sum(axis=0)
        scores.append((total - out) / (len(external) - len(label)) - out / len(label))
    return np.concatenate(scores)


def p_values(clipmem: np.ndarray, null: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Compute one-sided p values, p = (1 + #{null ≥ s}) / (1 + #null) with s = clipmem.

    Independent pairs are expected to be negative: s = −clipmem, against the null negated too. Small p: memorized
    more than external pairs, which cannot be. No p is smaller than 1 / (1 + #null).

    Args:
        clipmem: [n_pairs].
        null: clipmem of external pairs, from `null_scores`.
        group: group names, [n_pairs].

    Returns:
        p values in (0, 1], [n_pairs]; NaN where clipmem is.

    Raises:
        ValueError: the null is empty.

    Example:
        >>> p_values(np.array([0.5, 0.0]), np.array([-0.1, 0.0, 0.1]), np.array(["candidate", "candidate"]))
        array([0.25, 0.75])
    """
    if len(null) == 0:
        raise ValueError("null must hold clipmem of at least one external pair, not none")
    independent = group == INDEPENDENT
    p = np.empty(len(clipmem))
    p[~independent] = _one_sided(clipmem[~independent], null)
    p[independent] = _one_sided(-clipmem[independent], -null)
    return np.where(np.isnan(clipmem), np.nan, p)


def q_values(p: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Adjust p values for looking at many pairs: Benjamini–Hochberg within candidate, independent and scored each.

    Calling every pair with q ≤ 0.1 memorized is wrong for about one in ten of them.

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


def group_summary(alignments: Sequence[np.ndarray], sides: Sides, *, level: float = 0.95) -> pd.DataFrame:
    """Summarise clipmem by group, with a t interval over seeds or repeats where there are at least three.

    With fewer, low and high are one standard deviation over the pairs either side of the mean, and claim nothing
    about the mean. The row of the external group is the offset to read the others against.

    Args:
        alignments: one array a member, [n_pairs] each.
        sides: which members count as in and out.
        level: coverage of the interval.

    Returns:
        One row a group: group, n, mean, low, high, kind (`95% interval over seeds`, `95% interval over repeats` or
        `SD over pairs`).
    """
    replicates = replicate_clipmem(alignments, sides.replicates, sides.inside)
    mean_in, mean_out = side_means(alignments, sides.inside)
    rows, group = [], sides.membership.group
    for name in (name for name in GROUPS if (group == name).any()):
        members = group == name
        clipmem = (mean_in - mean_out)[members]
        half, kind = clipmem.std(ddof=1) if len(clipmem) > 1 else np.nan, "SD over pairs"
        if len(replicates) >= MIN_REPLICATES:
            half = _half_width(replicates[:, members].mean(axis=1), level)
            kind = f"{level:.0%} interval over {'seeds' if sides.protocol == 'paper' else 'repeats'}"
        rows.append((name, int(members.sum()), clipmem.mean(), clipmem.mean() - half, clipmem.mean() + half, kind))
    return pd.DataFrame(rows, columns=[GROUP, "n", "mean", "low", "high", "kind"])


def membership_auroc(alignments: Sequence[np.ndarray], membership: Membership) -> tuple[np.ndarray, float]:
    """Measure how well each member's alignment tells pairs it trained on from pairs it did not.

    Free of scale, in [0, 1]: 0.5 nothing memorized, 1 every trained pair above every other. Over candidate,
    independent and scored pairs.

    Args:
        alignments: one array a member, [n_pairs] each.
        membership: who trains on what.

    Returns:
        One value a member, [n_members], and their mean; NaN for a member that trained on all or none of the pairs.
    """
    judged = np.isin(membership.group, SCORED_GROUPS)
    values = np.full(len(membership.members), np.nan)
    for row, alignment in enumerate(alignments):
        trained = membership.trained[row, judged]
        if trained.any() and not trained.all():
            values[row] = roc_auc_score(trained, np.asarray(alignment)[judged])
    known = values[~np.isnan(values)]
    return values, float(known.mean()) if len(known) else float("nan")


def ranking_stability(alignments: Sequence[np.ndarray], sides: Sides) -> float:
    """Correlate the clipmem ranking of two disjoint halves of the repeats (ensemble) or seeds (paper), by Spearman.

    In [−1, 1]: 1 the same order, 0 no relation. It is about scores of half the members: `ranking_reliability` is about
    those of all. Over candidate, independent and scored pairs, each by true
    membership, so that the sign that parts candidate from independent does not count as agreement.

    Args:
        alignments: one array a member, [n_pairs] each.
        sides: whose members, in which repeats or seeds.

    Returns:
        The correlation; NaN with only one repeat or seed, or where all pairs score alike. Of an odd number the last
        is not used.
    """
    judged = np.isin(sides.membership.group, SCORED_GROUPS)
    replicates = replicate_clipmem(alignments, sides.replicates, sides.membership.trained)[:, judged]
    half = len(replicates) // 2
    if half == 0:
        return float("nan")
    first, second = replicates[:half].mean(axis=0), replicates[half : 2 * half].mean(axis=0)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)


def ranking_reliability(stability: float, replicates: int = 2) -> float:
    """Return the reliability of scores that are means over all repeats or seeds, from the agreement of two halves.

    The formula of Spearman and Brown (both in British Journal of Psychology 3, 1910): a measurement k times as long
    as one of reliability r has k r / (1 + (k − 1) r), which is 2r / (1 + r) for the double. It is the correlation to
    expect with a second, independent audit of as many members. We put a rank correlation in the place of Pearson's,
    for which it was derived. In [0, 1]; halves that disagree say no more than that it is near 0.

    Args:
        stability: Spearman correlation of the halves, as `ranking_stability` returns it.
        replicates: repeats or seeds behind the scores, at least 2; of an odd number a half leaves one out.

    Example:
        >>> ranking_reliability(0.5), ranking_reliability(0.5, replicates=3), ranking_reliability(-0.2)
        (0.6666666666666666, 0.75, 0.0)
    """
    if np.isnan(stability):
        return float("nan")
    longer = replicates / (replicates // 2)
    return longer * max(stability, 0.0) / (1 + (longer - 1) * max(stability, 0.0))


def _squared_error(alignments: Sequence[np.ndarray], side: np.ndarray) -> np.ndarray:
    """Return the sample variance over the members of one side divided by their number, [n_pairs]."""
    mean, _ = side_means(alignments, side)
    squares, _ = side_means([(values - mean) ** 2 for values in alignments], side)
    return squares / (side.sum(axis=0) - 1)


def _one_sided(score: np.ndarray, null: np.ndarray) -> np.ndarray:
    at_least = len(null) - np.searchsorted(np.sort(null), score, side="left")
    return (1 + at_least) / (1 + len(null))


def _half_width(means: np.ndarray, level: float) -> float:
    return float(t.ppf((1 + level) / 2, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means)))
