"""The rows of an audit by a score, sorted once; every page and filter looks them up."""

import functools

import numpy as np

from clipmem_core.audits.store import SCORES, Audit
from clipmem_core.review.tables import Version, fetch_columns, number
from clipmem_core.scores.table import BY_NAME

KEPT = 8  # orders in memory, 4 bytes a pair


@functools.lru_cache(maxsize=KEPT)
def order_of(audit: Audit, version: Version, column: str) -> np.ndarray:
    """Return the rows of an audit by a score, the highest first; pairs without it are left out.

    Args:
        audit: a finished audit.
        version: of its tables.
        column: one of scores.parquet's numbers.

    Returns:
        int32, not to be written to; pairs of the same score come in the tables' order.

    Raises:
        ValueError: there is no such column.
    """
    if column not in BY_NAME:
        raise ValueError(f"order must be one of {', '.join(BY_NAME)}, not {column!r}")
    found = fetch_columns(audit.folder / SCORES, f"SELECT {number(column)} AS score FROM parquet")
    rows = highest_first(found["score"])
    rows.flags.writeable = False
    return rows


def highest_first(scores: np.ndarray) -> np.ndarray:
    """Return the places int32 of the finite scores, the highest first, ties by place.

    Numpy's usual sort is several times as fast as its stable one but leaves ties in any order; only those are put
    right afterwards.

    Example:
        >>> highest_first(np.array([0.5, np.nan, 0.9, 0.5])).tolist()
        [2, 0, 3]
    """
    places = np.flatnonzero(np.isfinite(scores)).astype(np.int32)
    keys = -scores[places]
    order = np.argsort(keys)
    same = np.diff(keys[order], prepend=np.inf) == 0
    tied = same | np.append(same[1:], False)
    run = np.cumsum(~same)[tied]
    order[tied] = np.sort(run * len(order) + order[tied]) % max(len(order), 1)
    return places[order]
