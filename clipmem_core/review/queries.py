"""DuckDB queries over an audit's Parquet files, which share one row order: `file_row_number` is a
pair's row in all."""

import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import duckdb
import pandas as pd
import pyarrow as pa

from clipmem_core.auditing.folder.store import (
    CAPTION_TABLE,
    PAIRS,
    SENTENCE_TABLE,
    WORD_TABLE,
    Audit,
    Named,
)
from clipmem_core.dataset.containers import without_surrogates
from clipmem_core.utils.columns import PAIR_ID
from clipmem_core.utils.io import InputError

ROW = "file_row_number"
Function = TypeVar("Function", bound=Callable[..., Any])
# SQL of a caption key: a positive hash of 63 bits of a pair's captions in any order, which contain
# no NUL.
_SORTED = "array_to_string(list_sort(captions), chr(0))"
CAPTION_KEY = f"greatest(1, (md5_number_lower({_SORTED}) // 2)::BIGINT)"


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


def fetch(
    source: Path | pa.Table,
    query: str,
    values: Sequence[Any] = (),
    **tables: pd.DataFrame | pa.Table,
) -> pa.Table:
    """Run a query over a Parquet file or a table, named `parquet` in the query, and further named
    tables."""
    values = [*map(without_surrogates, values)]
    if isinstance(source, Path):
        stamp(source)  # a missing file has its own message
        # DuckDB takes patterns.
        glob = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(source))
        rows = "SELECT * FROM read_parquet(?, file_row_number = true)"
        query = f"WITH parquet AS NOT MATERIALIZED ({rows}) {query}"
        values.insert(0, glob)
    else:
        tables["parquet"] = source
    try:
        with _database().cursor() as cursor:
            for name, table in tables.items():
                cursor.register(name, table)
            return cursor.sql(query, params=values).to_arrow_table()
    except duckdb.OutOfMemoryException:
        raise InputError(
            f"{source} needs more memory than there is: close other programs and try again"
        ) from None
    except duckdb.Error as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{source} cannot be read ({reason}): delete the audit's folder and run it again"
        ) from None


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


def fetch_pairs(
    source: Path | pa.Table, columns: Sequence[str], pair_ids: Iterable[str], *, end: str = ""
) -> pa.Table:
    """Return pair_id and columns of some pairs of a file or table; `end` is appended to the
    query."""
    # An audit can have no scores of single captions, words or sentences.
    optional = (CAPTION_TABLE, SENTENCE_TABLE, WORD_TABLE)
    if isinstance(source, Path) and source.name in optional and not source.is_file():
        return pa.table({PAIR_ID: pa.array([], pa.string())})
    requested = pa.table({"requested": pa.array(map(without_surrogates, pair_ids), pa.string())})
    query = f"""
        SELECT pair_id, {", ".join(columns)} FROM parquet
        SEMI JOIN requested ON pair_id = requested {end}
    """
    return fetch(source, query, requested=requested)


def fetch_by_id(source: Path | pa.Table, value: str, pair_ids: Iterable[str]) -> dict[str, Any]:
    """Return a value, as SQL, of those of some pairs that a file or table has."""
    found = fetch_pairs(source, [f"{value} AS value"], pair_ids)
    return dict(zip(*found.to_pydict().values(), strict=True))


def fetch_numbered(path: Path, columns: Sequence[str], rows: Sequence[int]) -> dict[int, list[Any]]:
    """Return the columns of some rows, by row."""
    numbers = ", ".join(map(str, rows)) or "NULL"
    # reads few row groups
    query = f"SELECT {ROW}, {', '.join(columns)} FROM parquet WHERE {ROW} IN ({numbers})"
    found = fetch(path, query).to_pydict().values()
    return {row: values for row, *values in zip(*found, strict=True)}


def find_row(audit: Audit, pair_id: str) -> int | None:
    """Return the row of a pair, None if the audit has no such pair."""
    return fetch_by_id(audit.folder / PAIRS, ROW, [pair_id]).get(pair_id)


def number_sql(column: str) -> str:
    """Return SQL of a score as a number, NaN if missing; a column without any value may have
    another type."""
    return f"coalesce(TRY_CAST(\"{column}\" AS DOUBLE), 'nan'::DOUBLE)"
