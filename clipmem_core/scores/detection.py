"""The comparison of detectors of wrong captions: each detector with its baselines from the
literature, and how well their scores find the wrong pairs, with paired bootstrap intervals."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.embeddings import nearest_rows
from clipmem_core.scores.alignment import unit
from clipmem_core.scores.detectors import LOG_PROBABILITY, nan_mean

NEAREST = 30  # neighbours of LEMoN, its authors' untuned number
MISFIT_SECOND = "misfit_second"
# Detectors by a second round of training, and the detector of the first round that each corresponds
# to.
SECOND_ROUND = {MISFIT_SECOND: c.MISFIT, c.LOG_PROBABILITY_SECOND: c.LOG_PROBABILITY_OUT}
REFERENCE = c.MISFIT  # the detector that others are compared with
LEMON_IN = "lemon_in"
LEMON_OUT = "lemon_out"
MARGIN = "area_under_margin"
CONFIDENT_LEARNING = "confident_learning"
RANDOM = "random"
# Of wrong pairs, compared by benchmarks
DETECTORS = (
    c.P_WRONG,
    c.MISFIT,
    MISFIT_SECOND,
    c.SIMILARITY_IN,
    c.SIMILARITY_OUT,
    c.CSLS_OUT,
    c.LOG_PROBABILITY_OUT,
    c.LOG_PROBABILITY_SECOND,
    LEMON_IN,
    LEMON_OUT,
    c.LEARNED,
    MARGIN,
    CONFIDENT_LEARNING,
    c.CLIPMEM,
    RANDOM,
)
AUROC = "auroc"
AVERAGE_PRECISION = "average_precision"
PRECISION_AT_K = "precision_at_k"
METRICS = [AUROC, AVERAGE_PRECISION, PRECISION_AT_K]
_BLOCK = 1_000_000  # resampled pairs in memory at a time
_CHUNK = 1_024
# probabilities are clipped this far from 0 and 1: float16 rounds those of a trajectory to them
_SURE = 1e-6
_FOLDS = 5  # of the classifier of labels
_MOST_LABELLED = 20_000  # pairs that it is fitted on


def margin_over_epochs(trajectory: np.ndarray) -> np.ndarray:
    """Average one member's margin of the true partner over all epochs that have it (area under the
    margin).

    After Pleiss et al. (NeurIPS 2020, equation 1), with an in-batch softmax: the margin is the
    logit of the true partner less the logsumexp (theirs: the largest) of the others' logits, which
    is log p − log(1 − p) of the probability p in the trajectory, the geometric mean of both
    directions.

    Args: as for `mean_over_epochs`. In logits, within ±13.9; NaN for pairs the member never trained
    on.
    """
    margins = []
    for epoch in trajectory:
        p = np.clip(np.exp(epoch[:, LOG_PROBABILITY].astype(np.float64)), _SURE, 1 - _SURE)
        margins.append(np.log(p) - np.log1p(-p))
    return nan_mean(margins)


def lemon(
    image: np.ndarray, text: np.ndarray, image_neighbours: np.ndarray, text_neighbours: np.ndarray
) -> np.ndarray:
    """Score captions by multimodal neighbours (LEMoN, ICML 2025), with its authors' untuned
    setting; larger is worse.

    s = d_mm(x, y) + β · mean over the nearest images x_j of d_txt(y, y_j) e^{−τ₁ d_img(x, x_j)}
    e^{−τ₂ d_mm(x_j, y_j)} + γ · the same over the nearest captions y_j with d_txt and d_img
    exchanged; cosine distances, β = γ = 5, τ₁ = 0.1, τ₂ = 5.

    Args:
        image: image embeddings of any length, [n_pairs, dim].
        text: text embeddings, [n_pairs, dim].
        image_neighbours: rows of each image's nearest images, itself left out, [n_pairs, k].
        text_neighbours: rows of each caption's nearest captions, itself left out, [n_pairs, k].
    """
    image = unit(image)
    text = unit(text)
    distance = 1 - np.einsum("nd,nd->n", image, text)
    score = distance.astype(np.float64)
    for start in range(0, len(image), _CHUNK):
        rows = slice(start, start + _CHUNK)
        for searched, other, near in (
            (image, text, image_neighbours[rows]),
            (text, image, text_neighbours[rows]),
        ):
            distances, others = (
                1 - np.einsum("nd,nkd->nk", v[rows], v[near]) for v in (searched, other)
            )
            fading = np.exp(-0.1 * distances - 5.0 * distance[near])
            score[rows] += 5.0 * (others * fading).mean(axis=1)
    return score


def nearest(vectors: np.ndarray, k: int) -> np.ndarray:
    """Return the rows nearest to each by the cosine of centred vectors, itself left out.

    Args:
        vectors: [n, dim], of any length.
        k: how many; at most all others.

    Returns:
        int64 [n, k], the nearest first.

    Example:
        >>> nearest(np.array([[0.0, 1.0], [0.1, 1.0], [1.0, -2.0]]), 1).ravel().tolist()
        [1, 0, 1]
    """
    k = min(k, len(vectors) - 1)
    vectors = np.asarray(vectors, np.float32)
    centred = unit(vectors - vectors.mean(axis=0, dtype=np.float32))
    rows = nearest_rows(centred, centred, k + 1)[1]
    itself = rows == np.arange(len(rows))[:, None]
    itself[~itself.any(axis=1), -1] = True  # an equal row is in its place
    return rows[~itself].reshape(len(rows), k)


def confident_learning(features: np.ndarray, labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Score how badly a caption goes with its pair's label, by confident learning; larger is worse.

    Northcutt et al. (JAIR 2021): p(label | caption) out of fold, by logistic regression on the
    captions' features; from each class's probability its mean over the pairs of that class is
    subtracted (their threshold, equation 2); the score is the largest of the other classes' less
    that of the pair's own (minus the normalised margin). A caption swap within a label cannot be
    detected.

    Args:
        features: of the captions, one row a pair, [n_pairs, dim].
        labels: names, None or NaN where a pair has none, [n_pairs].
        seed: of the folds, and of the draw where more than 20,000 pairs have a label.

    Returns:
        float64 [n_pairs], in [−2, 2]; 0 for pairs without a label, or with one of fewer than five
        pairs.
    """
    from sklearn.exceptions import ConvergenceWarning  # slow to import
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names, classes, counts = np.unique(
        [name if isinstance(name, str) else "" for name in labels],
        return_inverse=True,
        return_counts=True,
    )
    usable = (counts >= _FOLDS) & (names != "")
    if usable.sum() < 2:
        raise ValueError(f"fewer than two labels have {_FOLDS} pairs or more")
    rows = np.flatnonzero(usable[classes])
    if len(rows) > _MOST_LABELLED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST_LABELLED, replace=False))
    _, classes_of_rows = np.unique(classes[rows], return_inverse=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)  # a class drawn down below the number of folds
        chosen = np.asarray(features[rows], dtype=np.float32)
        probability = cross_val_predict(
            model, chosen, classes_of_rows, cv=folds, method="predict_proba"
        )
    score = np.zeros(len(labels))
    score[rows] = _over_thresholds(probability, classes_of_rows)
    return score


