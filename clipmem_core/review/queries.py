"""DuckDB queries over an audit's Parquet files, which share one row order: `file_row_number` is a
pair's row in all."""

import functools
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from clipmem_core.audit.store import (
    CAPTION_TABLE,
    PAIRS,
    SCORES,
    SENTENCE_TABLE,
    WORD_TABLE,
    Audit,
    Named,
    caption_counts,
)
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.dataset.readers.paths import without_surrogates
from clipmem_core.io import InputError

ROW = "file_row_number"
Columns = dict[str, np.ndarray]
Table: TypeAlias = pd.DataFrame | pa.Table
Function = TypeVar("Function", bound=Callable[..., Any])
# SQL of a caption key: a positive hash of 63 bits of a pair's captions, which contain no NUL.
CAPTION_KEY = (
    f"""greatest(1, (md5_number_lower(array_to_string("{CAPTIONS}", chr(0))) // 2)::BIGINT)"""
)


def stamp(path: Path) -> tuple[int, int, int]:
    """Return inode, size and modification time of a file."""
    try:
        status = path.stat()
    except OSError:
        raise InputError(f"{path} is missing: run the audit again to resume it") from None
    return status.st_ino, status.st_size, status.st_mtime_ns


def cached(
    size: int, *names: str, paths: Callable[..., Iterable[Path]] | None = None
) -> Callable[[Function], Function]:
    """Cache a function of an audit or a study until one of its files changes: `names` in the
    folder, or `paths`."""

    def decorate(function: Function) -> Function:
        results = functools.lru_cache(size)(lambda stamps, *args, **named: function(*args, **named))

        @functools.wraps(function)
        def wrapper(audit: Named, *args: Any, **named: Any) -> Any:
            files = [
                *(audit.folder / name for name in names),
                *(paths(audit, *args, **named) if paths else []),
            ]
            return results(tuple(map(stamp, files)), audit, *args, **named)

        return cast(Function, wrapper)

    return decorate


@cached(64, SCORES, PAIRS)
def count_pairs_of(audit: Audit) -> int:
    """Return the number of pairs of an audit."""
    count = count_rows_of(audit.folder / SCORES)
    if count != count_rows_of(audit.folder / PAIRS):
        raise mismatched_tables(audit)
    return count


def mismatched_tables(audit: Audit, table: str = SCORES) -> InputError:
    """Return the error of an audit whose tables do not list the same pairs."""
    return InputError(
        f"{audit.folder / PAIRS} and {table} list other pairs: delete {table} and run the "
        "audit again"
    )


@cached(64, CAPTION_TABLE, PAIRS)
def check_caption_rows(audit: Audit) -> None:
    """Refuse a captions.parquet without a row for each caption of the pairs."""
    if count_rows_of(audit.folder / CAPTION_TABLE) != caption_counts(audit).sum():
        raise mismatched_tables(audit, CAPTION_TABLE)


def find_row(audit: Audit, pair_id: str) -> int | None:
    """Return the row of a pair, None if the audit has no such pair."""
    rows = fetch_pairs(audit.folder / PAIRS, [ROW], [pair_id])[ROW].to_pylist()
    return rows[0] if rows else None


def fetch_by_id(
    pairs: Path | pa.Table | None, value: str, pair_ids: Collection[str]
) -> dict[str, Any]:
    """Return a value, as SQL, of those of some pairs that a file or table has."""
    if pairs is None or not pair_ids:
        return {}
    requested = _requested(pair_ids)
    query = (
        f"SELECT requested_id, {value} AS value FROM parquet JOIN requested ON "
        f'"{PAIR_ID}" = requested_id'
    )
    if isinstance(pairs, Path):
        found = fetch_columns(pairs, query, requested=requested)
    else:
        with _database().cursor() as cursor:
            cursor.register("parquet", pairs)
            cursor.register("requested", requested)
            found = cast(Columns, cursor.execute(query).fetchnumpy())
    return dict(zip(found["requested_id"].tolist(), found["value"].tolist(), strict=True))


def _requested(pair_ids: Iterable[str]) -> pa.Table:
    return pa.table({"requested_id": pa.array(map(without_surrogates, pair_ids), pa.string())})


def count_rows_of(path: Path) -> int:
    """Return the number of rows of a Parquet file."""
    return fetch_rows(path, "SELECT count(*) FROM parquet")[0][0]


