"""The data of the map of scores: similarity_out against clipmem, thinned, and where its corners begin."""

from dataclasses import dataclass

import pandas as pd

from clipmem_core.audits.store import SCORES, Audit
from clipmem_core.columns import CLIPMEM, EXTERNAL, GROUP, INDEPENDENT, PLANTED, SIMILARITY_OUT
from clipmem_core.review.rows import sample_points
from clipmem_core.review.tables import fetch_frame, fetch_rows, number

LIMIT = 6000  # points that a browser draws at once, with a lasso that follows the hand
CELLS = (96, 64)  # of the density, along similarity_out and clipmem
FITTING, NOISE = 0.25, 0.05  # shares of the external pairs
_X, _Y = number(SIMILARITY_OUT), number(CLIPMEM)
_BOTH = f"isfinite({_X}) AND isfinite({_Y})"


@dataclass(frozen=True)
class Corners:
    """Where the corners of the map begin; all three come from the external pairs, which no member trained on.

    `fits` is the similarity_out that three quarters of them reach; `high` the clipmem that one in twenty exceeds;
    `low` the one that one in twenty falls short of, None unless the audit has independent pairs, which g learned.
    """

    fits: float
    high: float
    low: float | None


@dataclass(frozen=True)
class ScoreMap:
    """`count` pairs have both scores; `points` are those drawn, at most `LIMIT` of them at random.

    `points` has row, similarity_out, clipmem, group and planted; `density` has x, y and n of the cells with pairs
    in them, over all of them, and is empty where all are drawn.
    """

    count: int
    points: pd.DataFrame
    density: pd.DataFrame
    corners: Corners | None


def load_score_map(audit: Audit) -> ScoreMap:
    """Read the map of an audit's scores.

    Raises:
        InputError: a file of the audit is missing, broken, or does not fit the others.
    """
    count = fetch_rows(audit.folder / SCORES, f"SELECT count(*) FROM parquet WHERE {_BOTH}")[0][0]
    points = sample_points(audit, SIMILARITY_OUT, CLIPMEM, colour_by=[GROUP, PLANTED], limit=LIMIT)
    density = pair_density(audit) if count > LIMIT else pd.DataFrame()
    return ScoreMap(count, points, density, find_corners(audit))


def find_corners(audit: Audit) -> Corners | None:
    """Return where the corners begin, or None where no external pair has both scores."""
    query = f"""
        SELECT count(*) FILTER (WHERE "{GROUP}" = '{EXTERNAL}'),
            quantile_cont({_X}, {FITTING}) FILTER (WHERE "{GROUP}" = '{EXTERNAL}'),
            quantile_cont({_Y}, {1 - NOISE}) FILTER (WHERE "{GROUP}" = '{EXTERNAL}'),
            quantile_cont({_Y}, {NOISE}) FILTER (WHERE "{GROUP}" = '{EXTERNAL}'),
            count(*) FILTER (WHERE "{GROUP}" = '{INDEPENDENT}')
        FROM parquet WHERE {_BOTH} AND "{GROUP}" IN ('{EXTERNAL}', '{INDEPENDENT}')
    """
    external, fits, high, low, independent = fetch_rows(audit.folder / SCORES, query)[0]
    return Corners(fits, high, low if independent else None) if external else None


def pair_density(audit: Audit, x: str = SIMILARITY_OUT, y: str = CLIPMEM) -> pd.DataFrame:
    """Count all pairs that have two scores in equal cells: x and y of each cell's middle, and n; no empty cells."""
    query = f"""
        , score AS MATERIALIZED (
            SELECT {number(x)} AS x, {number(y)} AS y FROM parquet
            WHERE isfinite({number(x)}) AND isfinite({number(y)})
        ),
        span AS (
            SELECT min(x) AS x_start, greatest((max(x) - min(x)) / {CELLS[0]}, 1e-9) AS wide,
                min(y) AS y_start, greatest((max(y) - min(y)) / {CELLS[1]}, 1e-9) AS tall
            FROM score
        ),
        counted AS (
            SELECT least(floor((x - x_start) / wide), {CELLS[0] - 1}) AS i,
                least(floor((y - y_start) / tall), {CELLS[1] - 1}) AS j, count(*) AS n
            FROM score, span GROUP BY ALL
        )
        SELECT x_start + (i + 0.5) * wide AS x, y_start + (j + 0.5) * tall AS y, n FROM counted, span ORDER BY ALL
    """
    return fetch_frame(audit.folder / SCORES, query)