def _over_thresholds(probability: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the largest probability of another class above its threshold, less that of the pair's
    class, [n]."""
    rows = np.arange(len(classes))
    thresholds = np.bincount(classes, weights=probability[rows, classes]) / np.bincount(classes)
    above = probability - thresholds
    own_margin = above[rows, classes].copy()
    above[rows, classes] = -np.inf
    return above.max(axis=1) - own_margin


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

    All metrics lie in [0, 1], larger better; a score without information has auroc 0.5 and average
    precision equal to the share of wrong pairs. Ties count as random order would: half in auroc, in
    proportion in precision at k. Wrong and right pairs are resampled separately, with the same
    resamples for all scores, so differences are paired.

    Args:
        scores: one array a score, [n_pairs], larger more suspicious.
        truth: true for pairs that are wrong, [n_pairs].
        k: pairs reviewed for precision at k; at most all.
        n_boot: bootstrap resamples.
        seed: start of the resampling.
        reference: the score that the others are compared with.

    Returns:
        One row a score: score, then auroc, average_precision and precision_at_k with `_low` and
            `_high`; then
        auroc_difference and average_precision_difference (reference − score) with `_low` and
        `_high`, NaN where the reference is not among the scores.
    """
    truth = np.asarray(truth, dtype=bool)
    if truth.all() or not truth.any():
        raise ValueError(
            f"truth must name some pairs and not others, not {int(truth.sum())} of {len(truth)}"
        )
    for name, values in scores.items():
        if not np.isfinite(values).all():
            raise ValueError(f"score {name} must be finite for every pair")
    scores = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    k = min(k, len(truth))
    once = np.ones((1, len(truth)), dtype=np.int64)
    points = {name: _metrics(values, truth, once, k)[:, 0] for name, values in scores.items()}
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in scores}
    for weights in _resamples(truth, n_boot, np.random.default_rng(seed)):
        for name, values in scores.items():
            resampled[name].append(_metrics(values, truth, weights, k))
    draws = {name: np.concatenate(blocks, axis=1) for name, blocks in resampled.items()}

    unknown = np.full((len(METRICS), 1), np.nan)
    lead = points.get(reference, unknown[:, 0])
    lead_draws = draws.get(reference, unknown)
    rows = []
    for name in scores:
        row: dict[str, Any] = {"score": name}
        for metrics, suffix, values, drawn in (
            (METRICS, "", points[name], draws[name]),
            (METRICS[:2], "_difference", lead - points[name], lead_draws - draws[name]),
        ):
            for metric, value, resampled_values in zip(metrics, values, drawn, strict=False):
                low, high = np.percentile(resampled_values, (2.5, 97.5))
                column = metric + suffix
                row |= {
                    column: float(value),
                    f"{column}_low": float(low),
                    f"{column}_high": float(high),
                }
        rows.append(row)
    return pd.DataFrame(rows)


