"""The detectors of wrong captions that are compared with each other: one entry each, larger is more suspicious."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from clipmem_core import columns as c
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.canaries import swapped_csls
from clipmem_core.scores.detectors import (
    confident_learning,
    fit_out,
    learned,
    lemon,
    margin_over_epochs,
    mean_over_epochs,
)
from clipmem_core.scores.in_out import Sides, side_means
from clipmem_core.scores.prevalence import likely_wrong
from clipmem_core.scores.table import BY_NAME

NEAREST = 30  # neighbours of LEMoN, its authors' untuned number
MISFIT_SECOND = "misfit_second"
# Detectors by a second round of training, and what each is by the first.
SECOND_ROUND = {MISFIT_SECOND: c.MISFIT, c.LOG_PROBABILITY_SECOND: c.LOG_PROBABILITY_OUT}
REFERENCE = c.MISFIT  # the detector that others are compared with
LEMON_IN, LEMON_OUT = "lemon_in", "lemon_out"
MARGIN = "area_under_margin"
CONFIDENT_LEARNING = "confident_learning"
RANDOM = "random"


@dataclass(frozen=True, eq=False)
class Observed:
    """What the members of one split leave, and what is known of its pairs. What several detectors need is kept.

    Attributes:
        image: mean image embeddings, one matrix a member, [n_pairs, dim].
        text: mean text embeddings, one matrix a member, [n_pairs, dim].
        trajectories: one a member, [n_epochs, n_pairs, 2], NaN where not trained.
        logit_scales: of each member.
        sides: who trains on what.
        labels: names, None where a pair has none, [n_pairs].
        image_features: of a locked tower, [n_pairs, width]; None where members train theirs.
        text_features: the same of the captions, averaged over those of a pair.
        seed: of what is drawn.
        second: log-probability out by a second round of training, [n_pairs]; NaN where it had nothing to leave out,
            None where none was asked for.
    """

    image: Sequence[np.ndarray]
    text: Sequence[np.ndarray]
    trajectories: Sequence[np.ndarray]
    logit_scales: Sequence[float]
    sides: Sides
    labels: np.ndarray
    image_features: np.ndarray | None
    text_features: np.ndarray | None
    seed: int
    second: np.ndarray | None = None

    @property
    def trained(self) -> np.ndarray:
        return self.sides.membership.trained

    @property
    def scored(self) -> np.ndarray:
        return ~self.sides.external

    @functools.cached_property
    def terms(self) -> list[dict[str, np.ndarray]]:
        """The terms of alignment, one dict a member."""
        return [pair_terms(a, b, self.sides.external) for a, b in zip(self.image, self.text, strict=True)]

    @functools.cached_property
    def similarity(self) -> tuple[np.ndarray, np.ndarray]:
        """Cosine of picture and captions under members that trained on the pair, and under the others."""
        return side_means([terms[c.SIMILARITY] for terms in self.terms], self.trained)

    @functools.cached_property
    def learned(self) -> np.ndarray:
        return learned([mean_over_epochs(trajectory) for trajectory in self.trajectories])

    @functools.cached_property
    def fit_out(self) -> tuple[np.ndarray, np.ndarray]:
        """CSLS and log-probability of the true partner among external ones, under members that never saw the pair."""
        return fit_out(self.image, self.text, self.trained, self.sides.external, self.logit_scales)

    @functools.cached_property
    def lemon(self) -> tuple[np.ndarray, np.ndarray]:
        """LEMoN under members that trained on the pair, and under the others."""
        known = [self.image_features, self.text_features]
        kept = [None if features is None else nearest(features, NEAREST) for features in known]
        values = []
        for pair in zip(self.image, self.text, strict=True):
            near = [nearest(own, NEAREST) if rows is None else rows for own, rows in zip(pair, kept, strict=True)]
            values.append(lemon(*pair, *near))
        return side_means(values, self.trained)

    def misfit(self, second: np.ndarray | None = None) -> np.ndarray:
        """Return misfit as the audits have it, of the first round of training or of the second."""
        score = BY_NAME[c.MISFIT]
        assert score.compute is not None
        none = np.full(len(self.labels), np.nan)
        parts = {
            c.LEARNED: self.learned,
            c.LOG_PROBABILITY_OUT: self.fit_out[1],
            c.LOG_PROBABILITY_SECOND: none if second is None else second,
        }
        return score.compute(*(parts[name] for name in score.needs))

    def likely_wrong(self, least: float) -> np.ndarray:
        """What a second round of training leaves out, true or false [n_pairs]; `least` as of `likely_wrong`."""
        misfit, fit = (np.where(self.scored, values, np.nan) for values in (self.misfit(), self.fit_out[0]))
        swapped, _ = swapped_csls(self.image, self.text, self.trained, self.sides.external, seed=self.sides.seed)
        return likely_wrong(misfit, fit, swapped, least=least)


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
    own = vectors.astype(np.float32) - vectors.mean(axis=0, dtype=np.float32)
    faiss.normalize_L2(own)
    index = faiss.IndexFlatIP(own.shape[1])
    index.add(own)
    rows = index.search(own, k + 1)[1]
    itself = rows == np.arange(len(rows))[:, None]
    itself[~itself.any(axis=1), -1] = True  # an equal row stands in its place
    return rows[~itself].reshape(len(rows), k)


def _second(seen: Observed) -> np.ndarray:
    if seen.second is None:
        raise ValueError("it needs a second round of training (--rounds 2)")
    return seen.second


def _log_probability_second(seen: Observed) -> np.ndarray:
    second = _second(seen)
    return -(second if np.isfinite(second).any() else seen.fit_out[1])


def _margin(seen: Observed) -> np.ndarray:
    return -learned([margin_over_epochs(trajectory) for trajectory in seen.trajectories])


def _confident_learning(seen: Observed) -> np.ndarray:
    # Members' spaces cannot be averaged: where there are no features, those of the first member stand for all.
    features = seen.text[0] if seen.text_features is None else seen.text_features
    return confident_learning(features, seen.labels, seed=seen.seed)


def _clipmem(seen: Observed) -> np.ndarray:
    inside, outside = side_means([terms[c.ALIGNMENT] for terms in seen.terms], seen.sides.inside)
    return inside - outside


def _random(seen: Observed) -> np.ndarray:
    return np.random.default_rng([seen.seed, len(seen.labels)]).random(len(seen.labels))


# Each returns [n_pairs]; it raises a ValueError that says why where a data set does not have what it needs.
DETECTORS: dict[str, Callable[[Observed], np.ndarray]] = {
    c.MISFIT: Observed.misfit,
    MISFIT_SECOND: lambda seen: seen.misfit(_second(seen)),
    c.SIMILARITY_IN: lambda seen: -seen.similarity[0],
    c.SIMILARITY_OUT: lambda seen: -seen.similarity[1],
    c.CSLS_OUT: lambda seen: -seen.fit_out[0],
    c.LOG_PROBABILITY_OUT: lambda seen: -seen.fit_out[1],
    c.LOG_PROBABILITY_SECOND: _log_probability_second,
    LEMON_IN: lambda seen: seen.lemon[0],
    LEMON_OUT: lambda seen: seen.lemon[1],
    c.LEARNED: lambda seen: -seen.learned,
    MARGIN: _margin,
    CONFIDENT_LEARNING: _confident_learning,
    c.CLIPMEM: _clipmem,
    RANDOM: _random,
}
