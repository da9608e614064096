"""Which pairs fulfil all conditions of a selection, found with a query a table and joined by row."""

import functools
from collections.abc import Iterator

import numpy as np

from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.columns import GROUP, LABEL, PLANTED
from clipmem_core.config import InputError
from clipmem_core.review.lasso import inside
from clipmem_core.review.maps import map_file
from clipmem_core.review.selection import ANY, MAP_X, MAP_Y, NONE, Outline, Range, Selection
from clipmem_core.review.tables import ROW, Version, count_pairs_of, fetch_columns, number
from clipmem_core.review.words import rows_with
from clipmem_core.scores.table import BY_NAME

KEPT = 16  # selections in memory, 1 byte a pair
Clauses = list[tuple[str, list[str | float]]]  # SQL and the values of its parameters


@functools.lru_cache(maxsize=KEPT)
def mask_of(audit: Audit, version: Version, selection: Selection, map_key: str) -> np.ndarray:
    """Return which pairs fulfil a selection's conditions, but for that on decisions, which change.

    Args:
        audit: a finished audit.
        version: of its tables.
        selection: its order does not matter.
        map_key: names the map's content, where the outline was drawn on one.

    Returns:
        bool [n_pairs], not to be written to.
    """
    mask = np.ones(count_pairs_of(audit, version), bool)
    for rows in _rows_of_conditions(audit, selection):
        if rows.max(initial=0) >= len(mask):
            raise InputError(f"{audit.folder} has embeddings of more pairs than scores: delete it and run it again")
        fulfilled = np.zeros_like(mask)
        fulfilled[rows] = True
        mask &= fulfilled
    mask.flags.writeable = False
    return mask


def _rows_of_conditions(audit: Audit, selection: Selection) -> Iterator[np.ndarray]:
    for name, clauses in ((SCORES, _score_clauses(selection)), (PAIRS, _pair_clauses(selection))):
        if clauses:
            where = " AND ".join(clause for clause, _ in clauses)
            values = [value for _, listed in clauses for value in listed]
            found = fetch_columns(audit.folder / name, f"SELECT {ROW} FROM parquet WHERE {where}", values)
            yield found[ROW]
    if selection.words.split():
        yield rows_with(audit, selection.words)
    if selection.outline:
        yield _rows_in(audit, selection.outline, selection.map)
    if selection.searched:
        # Loading it takes long, and it looks up rows itself.
        from clipmem_core.review.search import hits

        yield hits(audit, selection)[0]


def _score_clauses(selection: Selection) -> Clauses:
    group: Clauses = [(f'"{GROUP}" = ?', [selection.group])] if selection.group else []
    return [*group, *(clause for given in selection.ranges for clause in _range_clauses(given))]


def _range_clauses(given: Range) -> Clauses:
    if given.column not in BY_NAME:
        raise ValueError(f"range must be of one of {', '.join(BY_NAME)}, not {given.column!r}")
    value = number(given.column)
    low: Clauses = [] if given.low is None else [(f"{value} >= ?", [given.low])]
    high: Clauses = [] if given.high is None else [(f"{value} <= ?", [given.high])]
    return [(f"isfinite({value})", []), *low, *high] if low or high else []


def _pair_clauses(selection: Selection) -> Clauses:
    label: Clauses = [(f'"{LABEL}" = ?', [selection.label])] if selection.label else []
    if selection.planted in (ANY, NONE):
        return [*label, (f'"{PLANTED}" IS {"NOT " if selection.planted == ANY else ""}NULL', [])]
    return [*label, (f'"{PLANTED}" = ?', [selection.planted])] if selection.planted else label


def _rows_in(audit: Audit, outline: Outline, map_name: str) -> np.ndarray:
    """Return the rows in an outline: those in the box around it come from the file, then each is looked at."""
    on_map = (outline.x, outline.y) == (MAP_X, MAP_Y)
    if not on_map and not {outline.x, outline.y} <= set(BY_NAME):
        raise ValueError(f"outline must be of two of {', '.join(BY_NAME)}, not of {outline.x!r} and {outline.y!r}")
    path = map_file(audit, map_name) if on_map else audit.folder / SCORES
    if path is None:
        raise InputError(f"there is no map {map_name!r} of {audit.name} yet: draw it on the page Map of embeddings")
    ends = [(min(values), max(values)) for values in zip(*outline.corners, strict=True)]
    row = '"row"' if on_map else ROW
    query = f"""
        SELECT {row} AS place, {number(outline.x)} AS x, {number(outline.y)} AS y FROM parquet
        WHERE x BETWEEN ? AND ? AND y BETWEEN ? AND ?
    """
    found = fetch_columns(path, query, [end for pair in ends for end in pair])
    return found["place"][inside(found["x"], found["y"], outline.corners)]
