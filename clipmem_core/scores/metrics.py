"""Evaluation metrics: retrieval, linear probe and zero-shot accuracy of a member's embeddings; how
well scores rank positives (wrong pairs, or pairs of a training set) before all others; and
statistics over training seeds: intervals of means, paired differences of settings."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import scipy  # scipy.stats is loaded when it is used
from numpy.typing import ArrayLike

from clipmem_core.utils import draws
from clipmem_core.utils.embeddings import unit

ROC_AUC = "auroc"
AVERAGE_PRECISION = "average_precision"
PRECISION_AT_K = "precision_at_k"
METRICS = [ROC_AUC, AVERAGE_PRECISION, PRECISION_AT_K]
_PROBE_ROWS = 10_000  # for a fit within seconds
# In memory at a time
_COSINES = 2_000_000
_RESAMPLED = 1_000_000  # pairs
_TIE = 1e-6  # equal vectors may differ by this much after a matrix product
MIN_REPLICATES = 3  # an interval over fewer seeds or replicates would claim too much
_LEVEL = 0.95


def retrieval_recalls(
    image: np.ndarray, text: np.ndarray, caption_owner: np.ndarray
) -> dict[str, float]:
    """Measure how often the right partner is among the k nearest, both ways (the COCO protocol).

    In [0, 1], larger better. Image to text: a hit if any of the image's own captions is among the k
    nearest of all captions. Text to image: a hit if the caption's image is among the k nearest.
    Ties count against the member.

    Args:
        image, text: embeddings of images and captions of any length, [n_images, dim] and
            [n_captions, dim].
        caption_owner: row of the image that each caption belongs to, [n_captions]; every image has
            one at least.

    Returns:
        `image_to_text_R@k` and `text_to_image_R@k` for k = 1, 5 and 10.

    Example:
        >>> retrieval_recalls(np.eye(2), np.eye(2)[[0, 0]], np.array([0, 1]))["text_to_image_R@1"]
        0.5
    """
    image = unit(image)
    text = unit(text)
    pairs = np.arange(len(image))
    ranks = {
        "image_to_text": _ranks(image, text, pairs, caption_owner),
        "text_to_image": _ranks(text, image, caption_owner, pairs),
    }
    recalls = dict[str, float]()
    for way, rank in ranks.items():
        recalls |= {f"{way}_R@{k}": float((rank < k).mean()) for k in (1, 5, 10)}
    return recalls


def _ranks(
    queries: np.ndarray, candidates: np.ndarray, query_pair: np.ndarray, candidate_pair: np.ndarray
) -> np.ndarray:
    """Return how many candidates of other pairs come before the best of the query's own pair.

    Args: unit embeddings, [n, dim] each, and their pairs, [n] each. Returns: int [n_queries].
    """
    ranks = np.empty(len(queries), dtype=np.int64)
    step = max(1, _COSINES // len(candidates))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        cosines = queries[part] @ candidates.T
        partner = query_pair[part, None] == candidate_pair
        best = cosines.max(axis=1, where=partner, initial=-1.0, keepdims=True)
        ranks[part] = ((cosines >= best - _TIE) & ~partner).sum(axis=1)
    return ranks


def linear_probe(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, *, seed: int
) -> float:
    """Measure accuracy of logistic regression on frozen, standardised features (the paper's
    utility).

    In [0, 1], larger better. A class that training lacks cannot be predicted, so its test rows
    count as errors. Of more than 10,000 training rows a sample is drawn by `seed`.

    Args:
        train_x, train_y: features and labels to fit on, [n, dim] and [n].
        test_x, test_y: those to evaluate on.
        seed: of the draw.

    Returns:
        NaN with fewer than two classes to fit or no test rows.
    """
    if len(train_x) > _PROBE_ROWS:
        rows = np.sort(draws.rng(seed, "probe").choice(len(train_x), _PROBE_ROWS, replace=False))
        train_x = train_x[rows]
        train_y = train_y[rows]
    if len(np.unique(train_y)) < 2 or len(test_y) == 0:
        return float("nan")
    from sklearn import linear_model, pipeline, preprocessing  # slow to import, only for labels

    model = linear_model.LogisticRegression(max_iter=300)
    probe = pipeline.make_pipeline(preprocessing.StandardScaler(), model)
    # Near its optimum the accuracy no longer moves
    with warnings.catch_warnings(action="ignore"):
        probe.fit(train_x, train_y)
    return float((probe.predict(test_x) == test_y).mean())


def zero_shot(image: np.ndarray, class_text: np.ndarray, labels: np.ndarray) -> float:
    """Measure how often the name of an image's class is its nearest among all class names.

    In [0, 1], larger better; chance is 1 / n_classes. Ties count against the member.

    Args:
        image: embeddings of images, [n_images, dim].
        class_text: embeddings of class names, [n_classes, dim].
        labels: row of each image's class, [n_images].

    Returns:
        NaN without images.
    """
    if len(image) == 0:
        return float("nan")
    ranks = _ranks(unit(image), unit(class_text), labels, np.arange(len(class_text)))
    return float((ranks == 0).mean())


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
    block = max(1, _RESAMPLED // n_pairs)
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
        then a column for each distinct score, from the largest on.

    Example:
        >>> score, truth = np.array([1.0, 3.0, 1.0]), np.array([True, True, False])
        >>> roc_counts(score, truth, np.ones((1, 3), int))
        (array([[0, 1, 2]]), array([[0, 0, 1]]))
    """
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=-np.inf))  # of equal scores
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
    scores: Mapping[str, np.ndarray], truth: np.ndarray, *, k: int = 50, n_boot: int, seed: int = 0
) -> pd.DataFrame:
    """Compare how well scores find the pairs that are wrong, each with a bootstrap 95 % interval.

    All metrics lie in [0, 1], larger better; a score without information has auroc 0.5 and average
    precision equal to the share of wrong pairs. Ties count as random order would: half in auroc, in
    proportion in precision at k. Wrong and right pairs are resampled separately, with the same
    resamples for all scores.

    Args:
        scores: one array a score, [n_pairs], finite, larger more suspicious.
        truth: true for pairs that are wrong, [n_pairs]; some, and not all.
        k: pairs reviewed for precision at k; at most all.
        n_boot: bootstrap resamples.
        seed: start of the resampling.

    Returns:
        One row a score: score, then auroc, average_precision and precision_at_k with `_low` and
        `_high`.
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
    columns = {"score": list(scores)}
    for name, of_scores in zip(METRICS, values.swapaxes(0, 1), strict=True):
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
    positives, negatives = roc_counts(score, truth, np.ones((1, len(truth)), int))
    return np.interp(numbers, (positives + negatives)[0], positives[0]) / numbers


def numbers_reviewed(n_pairs: int) -> np.ndarray:
    """Return 30 numbers of pairs to compute a precision at, from 10 to all, evenly spaced in their
    logarithm.

    Args: the number of pairs. Returns: int64 [n_numbers], at most 30.

    Example:
        >>> numbers_reviewed(1000)[[0, 1, -1]].tolist()
        [10, 12, 1000]
    """
    return np.unique(np.geomspace(min(10, n_pairs), n_pairs, 30).round().astype(np.int64))


def half_width(values: np.ndarray) -> float:
    """Return half the width of Student's t interval of a mean: t₀.₉₇₅(n − 1) s / √n.

    Args: values, [n], at least two.
    """
    n = len(values)
    return float(scipy.stats.t.ppf((1 + _LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


def seed_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's t interval of the mean over seeds.

    Args: one value a seed, [n_seeds]. Returns: its ends; NaN with fewer than three seeds.
    """
    if len(values) < MIN_REPLICATES:
        return float("nan"), float("nan")
    mean = float(np.mean(values))
    half = half_width(values)
    return mean - half, mean + half


