"""Memorization as it is predicted: what one half of the members tells of the clipmem that the other half measures."""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MIN_PAIRS = 200
FOLDS = 5
_PENALTIES = np.logspace(-2, 4, 13)


def predict_clipmem(
    features: Sequence[np.ndarray], clipmem: Sequence[np.ndarray], scored: np.ndarray, *, seed: int
) -> np.ndarray:
    """Predict each pair's clipmem from what members of another block show, cross-fitted over pairs and blocks.

    Ridge regression from one block's features to the clipmem of the next, in five folds of pairs: no pair is predicted
    by a fit to its own target. What varies with the members' draws alone cannot be predicted, so less noise is left,
    and the spread is smaller than that of clipmem. It is an estimate of what clipmem of very many members would be,
    not a counterfactual measured on the pair. In cosine units as clipmem, high is memorized.

    Args:
        features: of each block of members, [n_pairs, n_features].
        clipmem: of each block, [n_pairs]; at least two blocks, and no member in two.
        scored: true for pairs that are predicted, [n_pairs].
        seed: start of the draw of folds.

    Returns:
        float64 [n_pairs], the mean over blocks; NaN for other pairs, for those with a feature missing, and everywhere
        where there are fewer than two blocks or 200 such pairs.

    Example:
        >>> level = np.random.default_rng(0).normal(size=300)
        >>> found = predict_clipmem([level[:, None]] * 2, [level + 1] * 2, np.ones(300, dtype=bool), seed=0)
        >>> bool(np.abs(found - level - 1).max() < 0.01)
        True
    """
    predicted = np.full(len(scored), np.nan)
    if len(features) < 2:
        return predicted
    known = [np.isfinite(own).all(axis=1) & np.isfinite(target) for own, target in zip(features, clipmem, strict=True)]
    rows = np.flatnonzero(scored & np.all(known, axis=0))
    if len(rows) < MIN_PAIRS:
        return predicted
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES))
    others = [*clipmem[1:], clipmem[0]]
    found = [
        cross_val_predict(model, own[rows], other[rows], cv=folds) for own, other in zip(features, others, strict=True)
    ]
    predicted[rows] = np.mean(found, axis=0)
    return predicted
