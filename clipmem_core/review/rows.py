"""The rows of an audit that match a selection, in its order; cached until a file or a decision
changes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipmem_core.audit.fault_tables import NEAR_DUPLICATE_OF, ensure_checks, stored_checks
from clipmem_core.audit.maps import require_map
from clipmem_core.audit.store import PAIRS, SCORES, Audit
from clipmem_core.columns import (
    CAPTIONS,
    CLIPMEM,
    GROUP,
    INJECTED,
    LABEL,
    LOG_PROBABILITY_SECOND,
    MAP_X,
    PAIR_ID,
    SUSPICION,
)
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.io import InputError
from clipmem_core.review.decisions import CODES, UNDECIDED_CODE, decided, open_review
from clipmem_core.review.incidents import read_incidents
from clipmem_core.review.queries import (
    ROW,
    cached,
    count_pairs_of,
    fetch_arrow,
    fetch_columns,
    fetch_pairs,
    fetch_rows,
    number_sql,
)
from clipmem_core.review.search import search
from clipmem_core.review.selection import (
    ANY,
    DECIDED,
    MATCH,
    NONE,
    RANDOM,
    UNDECIDED,
    Outline,
    Range,
    Selection,
)
from clipmem_core.review.wrong_captions import review_order
from clipmem_core.scores.registry import SECOND_NOTE

_LABELS_SHOWN = 200
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
    query = f'SELECT "{PAIR_ID}" FROM parquet ORDER BY {ROW}'
    ids = fetch_columns(audit.folder / PAIRS, query)[PAIR_ID]
    return ids[_rows(audit, selection)].tolist()


def _rows(audit: Audit, selection: Selection) -> np.ndarray:
    """Return a selection's rows in its order, int32."""
    codes = decided(audit) if selection.decision else None
    return _rows_at(audit, selection, (codes.log, codes.entry) if codes else None)


@cached(8, SCORES, PAIRS)
def _rows_at(
    audit: Audit,
    selection: Selection,
    entry: tuple[tuple[str, int], int] | None,
) -> np.ndarray:
    """Find a selection's rows; `entry` of the log is part of the cache key."""
    mask = _mask(audit, replace(selection, order=CLIPMEM, ascending=False, decision=""))
    if selection.decision:
        codes = decided(audit).codes
        if selection.decision == DECIDED:
            mask = mask & (codes != UNDECIDED_CODE)
        else:
            code = {UNDECIDED: UNDECIDED_CODE, **CODES}.get(selection.decision, -1)
            mask = mask & (codes == code)
    if selection.order == MATCH and selection.searched:
        rows = search(audit, selection.meaning, like=selection.like, by=selection.by).rows
    elif selection.order == RANDOM:
        rows = review_order(audit).drawn
    else:
        rows = _sorted(audit, selection.order)
    rows = rows[::-1] if selection.ascending != selection.lowest_first else rows
    return rows[mask[rows]]


@cached(8, SCORES, PAIRS)
def _sorted(audit: Audit, column: str) -> np.ndarray:
    query = f"SELECT {number_sql(column)} AS score FROM parquet"
    scores = fetch_columns(audit.folder / SCORES, query)["score"]
    rows = np.flatnonzero(np.isfinite(scores)).astype(np.int32)
    return rows[np.argsort(-scores[rows], kind="stable")]


@cached(16, SCORES, PAIRS)
def _mask(audit: Audit, selection: Selection) -> np.ndarray:
    """Return which pairs match a selection, except for its condition on decisions, bool
    [n_pairs]."""
    mask = np.ones(count_pairs_of(audit), bool)
    for rows in _rows_of_conditions(audit, selection):
        if rows.max(initial=0) >= len(mask):
            raise InputError(
                f"{audit.folder} has embeddings of more pairs than scores: delete it and run "
                "it again"
            )
        fits = np.zeros(len(mask), bool)
        fits[rows] = True
        mask &= fits
    return mask


def _rows_of_conditions(audit: Audit, selection: Selection) -> Iterator[np.ndarray]:
    for path, where, values in _clauses(audit, selection):
        query = f"SELECT {ROW} FROM parquet WHERE {where}"
        yield fetch_columns(path, query, values)[ROW]
    if words := list(dict.fromkeys(selection.words.split())):
        where = " AND ".join(f"contains(text, {_FOLDED.format('?')})" for _ in words)
        query = f"SELECT {ROW} FROM folded WHERE {where}"
        yield fetch_columns(audit.folder / PAIRS, query, words, folded=_folded_captions(audit))[ROW]
    if selection.incident:
        pairs = read_incidents(audit)[1]
        yield pairs["row"][pairs["number"].astype(str) == selection.incident].to_numpy()
    if selection.outline:
        yield _rows_in(audit, selection.outline, selection.map)
    if selection.searched:
        yield search(audit, selection.meaning, like=selection.like, by=selection.by).rows


@cached(1, PAIRS)
def _folded_captions(audit: Audit) -> pa.Table:
    """Return row and folded captions of each pair: 120 MB for a million pairs, and a filter by
    words reads nothing else."""
    text = _FOLDED.format(f"array_to_string({CAPTIONS}, chr(10))")
    return fetch_arrow(audit.folder / PAIRS, f"SELECT {ROW}, {text} AS text FROM parquet")