def interval_text(mean: float, low: Any, high: Any, spec: str = ".3f", unit: str = "") -> str:
    """Return a number, and in brackets its interval if it has one: −0.120 [−0.200, −0.040]."""
    interval = "" if pd.isna(low) else f" [{low:{spec}}, {high:{spec}}]"
    return f"{mean:{spec}}{unit}{interval}".replace("-", "−")


def over_seeds(table: pd.DataFrame, *, by: Sequence[str], measure: str) -> pd.DataFrame:
    """Average a measure over seeds, with a t interval; missing values are skipped, groups without a
    value left out.

    Args:
        table: a row for each seed and combination of the columns `by`.
        by: names of columns.
        measure: name of a numeric column.

    Returns:
        The columns of `by`, then n (seeds), mean, low and high.
    """
    rows = []
    for key, values in table.dropna(subset=[measure]).groupby(list(by), sort=False)[measure]:
        numbers = values.to_numpy(dtype=np.float64)
        rows.append([*key, len(numbers), float(numbers.mean()), *seed_interval(numbers)])
    return pd.DataFrame(rows, columns=[*by, "n", "mean", "low", "high"])


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences with its interval and p value; NaN with fewer than two
    seeds."""

    n: int  # seeds that both settings have
    mean: float
    low: float
    high: float
    p_value: float  # two-sided


def paired_difference(values: ArrayLike, reference: ArrayLike) -> Difference:
    """Compare two settings over the seeds they share: the mean difference, with the paired t test.

    Effects that a seed has on both settings (split, initialisation, draws) cancel. In the units of
    the values; above 0: the setting has more than the reference.

    Args:
        values, reference: of both settings on the same seeds, [n_seeds] each.

    Returns:
        The mean of values − reference, its interval and p value.
    """
    differences = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
    n = len(differences)
    mean = float(differences.mean())
    if n < 2:
        return Difference(n, mean, *[float("nan")] * 3)
    if differences.std() <= 1e-12 * abs(mean):  # constant, for which the test is not defined
        return Difference(n, mean, mean, mean, float(mean == 0))
    test = scipy.stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval(_LEVEL)
    return Difference(n, mean, float(low), float(high), float(test.pvalue))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p values for multiple comparisons: Holm's step-down (Scandinavian Journal of
    Statistics, 1979).

    Args: one p for each comparison, [n]. Returns: [n]; NaN is skipped, and stays.
    """
    ascending = pd.Series(p_values).sort_values()  # NaN comes last
    steps = ascending * (ascending.count() - np.arange(len(ascending)))
    return steps.cummax().clip(upper=1.0).sort_index().to_numpy()
