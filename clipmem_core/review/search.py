"""A selection that asks for a meaning or for more like a pair → the pairs closest to it, the best match first."""

import functools

import numpy as np

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.review.encode import embed_text
from clipmem_core.review.nearest import choose_member, cosines, highest, index_path, unit, vectors_at
from clipmem_core.review.rows import find_row
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import Stamp, stamp

LIMIT = 1000  # pairs that a search finds
KEPT = 64  # searches in memory


def hits(audit: Audit, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Search the embeddings of pictures (`by` image) or captions (`by` text) of one member.

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
    member = choose_member(audit.config, selection.member)
    version = stamp(index_path(audit, member, selection.by))
    return _hits(audit, version, selection.meaning, selection.like, selection.by, member)


@functools.lru_cache(maxsize=KEPT)
def _hits(audit: Audit, version: Stamp, meaning: str, like: str, by: str, member: str) -> tuple[np.ndarray, np.ndarray]:
    """Search once for each version of the index."""
    path = index_path(audit, member, by)
    asked = [embed_text(audit, meaning, member=member)] if meaning else []
    asked += [unit(vectors_at(path, [_row(audit, like)])[0])] if like else []
    found = cosines(path, np.mean(asked, axis=0))
    rows = highest(found, LIMIT).astype(np.int64)
    match = found[rows]
    rows.flags.writeable = match.flags.writeable = False
    return rows, match


def _row(audit: Audit, pair_id: str) -> int:
    row = find_row(audit, pair_id)
    if row is None:
        raise InputError(f"there is no pair {pair_id!r} in audit {audit.name!r}: take another to search by")
    return row