def fetch_rows(path: Path, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a query over a Parquet file, named `parquet` in the query, and return its rows."""
    with _executed(path, query, values) as result:
        return result.fetchall()


def fetch_columns(path: Path, query: str, values: Sequence[Any] = (), **tables: Table) -> Columns:
    """Run a query over a Parquet file and further named tables; return its columns."""
    with _executed(path, query, values, **tables) as result:
        return cast(Columns, result.fetchnumpy())


def fetch_frame(path: Path, query: str) -> pd.DataFrame:
    """Run a query over a Parquet file; return a data frame."""
    with _executed(path, query, ()) as result:
        return result.df()


def fetch_all(audit: Audit, scores: Sequence[str], pairs: Sequence[str] = ()) -> pd.DataFrame:
    """Return columns of scores.parquet and of pairs.parquet side by side, one row a pair."""
    count_pairs_of(audit)
    tables = [
        fetch_frame(audit.folder / name, f"SELECT {', '.join(columns)} FROM parquet ORDER BY {ROW}")
        for name, columns in ((SCORES, scores), (PAIRS, pairs))
        if columns
    ]
    return pd.concat(tables, axis=1)


def fetch_arrow(path: Path, query: str, **tables: Table) -> pa.Table:
    """Run a query over a Parquet file and further named tables; return an Arrow table."""
    with _executed(path, query, (), **tables) as result:
        return result.to_arrow_table()


def fetch_pairs(
    path: Path,
    columns: Sequence[str],
    pair_ids: Iterable[str],
    *,
    end: str = "",
    key: str = PAIR_ID,
) -> pa.Table:
    """Return pair_id and columns of some pairs of a file, or of those with some values in the
    column `key`; `end` is appended to the query."""
    # An audit can have no scores of single captions, words or sentences.
    if path.name in (CAPTION_TABLE, SENTENCE_TABLE, WORD_TABLE) and not path.is_file():
        return pa.table({PAIR_ID: pa.array([], pa.string())})
    if path.name == CAPTION_TABLE:
        check_caption_rows(Audit(path.parent))
    join = f'SEMI JOIN requested ON "{key}" = requested_id'
    query = f'SELECT "{PAIR_ID}", {", ".join(columns)} FROM parquet {join} {end}'
    return fetch_arrow(path, query, requested=_requested(pair_ids))


def fetch_numbered(
    path: Path, columns: Sequence[str], rows: Sequence[int]
) -> dict[int, tuple[Any, ...]]:
    """Return the columns of some rows, by row."""
    if not rows:
        return {}
    numbers = ", ".join(str(int(row)) for row in rows)
    # reads few row groups
    query = f"SELECT {ROW}, {', '.join(columns)} FROM parquet WHERE {ROW} IN ({numbers})"
    return {row: tuple(values) for row, *values in fetch_rows(path, query)}


def number_sql(column: str) -> str:
    """Return SQL of a score as a number, NaN if missing; a column without any value may have
    another type."""
    return f"coalesce(TRY_CAST(\"{column}\" AS DOUBLE), 'nan'::DOUBLE)"


@functools.cache
def _database() -> duckdb.DuckDBPyConnection:
    """Return an empty database; each query has its own cursor, as pages run in threads."""
    return duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "memory_limit": "1GB",
            # created only if memory is short
            "temp_directory": f"{tempfile.gettempdir()}/clipmem-{os.getpid()}",
        }
    )


@contextmanager
def _executed(
    path: Path, query: str, values: Sequence[Any], **tables: Table
) -> Iterator[duckdb.DuckDBPyRelation]:
    stamp(path)  # a missing file has its own message
    # DuckDB takes patterns.
    glob = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))
    rows = "SELECT * FROM read_parquet(?, file_row_number = true)"
    query = f"WITH parquet AS NOT MATERIALIZED ({rows}) {query}"
    try:
        with _database().cursor() as cursor:
            for name, table in tables.items():
                cursor.register(name, table)
            yield cursor.sql(query, params=[glob, *map(without_surrogates, values)])
    except duckdb.OutOfMemoryException:
        raise InputError(
            f"{path} needs more memory than there is: close other programs and try again"
        ) from None
    except duckdb.Error as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{path} cannot be read ({reason}): delete the audit's folder and run it again"
        ) from None
