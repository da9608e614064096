"""How strongly a pair would be memorized, predicted from what a single model makes of it.

Calibrated on an audit of the same pairs: for each of its members, what that member makes of a pair beside the pair's
clipmem under the other members. It tells which pairs are of the kind that is learned by heart, and not whether the one
model at hand has learned them: of pairs that a member never saw it predicts clipmem as well as of those it saw.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from clipmem_core.columns import ALIGNMENT, NEGATIVE_IMAGE, NEGATIVE_TEXT, SIMILARITY
from clipmem_core.scores.alignment import IMAGE_SQUARE, TEXT_SQUARE, pair_terms
from clipmem_core.scores.in_out import Sides, side_means

TERMS = (ALIGNMENT, SIMILARITY, NEGATIVE_TEXT, NEGATIVE_IMAGE, IMAGE_SQUARE, TEXT_SQUARE)
SAMPLED, NEAREST = 500, 10  # pairs that neighbours are looked for among, and how many of them count
_ROUNDING = 1e-6  # what differs by less, as lengths of unit vectors do, is the same for all pairs
_SAMPLE_DRAW, _HALF_DRAW = 7, 8  # random streams of their own


@dataclass(frozen=True, eq=False)
class Calibration:
    """A ridge regression from features to clipmem, and how well it did where it was not fitted.

    Attributes:
        model: fitted on all members and pairs.
        seen: Spearman correlation with clipmem under the other members, mean over members left out, of pairs left out
            that the member was trained on.
        unseen: the same of pairs that the member was not trained on.
        excess: the same with how far the member itself lies above members without the pair, of pairs it was trained on.
    """

    model: Ridge
    seen: float
    unseen: float
    excess: float


def features(image: np.ndarray, text: np.ndarray, *, seed: int) -> np.ndarray:
    """Return what a model makes of every pair, in standard deviations over the pairs, float64 [n_pairs, n_features].

    Standardised, features of models of other dimensions and scales compare.

    Args:
        image: mean image embeddings, [n_pairs, dim].
        text: mean text embeddings, [n_pairs, dim].
        seed: start of the draw of pairs among which neighbours are looked for.
    """
    terms = pair_terms(image, text, np.ones(len(image), dtype=bool))
    rng = np.random.default_rng([seed, _SAMPLE_DRAW])
    sample = np.sort(rng.permutation(len(image))[:SAMPLED])
    columns = [np.asarray(terms[name], dtype=np.float64) for name in TERMS]
    for a, b in ((image, text), (text, image)):
        cosines = np.asarray(a) @ np.asarray(b)[sample].T
        cosines[sample, np.arange(len(sample))] = -np.inf  # a pair is no neighbour of its own
        columns.append(np.sort(cosines, axis=1)[:, -NEAREST:].mean(axis=1, dtype=np.float64))
    found = np.column_stack(columns)
    spread = found.std(axis=0)
    return (found - found.mean(axis=0)) / np.where(spread > _ROUNDING, spread, np.inf)


def calibrate(own: Sequence[np.ndarray], alignments: Sequence[np.ndarray], sides: Sides) -> Calibration:
    """Fit, and judge by members and pairs left out.

    Args:
        own: the features of each member, [n_pairs, n_features] each.
        alignments: of each member, [n_pairs].
        sides: who was trained on what.

    Raises:
        ValueError: fewer than three members, with which no pair's clipmem under the others could be told.
    """
    trained = sides.membership.trained
    if len(own) < 3:
        raise ValueError(f"own must hold the features of at least 3 members, not {len(own)}")
    members = range(len(own))
    targets, without = [], []
    for left_out in members:
        rest = [row for row in members if row != left_out]
        mean_in, mean_out = side_means([alignments[row] for row in rest], trained[rest])
        targets.append(np.where(sides.external, np.nan, mean_in - mean_out))
        without.append(mean_out)
    half = np.random.default_rng([sides.seed, _HALF_DRAW]).random((trained.shape[1],)) < 0.5
    seen, unseen, excess = [], [], []
    for left_out in members:
        rest = [row for row in members if row != left_out]
        predicted = _fit(own, targets, trained, rest, half).predict(own[left_out])
        known = ~half & np.isfinite(targets[left_out])
        rows, others = known & trained[left_out], known & ~trained[left_out]
        seen.append(_agreement(predicted[rows], targets[left_out][rows]))
        unseen.append(_agreement(predicted[others], targets[left_out][others]))
        beyond = np.asarray(alignments[left_out]) - without[left_out]
        excess.append(_agreement(predicted[rows], beyond[rows]))
    whole = _fit(own, targets, trained, list(members), np.ones_like(half))
    return Calibration(whole, *(float(np.nanmean(values)) for values in (seen, unseen, excess)))


def _fit(
    own: Sequence[np.ndarray], targets: Sequence[np.ndarray], trained: np.ndarray, members: list[int], rows: np.ndarray
) -> Ridge:
    """Fit on the pairs that members were trained on, each with its clipmem under the others."""
    used = {row: rows & trained[row] & np.isfinite(targets[row]) for row in members}
    x = np.concatenate([own[row][where] for row, where in used.items()])
    return Ridge().fit(x, np.concatenate([targets[row][where] for row, where in used.items()]))


def _agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float(spearmanr(a, b).statistic) if len(a) > 2 else float("nan")
