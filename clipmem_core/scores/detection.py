"""A comparison of scores at finding the pairs that are wrong, with paired bootstrap intervals."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

AUROC = "auroc"
AVERAGE_PRECISION = "average_precision"
PRECISION_AT_K = "precision_at_k"
_METRICS = [AUROC, AVERAGE_PRECISION, PRECISION_AT_K]
_BLOCK = 1_000_000  # resampled pairs held at a time
_LOW_HIGH = (2.5, 97.5)


@dataclass(frozen=True)
class _Ranked:
    """One score, sorted: where its positives stand among its negatives, ties apart."""

    positives: np.ndarray  # rows of the positives, highest score first
    negatives: np.ndarray  # rows of the negatives, highest score first
    first: np.ndarray  # for each positive, the first positive tied with it
    last: np.ndarray  # … and one past the last
    above: np.ndarray  # for each positive, negatives above it
    at_least: np.ndarray  # … and negatives above or tied with it


def detection_table(
    scores: Mapping[str, np.ndarray],
    truth: np.ndarray,
    *,
    k: int = 50,
    n_boot: int = 2000,
    seed: int = 0,
    reference: str = "misfit",
) -> pd.DataFrame:
    """Compare how well scores find the pairs that are wrong, each with a bootstrap 95 % interval.

    All metrics lie in [0, 1], larger better; a score without information has auroc 0.5 and average precision equal
    to the share of wrong pairs. Ties count as random order would: half in auroc, in proportion in precision at k.
    Wrong and right pairs are resampled apart, with the same resamples for all scores, so differences are paired.

    Args:
        scores: one array a score, [n_pairs], larger more suspicious.
        truth: true for pairs that are wrong, [n_pairs].
        k: pairs looked at for precision at k; at most all.
        n_boot: bootstrap resamples.
        seed: start of the resampling.
        reference: the score whose lead over each other is given.

    Returns:
        One row a score: score, then auroc, average_precision and precision_at_k with `_low` and `_high`; then
        auroc_difference and average_precision_difference (reference − score) with `_low` and `_high`, NaN where the
        reference is not among the scores.

    Raises:
        ValueError: a score has another length or is not finite everywhere, or truth is all true or all false.

    Example:
        >>> table = detection_table({"good": np.array([3.0, 2.0, 1.0]), "bad": np.array([1.0, 2.0, 3.0])},
        ...                         np.array([True, False, False]), k=1, n_boot=10, reference="good")
        >>> table[["score", "auroc", "precision_at_k", "auroc_difference"]].values.tolist()
        [['good', 1.0, 1.0, 0.0], ['bad', 0.0, 0.0, 1.0]]
    """
    truth = np.asarray(truth, dtype=bool)
    _check(scores, truth)
    ranked = {name: _rank(np.asarray(values, dtype=np.float64), truth) for name, values in scores.items()}
    k = min(k, len(truth))
    once = np.ones((1, len(truth)), dtype=np.int64)
    points = {name: _metrics(ranks, once, k)[:, 0] for name, ranks in ranked.items()}
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in scores}
    for weights in _resamples(truth, n_boot, np.random.default_rng(seed)):
        for name, ranks in ranked.items():
            resampled[name].append(_metrics(ranks, weights, k))
    draws = {name: np.concatenate(blocks, axis=1) for name, blocks in resampled.items()}

    unknown = np.full((len(_METRICS), 1), np.nan)
    lead, lead_draws = points.get(reference, unknown[:, 0]), draws.get(reference, unknown)
    rows = [
        dict[str, Any](score=name)
        | _columns(_METRICS, "", points[name], draws[name])
        | _columns(_METRICS[:2], "_difference", lead - points[name], lead_draws - draws[name])
        for name in scores
    ]
    return pd.DataFrame(rows)


def precision_curve(score: np.ndarray, truth: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the precision among the first pairs of a ranking, for several numbers of pairs that are looked at.

    In [0, 1]. Ties count as random order would: each of them has the mean truth of all that are tied.

    Args:
        score: [n_pairs], larger more suspicious, finite.
        truth: true for pairs that are wrong, [n_pairs].
        numbers: pairs looked at, from 1 to n_pairs, [n_numbers].

    Returns:
        float64 [n_numbers].

    Example:
        >>> precision_curve(np.array([3.0, 2.0, 2.0]), np.array([True, False, True]), np.array([1, 2, 3])).round(2)
        array([1.  , 0.75, 0.67])
    """
    _, tied, counts = np.unique(-score, return_inverse=True, return_counts=True)
    found = np.repeat(np.bincount(tied, weights=truth) / counts, counts).cumsum()
    return found[numbers - 1] / numbers


