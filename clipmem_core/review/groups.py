"""An audit's scores → mean and distribution of clipmem in each group; its quarantine, page by page."""

import pandas as pd

from clipmem_core.audits.store import QUARANTINE, SCORES, Audit
from clipmem_core.columns import CLIPMEM, GROUP
from clipmem_core.review.tables import ROW, fetch_frame


def group_summary(audit: Audit) -> pd.DataFrame:
    """Return group, n, mean and sd of clipmem, for the groups that have any."""
    query = f"""
        SELECT "{GROUP}", count(*) AS n, avg({CLIPMEM}) AS mean, stddev_samp({CLIPMEM}) AS sd
        FROM parquet WHERE isfinite({CLIPMEM}) GROUP BY ALL
    """
    return fetch_frame(audit.folder / SCORES, query)


def group_bins(audit: Audit, *, bins: int) -> pd.DataFrame:
    """Return the distribution of clipmem in each group over equal bins of the whole range.

    Returns:
        Columns group, low (the bin's left edge), width and share (of the group's pairs); empty bins are left out.
    """
    query = f"""
        , score AS (SELECT "{GROUP}", {CLIPMEM} AS x FROM parquet WHERE isfinite({CLIPMEM})),
        span AS (SELECT min(x) AS start, greatest((max(x) - min(x)) / ?, 1e-9) AS width FROM score),
        counted AS (
            SELECT "{GROUP}", least(floor((x - start) / width), ? - 1) AS bin, count(*) AS n, any_value(start) AS start,
                any_value(width) AS width
            FROM score, span GROUP BY ALL
        )
        SELECT "{GROUP}", start + bin * width AS low, width, n / sum(n) OVER (PARTITION BY "{GROUP}") AS share
        FROM counted ORDER BY ALL
    """
    return fetch_frame(audit.folder / SCORES, query, [bins, bins])


def quarantine_page(audit: Audit, *, page: int, size: int) -> pd.DataFrame:
    """Return one page of the input rows that could not be used, in the order they were met."""
    query = f"SELECT * EXCLUDE ({ROW}) FROM parquet LIMIT ? OFFSET ?"
    return fetch_frame(audit.folder / QUARANTINE, query, [size, (page - 1) * size])
