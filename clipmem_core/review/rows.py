"""An audit's Parquet files → the few numbers and rows that one page shows.

DuckDB reads only what is needed: the keys of a page are ordered first, then its rows are fetched by their number, so
that a million pairs answer as a thousand do. All tables of an audit share one row order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from clipmem_core.audits.store import PAIRS, QUARANTINE, SCORES, Audit
from clipmem_core.columns import (
    CAPTIONS,
    CLIPMEM,
    GROUP,
    IMAGE,
    INDEPENDENT,
    LABEL,
    MISFIT,
    PAIR_ID,
    PLANTED,
    SE,
    SIMILARITY_OUT,
)
from clipmem_core.config import InputError

ORDERS = (CLIPMEM, MISFIT)
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


@dataclass(frozen=True)
class PairCard:
    """One pair as the gallery shows it; a score is None where the audit has none."""

    pair_id: str
    image: str
    captions: tuple[str, ...]
    label: str | None
    planted: str | None
    group: str
    clipmem: float | None
    se: float | None
    similarity_out: float | None
    misfit: float | None


def _read(path: Path, query: str, values: Sequence[Any] = ()) -> duckdb.DuckDBPyConnection:
    """Run a query whose first parameter is the file; a missing or broken file is an error that names it."""
    if not path.is_file():
        raise InputError(f"{path} is missing: run the audit again, it goes on where it stopped")
    name = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))  # DuckDB takes patterns
    try:
        return duckdb.connect(config=_SETTINGS).execute(query, [name, *values])
    except duckdb.Error as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path} cannot be read ({reason}): delete the audit's folder and run it again") from None


def count_rows(path: Path) -> int:
    """Return the number of rows of a Parquet file."""
    return _one(_read(path, "SELECT count(*) FROM read_parquet(?)"))


def _one(result: duckdb.DuckDBPyConnection) -> Any:
    row = result.fetchone()
    return row[0] if row else 0


def group_summary(audit: Audit) -> pd.DataFrame:
    """Return group, n, mean and sd of clipmem, for the groups that have any."""
    query = f"""
        SELECT "{GROUP}", count(*) AS n, avg({CLIPMEM}) AS mean, stddev_samp({CLIPMEM}) AS sd
        FROM read_parquet(?) WHERE isfinite({CLIPMEM}) GROUP BY ALL
    """
    return _read(audit.folder / SCORES, query).df()


def group_bins(audit: Audit, *, bins: int) -> pd.DataFrame:
    """Return the distribution of clipmem in each group over equal bins of the whole range.

    Returns:
        Columns group, low (the bin's left edge), width and share (of the group's pairs); empty bins are left out.
    """
    query = f"""
        WITH score AS (SELECT "{GROUP}", {CLIPMEM} AS x FROM read_parquet(?) WHERE isfinite({CLIPMEM})),
        span AS (SELECT min(x) AS start, greatest((max(x) - min(x)) / ?, 1e-9) AS width FROM score),
        counted AS (
            SELECT "{GROUP}", least(floor((x - start) / width), ? - 1) AS bin, count(*) AS n, any_value(start) AS start,
                any_value(width) AS width
            FROM score, span GROUP BY ALL
        )
        SELECT "{GROUP}", start + bin * width AS low, width, n / sum(n) OVER (PARTITION BY "{GROUP}") AS share
        FROM counted ORDER BY ALL
    """
    return _read(audit.folder / SCORES, query, [bins, bins]).df()


def count_scored(audit: Audit, *, by: str, group: str | None) -> int:
    """Return how many pairs of a group (None: of all) have the score `by`."""
    where, values = _filter(by, group)
    return _one(_read(audit.folder / SCORES, f"SELECT count(*) FROM read_parquet(?) WHERE {where}", values))


def top_pairs(audit: Audit, *, by: str, group: str | None, page: int, size: int) -> list[PairCard]:
    """Return one page of pairs, the highest score first.

    Independent pairs alone are ordered by −clipmem: it is g that learned them, so theirs is negative.

    Args:
        audit: a finished audit.
        by: `clipmem` or `misfit`; pairs without that score are left out.
        group: only this group; None for all.
        page: 1 is the first.
        size: pairs on a page.

    Raises:
        ValueError: `by` is none of the two.
        InputError: a file of the audit is missing, broken, or does not fit the others.
    """
    where, values = _filter(by, group)
    direction = "ASC" if by == CLIPMEM and group == INDEPENDENT else "DESC"
    query = f"""
        SELECT file_row_number FROM read_parquet(?, file_row_number=true) WHERE {where}
        ORDER BY {by} {direction}, file_row_number LIMIT ? OFFSET ?
    """
    found = _read(audit.folder / SCORES, query, [*values, size, (page - 1) * size]).fetchall()
    numbers = [row[0] for row in found]
    scores = _rows(audit.folder / SCORES, [PAIR_ID, GROUP, CLIPMEM, SE, SIMILARITY_OUT, MISFIT], numbers)
    pairs = _rows(audit.folder / PAIRS, [PAIR_ID, IMAGE, CAPTIONS, LABEL, PLANTED], numbers)
    return [_card(audit, pairs.get(number), scores[number]) for number in numbers]


def _filter(by: str, group: str | None) -> tuple[str, list[str]]:
    if by not in ORDERS:
        raise ValueError(f"by must be one of {', '.join(ORDERS)}, not {by!r}")
    scored = f"isfinite({by})"
    return (scored, []) if group is None else (f'{scored} AND "{GROUP}" = ?', [group])


def _rows(path: Path, columns: Sequence[str], numbers: Sequence[int]) -> dict[int, tuple[Any, ...]]:
    """Return the rows of some numbers. The list is spelled out, so that DuckDB skips the parts it is not in."""
    if not numbers:
        return {}
    names = ", ".join(f'"{column}"' for column in columns)
    query = f"""
        SELECT file_row_number, {names} FROM read_parquet(?, file_row_number=true)
        WHERE file_row_number IN ({", ".join(str(int(number)) for number in numbers)})
    """
    return {row[0]: row[1:] for row in _read(path, query).fetchall()}


def _card(audit: Audit, pair: tuple[Any, ...] | None, score: tuple[Any, ...]) -> PairCard:
    pair_id, group, *numbers = score
    if pair is None or pair[0] != pair_id:
        raise InputError(
            f"{audit.folder / PAIRS} and {SCORES} list other pairs: delete {SCORES} and run the audit again"
        )
    clipmem, se, similarity_out, misfit = (_finite(number) for number in numbers)
    captions = tuple(str(caption) for caption in pair[2] or ())
    return PairCard(pair_id, pair[1], captions, pair[3], pair[4], group, clipmem, se, similarity_out, misfit)


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def quarantine_page(audit: Audit, *, page: int, size: int) -> pd.DataFrame:
    """Return one page of the input rows that could not be used, in the order they were met."""
    query = "SELECT * FROM read_parquet(?) LIMIT ? OFFSET ?"
    return _read(audit.folder / QUARANTINE, query, [size, (page - 1) * size]).df()