def _metrics(score: np.ndarray, truth: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Return the three metrics of each resample, [3, n_resamples]; weights count how often a pair
    is drawn.

    Everything that changes along a ranking changes at its positives, so only their columns are
    computed.
    """
    order = np.argsort(-score, kind="stable")
    positives = order[truth[order]]
    negatives = order[~truth[order]]
    positive = weights[:, positives]
    falling = -score[positives]
    hits = _running(positive)
    passed = _running(weights[:, negatives])
    # Of each positive: positives above it, and above or tied with it; then the same of negatives
    hits_before, hits_with = (
        hits[:, np.searchsorted(falling, falling, side=side)] for side in ("left", "right")
    )
    above, at_least = (
        passed[:, np.searchsorted(-score[negatives], falling, side=side)]
        for side in ("left", "right")
    )
    n_positive = hits[:, -1]
    n_negative = passed[:, -1]

    auroc = 1 - (positive * (above + at_least)).sum(axis=1) / (2 * n_positive * n_negative)
    precision = hits_with / np.maximum(hits_with + at_least, 1)
    average_precision = (positive * precision).sum(axis=1) / n_positive
    tied = np.maximum(hits_with - hits_before + at_least - above, 1)
    taken = np.clip((k - hits_before - above) / tied, 0, 1)
    return np.stack([auroc, average_precision, (positive * taken).sum(axis=1) / k])


def _running(weights: np.ndarray) -> np.ndarray:
    """Return running totals that start at 0, [n_resamples, n + 1]."""
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
                row[rows] = np.bincount(
                    rng.integers(len(rows), size=len(rows)), minlength=len(rows)
                )
        yield weights


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

    Example:
        >>> numbers_reviewed(1000)[[0, 1, -1]].tolist()
        [10, 12, 1000]
    """
    return np.unique(np.geomspace(min(10, n_pairs), n_pairs, 30).round().astype(np.int64))
