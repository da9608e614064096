"""What the checks that need no model find in an audit: counts, the pairs of a check, and groups of look-alikes."""

from pathlib import Path

import numpy as np

from clipmem_core.audits.checks import ensure_checks
from clipmem_core.audits.store import PAIRS, Audit, read_prepared
from clipmem_core.config import InputError
from clipmem_core.pairs.checks.table import BY_NAME, CHECKS
from clipmem_core.review.tables import ROW, fetch_columns, fetch_rows, kept


def check_counts(audit: Audit) -> dict[str, int | None]:
    """Return how many pairs each check finds, by its name in the order of `CHECKS`; None where it is not known."""
    return _counts(audit, ensure_checks(audit))


@kept(8, PAIRS, paths=lambda audit, path: (path,))
def _counts(audit: Audit, path: Path) -> dict[str, int | None]:
    names = [check.name for check in CHECKS]
    columns = ", ".join(f'CASE WHEN count("{name}") > 0 THEN count_if("{name}") END' for name in names)
    found = fetch_rows(path, f"SELECT {columns} FROM parquet")[0]
    return dict(zip(names, found, strict=True))


def rows_failing(audit: Audit, name: str) -> np.ndarray:
    """Return the rows of the pairs that a check finds.

    Raises:
        ValueError: there is no such check.
    """
    if name not in BY_NAME:
        raise ValueError(f"check must be one of {', '.join(BY_NAME)}, not {name!r}")
    return fetch_columns(ensure_checks(audit), f'SELECT {ROW} FROM parquet WHERE "{name}"')[ROW]


def failed_checks(audit: Audit, row: int) -> list[str]:
    """Return the names of the checks that find a pair."""
    names = [check.name for check in CHECKS]
    columns = ", ".join(f'"{name}"' for name in names)
    found = fetch_rows(ensure_checks(audit), f"SELECT {columns} FROM parquet WHERE {ROW} = ?", [row])
    if not found:
        raise InputError(f"audit {audit.name!r} has no row {row}: open the pair from the gallery again")
    return [name for name, flag in zip(names, found[0], strict=True) if flag]


@kept(4, PAIRS)
def lookalike_groups(audit: Audit) -> list[np.ndarray]:
    """Return the rows of each group of look-alikes, the largest group first, then in the order of the tables."""
    clusters = read_prepared(audit.folder).clusters
    order = np.argsort(clusters, kind="stable")
    _, starts = np.unique(clusters[order], return_index=True)
    groups = [group for group in np.split(order, starts[1:]) if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), group[0]))
