"""Each encoder's part of clipmem: pair by pair, its means over groups, labels and planted kinds, and what speaks
against the split."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.audits.verdict import FLAT
from clipmem_core.columns import (
    CANDIDATE,
    CLIPMEM_IMAGE,
    CLIPMEM_TEXT,
    EXTERNAL,
    GROUP,
    GROUPS,
    LABEL,
    PLANTED,
    SCORED,
    SSLMEM_IMAGE,
    SSLMEM_TEXT,
)
from clipmem_core.review.rows import sample_points
from clipmem_core.review.score_map import LIMIT, pair_density
from clipmem_core.review.tables import ROW, count_pairs_of, fetch_arrow, number, version_of

IMAGE, TEXT = "image", "text"
PARTS = {IMAGE: CLIPMEM_IMAGE, TEXT: CLIPMEM_TEXT}
SSLMEM = {IMAGE: SSLMEM_IMAGE, TEXT: SSLMEM_TEXT}
MEMORIZED = (CANDIDATE, SCORED)  # the groups whose clipmem is memorization with its sign
NOT_PLANTED = "not planted"
POOR_FIT = 0.5  # mean cosine on held-out pairs below which mapped embeddings are nearer to strange than to their own
Z = 1.96


def load_contributions(audit: Audit) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the contributions of both encoders to the clipmem of every pair that has both.

    Returns:
        The pairs to draw, at most `LIMIT` of them at random: row, clipmem_image, clipmem_text, group, planted, label.
        And x, y and n of the cells with pairs in them, over all pairs; empty where all are drawn.

    Raises:
        InputError: a file of the audit is missing, broken, or does not fit the others.
    """
    points = sample_points(audit, *PARTS.values(), colour_by=[GROUP, PLANTED, LABEL], limit=LIMIT)
    density = pair_density(audit, *PARTS.values()) if len(points) == LIMIT else pd.DataFrame()
    return points, density if len(density) and density["n"].sum() > LIMIT else pd.DataFrame()


def encoder_means(
    audit: Audit, columns: Mapping[str, str] = PARTS, *, by: str, groups: Sequence[str] = GROUPS, limit: int = 50
) -> pd.DataFrame:
    """Average a score of each encoder over groups, labels or planted kinds.

    Args:
        audit: a finished audit.
        columns: the score of each encoder, `PARTS` or `SSLMEM`, in cosine units.
        by: `group`, `label` or `planted`.
        groups: only pairs of these.
        limit: the most frequent names, at most so many.

    Returns:
        A row a name and encoder: name, encoder, n, mean, low, high. The interval is mean ± 1.96 standard errors over
        pairs: other pairs would move the mean so far, other members are not in it. Groups come in their order, planted
        kinds before the pairs that are not planted, labels by how many pairs have them. A pair without a label has no
        name; NaN where an encoder has no value.
    """
    count_pairs_of(audit, version_of(audit))
    source = SCORES if by == GROUP else PAIRS
    named = fetch_arrow(audit.folder / source, f'SELECT {ROW} AS place, CAST("{by}" AS VARCHAR) AS name FROM parquet')
    name = f"coalesce(name, '{NOT_PLANTED}')" if by == PLANTED else "name"
    numbers = ", ".join(_aggregates(encoder, column) for encoder, column in columns.items())
    query = f"""
        SELECT {name} AS name, count(*) AS n, {numbers} FROM parquet JOIN named ON {ROW} = place
        WHERE "{GROUP}" IN ({", ".join("?" * len(groups))}) AND {name} IS NOT NULL
        GROUP BY 1 ORDER BY n DESC, name LIMIT {limit}
    """
    wide = fetch_arrow(audit.folder / SCORES, query, list(groups), named=named).to_pandas()
    return _tidy(wide.sort_values("name", key=lambda names: names.map(_place), kind="stable"), columns)


def _aggregates(encoder: str, column: str) -> str:
    known = f"FILTER (WHERE isfinite({number(column)}))"
    return (
        f"count(*) {known} AS n_{encoder}, avg({number(column)}) {known} AS mean_{encoder}, "
        f"stddev_samp({number(column)}) {known} AS sd_{encoder}"
    )


def _place(name: str) -> int:
    return GROUPS.index(name) if name in GROUPS else len(GROUPS) + (name == NOT_PLANTED)


def _tidy(wide: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    rows = []
    for row in wide.to_dict("records"):
        for encoder in columns:
            n, mean, sd = (row[f"{what}_{encoder}"] for what in ("n", "mean", "sd"))
            half = Z * sd / np.sqrt(n) if n >= 2 else np.nan
            rows.append((row["name"], encoder, n, mean, mean - half, mean + half))
    return pd.DataFrame(rows, columns=["name", "encoder", "n", "mean", "low", "high"])


def map_fit(verdict: Mapping[str, Any]) -> float | None:
    """Return how well the members' spaces map onto each other, as the verdict has it; None where it does not say."""
    fit = verdict.get("encoders", {}).get("fit")
    return float(fit) if isinstance(fit, int | float) else None


def why_no_parts(verdict: Mapping[str, Any]) -> str:
    """Return why an audit has no parts of the encoders, as the verdict has it; empty where it has them."""
    return str(verdict.get("encoders", {}).get("missing") or "")


def doubts(groups: pd.DataFrame, fit: float | None) -> list[str]:
    """Say what speaks against the split into two encoders; nothing where all is well.

    Args:
        groups: as `encoder_means` by group.
        fit: as `map_fit`.
    """
    found = []
    if fit is not None and fit < POOR_FIT:
        found.append(
            f"The map between the members' spaces fits poorly: {fit:.2f}, where 1 is perfect. The two parts still add "
            "up to clipmem, but how it is split between them cannot be believed."
        )
    top = groups[groups["name"].isin(MEMORIZED)]["mean"].sum()
    for row in groups[groups["name"] == EXTERNAL].to_dict("records"):
        off, three_errors = abs(row["mean"]), 3 * (row["high"] - row["low"]) / (2 * Z)
        if off > FLAT * abs(top) and off > three_errors:
            found.append(
                f"The null of the {row['encoder']} encoder is not near 0: {row['mean']:+.3f} on external pairs, which "
                "nobody memorized. Read its part against that, not against 0.".replace("-", "−")
            )
    return found
