"""What the checks that need no model find in an audit: counts, the pairs of a check, and groups of look-alikes."""

from pathlib import Path

import numpy as np

from clipmem_core.audits.checks import LOOKALIKE_OF, ensure_checks, kept_checks
from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.pairs.checks import CHECKS
from clipmem_core.review.tables import ROW, fetch_columns, fetch_rows, kept


def check_counts(audit: Audit) -> dict[str, int | None]:
    """Return how many pairs each check finds, by its name in the order of `CHECKS`; None where it is not known."""
    return _counts(audit, ensure_checks(audit))


@kept(8, PAIRS, paths=lambda audit, path: (path,))
def _counts(audit: Audit, path: Path) -> dict[str, int | None]:
    columns = ", ".join(f'CASE WHEN count("{name}") > 0 THEN count_if("{name}") END' for name in CHECKS)
    found = fetch_rows(path, f"SELECT {columns} FROM parquet")[0]
    return dict(zip(CHECKS, found, strict=True))


def rows_failing(audit: Audit, name: str) -> np.ndarray:
    """Return the rows of the pairs that a check finds.

    Raises:
        ValueError: there is no such check.
    """
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
        GROUP BY {LOOKALIKE_OF} HAVING len(rows) > 1 ORDER BY len(rows) DESC, rows[1]
    """
    return [rows for (rows,) in fetch_rows(path, query)]
