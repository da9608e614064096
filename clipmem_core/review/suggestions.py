"""Captions of other pairs that are suggested for a picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipmem_core.audit.store import PAIRS, Audit, read_embeddings
from clipmem_core.columns import PAIR_ID, SIMILARITY_OUT
from clipmem_core.io import InputError
from clipmem_core.review.cards import LISTED, OWN_CAPTIONS, listed_scores
from clipmem_core.review.queries import fetch_numbered
from clipmem_core.review.search import ALL_UP_TO, read_sides, top_k

_SHORTLIST = 2000  # pairs that all members score in an audit of more than ALL_UP_TO pairs
LEAD = 0.55  # required lead over the tenth best pair
_BEHIND = 10
LEAST = 1000  # pairs of an audit with suggestions
QUALITY = (
    "With injected errors, 9 of 10 such suggestions matched on photographs, 19 of 22 on "
    "textbook figures."
)
_CONSIDERED = 200  # pairs whose captions are read


@dataclass(frozen=True)
class Suggestion:
    """A caption of another pair, its pair's mean cosine with the picture, and how far its score is
    above the tenth."""

    row: int
    caption: str
    cosine: float
    lead: float


@dataclass(frozen=True)
class Suggested:
    """Members that did not train on a pair, the mean cosine of each of its captions, and suggested
    captions."""

    members: tuple[str, ...] = ()
    cosines: tuple[float, ...] = ()
    choices: tuple[Suggestion, ...] = ()


def suggested_captions(audit: Audit, row: int) -> Suggested:
    """Return captions of other pairs for a picture, by the members that did not train on it, the
    best first.

    The score of another pair is the mean cosine of this picture with its captions plus that with
    its picture; of its captions the one with the highest similarity_out is suggested. Only pairs
    that lead the tenth by `LEAD` are suggested, and none in an audit of fewer than `LEAST` pairs;
    for these `QUALITY` was measured, see data/results/suggestions.csv.
    """
    membership = read_sides(audit).membership
    n_pairs = len(membership.group)
    if not 0 <= row < n_pairs:
        raise InputError(f"audit {audit.name!r} has no row {row}, only {n_pairs:,}")
    members = np.array(membership.members)[~membership.trained[:, row]].tolist()
    if not members:
        return Suggested()
    text, image = _mean_cosines(audit, members, row, n_pairs)
    (current,) = _captions(audit, [row])
    cosines = tuple(float(text[row]) if fit is None else fit for _, fit in current)
    score = text + image
    score[row] = np.nan
    ranked = _different(audit, {caption for caption, _ in current}, score)
    choices = []
    if len(ranked) == _BEHIND and n_pairs >= LEAST:
        lead = score - score[ranked[-1][0]]
        choices = [
            Suggestion(at, caption, float(text[at]), float(lead[at]))
            for at, caption in ranked[:3]
            if lead[at] >= LEAD
        ]
    return Suggested(tuple(members), cosines, tuple(choices))


def _mean_cosines(audit: Audit, members: Sequence[str], row: int, n_pairs: int) -> np.ndarray:
    """Return mean cosines of a picture with captions and pictures, [2, n_pairs]; NaN outside a
    shortlist."""

    def total(names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        cosines = []
        for name in names:
            image, text = read_embeddings(audit.member(name))
            picture = image[[row]][0]
            cosines.append([vectors.cosines(picture, rows) for vectors in (text, image)])
        return np.asarray(cosines, dtype=np.float64).sum(axis=0)

    rows = np.arange(n_pairs)
    if n_pairs > ALL_UP_TO:
        rows = np.union1d(top_k(total(members[:1], rows).sum(axis=0), _SHORTLIST), [row])
    means = np.full((2, n_pairs), np.nan)
    means[:, rows] = total(members, rows) / len(members)
    return means


def _different(audit: Audit, excluded: set[str], score: np.ndarray) -> list[tuple[int, str]]:
    """Return the rows of the `_BEHIND` highest scores with different captions, none of them
    excluded; fewer if most of the `_CONSIDERED` highest have the same."""
    rows = top_k(score, _CONSIDERED).tolist()
    ranked: dict[str, int] = {}
    for row, captions in zip(rows, _captions(audit, rows), strict=True):
        best, _ = max(captions, key=lambda each: -math.inf if each[1] is None else each[1])
        ranked.setdefault(best, row)
    different = [(row, caption) for caption, row in ranked.items() if caption not in excluded]
    return different[:_BEHIND]


def _captions(audit: Audit, rows: Sequence[int]) -> list[list[tuple[str, float | None]]]:
    """Return the captions of pairs, each with its similarity_out if single captions have scores."""
    ids = fetch_numbered(audit.folder / PAIRS, [PAIR_ID], rows)
    table = listed_scores(audit, [ids[row][0] for row in rows]).set_index(PAIR_ID)
    captions = []
    for row in rows:
        pair = table.loc[ids[row][0]]
        texts = pair[OWN_CAPTIONS]
        fits = pair.get(LISTED[SIMILARITY_OUT])
        fits = fits if isinstance(fits, list) else [None] * len(texts)
        captions.append(list(zip(texts, fits, strict=True)))
    return captions
