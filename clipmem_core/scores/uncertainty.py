"""What can be claimed from the alignments of several members: errors, intervals, stability."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import norm, spearmanr, t
from sklearn.metrics import roc_auc_score

from clipmem_core.columns import EXTERNAL, GROUP, GROUPS, SCORED_GROUPS
from clipmem_core.scores.in_out import Sides, replicate_clipmem, side_means
from clipmem_core.scores.membership import Membership
from clipmem_core.scores.moderated import Design, Prior, design, error_variances, fit_prior, levels, moderate

SeKind = Literal["moderated", "sd of external"]
MIN_REPLICATES = 3  # an interval over fewer seeds or repeats would claim too much
_NORMAL = float(norm.ppf(0.975))


@dataclass(frozen=True, eq=False)
class Errors:
    """How far clipmem of each pair may be off.

    Attributes:
        variance: of clipmem, in squared cosine units, [n_pairs].
        degrees: of freedom of this variance, [n_pairs].
        kind: how it was found.
        plan: how members tell it of external pairs; None where they do not.
        external: what external pairs say of the variance of an external pair; None where members do not tell it.
    """

    variance: np.ndarray
    degrees: np.ndarray
    kind: SeKind
    plan: Design | None = None
    external: Prior | None = None

    @property
    def se(self) -> np.ndarray:
        """Standard errors, [n_pairs], widened by the quantile of Student's t: clipmem ± 1.96 se covers 95 %."""
        return np.sqrt(self.variance) * t.ppf(0.975, self.degrees) / _NORMAL


def standard_errors(alignments: Sequence[np.ndarray], sides: Sides) -> Errors:
    """Estimate the error of each pair's clipmem, and say how.

    `moderated`: a pair's own variance, over repeats or seeds and, where as many members of a repeat are in as out,
    over the members of either side (`moderated.design`), pooled with that of pairs of its group that align alike.
    Where the members of a pair say nothing of its variance (one seed; one repeat of folds), `sd of external`: one
    number for all, the standard deviation of external clipmem, the spread of pairs that nobody memorized.

    Args:
        alignments: one array a member, [n_pairs] each.
        sides: which members count as in and out.
    """
    group, inside = sides.membership.group, sides.inside
    plans = {name: design(inside[:, group == name], sides.replicates) for name in np.unique(group)}
    if min(plan.degrees for plan in plans.values()) == 0:
        mean_in, mean_out = side_means(alignments, inside)
        spread = (mean_in - mean_out)[sides.external].var(ddof=1)
        return Errors(np.full(len(group), spread), np.full(len(group), np.inf), "sd of external")
    variance, degrees, priors, level = np.empty(len(group)), np.empty(len(group)), {}, levels(alignments)
    for name, plan in plans.items():
        rows = np.flatnonzero(group == name)
        own = error_variances([np.asarray(values)[rows] for values in alignments], inside[:, rows], plan)
        priors[name] = fit_prior(own, plan.degrees, level[rows])
        variance[rows] = moderate(own, plan.degrees, priors[name])
        degrees[rows] = plan.degrees + priors[name].degrees
    return Errors(variance, degrees, "moderated", plans.get(EXTERNAL), priors.get(EXTERNAL))


def in_errors(clipmem: np.ndarray, variance: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Return clipmem in units of its error, [n_pairs]: as far from 0 as a normal value of the same p would be.

    Pairs whose errors have more or fewer degrees of freedom compare so.

    Example:
        >>> in_errors(np.array([0.2, -0.2, 0.4]), np.array([0.01, 0.01, 0.04]), np.array([np.inf, np.inf, 2])).round(2)
        array([ 2.  , -2.  ,  1.33])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(clipmem) / np.sqrt(variance)
    ratio[clipmem == 0] = 0.0
    if np.isinf(degrees).all():  # normal already
        return np.copysign(ratio, clipmem)
    return np.sign(clipmem) * norm.isf(t.sf(ratio, degrees))


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


def _half_width(means: np.ndarray, level: float) -> float:
    return float(t.ppf((1 + level) / 2, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means)))
