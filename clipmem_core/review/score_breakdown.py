"""What one pair's score is made of: its terms member by member, and the captions that members without it suggest.

Only the pair's own vectors are read, and the external pairs' once for every member; a caption is suggested after one
pass over the captions and pictures of each member that never saw the pair.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.prepare import sides_of
from clipmem_core.audits.store import MEMBERSHIP, PAIRS, SCORES, Audit, read_array
from clipmem_core.config import InputError
from clipmem_core.review.cards import LISTED, OWN_CAPTIONS, listed_scores
from clipmem_core.review.search import (
    ALL_UP_TO,
    EMBEDDINGS,
    cosines,
    embeddings_path,
    highest,
    unit,
    vectors_at,
    vectors_of,
)
from clipmem_core.review.tables import ROW, fetch_columns, fetch_numbered, kept, number
from clipmem_core.scores.alignment import external_means, terms_of
from clipmem_core.scores.membership import Membership, Sides
from clipmem_core.scores.registry import BY_NAME

TRAINED, SIDE = "trained", "side"
IN, OUT = "in", "out"
SHORTLIST = 2000  # pairs that all members look at in an audit of more than ALL_UP_TO pairs
LEAD, BEHIND, LEAST = 0.55, 10, 1000  # a suggestion leads the tenth best by so much, in an audit of so many pairs
QUALITY = "With injected errors, 9 of 10 such suggestions matched on photographs, 19 of 22 on textbook figures."
_MORE = 4  # captions are looked at in batches that grow by this factor, until enough of them differ


@dataclass(frozen=True)
class Suggestion:
    """A caption of another pair, its pair's mean cosine with the picture, and how far its score is above the tenth."""

    row: int
    caption: str
    cosine: float
    lead: float


@dataclass(frozen=True)
class Suggested:
    """The members that never saw a pair, the mean cosine of each of its own captions, and captions of other pairs."""

    members: tuple[str, ...] = ()
    own: tuple[float, ...] = ()
    choices: tuple[Suggestion, ...] = ()

    @property
    def worst(self) -> int:
        """The place of the pair's own caption that fits worst."""
        return int(np.nanargmin(self.own)) if np.isfinite(self.own).any() else 0


def suggested_captions(audit: Audit, row: int, *, k: int = 3) -> Suggested:
    """Return single captions of other pairs that members which never saw a pair would give it.

    A pair is scored by the mean cosines of its captions and of its own picture with this picture. Of each pair the
    caption that fits its own picture best is taken. Only those that lead the tenth by `LEAD` are suggested: of these
    `QUALITY` is true, see data/results/suggestions.csv. Below `LEAST` pairs, none is.

    Args:
        audit: a finished audit.
        row: the pair's number.
        k: how many at most.

    Returns:
        Captions that the pair does not have, each once, the highest score first.

    Raises:
        InputError: there is no such row, or a file is missing or broken.
    """
    membership = _membership_at(audit, row)
    others = [name for name, saw in zip(membership.members, membership.trained[:, row], strict=True) if not saw]
    if not others:
        return Suggested()
    text, image = _mean_cosines(audit, others, row, len(membership.group))
    (own,) = _captions(audit, [row])
    fits = tuple(float(text[row]) if fit is None else fit for _, fit in own)
    score = text + image
    score[row] = np.nan
    ranked = _different(audit, {caption for caption, _ in own}, score)
    if len(ranked) < BEHIND or len(score) < LEAST:
        return Suggested(tuple(others), fits)
    lead = score - score[ranked[-1][0]]
    found = (Suggestion(at, caption, float(text[at]), float(lead[at])) for at, caption in ranked[:k])
    return Suggested(tuple(others), fits, tuple(each for each in found if each.lead >= LEAD))


def _mean_cosines(audit: Audit, members: Sequence[str], row: int, n_pairs: int) -> np.ndarray:
    """Return the mean cosines of a pair's picture with each pair's captions and picture in some members' spaces.

    Above `ALL_UP_TO` pairs only the pair itself and the `SHORTLIST` pairs that are the closest in the space of the
    audit's first member are looked at; NaN for the others.

    Returns:
        float64 [2, n_pairs]: captions, picture.
    """
    full = n_pairs <= ALL_UP_TO
    total = np.zeros((2, n_pairs))
    for name in members if full else audit.record.members[:1]:
        image_path, text_path = _checked_files(audit, name, n_pairs)
        picture = vectors_at(image_path, [row])[0]
        total += [cosines(text_path, picture), cosines(image_path, picture)]
    if full:
        return total / len(members)
    near = np.union1d(highest(total.sum(axis=0), SHORTLIST), [row])
    found = np.full((2, n_pairs), np.nan)
    found[:, near] = 0.0
    for name in members:
        image, text = vectors_of(audit, name, near.tolist())
        picture = unit(image[np.searchsorted(near, row)])
        found[:, near] += np.array([_unit_rows(text) @ picture, _unit_rows(image) @ picture]) / len(members)
    return found


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _different(audit: Audit, seen: set[str], score: np.ndarray) -> list[tuple[int, str]]:
    """Return the rows of the highest scores, `BEHIND` at most, each with a caption that is not among those seen."""
    size = BEHIND + _MORE
    while True:
        rows, ranked = highest(score, size).tolist(), dict[str, int]()
        for place, captions in zip(rows, _captions(audit, rows), strict=True):
            if captions:
                best = max(captions, key=lambda each: -math.inf if each[1] is None else each[1])
                ranked.setdefault(best[0], place)
        found = [(place, caption) for caption, place in ranked.items() if caption not in seen]
        if len(found) >= BEHIND or len(rows) < size:
            return found[:BEHIND]
        size *= _MORE


