"""How well scores rank positives (wrong pairs, or pairs of a training set) before all others."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd

from clipmem_core import draws
from clipmem_core.columns import MISFIT

ROC_AUC = "auroc"
AVERAGE_PRECISION = "average_precision"
PRECISION_AT_K = "precision_at_k"
METRICS = [ROC_AUC, AVERAGE_PRECISION, PRECISION_AT_K]
_BLOCK = 1_000_000  # resampled pairs in memory at a time


def resamples(
    strata: Sequence[np.ndarray], n_pairs: int, n_boot: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield bootstrap resamples in blocks.

    Args:
        strata: rows that are resampled together, one int array a stratum; all others get 0.
        n_pairs: pairs of all strata and others.
        n_boot: number of resamples.
        rng: of the draws.

    Returns:
        How often each pair is drawn, int64 [n_resamples, n_pairs] each.
    """
    block = max(1, _BLOCK // n_pairs)
    for start in range(0, n_boot, block):
        weights = np.zeros((min(block, n_boot - start), n_pairs), dtype=np.int64)
        for resample in weights:
            for rows in strata:
                drawn = rng.integers(len(rows), size=len(rows))
                resample[rows] = np.bincount(drawn, minlength=len(rows))
        yield weights


def roc_counts(
    score: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count positives and negatives at or above each threshold, in each resample.

    Args:
        score: [n_pairs], finite; the largest come first.
        truth: true for positives, bool [n_pairs].
        weights: how often each pair is drawn, int [n_resamples, n_pairs].

    Returns:
        Positives, and negatives, int [n_resamples, n_thresholds + 1] each: 0 in the first column,
        then a column for each threshold, from the largest on: the distinct scores of positives, and
        between them the lowest scores of negatives.

    Example:
        >>> score, truth = np.array([1.0, 3.0, 1.0]), np.array([True, True, False])
        >>> roc_counts(score, truth, np.ones((1, 3), int))
        (array([[0, 1, 2]]), array([[0, 0, 1]]))
    """
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=-np.inf))  # of equal scores
    has_positives = np.diff(np.cumsum(truth[order])[ends], prepend=0) > 0
    ends = ends[has_positives | np.append(has_positives[1:], True)]
    ranked = weights[:, order]
    reviewed = np.cumsum(ranked, axis=1)[:, ends]
    positives = np.cumsum(ranked * truth[order], axis=1)[:, ends]
    before = ((0, 0), (1, 0))
    return np.pad(positives, before), np.pad(reviewed - positives, before)


def roc_auc(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve, in [0, 1]; ties count half.

    Args: as `roc_counts` returns them, [n_resamples, n_thresholds + 1] each.
    Returns: float64 [n_resamples].
    """
    area = np.trapezoid(positives, negatives, axis=1)
    return area / (positives[:, -1] * negatives[:, -1])


def detection_table(
    scores: Mapping[str, np.ndarray],
    truth: np.ndarray,
    *,
    k: int = 50,
    n_boot: int = 2000,
    seed: int = 0,
    reference: str = MISFIT,
) -> pd.DataFrame:
    """Compare how well scores find the pairs that are wrong, each with a bootstrap 95 % interval.

    All metrics lie in [0, 1], larger better; a score without information has auroc 0.5 and average
    precision equal to the share of wrong pairs. Ties count as random order would: half in auroc, in
    proportion in precision at k. Wrong and right pairs are resampled separately, with the same
    resamples for all scores, so differences are paired.

    Args:
        scores: one array a score, [n_pairs], finite, larger more suspicious.
        truth: true for pairs that are wrong, [n_pairs]; some, and not all.
        k: pairs reviewed for precision at k; at most all.
        n_boot: bootstrap resamples.
        seed: start of the resampling.
        reference: the score that the others are compared with.

    Returns:
        One row a score: score, then auroc, average_precision and precision_at_k with `_low` and
        `_high`; then auroc_difference and average_precision_difference (reference − score) with
        `_low` and `_high`, NaN where the reference is not among the scores.
    """
    rng = draws.rng(seed, "detection resamples")
    strata = np.flatnonzero(truth), np.flatnonzero(~truth)
    every_pair_once = np.ones((1, len(truth)), dtype=np.int64)
    blocks = chain([every_pair_once], resamples(strata, len(truth), n_boot, rng))
    # [n_scores, n_metrics, 1 + n_boot]
    values = np.concatenate(
        [[_metrics(score, truth, weights, k) for score in scores.values()] for weights in blocks],
        axis=2,
    )
    differences = np.full_like(values, np.nan)
    if reference in scores:
        differences = values[list(scores).index(reference)] - values
    named = dict(zip(METRICS, values.swapaxes(0, 1), strict=True))
    for place, metric in enumerate(METRICS[:2]):
        named[f"{metric}_difference"] = differences[:, place]
    columns = {"score": list(scores)}
    for name, of_scores in named.items():
        low, high = np.percentile(of_scores[:, 1:], (2.5, 97.5), axis=1)
        columns |= {name: of_scores[:, 0], f"{name}_low": low, f"{name}_high": high}
    return pd.DataFrame(columns)


def _metrics(score: np.ndarray, truth: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Return the three metrics of each resample, [3, n_resamples]."""
    positives, negatives = roc_counts(score, truth, weights)
    reviewed = positives + negatives
    precision = positives[:, 1:] / np.maximum(reviewed[:, 1:], 1)
    average_precision = (np.diff(positives) * precision).sum(axis=1) / positives[:, -1]
    k = min(k, len(truth))
    found = [np.interp(k, *counts) for counts in zip(reviewed, positives, strict=True)]
    return np.stack([roc_auc(positives, negatives), average_precision, np.array(found) / k])


def precision_curve(score: np.ndarray, truth: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the precision among the first pairs of a ranking, for several numbers of reviewed
    pairs.

    In [0, 1]. Ties count as random order would: each has the mean truth of all that are tied.

    Args:
        score: [n_pairs], larger more suspicious, finite.
        truth: true for pairs that are wrong, [n_pairs].
        numbers: pairs reviewed, from 1 to n_pairs, [n_numbers].
    """
    _, tied, counts = np.unique(-score, return_inverse=True, return_counts=True)
    hits = np.repeat(np.bincount(tied, weights=truth) / counts, counts).cumsum()
    return hits[numbers - 1] / numbers


def numbers_reviewed(n_pairs: int) -> np.ndarray:
    """Return 30 numbers of pairs to compute a precision at, from 10 to all, evenly spaced in their
    logarithm.

    Args: the number of pairs. Returns: int64 [n_numbers], at most 30.

    Example:
        >>> numbers_reviewed(1000)[[0, 1, -1]].tolist()
        [10, 12, 1000]
    """
    return np.unique(np.geomspace(min(10, n_pairs), n_pairs, 30).round().astype(np.int64))
