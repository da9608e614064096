"""Which rows of an audit a selection holds, in its order: how many, a page of them, who comes before and after a pair.

The rows of a selection are found once and kept until a file or a decision changes them; pages, places and neighbours
are look-ups in that list.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from clipmem_core import columns as c
from clipmem_core.audits.checks import LOOKALIKE_OF, ensure_checks, kept_checks
from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.config import InputError
from clipmem_core.pairs.checks import CHECKS
from clipmem_core.review.decisions import CODES, UNDECIDED_CODE, decided, open_review
from clipmem_core.review.log import tagged_pairs, tags_position
from clipmem_core.review.maps import map_file
from clipmem_core.review.search import hits
from clipmem_core.review.selection import (
    ANY,
    DECIDED,
    MAP_X,
    MAP_Y,
    MATCH,
    NONE,
    RANDOM,
    UNDECIDED,
    Outline,
    Selection,
)
from clipmem_core.review.tables import (
    ROW,
    as_input_error,
    count_pairs_of,
    fetch_columns,
    fetch_numbered,
    fetch_rows,
    find_row,
    kept,
    load,
    number,
    without_surrogates,
)
from clipmem_core.review.wrong_captions import wrong_estimate
from clipmem_core.scores.registry import BY_NAME, QUEUE, SECOND_NOTE, scores_in

LABELS_SHOWN = 200
BINS = 40  # of a histogram
_FEW = 1000  # rows that are fetched one by one; more come with the whole column
Clauses = list[tuple[str, list[str | float]]]  # SQL and the values of its parameters


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
    """Return how many pairs a selection holds. A pair without the score that orders is not among them."""
    return len(_rows(audit, selection))


def count_decided(audit: Audit, selection: Selection) -> tuple[int, int]:
    """Return how many pairs of a selection are decided, whatever it says of decisions, and how many it then holds."""
    rows = _rows(audit, replace(selection, decision=""))
    return int(np.count_nonzero(decided(audit).codes[rows] != UNDECIDED_CODE)), len(rows)


def find_rows(audit: Audit, selection: Selection, *, page: int, size: int) -> list[int]:
    """Return the rows of one page of a selection, in its order: the highest score first, ties in the tables' order.

    Independent pairs alone are ordered by −clipmem: it is g that learned them, so theirs is negative. `ascending` turns
    either order round.
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
    undecided = decided(audit).codes[rows] == UNDECIDED_CODE
    undecided[before:after] = False
    later = np.flatnonzero(undecided[after:])[:1] + after
    first = later if len(later) else np.flatnonzero(undecided)[:1]
    wanted = [rows[max(before - 1, 0) : before], rows[after : after + 1], rows[first]]
    names = [next(iter(_ids(audit, found)), None) for found in wanted]
    return Neighbours(before + 1 if held else None, len(rows), *names)


def _count_before(audit: Audit, selection: Selection, rows: np.ndarray, row: int | None) -> int:
    """Return how many rows of a selection come before a row in its order, whether it is one of them or not."""
    order = _order(audit, selection)
    place = np.flatnonzero(order == (-1 if row is None else row))
    if not len(place):
        return 0
    chosen = np.zeros(int(max(order.max(), rows.max(initial=0))) + 1, bool)
    chosen[rows] = True
    return int(np.count_nonzero(chosen[order[: place[0]]]))


def _ids(audit: Audit, rows: np.ndarray) -> list[str]:
    path = audit.folder / PAIRS
    if len(rows) <= _FEW:
        found = fetch_numbered(path, [f'"{c.PAIR_ID}"'], rows.tolist())
        return [found[row][0] for row in rows.tolist()]
    return fetch_columns(path, f'SELECT "{c.PAIR_ID}" FROM parquet')[c.PAIR_ID][rows].tolist()


def _rows(audit: Audit, selection: Selection) -> np.ndarray:
    """Return a selection's rows in its order, int32."""
    moment = decided(audit).moment if selection.decision else None
    tagged = tags_position(open_review(audit).path) if selection.tag else 0
    on_map = selection.outline is not None and selection.outline.x == MAP_X
    path = map_file(audit, selection.map) if on_map else None
    return _rows_at(audit, selection, (moment, tagged), path)


@kept(8, SCORES, PAIRS)
def _rows_at(
    audit: Audit, selection: Selection, moment: tuple[tuple[str, int, int] | None, int], map_path: Path | None
) -> np.ndarray:
    """Find a selection's rows, once for every state of the files and of the log, which `moment` tells apart."""
    mask = _mask(audit, replace(selection, order=c.CLIPMEM, ascending=False, decision="", tag=""), map_path)
    if selection.tag:
        tagged = np.zeros(len(mask), bool)
        tagged[_rows_of(audit, tagged_pairs(open_review(audit).path, selection.tag))] = True
        mask = mask & tagged
    if selection.decision:
        codes = decided(audit).codes
        wanted = {UNDECIDED: UNDECIDED_CODE, **CODES}.get(selection.decision, -1)
        mask = mask & (codes != UNDECIDED_CODE if selection.decision == DECIDED else codes == wanted)
    order = _order(audit, selection)
    rows = order[mask[order]]
    rows.flags.writeable = False
    return rows


