"""Detectors of wrong captions that benchmarks compare: those from the literature, and ours by
name."""

import warnings

import numpy as np
import pandas as pd
import scipy

from clipmem_core.errors.misfit import LOG_PROBABILITY, nan_mean
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.embeddings import nearest_rows, unit

LEMON_NEIGHBOURS = 30  # its authors' untuned number
LEMON_IN = "lemon_in"
LEMON_OUT = "lemon_out"
MARGIN = "area_under_margin"
CONFIDENT_LEARNING = "confident_learning"
MISFIT_SECOND = "misfit_second"
# Detectors by a second round of training, and the corresponding ones of the first round
SECOND_ROUND = {MISFIT_SECOND: c.MISFIT, c.LOG_PROBABILITY_SECOND: c.LOG_PROBABILITY_OUT}
RANDOM_DETECTOR = "random"
REFERENCE_DETECTOR = c.MISFIT  # the one that benchmarks compare the others with
# Detectors of wrong pairs that benchmarks compare
DETECTORS = (
    *(c.SUSPICION, c.MISFIT, MISFIT_SECOND, c.SIMILARITY_IN, c.SIMILARITY_OUT, c.CSLS_OUT),
    *(c.LOG_PROBABILITY_OUT, c.LOG_PROBABILITY_SECOND, LEMON_IN, LEMON_OUT),
    *(c.LEARNED, MARGIN, CONFIDENT_LEARNING, c.CLIPMEM, RANDOM_DETECTOR),
)
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

    Args:
        trajectory: as for `mean_over_epochs`, [n_epochs, n_pairs, 2].

    Returns:
        float64 [n_pairs], in logits, within ±13.9; NaN for pairs the member never trained on.
    """
    probabilities = np.exp(trajectory[:, :, LOG_PROBABILITY].astype(np.float64))
    return nan_mean(scipy.special.logit(np.clip(probabilities, _SURE, 1 - _SURE)))


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

    Returns:
        float64 [n_pairs].
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
        k: how many, fewer than n.

    Returns:
        int64 [n, k], the nearest first.

    Example:
        >>> nearest(np.array([[0.0, 1.0], [0.1, 1.0], [1.0, -2.0]]), 1).ravel().tolist()
        [1, 0, 1]
    """
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
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = pd.Series(labels)
    rows = np.flatnonzero(names.map(names.value_counts()) >= _FOLDS)
    if names[rows].nunique() < 2:
        raise ValueError(f"fewer than two labels have {_FOLDS} pairs or more")
    if len(rows) > _MOST_LABELLED:
        rows = np.sort(draws.rng(seed, "labelled").choice(rows, _MOST_LABELLED, replace=False))
    classes, _ = pd.factorize(names[rows], sort=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    chosen = np.asarray(features[rows], dtype=np.float32)
    # of no convergence, and of a class that was drawn down below the number of folds
    with warnings.catch_warnings(action="ignore"):
        probability = cross_val_predict(model, chosen, classes, cv=folds, method="predict_proba")
    score = np.zeros(len(labels))
    score[rows] = _over_thresholds(probability, classes)
    return score


def _over_thresholds(probability: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the largest probability of another class above its threshold, less that of the pair's
    class, [n]."""
    rows = np.arange(len(classes))
    thresholds = np.bincount(classes, weights=probability[rows, classes]) / np.bincount(classes)
    above = probability - thresholds
    observed = above[rows, classes]
    above[rows, classes] = -np.inf
    return above.max(axis=1) - observed
