"""The rows of an audit that pass the filters of a selection, in its order, and what the filters
show: histograms of scores, frequent labels, checks. Cached until a file or a decision changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder.store import PAIRS, SCORES, Audit
from clipmem_core.auditing.tables.fault_tables import (
    NEAR_DUPLICATE_OF,
    ensure_checks,
    stored_checks,
)
from clipmem_core.auditing.tables.maps import require_map
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.review.decisions import CODES, UNDECIDED_CODE, Codes, decided, open_review
from clipmem_core.review.progress_and_repair import read_incidents, review_order
from clipmem_core.review.queries import ROW, cached, fetch, fetch_pairs, number_sql
from clipmem_core.review.search import search
from clipmem_core.review.views import (
    ANY,
    DECIDED,
    MATCH,
    NONE,
    RANDOM,
    UNDECIDED,
    Outline,
    Selection,
)
from clipmem_core.utils.columns import CLIPMEM, MAP_X, PAIR_ID

_LABELS_SHOWN = 200
# Conditions that a text fulfils: the table and the SQL
_EQUAL = {
    "group": (SCORES, '"group" = ?'),
    "label": (PAIRS, "label = ?"),
    "injected": (
        PAIRS,
        f"? IN (coalesce(injected, '{NONE}'), if(injected IS NULL, '{NONE}', '{ANY}'))",
    ),
}
_BINS = 40  # of the distribution of a score
_FOLDED = "lower(upper(nfc_normalize({})))"  # both, so that the two forms of a sigma match


def count_pairs(audit: Audit, selection: Selection) -> int:
    """Return how many pairs match a selection and have the score it is ordered by."""
    return len(_rows(audit, selection))


def count_decided(audit: Audit, selection: Selection) -> tuple[int, int]:
    """Return how many pairs of a selection are decided, and how many it has, ignoring its condition
    on decisions."""
    rows = _rows(audit, replace(selection, decision=""))
    return int(np.count_nonzero(decided(audit).codes[rows] != UNDECIDED_CODE)), len(rows)


def find_rows(audit: Audit, selection: Selection, *, page: int = 1, size: int) -> list[int]:
    """Return the rows of one page of a selection: the highest score first, ties in row order.

    The lowest comes first if it is `lowest_first`. `ascending` reverses the order.
    """
    start = (page - 1) * size
    return _rows(audit, selection)[start : start + size].tolist()


def pair_ids(audit: Audit, selection: Selection) -> list[str]:
    """Return the ids of all pairs of a selection, in its order."""
    ids = audit.read_columns(PAIRS, PAIR_ID)[PAIR_ID]
    return ids.iloc[_rows(audit, selection)].tolist()


def _rows(audit: Audit, selection: Selection) -> np.ndarray:
    """Return a selection's rows in its order, int32."""
    return _rows_at(audit, selection, decided(audit) if selection.decision else None)


@cached(8, SCORES, PAIRS)
def _rows_at(audit: Audit, selection: Selection, decisions: Codes | None) -> np.ndarray:
    mask = _mask(audit, replace(selection, order=CLIPMEM, ascending=False, decision=""))
    if decisions is not None:
        code = {UNDECIDED: UNDECIDED_CODE, **CODES}.get(selection.decision, -1)
        any_decision = selection.decision == DECIDED
        codes = decisions.codes
        mask = mask & (codes != UNDECIDED_CODE if any_decision else codes == code)
    if selection.order == MATCH and selection.searched:
        rows = search(audit, selection.meaning, like=selection.like, by=selection.by).rows
    elif selection.order == RANDOM:
        rows = review_order(audit).drawn
    else:
        rows = _sorted(audit, selection.order)
    rows = rows[::-1] if selection.ascending != selection.lowest_first else rows
    return rows[mask[rows]]


@cached(8, SCORES)
def _sorted(audit: Audit, column: str) -> np.ndarray:
    """Return the rows of the pairs with a score, the highest first, ties in row order."""
    score = number_sql(column)
    query = f"SELECT {ROW} FROM parquet WHERE isfinite({score}) ORDER BY {score} DESC, {ROW}"
    return fetch(audit.folder / SCORES, query)[ROW].to_numpy().astype(np.int32)


@cached(16, SCORES, PAIRS)
def _mask(audit: Audit, selection: Selection) -> np.ndarray:
    """Return which pairs match a selection, except for its condition on decisions, bool
    [n_pairs]."""
    found = []  # the rows that match each condition
    for name, (source, where) in _EQUAL.items():
        if value := getattr(selection, name):
            found.append(_rows_where(audit.folder / source, where, value))
    for each in selection.ranges:
        value = number_sql(each.column)
        where = f"isfinite({value}) AND {value} BETWEEN ? AND ?"
        found.append(_rows_where(audit.folder / SCORES, where, each.low, each.high))
    if selection.check:
        found.append(_rows_where(ensure_checks(audit), selection.check))
    if words := selection.words.split():
        text = _FOLDED.format("array_to_string(captions, chr(10))")
        where = " AND ".join([f"contains({text}, {_FOLDED.format('?')})"] * len(words))
        found.append(_rows_where(audit.folder / PAIRS, where, *words))
    if selection.incident:
        of_incidents = read_incidents(audit)[1].astype({"number": str})
        is_in = of_incidents["number"] == selection.incident
        found.append(of_incidents["row"][is_in].to_numpy())
    if selection.outline:
        found.append(_rows_in(audit, selection.outline, selection.map))
    if selection.searched:
        by_meaning = search(audit, selection.meaning, like=selection.like, by=selection.by)
        found.append(by_meaning.rows)
    mask = np.ones(audit.record.pairs, bool)
    for rows in found:
        mask &= np.isin(np.arange(len(mask)), rows)
    return mask