def _order(audit: Audit, selection: Selection) -> np.ndarray:
    """Return all rows in a selection's order, whether it holds them or not."""
    if selection.order == MATCH and selection.searched:
        rows = hits(audit, selection)[0]
    elif selection.order == RANDOM:
        rows = wrong_estimate(audit).review.drawn
    else:
        rows = _sorted(audit, selection.order)
    learned_by_g = selection.order == c.CLIPMEM and selection.group == c.INDEPENDENT
    return rows[::-1] if selection.ascending != learned_by_g else rows


@kept(8, SCORES, PAIRS)
def _sorted(audit: Audit, column: str) -> np.ndarray:
    """Return the rows int32 that have a score, the highest first, ties in the tables' order; not to be written to."""
    if column not in BY_NAME:
        raise ValueError(f"order must be one of {', '.join(BY_NAME)}, not {column!r}")
    found = fetch_columns(audit.folder / SCORES, f"SELECT {number(column)} AS score FROM parquet")
    rows = highest_first(found["score"])
    rows.flags.writeable = False
    return rows


def highest_first(scores: np.ndarray) -> np.ndarray:
    """Return the places int32 of the finite scores, the highest first, ties by place.

    Example:
        >>> highest_first(np.array([0.5, np.nan, 0.9, 0.5])).tolist()
        [2, 0, 3]
    """
    places = np.flatnonzero(np.isfinite(scores)).astype(np.int32)
    return places[np.argsort(-scores[places], kind="stable")]


@kept(16, SCORES, PAIRS)
def _mask(audit: Audit, selection: Selection, map_path: Path | None) -> np.ndarray:
    """Return which pairs fulfil a selection's conditions, but for that on decisions, which change: bool [n_pairs].

    `map_path` is the file of the map that the outline was drawn on; another content has another name.
    """
    mask = np.ones(count_pairs_of(audit), bool)
    for rows in _rows_of_conditions(audit, selection, map_path):
        if rows.max(initial=0) >= len(mask):
            raise InputError(f"{audit.folder} has embeddings of more pairs than scores: delete it and run it again")
        fulfilled = np.zeros_like(mask)
        fulfilled[rows] = True
        mask &= fulfilled
    mask.flags.writeable = False
    return mask


def _rows_of_conditions(audit: Audit, selection: Selection, map_path: Path | None) -> Iterator[np.ndarray]:
    for name, clauses in _clauses(selection).items():
        if clauses:
            where = " AND ".join(clause for clause, _ in clauses)
            values = [value for _, listed in clauses for value in listed]
            yield fetch_columns(audit.folder / name, f"SELECT {ROW} FROM parquet WHERE {where}", values)[ROW]
    if selection.check:
        yield rows_failing(audit, selection.check)
    if selection.words.split():
        yield _rows_with(audit, selection.words)
    if selection.outline:
        yield _rows_in(audit, selection.outline, selection.map, map_path)
    if selection.searched:
        yield hits(audit, selection)[0]


def _clauses(selection: Selection) -> dict[str, Clauses]:
    """Return a selection's conditions on the columns of scores.parquet and of pairs.parquet."""
    scores: Clauses = [(f'"{c.GROUP}" = ?', [selection.group])] if selection.group else []
    for wanted in selection.ranges:
        if wanted.column not in BY_NAME:
            raise ValueError(f"range must be of one of {', '.join(BY_NAME)}, not {wanted.column!r}")
        value = number(wanted.column)
        ends = [(sign, end) for sign, end in ((">=", wanted.low), ("<=", wanted.high)) if end is not None]
        scores += [(f"isfinite({value})", [])] if ends else []
        scores += [(f"{value} {sign} ?", [end]) for sign, end in ends]
    pairs: Clauses = [(f'"{c.LABEL}" = ?', [selection.label])] if selection.label else []
    if selection.planted in (ANY, NONE):
        pairs.append((f'"{c.PLANTED}" IS {"NOT " if selection.planted == ANY else ""}NULL', []))
    elif selection.planted:
        pairs.append((f'"{c.PLANTED}" = ?', [selection.planted]))
    return {SCORES: scores, PAIRS: pairs}


