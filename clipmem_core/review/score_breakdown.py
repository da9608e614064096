"""What one pair's score is made of: its terms member by member, and the captions that members without it would choose.

Only the pair's own vectors are read, and the external pairs' once for every member; a caption is chosen in one pass
over the captions of each member that never saw the pair.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.index import map_vectors
from clipmem_core.audits.prepare import sides_of
from clipmem_core.audits.store import MEMBERSHIP, PAIRS, SCORES, Audit
from clipmem_core.config import InputError
from clipmem_core.review.search import INDEXES, cosines, highest, index_path, vectors_at
from clipmem_core.review.tables import ROW, fetch_columns, fetch_numbered, kept, number
from clipmem_core.scores.alignment import external_means, terms_of
from clipmem_core.scores.in_out import in_side
from clipmem_core.scores.membership import Membership
from clipmem_core.scores.table import BY_NAME

TRAINED, SIDE = "trained", "side"
IN, OUT = "in", "out"
_MORE = 4  # captions are looked at in batches that grow by this factor, until enough of them differ


@dataclass(frozen=True)
class Chosen:
    """The captions that members which never saw a pair find closest to its picture.

    `choices` has (row, mean cosine) of other pairs, the closest first, one for each different text; `own` is the mean
    cosine of the pair's own captions: its similarity_out. Without such a member, nothing is chosen.
    """

    members: tuple[str, ...] = ()
    choices: tuple[tuple[int, float], ...] = ()
    own: float | None = None


def chosen_captions(audit: Audit, row: int, *, k: int) -> Chosen:
    """Return the captions that the members which never saw a pair would give it, out of all captions of the audit.

    Args:
        audit: a finished audit.
        row: the pair's number.
        k: how many.

    Returns:
        The members, the choices, and how close the pair's own captions come. Pairs with the very captions of this one
        are left out.

    Raises:
        InputError: there is no such row, or a file is missing or broken.
    """
    membership = _membership_at(audit, row)
    others = [name for name, saw in zip(membership.members, membership.trained[:, row], strict=True) if not saw]
    if not others:
        return Chosen()
    total = np.zeros(len(membership.group))
    for name in others:
        image, text = _indexes(audit, name, len(total))
        total += cosines(text, vectors_at(image, [row])[0])
    mean = total / len(others)
    rows = _different(audit, row, mean, k)
    choices = tuple((place, float(mean[place])) for place in rows)
    return Chosen(tuple(others), choices, float(mean[row]) if math.isfinite(mean[row]) else None)


def _different(audit: Audit, row: int, mean: np.ndarray, k: int) -> list[int]:
    """Return the k rows of the highest mean whose captions differ from each other and from those of `row`."""
    (own,) = _texts(audit, [row])
    size = k + _MORE
    while True:
        rows = highest(mean, size).tolist()
        seen, chosen = {own}, list[int]()
        for place, text in zip(rows, _texts(audit, rows), strict=True):
            if text not in seen:
                chosen.append(place)
            seen.add(text)
        if len(chosen) >= k or len(rows) < size:
            return chosen[:k]
        size *= _MORE


def _texts(audit: Audit, rows: Sequence[int]) -> list[frozenset[str]]:
    found = fetch_numbered(audit.folder / PAIRS, [c.CAPTIONS], rows)
    return [frozenset(found[row][0] or ()) for row in rows]


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


def _terms(audit: Audit, member: str, membership: Membership, row: int) -> dict[str, float]:
    """Return the terms of one member's alignment with one pair; see scores/alignment.py."""
    image_path, text_path = _indexes(audit, member, len(membership.group))
    external = _external(audit)
    mean_image, mean_text = _external_means(audit, member)
    image, text = (vectors_at(path, [row])[0].astype(np.float64) for path in (image_path, text_path))
    products = np.array([[image @ text], [image @ mean_text], [mean_image @ text], [image @ image], [text @ text]])
    terms = terms_of(products, np.flatnonzero([row in external]), len(external))
    shown = (c.POSITIVE, c.NEGATIVE_TEXT, c.NEGATIVE_IMAGE, c.ALIGNMENT, c.SIMILARITY)
    return {term: float(terms[term][0]) for term in shown}


@kept(8, MEMBERSHIP)
def _external(audit: Audit) -> list[int]:
    """Return the rows of the external pairs that centre alignments."""
    return np.flatnonzero(sides_of(audit, audit.record.config, _membership(audit)).external).tolist()


@kept(32, MEMBERSHIP, paths=lambda audit, member: [index_path(audit, member, by) for by in INDEXES])
def _external_means(audit: Audit, member: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ν_I and ν_T."""
    external = _external(audit)
    image, text = (vectors_at(index_path(audit, member, by), external) for by in INDEXES)
    try:
        return external_means(image, text, np.arange(len(external)))
    except ValueError as error:
        raise InputError(f"member {member} cannot be compared ({error}): delete the audit and run it again") from None


def _indexes(audit: Audit, member: str, n_pairs: int) -> list[Path]:
    """Return a member's two indexes, after a check that they are of these pairs."""
    paths = [index_path(audit, member, by) for by in INDEXES]
    for path in paths:
        if (found := len(map_vectors(path))) != n_pairs:
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
    return in_side(membership, protocol=config.protocol, seed=config.seed)
