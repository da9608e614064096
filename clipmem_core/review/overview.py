"""Summaries of a finished audit for the overview, the report and the figures: groups, utility, map
of scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import draws
from clipmem_core.audit.store import PAIRS, SCORES, Audit
from clipmem_core.columns import (
    ATTACK_METRICS,
    CLIPMEM,
    EXTERNAL,
    GROUP,
    GROUPS,
    INDEPENDENT,
    INJECTED,
    MEMBER,
    METRIC,
    SIMILARITY_OUT,
    VALUE,
    of_one_split,
)
from clipmem_core.config import AuditConfig
from clipmem_core.review.queries import cached, fetch_all, fetch_frame, fetch_rows, number_sql

MEMBERS_SHOWN = 6  # with a column each
ATTACK_MEASURES = {"auroc": "AUROC", "TPR@0.01": "TPR at 1 % FPR", "TPR@0.001": "TPR at .1 % FPR"}
LIMIT = 6000  # points a browser draws at once, fast enough for a lasso
_STRONG = 0.5  # clipmem of a strongly memorized pair
_REVEALING = 0.75  # AUROC of an attack: three guesses of four are right
_MOSTLY = 1.5  # one encoder's part over the other's
_BINS = 60  # of the histogram of clipmem
_CELLS = (96, 64)  # of the density, along x and y
# shares of the external pairs
FITTING = 0.25
NOISE = 0.05


def group_table(audit: Audit) -> pd.DataFrame:
    """Return group, n, mean and sd of clipmem, and low, high and kind of the verdict's intervals,
    by group."""
    query = f"""
        SELECT "{GROUP}", count(*) AS n, avg({CLIPMEM}) AS mean, stddev_samp({CLIPMEM}) AS sd
        FROM parquet WHERE isfinite({CLIPMEM}) GROUP BY ALL
    """
    ends = pd.DataFrame(audit.verdict["groups"], columns=[GROUP, "low", "high", "kind"])
    groups = fetch_frame(audit.folder / SCORES, query).merge(ends, on=GROUP, how="left")
    groups = groups.astype({"low": float, "high": float})
    groups["kind"] = groups["kind"].fillna("").astype(str).map(of_one_split)
    order = {group: place for place, group in enumerate(GROUPS)}
    return groups.sort_values(GROUP, key=lambda names: names.map(order), ignore_index=True)


def group_bins(audit: Audit) -> pd.DataFrame:
    """Return the histogram of clipmem of each group: group, low and width of a bin, share of the
    group."""
    query = f'SELECT "{GROUP}", {CLIPMEM} AS x FROM parquet WHERE isfinite({CLIPMEM})'
    scores = fetch_frame(audit.folder / SCORES, query)
    edges = np.histogram_bin_edges(scores["x"], _BINS)
    rows = []
    for group, values in scores.groupby(GROUP)["x"]:
        counts = np.histogram(values, edges)[0]
        rows += [
            (group, edges[k], edges[1] - edges[0], counts[k] / len(values))
            for k in np.flatnonzero(counts)
        ]
    return pd.DataFrame(rows, columns=[GROUP, "low", "width", "share"])


def memorization_line(verdict: Mapping[str, Any]) -> str:
    """Return how many pairs are strongly memorized, by which encoder, and whether that matters;
    empty if it was not measured."""
    shares = verdict.get("exceeding") or []
    attacks = verdict.get("attacks") or [{}]
    auroc = attacks[0].get("value") or verdict.get("membership_auroc")
    if not shares or auroc is None:
        return ""
    row = next((row for row in shares if row["size"] >= _STRONG), {"size": _STRONG, "share": 0.0})
    parts = verdict.get("encoders") or {}
    image = parts.get("image") or 0.0
    text = parts.get("text") or 0.0
    where = ""
    if row["share"] and max(image, text) > _MOSTLY * min(image, text):
        where = f", mostly by the {'image' if image > text else 'text'} encoder"
    elif row["share"] and image:
        where = ", by both encoders"
    matters = (
        f"The model reveals which pairs it was trained on (AUROC {auroc:.2f}). That matters if "
        "they are private: see Mitigations."
        if auroc >= _REVEALING
        else "The model hardly reveals which pairs it was trained on "
        f"(AUROC {auroc:.2f}): this is unlikely to matter."
    )
    strong = f"strongly memorized (clipmem above {row['size']:g}){where}. {matters}"
    return f"{100 * row['share']:.1f} % of the pairs are {strong}"


def attack_rows(attacks: list[dict[str, Any]]) -> tuple[pd.DataFrame, list[str]]:
    """Return the success of each attack with its intervals, and a sentence for each missing
    number."""
    shown = []
    missing = []
    for row in attacks:
        name = ATTACK_MEASURES[row["measure"]]
        if pd.isna(row["value"]):
            missing.append(f"{name} of {row['attack']}: {row['missing']}")
            continue
        shown.append({"attack": row["attack"], "measure": name, "value": row["value"]})
        for over in ("members", "pairs"):
            low = row[f"{over}_low"]
            high = row[f"{over}_high"]
            shown[-1][f"over {over}"] = "" if pd.isna(low) else f"{low:.3f} to {high:.3f}"
    return pd.DataFrame(shown), missing


def member_utility(utility: pd.DataFrame) -> pd.DataFrame:
    """Return metric, mean, and a column for each member, or the lowest and highest of many; without
    attacks."""
    utility = utility[~utility[METRIC].isin(ATTACK_METRICS.values())]
    if utility.empty:
        return pd.DataFrame()
    wide = utility.pivot_table(
        index=METRIC, columns=MEMBER, values=VALUE, sort=False, observed=True
    )
    mean = wide.mean(axis=1)
    if len(wide.columns) > MEMBERS_SHOWN:
        wide = pd.DataFrame({"lowest member": wide.min(axis=1), "highest member": wide.max(axis=1)})
    wide.insert(0, "mean", mean, allow_duplicates=True)
    return wide.rename_axis(columns=None).reset_index()


@dataclass(frozen=True)
class Corners:
    """Limits of the corners of the map: quantiles of the external pairs, which no member trained
    on."""

    fits: float  # lower quartile of similarity_out
    high: float  # 95th percentile of clipmem
    low: float | None  # 5th percentile of clipmem; None without independent pairs, which g learned


@cached(4, SCORES, PAIRS)
def load_score_map(audit: Audit) -> tuple[pd.DataFrame, pd.DataFrame, int, Corners | None]:
    """Return `points_and_density` of the map of scores, and its corners; None if no external pair
    has both scores."""
    x = SIMILARITY_OUT
    y = CLIPMEM
    points, density, count = points_and_density(audit, x, y, colour_by=(GROUP, INJECTED))
    query = f"""
        SELECT quantile_cont(x, {FITTING}), quantile_cont(y, {1 - NOISE}), quantile_cont(y, {NOISE})
        FROM (SELECT "{GROUP}", {number_sql(x)} AS x, {number_sql(y)} AS y FROM parquet)
        WHERE "{GROUP}" = '{EXTERNAL}' AND isfinite(x) AND isfinite(y)
    """
    fits, high, low = fetch_rows(audit.folder / SCORES, query)[0]
    if fits is None:
        return points, density, count, None
    mirrored = INDEPENDENT in audit.record.groups
    return points, density, count, Corners(fits, high, low if mirrored else None)


@cached(4, SCORES, PAIRS)
def points_and_density(
    audit: Audit, x: str, y: str, *, colour_by: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Draw a fixed random sample of at most `LIMIT` pairs with two scores; `colour_by`: group,
    label, injected.

    Returns row, x, y and `colour_by` of the sample; centre x, y and count n of each cell of a 2D
    histogram of all pairs, empty if all are drawn; and the number of pairs with both scores.
    """
    scores = [*(f'{number_sql(name)} AS "{name}"' for name in (x, y)), f'"{GROUP}"']
    table = fetch_all(audit, scores, [f'"{name}"' for name in colour_by if name != GROUP])
    rows = finite = np.flatnonzero(np.isfinite(table[x]) & np.isfinite(table[y]))
    density = pd.DataFrame()
    if len(finite) > LIMIT:
        rows = np.sort(draws.rng(0, "scatter").choice(finite, LIMIT, replace=False))
        counts, x_edges, y_edges = np.histogram2d(
            table[x].iloc[finite], table[y].iloc[finite], _CELLS
        )
        i, j = np.nonzero(counts)
        centres = [(edges[1:] + edges[:-1]) / 2 for edges in (x_edges, y_edges)]
        density = pd.DataFrame(
            {"x": centres[0][i], "y": centres[1][j], "n": counts[i, j].astype(int)}
        )
    points = table.iloc[rows].reset_index(drop=True)
    points.insert(0, "row", rows)
    return points[["row", *dict.fromkeys([x, y, *colour_by])]], density, len(finite)


def locked_towers(config: AuditConfig) -> dict[str, str]:
    """Return the names of the locked towers, by side: image, text."""
    default = f"{config.model} ({config.pretrained})"
    locked = [side for side in ("image", "text") if getattr(config, f"lock_{side}")]
    return {side: getattr(config, f"{side}_tower") or default for side in locked}


def model_words(config: AuditConfig) -> str:
    """Return the kind of the members in words: "model small", "heads on …"."""
    towers = locked_towers(config)
    if len(towers) == 2:
        return f"heads on {' and '.join(towers.values())}"
    return " and ".join(
        [f"model {config.model}", *(f"a head on {name}" for name in towers.values())]
    )