def _rows_with(audit: Audit, words: str) -> np.ndarray:
    """Return the rows where every word, or part of one, is in a caption, whatever the case and accents' composition."""
    asked = [without_surrogates(word) for word in dict.fromkeys(words.split())]
    where = " AND ".join(f"contains(text, {_casefolded('?')})" for _ in asked)
    with as_input_error(audit.folder / PAIRS), _folded_captions(audit).cursor() as cursor:
        return np.asarray(cursor.execute(f"SELECT place FROM captions WHERE {where}", asked).fetchnumpy()["place"])


@kept(2, PAIRS)
def _folded_captions(audit: Audit) -> duckdb.DuckDBPyConnection:
    """Return a database with one text a pair, some 150 bytes: its captions, one below the other, so that no word"""
    text = _casefolded(f"array_to_string({c.CAPTIONS}, chr(10))")
    return load(audit.folder / PAIRS, f"SELECT {ROW}::INTEGER AS place, {text} AS text FROM parquet", into="captions")


def _casefolded(text: str) -> str:
    """Return SQL for a text in which case is of no matter; up and down again, so that both forms of a sigma meet."""
    return f"lower(upper(nfc_normalize({text})))"


def _rows_in(audit: Audit, outline: Outline, map_name: str, map_path: Path | None) -> np.ndarray:
    """Return the rows in an outline: those in the box around it come from the file, then each is looked at."""
    on_map = (outline.x, outline.y) == (MAP_X, MAP_Y)
    if not on_map and not {outline.x, outline.y} <= set(BY_NAME):
        raise ValueError(f"outline must be of two of {', '.join(BY_NAME)}, not of {outline.x!r} and {outline.y!r}")
    path = map_path if on_map else audit.folder / SCORES
    if path is None:
        raise InputError(f"there is no map {map_name!r} of {audit.name} yet: draw it on the page Map of embeddings")
    ends = [end for values in zip(*outline.corners, strict=True) for end in (min(values), max(values))]
    query = f"""
        SELECT {'"row"' if on_map else ROW} AS place, {number(outline.x)} AS x, {number(outline.y)} AS y FROM parquet
        WHERE x BETWEEN ? AND ? AND y BETWEEN ? AND ?
    """
    found = fetch_columns(path, query, ends)
    return found["place"][inside(found["x"], found["y"], outline.corners)]


