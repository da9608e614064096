"""DuckDB queries over an audit's Parquet files; a missing or broken file is an input error that names it.

DuckDB reads only the columns and row groups that a query needs. All tables of an audit share one row order:
`file_row_number` is a pair's row everywhere.
"""

import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar, cast

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.config import InputError

ROW = "file_row_number"
Columns = dict[str, np.ndarray]
Table: TypeAlias = pd.DataFrame | pa.Table
Stamp = tuple[int, int, int]
Version = tuple[Stamp, Stamp]
Params = ParamSpec("Params")
Result = TypeVar("Result")
OfAudit: TypeAlias = Callable[Concatenate[Audit, Params], Result]
# SQL for the key of a pair's captions, a positive number of 63 bits; no caption has a NUL in it.
CAPTION_KEY = f"""greatest(1, (md5_number_lower(array_to_string("{CAPTIONS}", chr(0))) // 2)::BIGINT)"""


def stamp(path: Path) -> Stamp:
    """Return inode, size and time of a file, which change when it is replaced or written to."""
    try:
        status = path.stat()
    except OSError:
        raise InputError(f"{path} is missing: run the audit again to resume it") from None
    return status.st_ino, status.st_size, status.st_mtime_ns


def version_of(audit: Audit) -> Version:
    """Return the stamps of an audit's scores and pairs."""
    return stamp(audit.folder / SCORES), stamp(audit.folder / PAIRS)


def kept(
    size: int, *names: str, paths: Callable[..., Iterable[Path]] = lambda *given: ()
) -> Callable[[OfAudit[Params, Result]], OfAudit[Params, Result]]:
    """Cache the last `size` results of a function of an audit until one of the files they were made from changes.

    The files: `names` of the audit's, and those that `paths` returns for the function's arguments.
    """

    def decorate(make: OfAudit[Params, Result]) -> OfAudit[Params, Result]:
        made: Any = functools.lru_cache(maxsize=size)(lambda version, *given, **named: make(*given, **named))

        @functools.wraps(make)
        def cached(audit: Audit, *args: Params.args, **named: Params.kwargs) -> Result:
            files = [*(audit.folder / name for name in names), *paths(audit, *args, **named)]
            return cast(Result, made(tuple(map(stamp, files)), audit, *args, **named))

        return cached

    return decorate


@kept(64, SCORES, PAIRS)
def count_pairs_of(audit: Audit) -> int:
    """Return the number of pairs of an audit."""
    count = count_rows(audit.folder / SCORES)
    if count != count_rows(audit.folder / PAIRS):
        raise mismatched_tables(audit)
    return count


def mismatched_tables(audit: Audit) -> InputError:
    """Return the error of an audit whose tables do not list the same pairs."""
    return InputError(f"{audit.folder / PAIRS} and {SCORES} list other pairs: delete {SCORES} and run the audit again")


def find_row(audit: Audit, pair_id: str) -> int | None:
    """Return the row of a pair, None if the audit has no such pair."""
    found = fetch_rows(audit.folder / PAIRS, f'SELECT {ROW} FROM parquet WHERE "{PAIR_ID}" = ? LIMIT 1', [pair_id])
    return found[0][0] if found else None


def caption_keys(pairs: Path | pa.Table, pair_ids: Iterable[str]) -> dict[str, int]:
    """Return the key of the captions of each of some pairs, without those that are not there."""
    asked = pa.table({"asked_id": pa.array(map(without_surrogates, pair_ids), pa.string())})
    query = f'SELECT asked_id, {CAPTION_KEY} AS key FROM {{}} JOIN asked ON "{PAIR_ID}" = asked_id'
    if isinstance(pairs, Path):
        found = fetch_columns(pairs, query.format("parquet"), asked=asked)
    else:
        with _database().cursor() as cursor:
            cursor.register("given", pairs)
            cursor.register("asked", asked)
            found = cast(Columns, cursor.execute(query.format("given")).fetchnumpy())
    return dict(zip(found["asked_id"].tolist(), found["key"].tolist(), strict=True))


def count_rows(path: Path) -> int:
    """Return the number of rows of a Parquet file."""
    return fetch_rows(path, "SELECT count(*) FROM parquet")[0][0]


def fetch_rows(path: Path, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a query over a Parquet file, which it calls `parquet`, and return its rows."""
    with _executed(path, query, values) as result:
        return result.fetchall()


def fetch_columns(path: Path, query: str, values: Sequence[Any] = (), **tables: Table) -> Columns:
    """Run a query as `fetch_rows` does, over further named tables too, and return its columns."""
    with _executed(path, query, values, **tables) as result:
        return cast(Columns, result.fetchnumpy())


def fetch_frame(path: Path, query: str, values: Sequence[Any] = ()) -> pd.DataFrame:
    """Run a query as `fetch_rows` does and return a data frame."""
    with _executed(path, query, values) as result:
        return result.df()


def fetch_arrow(path: Path, query: str, values: Sequence[Any] = (), **tables: Table) -> pa.Table:
    """Run a query as `fetch_columns` does and return an Arrow table."""
    with _executed(path, query, values, **tables) as result:
        return result.to_arrow_table()


def fetch_pairs(path: Path, columns: Sequence[str], pair_ids: Iterable[str], *, end: str = "") -> pa.Table:
    """Return pair_id and columns of some pairs of a file; `end` ends the query."""
    asked = pa.table({"asked": pa.array(map(without_surrogates, pair_ids), pa.string())})
    query = f'SELECT "{PAIR_ID}", {", ".join(columns)} FROM parquet SEMI JOIN asked ON "{PAIR_ID}" = asked.asked {end}'
    return fetch_arrow(path, query, asked=asked)


def fetch_numbered(path: Path, columns: Sequence[str], rows: Sequence[int]) -> dict[int, tuple[Any, ...]]:
    """Return the columns of some rows, by row. The query lists the rows, so that DuckDB skips other row groups."""
    if not rows:
        return {}
    numbers = ", ".join(str(int(row)) for row in rows)
    found = fetch_rows(path, f"SELECT {ROW}, {', '.join(columns)} FROM parquet WHERE {ROW} IN ({numbers})")
    return {row[0]: row[1:] for row in found}


def number(column: str) -> str:
    """Return SQL for a score as a number, NaN if missing; a column without any value may be one of text."""
    return f"coalesce(TRY_CAST(\"{column}\" AS DOUBLE), 'nan'::DOUBLE)"


@functools.cache
def _database() -> duckdb.DuckDBPyConnection:
    """Return the database of the process. It holds nothing; each query has a cursor, for threads."""
    return duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "memory_limit": "1GB",
            "temp_directory": f"{tempfile.gettempdir()}/clipmem-{os.getpid()}",  # made only if memory is short
        }
    )


@contextmanager
def _executed(path: Path, query: str, values: Sequence[Any], **tables: Table) -> Iterator[duckdb.DuckDBPyRelation]:
    stamp(path)  # a missing file has its own message
    glob = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))  # DuckDB takes patterns
    query = f"WITH parquet AS NOT MATERIALIZED (SELECT * FROM read_parquet(?, file_row_number = true)) {query}"
    try:
        with _database().cursor() as cursor:
            for name, table in tables.items():
                cursor.register(name, table)
            yield cursor.sql(query, params=[glob, *map(without_surrogates, values)])
    except duckdb.OutOfMemoryException:
        raise InputError(f"{path} needs more memory than there is: close other programs and try again") from None
    except duckdb.Error as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path} cannot be read ({reason}): delete the audit's folder and run it again") from None


def without_surrogates(value: Any) -> Any:
    """Return text without halves of letters, which DuckDB refuses and no table holds."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