def _captions(audit: Audit, rows: Sequence[int]) -> list[list[tuple[str, float | None]]]:
    """Return the captions of pairs, each with its similarity_out where single captions have scores."""
    ids = fetch_numbered(audit.folder / PAIRS, [c.PAIR_ID], rows)
    listed = {
        each[c.PAIR_ID]: each for each in listed_scores(audit, [*(ids[row][0] for row in rows)]).to_dict("records")
    }
    found = [listed[ids[row][0]] for row in rows]
    fits = [each.get(LISTED[c.SIMILARITY_OUT]) for each in found]
    return [
        [
            (str(caption), fit[place] if isinstance(fit, list) else None)
            for place, caption in enumerate(own[OWN_CAPTIONS])
        ]
        for own, fit in zip(found, fits, strict=True)
    ]


def mean_terms(audit: Audit, row: int) -> dict[str, float | None]:
    """Return one pair's row of the scores: every column but its id and group, None where there is no number.

    Raises:
        InputError: there is no such row, or the file is missing or broken.
    """
    found = fetch_numbered(audit.folder / SCORES, [number(column) for column in BY_NAME], [row])
    if row not in found:
        raise InputError(f"audit {audit.name!r} has no row {row} in its scores")
    values = zip(BY_NAME, found[row], strict=True)
    return {column: float(value) if math.isfinite(value) else None for column, value in values}


def member_terms(audit: Audit, row: int) -> pd.DataFrame:
    """Measure one pair under every member, as the scores do.

    Args:
        audit: a finished audit.
        row: the pair's number.

    Returns:
        One row a member: member, trained (on this pair), side (`in` or `out`: what it counts as in clipmem, by the
        audit's protocol), positive, negative_text, negative_image, alignment, similarity, in cosine units. The mean
        alignment of `in` less that of `out` is the pair's clipmem.

    Raises:
        InputError: there is no such row, or a file is missing or broken.
    """
    membership = _membership_at(audit, row)
    inside = _inside(audit)[:, row]
    table = pd.DataFrame([_terms(audit, name, membership, row) for name in membership.members])
    table.insert(0, c.MEMBER, list(membership.members))
    table.insert(1, TRAINED, membership.trained[:, row])
    table.insert(2, SIDE, np.where(inside, IN, OUT).tolist())
    return table


def _files(audit: Audit, member: str) -> list[Path]:
    return [embeddings_path(audit, member, by) for by in EMBEDDINGS]


def _terms(audit: Audit, member: str, membership: Membership, row: int) -> dict[str, float]:
    """Return the terms of one member's alignment with one pair; see scores/alignment.py."""
    _checked_files(audit, member, len(membership.group))
    external = _external(audit)
    mean_image, mean_text = _external_means(audit, member)
    image, text = (vectors[0].astype(np.float64) for vectors in vectors_of(audit, member, [row]))
    products = np.array([[image @ text], [image @ mean_text], [mean_image @ text], [image @ image], [text @ text]])
    terms = terms_of(products, np.flatnonzero([row in external]), len(external))
    shown = (c.POSITIVE, c.NEGATIVE_TEXT, c.NEGATIVE_IMAGE, c.ALIGNMENT, c.SIMILARITY)
    return {term: float(terms[term][0]) for term in shown}


@kept(8, MEMBERSHIP)
def _external(audit: Audit) -> list[int]:
    """Return the rows of the external pairs that centre alignments."""
    return np.flatnonzero(sides_of(audit, audit.record.config, _membership(audit)).external).tolist()


@kept(64, MEMBERSHIP, paths=_files)
def _external_means(audit: Audit, member: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ν_I and ν_T."""
    external = _external(audit)
    image, text = vectors_of(audit, member, external)
    try:
        return external_means(image, text, np.ones(len(external), dtype=bool))
    except ValueError as error:
        raise InputError(f"member {member} cannot be compared ({error}): delete the audit and run it again") from None


def _checked_files(audit: Audit, member: str, n_pairs: int) -> list[Path]:
    """Return a member's files of embeddings, after a check that they are of these pairs."""
    paths = _files(audit, member)
    for path in paths:
        if (found := len(read_array(path, shared=True))) != n_pairs:
            raise InputError(f"{path} has {found:,} rows and the audit {n_pairs:,}: delete it and run the audit again")
    return paths


def _membership_at(audit: Audit, row: int) -> Membership:
    membership = _membership(audit)
    if not 0 <= row < len(membership.group):
        raise InputError(f"audit {audit.name!r} has no row {row}, only {len(membership.group):,}")
    return membership


@kept(2, MEMBERSHIP)
def _membership(audit: Audit) -> Membership:
    """Read who trains on what, but for the pairs' ids, which are most of the file."""
    path = audit.folder / MEMBERSHIP
    columns = fetch_columns(path, f"SELECT * EXCLUDE ({c.PAIR_ID}, {ROW}) FROM parquet")
    group = columns.pop(c.GROUP, np.empty(0))
    if not columns or not len(group):
        raise InputError(f"{path} names no groups or no members: delete the audit's folder and run it again")
    return Membership(group, tuple(columns), np.stack(list(columns.values())).astype(bool))


@kept(2, MEMBERSHIP)
def _inside(audit: Audit) -> np.ndarray:
    """Return which members count as `in` for each pair, [n_members, n_pairs]."""
    membership, config = _membership(audit), audit.record.config
    return Sides(membership, config.protocol, config.seed).inside