def numbers_reviewed(n_pairs: int, *, first: int = 10, count: int = 30) -> np.ndarray:
    """Return numbers of pairs to read a precision at, from `first` to all, about evenly spaced in their logarithm.

    Example:
        >>> numbers_reviewed(1000, count=3).tolist()
        [10, 100, 1000]
    """
    return np.unique(np.geomspace(min(first, n_pairs), n_pairs, count).round().astype(np.int64))


def _rank(score: np.ndarray, truth: np.ndarray) -> _Ranked:
    order = np.argsort(-score, kind="stable")
    positives, negatives = order[truth[order]], order[~truth[order]]
    falling, others = -score[positives], -score[negatives]
    return _Ranked(
        positives,
        negatives,
        np.searchsorted(falling, falling, side="left"),
        np.searchsorted(falling, falling, side="right"),
        np.searchsorted(others, falling, side="left"),
        np.searchsorted(others, falling, side="right"),
    )


def _metrics(ranked: _Ranked, weights: np.ndarray, k: int) -> np.ndarray:
    """Return the three metrics of each resample, [3, n_resamples]; weights say how often a pair is drawn.

    Everything that changes along a ranking changes at its positives, so only their columns are computed.
    """
    positive = weights[:, ranked.positives]
    found = _running(positive)
    passed = _running(weights[:, ranked.negatives])
    above, at_least = passed[:, ranked.above], passed[:, ranked.at_least]
    found_before, found_with = found[:, ranked.first], found[:, ranked.last]
    n_positive, n_negative = found[:, -1], passed[:, -1]

    auroc = 1 - (positive * (above + at_least)).sum(axis=1) / (2 * n_positive * n_negative)
    precision = found_with / np.maximum(found_with + at_least, 1)
    average_precision = (positive * precision).sum(axis=1) / n_positive
    tied = np.maximum(found_with - found_before + at_least - above, 1)
    taken = np.clip((k - found_before - above) / tied, 0, 1)
    return np.stack([auroc, average_precision, (positive * taken).sum(axis=1) / k])


def _running(weights: np.ndarray) -> np.ndarray:
    """Return running totals that begin with nothing, [n_resamples, n + 1]."""
    totals = np.zeros((weights.shape[0], weights.shape[1] + 1), dtype=np.int64)
    np.cumsum(weights, axis=1, out=totals[:, 1:])
    return totals


def _resamples(truth: np.ndarray, n_boot: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield blocks of resamples: how often each pair is drawn, [n_resamples, n_pairs]."""
    classes = [np.flatnonzero(truth), np.flatnonzero(~truth)]
    block = max(1, _BLOCK // len(truth))
    for start in range(0, n_boot, block):
        weights = np.empty((min(block, n_boot - start), len(truth)), dtype=np.int64)
        for row in weights:
            for rows in classes:
                row[rows] = np.bincount(rng.integers(len(rows), size=len(rows)), minlength=len(rows))
        yield weights


def _columns(metrics: list[str], suffix: str, points: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for metric, point, drawn in zip(metrics, points, draws, strict=False):
        low, high = np.percentile(drawn, _LOW_HIGH)
        name = metric + suffix
        columns |= {name: float(point), f"{name}_low": float(low), f"{name}_high": float(high)}
    return columns


def _check(scores: Mapping[str, np.ndarray], truth: np.ndarray) -> None:
    if truth.all() or not truth.any():
        raise ValueError(f"truth must name some pairs and not others, not {int(truth.sum())} of {len(truth)}")
    for name, values in scores.items():
        if len(values) != len(truth):
            raise ValueError(f"score {name} must have {len(truth)} values as truth has, not {len(values)}")
        missing = int((~np.isfinite(values)).sum())
        if missing:
            raise ValueError(f"score {name} must be finite for every pair, {missing} are not: keep pairs that have all")