def inside(x: np.ndarray, y: np.ndarray, corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """Tell which points lie in a closed shape: a ray to the right leaves it an odd number of times.

    A shape that crosses itself has holes, as a lasso drawn so.

    Args:
        x: float [n_points].
        y: float [n_points].
        corners: at least three; the last is joined to the first. The left and lower edges count as inside.

    Returns:
        bool [n_points].

    Example:
        >>> square = [(0, 0), (1, 0), (1, 1), (0, 1)]
        >>> inside(np.array([0.5, 1.5, 0.0]), np.array([0.5, 0.5, 0.0]), square).tolist()
        [True, False, True]
    """
    found = np.zeros(len(x), bool)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if y0 != y1:
            beside = (min(y0, y1) <= y) & (y < max(y0, y1))
            found ^= beside & (x < x0 + (x1 - x0) / (y1 - y0) * (y - y0))
    return found


def labels(audit: Audit) -> list[str]:
    """Return the labels of an audit, the most frequent first, at most `LABELS_SHOWN`."""
    return list(_values(audit, c.LABEL))


def planted_kinds(audit: Audit) -> list[str]:
    """Return the kinds of planted pairs of an audit, the most frequent first."""
    return list(_values(audit, c.PLANTED))


@kept(16, PAIRS)
def _values(audit: Audit, column: str) -> list[str]:
    query = f"""
        SELECT "{column}" FROM parquet WHERE "{column}" IS NOT NULL
        c.GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {LABELS_SHOWN}
    """
    return [str(value) for (value,) in fetch_rows(audit.folder / PAIRS, query)]


@kept(64, SCORES)
def score_span(audit: Audit, column: str) -> tuple[float, float] | None:
    """Return the lowest and the highest value of a score, None where no pair has it."""
    if column not in BY_NAME:
        raise ValueError(f"column must be one of {', '.join(BY_NAME)}, not {column!r}")
    value = number(column)
    query = f"SELECT min({value}), max({value}) FROM parquet WHERE isfinite({value})"
    low, high = fetch_rows(audit.folder / SCORES, query)[0]
    return None if low is None else (low, high)


@kept(64, SCORES)
def score_histogram(audit: Audit, column: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return how many pairs have a score in each of `BINS` equal bins, int64 [BINS], and their edges.

    None where no pair has it, or all scores are too close to each other, or too far apart, to be told in bins.
    """
    span = score_span(audit, column)
    if span is None or not np.spacing(np.abs(span).max()) * BINS < span[1] - span[0] < np.inf:
        return None
    value = number(column)
    found = fetch_columns(audit.folder / SCORES, f"SELECT {value} AS score FROM parquet WHERE isfinite({value})")
    return np.histogram(found["score"], BINS, span)


def misfit_note(audit: Audit) -> str:
    """Say that misfit is by a second round of training where there was one."""
    return SECOND_NOTE if score_span(audit, c.LOG_PROBABILITY_SECOND) else ""


def audit_root(audit: Audit) -> Path:
    """Return the folder of an audit's data set."""
    return audit.record.pictures


def first_queue(audit: Audit) -> Selection:
    """Return what is judged where nobody asks for another order: the most suspicious, and one in ten at random.

    Where an audit has no such order, those of the highest misfit; without misfit, the first queue there is.
    """
    if score_span(audit, c.REVIEW_PLACE):
        return Selection(order=c.REVIEW_PLACE, ascending=True)
    return Selection(order=c.MISFIT if score_span(audit, c.MISFIT) else next(iter(scores_in(QUEUE))))


def decided_rows(audit: Audit) -> tuple[int, dict[int, str | None]]:
    """Return the log's last entry on any audit of the data set, and what is decided of each row that is."""
    known = decided(audit)
    return known.entry, _decisions_at(known.codes, np.flatnonzero(known.codes != UNDECIDED_CODE))


def changed_rows(audit: Audit, entry: int) -> tuple[int, dict[int, str | None]]:
    """Return the log's last entry, and what is decided now of each row that somebody decided on after an entry."""
    known = decided(audit)
    if known.entry < entry:  # another log is there in place of the one that was read
        return decided_rows(audit)
    if known.entry == entry:
        return entry, {}
    changed = dict.fromkeys(pair_id for pair_id, *_ in open_review(audit).entries_after(entry))
    return known.entry, _decisions_at(known.codes, _rows_of(audit, changed))


def _decisions_at(codes: np.ndarray, rows: np.ndarray) -> dict[int, str | None]:
    decisions = {code: decision for decision, code in CODES.items()}
    return {row: decisions[code] for row, code in zip(rows.tolist(), codes[rows].tolist(), strict=True)}


def _rows_of(audit: Audit, ids: Iterable[str]) -> np.ndarray:
    asked = pa.table({"asked_id": pa.array(ids, pa.string())})
    query = f'SELECT {ROW} FROM parquet JOIN asked ON "{c.PAIR_ID}" = asked_id'
    return fetch_columns(audit.folder / PAIRS, query, asked=asked)[ROW]


def check_counts(audit: Audit) -> dict[str, int | None]:
    """Return how many pairs each check finds, by its name in the order of `CHECKS`; None where it is not known."""
    return _counts(audit, ensure_checks(audit))


@kept(8, PAIRS, paths=lambda audit, path: (path,))
def _counts(audit: Audit, path: Path) -> dict[str, int | None]:
    columns = ", ".join(f'CASE WHEN count("{name}") > 0 THEN count_if("{name}") END' for name in CHECKS)
    found = fetch_rows(path, f"SELECT {columns} FROM parquet")[0]
    return dict(zip(CHECKS, found, strict=True))


def rows_failing(audit: Audit, name: str) -> np.ndarray:
    """Return the rows of the pairs that a check finds."""
    if name not in CHECKS:
        raise ValueError(f"check must be one of {', '.join(CHECKS)}, not {name!r}")
    return fetch_columns(ensure_checks(audit), f'SELECT {ROW} FROM parquet WHERE "{name}"')[ROW]


def failed_checks(audit: Audit, row: int) -> list[str]:
    """Return the names of the checks that find a pair; none where the checks have not been made yet."""
    path = kept_checks(audit)
    if path is None:
        return []
    columns = ", ".join(f'"{name}"' for name in CHECKS)
    found = fetch_rows(path, f"SELECT {columns} FROM parquet WHERE {ROW} = ?", [row])
    return [name for name, flag in zip(CHECKS, *found, strict=True) if flag]


def lookalike_groups(audit: Audit) -> list[list[int]]:
    """Return the rows of each group of look-alikes, the largest group first, then in the order of the tables."""
    return _groups(audit, ensure_checks(audit))


@kept(4, PAIRS, paths=lambda audit, path: (path,))
def _groups(audit: Audit, path: Path) -> list[list[int]]:
    query = f"""
        SELECT list({ROW} ORDER BY {ROW}) AS rows FROM parquet WHERE {LOOKALIKE_OF} IS NOT NULL
        c.GROUP BY {LOOKALIKE_OF} HAVING len(rows) > 1 ORDER BY len(rows) DESC, rows[1]
    """
    return [rows for (rows,) in fetch_rows(path, query)]