def _clauses(
    audit: Audit, selection: Selection
) -> Iterator[tuple[Path, str, Sequence[str | float]]]:
    """Yield a file, SQL and its values for each condition on columns of one file."""
    scores = audit.folder / SCORES
    pairs = audit.folder / PAIRS
    if selection.group:
        yield scores, f'"{GROUP}" = ?', [selection.group]
    for each in selection.ranges:
        if each == Range(each.column):
            continue
        value = number_sql(each.column)
        low = -np.inf if each.low is None else each.low
        high = np.inf if each.high is None else each.high
        yield scores, f"isfinite({value}) AND {value} BETWEEN ? AND ?", [low, high]
    if selection.label:
        yield pairs, f"{LABEL} = ?", [selection.label]
    if selection.injected == ANY:
        yield pairs, f"{INJECTED} IS NOT NULL", []
    elif selection.injected == NONE:
        yield pairs, f"{INJECTED} IS NULL", []
    elif selection.injected:
        yield pairs, f"{INJECTED} = ?", [selection.injected]
    if selection.check:
        yield ensure_checks(audit), selection.check, []


def _rows_in(audit: Audit, outline: Outline, map_name: str) -> np.ndarray:
    on_map = outline.x == MAP_X
    path = require_map(audit, map_name) if on_map else audit.folder / SCORES
    row = '"row"' if on_map else ROW
    x = number_sql(outline.x)
    y = number_sql(outline.y)
    points = fetch_columns(path, f"SELECT {row} AS place, {x} AS x, {y} AS y FROM parquet")
    return points["place"][in_polygon(points["x"], points["y"], outline.corners)]


def in_polygon(x: np.ndarray, y: np.ndarray, corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return which points [n_points] lie in a polygon: a ray to the right crosses its edges an odd
    number of times."""
    odd = np.zeros(len(x), bool)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if y0 != y1:
            crossed = (min(y0, y1) <= y) & (y < max(y0, y1))
            odd ^= crossed & (x < x0 + (x1 - x0) / (y1 - y0) * (y - y0))
    return odd


@cached(16, PAIRS)
def frequent_values(audit: Audit, column: str) -> list[str]:
    """Return the values of the column label or injected, the most frequent first, at most
    `_LABELS_SHOWN`."""
    query = f"""
        SELECT "{column}" FROM parquet WHERE "{column}" IS NOT NULL
        GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {_LABELS_SHOWN}
    """
    return [str(value) for (value,) in fetch_rows(audit.folder / PAIRS, query)]


@cached(64, SCORES)
def score_span(audit: Audit, column: str) -> tuple[float, float] | None:
    """Return the lowest and the highest value of a score, None if no pair has it."""
    value = number_sql(column)
    query = f"SELECT min({value}), max({value}) FROM parquet WHERE isfinite({value})"
    low, high = fetch_rows(audit.folder / SCORES, query)[0]
    return None if low is None else (low, high)


@cached(64, SCORES)
def score_counts(audit: Audit, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of pairs in equal bins of a score, and the edges of the bins."""
    query = f"SELECT {number_sql(column)} AS score FROM parquet"
    scores = fetch_columns(audit.folder / SCORES, query)["score"]
    return np.histogram(scores[np.isfinite(scores)], _BINS)


def misfit_note(audit: Audit) -> str:
    """Say that misfit is from a second round of training; empty for an audit with one round."""
    return SECOND_NOTE if score_span(audit, LOG_PROBABILITY_SECOND) else ""


def top_rows(audit: Audit, queue: str, *, size: int) -> list[int]:
    """Return the first rows of a queue; of the suspicious pairs the undecided ones."""
    decision = UNDECIDED if queue == SUSPICION else ""
    return find_rows(audit, Selection(order=queue, decision=decision), size=size)


def changed_rows(audit: Audit, entry: int | None) -> tuple[int, dict[int, str | None]]:
    """Return the log's last entry, and the decisions by row: of rows with a later entry than
    `entry`, or of all."""
    current = decided(audit)
    if entry is None or current.entry < entry:  # the log was replaced
        rows = np.flatnonzero(current.codes != UNDECIDED_CODE)
    else:
        changed = {pair_id for pair_id, *_ in open_review(audit).entries_after(entry)}
        rows = np.empty(0, int)
        if changed:  # a page asks every second
            rows = fetch_pairs(audit.folder / PAIRS, [ROW], changed)[ROW].to_numpy()
    decisions = {code: decision for decision, code in CODES.items()}
    codes = current.codes[rows].tolist()
    return current.entry, {
        row: decisions[code] for row, code in zip(rows.tolist(), codes, strict=True)
    }


def check_counts(audit: Audit) -> dict[str, int | None]:
    """Return how many pairs fail each check, in the order of `CHECKS`; None if that is unknown."""
    columns = ", ".join(
        f'CASE WHEN count("{name}") > 0 THEN count_if("{name}") END' for name in CHECKS
    )
    counts = fetch_rows(ensure_checks(audit), f"SELECT {columns} FROM parquet")[0]
    return dict(zip(CHECKS, counts, strict=True))


def failed_checks(audit: Audit, row: int) -> list[str]:
    """Return the names of the checks that a pair fails; none before the checks are made."""
    path = stored_checks(audit)
    if path is None:
        return []
    flags = fetch_rows(path, f"SELECT {', '.join(CHECKS)} FROM parquet WHERE {ROW} = ?", [row])[0]
    return [name for name, flag in zip(CHECKS, flags, strict=True) if flag]


def near_duplicate_groups(audit: Audit) -> list[list[int]]:
    """Return the rows of each group of near-duplicates, the largest group first, then in row
    order."""
    query = f"""
        SELECT list({ROW} ORDER BY {ROW}) AS rows FROM parquet WHERE {NEAR_DUPLICATE_OF} IS NOT NULL
        GROUP BY {NEAR_DUPLICATE_OF} HAVING len(rows) > 1 ORDER BY len(rows) DESC, rows[1]
    """
    return [rows for (rows,) in fetch_rows(ensure_checks(audit), query)]
