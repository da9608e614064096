"""An audit and a selection → how many pairs it holds, a page of them, and who comes before and after a pair.

The rows of a selection are found once, in their order, and kept until a file or a decision changes them; pages, places
and neighbours are look-ups in that list.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.columns import CLIPMEM, GROUP, INDEPENDENT, LABEL, PAIR_ID, PLANTED
from clipmem_core.review.conditions import mask_of
from clipmem_core.review.decided import CODES, UNDECIDED_CODE, decided
from clipmem_core.review.maps import map_file
from clipmem_core.review.selection import DECIDED, MAP_X, MATCH, UNDECIDED, Selection
from clipmem_core.review.sort_index import order_of
from clipmem_core.review.tables import (
    Version,
    count_pairs_of,
    fetch_columns,
    fetch_frame,
    fetch_numbered,
    fetch_rows,
    find_row,
    number,
    version_of,
)
from clipmem_core.scores.table import BY_NAME

KEPT = 8  # lists of rows in memory, 4 bytes a pair
LABELS_SHOWN = 200
_FEW = 1000  # rows that are fetched one by one; more come with the whole column


@dataclass(frozen=True)
class Neighbours:
    """Where a pair stands in a selection, and the ids around it.

    `place` counts from 1 and is None where the selection does not hold the pair; `previous` and `next` then are those
    between which it would stand. `next_undecided` begins again at the top after the last pair.
    """

    place: int | None
    count: int
    previous: str | None
    next: str | None
    next_undecided: str | None


def count_pairs(audit: Audit, selection: Selection) -> int:
    """Return how many pairs a selection holds. A pair without the score that orders is not among them.

    Raises:
        ValueError: the selection names a column that there is not.
        InputError: a file of the audit is missing, broken, or does not fit the others.
    """
    return len(_rows(audit, selection))


def find_rows(audit: Audit, selection: Selection, *, page: int, size: int) -> list[int]:
    """Return the rows of one page of a selection, in its order: the highest score first, ties in the tables' order.

    Independent pairs alone are ordered by −clipmem: it is g that learned them, so theirs is negative. `ascending` turns
    either order round.

    Args:
        audit: a finished audit.
        selection: which pairs, in which order.
        page: 1 is the first; one beyond the last is empty.
        size: pairs on a page.
    """
    start = (max(page, 1) - 1) * size
    return _rows(audit, selection)[start : start + size].tolist()


def pair_ids(audit: Audit, selection: Selection) -> list[str]:
    """Return the ids of all pairs of a selection, in its order."""
    return _ids(audit, _rows(audit, selection))


def neighbours(audit: Audit, selection: Selection, pair_id: str) -> Neighbours:
    """Return where a pair stands in a selection's order and who stands around it.

    A pair that a decision has just taken out of the selection keeps its neighbours, so that one can go on from it. One
    that has not even the score that orders, or that the search did not find, stands before all others.
    """
    rows, row = _rows(audit, selection), find_row(audit, pair_id)
    before = _count_before(audit, selection, rows, row)
    held = before < len(rows) and rows[before] == row
    after = before + held
    undecided = decided(audit, version_of(audit)).codes[rows] == UNDECIDED_CODE
    undecided[before:after] = False
    later = np.flatnonzero(undecided[after:])[:1] + after
    first = later if len(later) else np.flatnonzero(undecided)[:1]
    wanted = [rows[max(before - 1, 0) : before], rows[after : after + 1], rows[first]]
    names = [next(iter(_ids(audit, found)), None) for found in wanted]
    place = before + 1 if held else None
    return Neighbours(place, len(rows), *names)


def _count_before(audit: Audit, selection: Selection, rows: np.ndarray, row: int | None) -> int:
    """Return how many rows of a selection come before a row in its order, whether it is one of them or not."""
    if row is None:
        return 0
    order = _order(audit, version_of(audit), selection)
    place = np.flatnonzero(order == row)
    if not len(place):
        return 0
    chosen = np.zeros(int(max(order.max(), rows.max(initial=0))) + 1, bool)
    chosen[rows] = True
    return int(np.count_nonzero(chosen[order[: place[0]]]))


def _rows(audit: Audit, selection: Selection) -> np.ndarray:
    """Return a selection's rows in its order, int32."""
    version = version_of(audit)
    moment = decided(audit, version).moment if selection.decision else None
    on_map = selection.outline is not None and selection.outline.x == MAP_X
    path = map_file(audit, selection.map) if on_map else None
    return _kept_rows(audit, version, selection, moment, str(path or ""))


@functools.lru_cache(maxsize=KEPT)
def _kept_rows(
    audit: Audit, version: Version, selection: Selection, moment: tuple[str, int, int] | None, map_key: str
) -> np.ndarray:
    """Find a selection's rows, once for every state of the files and of the log, which `moment` tells apart."""
    conditions = replace(selection, order=CLIPMEM, ascending=False, decision="")
    mask = mask_of(audit, version, conditions, map_key)
    if selection.decision:
        mask = mask & _decided_so(decided(audit, version).codes, selection.decision)
    order = _order(audit, version, selection)
    rows = order[mask[order]]
    rows.flags.writeable = False
    return rows