def _rows_where(source: Path, where: str, *values: Any) -> np.ndarray:
    return fetch(source, f"SELECT {ROW} FROM parquet WHERE {where}", values)[ROW].to_numpy()


def _rows_in(audit: Audit, outline: Outline, map_name: str) -> np.ndarray:
    """Return the rows of the points in a polygon: a ray to the right crosses its edges an odd
    number of times."""
    on_map = outline.x == MAP_X
    path = require_map(audit, map_name) if on_map else audit.folder / SCORES
    row = '"row"' if on_map else ROW
    corners = np.array(outline.corners)
    ends = np.hstack([corners, np.roll(corners, -1, axis=0)])
    edges = pd.DataFrame(ends, columns=["x0", "y0", "x1", "y1"])
    query = f"""
        SELECT point FROM edges JOIN (
            SELECT {row} AS point, {number_sql(outline.x)} AS x, {number_sql(outline.y)} AS y
            FROM parquet
        ) ON (y0 <= y) != (y1 <= y) AND x < x0 + (x1 - x0) / (y1 - y0) * (y - y0)
        GROUP BY point HAVING count(*) % 2 = 1
    """
    return fetch(path, query, edges=edges)["point"].to_numpy()


@cached(16, PAIRS)
def frequent_values(audit: Audit, column: str) -> list[str]:
    """Return the values of the column label or injected, the most frequent first, at most
    `_LABELS_SHOWN`."""
    query = f"""
        SELECT {column} FROM parquet WHERE {column} IS NOT NULL
        GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {_LABELS_SHOWN}
    """
    return fetch(audit.folder / PAIRS, query)[column].to_pylist()


@cached(32, SCORES)
def score_counts(audit: Audit, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of pairs in equal bins of a score, and the edges of the bins."""
    scores = audit.read_columns(SCORES, column)[column].to_numpy(float)
    return np.histogram(scores[np.isfinite(scores)], _BINS)


def score_span(audit: Audit, column: str) -> tuple[float, float] | None:
    """Return the lowest and the highest value of a score, None if no pair has it."""
    counts, edges = score_counts(audit, column)
    return (float(edges[0]), float(edges[-1])) if counts.any() else None


def changed_rows(audit: Audit, entry: int | None) -> tuple[int, dict[int, str | None]]:
    """Return the log's last entry, and the decisions by row: of rows with a later entry than
    `entry`, or of all."""
    current = decided(audit)
    if entry is None or current.entry < entry:  # the log was replaced
        rows = np.flatnonzero(current.codes != UNDECIDED_CODE)
    else:
        changed = {pair_id for pair_id, *_ in open_review(audit).entries_after(entry)}
        rows = fetch_pairs(audit.folder / PAIRS, [ROW], changed)[ROW].to_numpy()
    decisions = list(CODES)
    return current.entry, {row: decisions[current.codes[row]] for row in rows.tolist()}


def check_counts(audit: Audit) -> dict[str, int | None]:
    """Return how many pairs fail each check, in the order of `CHECKS`; None if that is unknown."""
    # sum is null where all values are
    columns = ", ".join(f"sum({name}::INT)::INT AS {name}" for name in CHECKS)
    return fetch(ensure_checks(audit), f"SELECT {columns} FROM parquet").to_pylist()[0]


def failed_checks(audit: Audit, row: int) -> list[str]:
    """Return the names of the checks that a pair fails; none before the checks are made."""
    path = stored_checks(audit)
    if path is None:
        return []
    query = f"SELECT {', '.join(CHECKS)} FROM parquet WHERE {ROW} = ?"
    (flags,) = fetch(path, query, [row]).to_pylist()
    return [name for name, flag in flags.items() if flag]


def near_duplicate_groups(audit: Audit) -> list[list[int]]:
    """Return the rows of each group of near-duplicates, the largest group first, then in row
    order."""
    query = f"""
        SELECT list({ROW} ORDER BY {ROW}) AS rows FROM parquet WHERE {NEAR_DUPLICATE_OF} IS NOT NULL
        GROUP BY {NEAR_DUPLICATE_OF} HAVING len(rows) > 1 ORDER BY len(rows) DESC, rows[1]
    """
    return fetch(ensure_checks(audit), query)["rows"].to_pylist()