def _decided_so(codes: np.ndarray, decision: str) -> np.ndarray:
    if decision == DECIDED:
        return codes != UNDECIDED_CODE
    return codes == (UNDECIDED_CODE if decision == UNDECIDED else CODES.get(decision, -1))


def _order(audit: Audit, version: Version, selection: Selection) -> np.ndarray:
    """Return all rows in a selection's order, whether it holds them or not."""
    if selection.order == MATCH and selection.searched:
        from clipmem_core.review.search import hits

        rows = hits(audit, selection)[0]
    else:
        rows = order_of(audit, version, selection.order)
    learned_by_g = selection.order == CLIPMEM and selection.group == INDEPENDENT
    return rows[::-1] if selection.ascending != learned_by_g else rows


def _ids(audit: Audit, rows: np.ndarray) -> list[str]:
    path = audit.folder / PAIRS
    if len(rows) <= _FEW:
        found = fetch_numbered(path, [f'"{PAIR_ID}"'], rows.tolist())
        return [found[row][0] for row in rows.tolist()]
    return fetch_columns(path, f'SELECT "{PAIR_ID}" FROM parquet')[PAIR_ID][rows].tolist()


def labels(audit: Audit) -> list[str]:
    """Return the labels of an audit, the most frequent first, at most `LABELS_SHOWN`."""
    return list(_values(audit, version_of(audit), LABEL))[:LABELS_SHOWN]


def planted_kinds(audit: Audit) -> list[str]:
    """Return the kinds of planted pairs of an audit, the most frequent first."""
    return list(_values(audit, version_of(audit), PLANTED))


@functools.lru_cache(maxsize=16)
def _values(audit: Audit, version: Version, column: str) -> tuple[str, ...]:
    """Return the most frequent values of a column of text."""
    query = f"""
        SELECT "{column}" FROM parquet WHERE "{column}" IS NOT NULL
        GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {LABELS_SHOWN}
    """
    return tuple(str(value) for (value,) in fetch_rows(audit.folder / PAIRS, query))


def score_span(audit: Audit, column: str) -> tuple[float, float] | None:
    """Return the lowest and the highest value of a score, None where no pair has it."""
    return _span(audit, version_of(audit), column)


@functools.lru_cache(maxsize=64)
def _span(audit: Audit, version: Version, column: str) -> tuple[float, float] | None:
    if column not in BY_NAME:
        raise ValueError(f"column must be one of {', '.join(BY_NAME)}, not {column!r}")
    value = number(column)
    query = f"SELECT min({value}), max({value}) FROM parquet WHERE isfinite({value})"
    low, high = fetch_rows(audit.folder / SCORES, query)[0]
    return None if low is None else (low, high)


def sample_points(
    audit: Audit, x: str, y: str, *, colour_by: Sequence[str] = (), limit: int, seed: int = 0
) -> pd.DataFrame:
    """Draw pairs at random for a figure, those that have both scores.

    Args:
        audit: a finished audit.
        x: a score.
        y: a score.
        colour_by: further columns: scores, group, label or planted.
        limit: at most so many pairs.
        seed: what they are drawn from; the same ones every time.

    Returns:
        Columns row, then x, y and the further ones by their names; in the order of the tables.
    """
    names = dict.fromkeys([x, y, *colour_by])
    unknown = [name for name in names if name not in (*BY_NAME, GROUP, LABEL, PLANTED)]
    if unknown:
        raise ValueError(f"columns must be scores, {GROUP}, {LABEL} or {PLANTED}, not {unknown[0]!r}")
    from_pairs = [name for name in names if name in (LABEL, PLANTED)]
    from_scores = [name for name in names if name not in from_pairs]
    shown = [f'{number(name)} AS "{name}"' if name in BY_NAME else f'"{name}"' for name in from_scores]
    scores = fetch_frame(audit.folder / SCORES, f"SELECT {', '.join(shown)} FROM parquet")
    known = np.flatnonzero(np.isfinite(scores[x]) & np.isfinite(scores[y]))
    rows = known if len(known) <= limit else np.sort(np.random.default_rng(seed).choice(known, limit, replace=False))
    table = scores.take(rows).reset_index(drop=True)
    if from_pairs:
        count_pairs_of(audit, version_of(audit))
        quoted = ", ".join(f'"{name}"' for name in from_pairs)
        pairs = fetch_frame(audit.folder / PAIRS, f"SELECT {quoted} FROM parquet")
        table[from_pairs] = pairs.take(rows).to_numpy()
    table.insert(0, "row", rows)
    return table[["row", *names]]


def audit_root(audit: Audit) -> Path:
    """Return the folder of an audit's data set."""
    return Path(audit.record.root)
