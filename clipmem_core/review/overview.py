"""What the overview and the figures say of a finished audit: its groups, utility, and map of scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.store import PAIRS, QUARANTINE, SCORES, UTILITY, Audit, Record
from clipmem_core.audits.verdict import NULL_CHECK
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.files import is_number, mapping
from clipmem_core.review.tables import ROW, count_pairs_of, count_rows, fetch_frame, fetch_rows, number
from clipmem_core.scores.registry import BY_NAME

BINS = 60
MEMBERS_SHOWN = 6  # each with a column of its own
DETECTION_METRICS = ["auroc", "average_precision", "precision_at_k"]
ATTACK_MEASURES = {"auroc": "AUROC", "TPR@0.01": "TPR at 1 % FPR", "TPR@0.001": "TPR at .1 % FPR"}
LIMIT = 6000  # points that a browser draws at once, with a lasso that follows the hand
CELLS = (96, 64)  # of the density, along similarity_out and clipmem
FITTING, NOISE = 0.25, 0.05  # shares of the external pairs
_X, _Y = number(c.SIMILARITY_OUT), number(c.CLIPMEM)
_BOTH = f"isfinite({_X}) AND isfinite({_Y})"


@dataclass(frozen=True)
class Overview:
    """Everything but the map and the pictures.

    `groups` has group, n, mean, low, high, kind: the interval where the verdict gives one; `bins` is that of
    `group_bins`; `utility` has a row a metric, its mean over the members and one column a member.
    """

    audit: Audit
    record: Record
    verdict: dict[str, Any]
    pairs: int
    quarantined: int
    groups: pd.DataFrame
    bins: pd.DataFrame
    utility: pd.DataFrame


def load_overview(audit: Audit) -> Overview:
    """Read an audit for the overview."""
    verdict, utility = audit.verdict, audit.utility
    if not {c.MEMBER, c.METRIC, c.VALUE} <= set(utility.columns):
        raise InputError(f"{audit.folder / UTILITY} lacks columns: delete it and run the audit again")
    return Overview(
        audit=audit,
        record=audit.record,
        verdict=verdict,
        pairs=count_rows(audit.folder / PAIRS),
        quarantined=count_rows(audit.folder / QUARANTINE),
        groups=join_intervals(group_summary(audit), table(verdict, "groups")),
        bins=group_bins(audit, bins=BINS),
        utility=utility_table(utility),
    )


def group_summary(audit: Audit) -> pd.DataFrame:
    """Return group, n, mean and sd of clipmem, for the groups that have any."""
    query = f"""
        SELECT "{c.GROUP}", count(*) AS n, avg({c.CLIPMEM}) AS mean, stddev_samp({c.CLIPMEM}) AS sd
        FROM parquet WHERE isfinite({c.CLIPMEM}) GROUP BY ALL
    """
    return fetch_frame(audit.folder / SCORES, query)


def group_bins(audit: Audit, *, bins: int) -> pd.DataFrame:
    """Return the distribution of clipmem in each group over equal bins of the whole range.

    Returns:
        Columns group, low (the bin's left edge), width and share (of the group's pairs); empty bins are left out.
    """
    query = f"""
        , score AS (SELECT "{c.GROUP}", {c.CLIPMEM} AS x FROM parquet WHERE isfinite({c.CLIPMEM})),
        span AS (SELECT min(x) AS start, greatest((max(x) - min(x)) / ?, 1e-9) AS width FROM score),
        counted AS (
            SELECT "{c.GROUP}", least(floor((x - start) / width), ? - 1) AS bin, count(*) AS n,
                any_value(start) AS start, any_value(width) AS width
            FROM score, span GROUP BY ALL
        )
        SELECT "{c.GROUP}", start + bin * width AS low, width, n / sum(n) OVER (PARTITION BY "{c.GROUP}") AS share
        FROM counted ORDER BY ALL
    """
    return fetch_frame(audit.folder / SCORES, query, [bins, bins])


def quarantine_page(audit: Audit, *, page: int, size: int) -> pd.DataFrame:
    """Return one page of the input rows that could not be used, in the order they were met."""
    query = f"SELECT * EXCLUDE ({ROW}) FROM parquet LIMIT ? OFFSET ?"
    return fetch_frame(audit.folder / QUARANTINE, query, [size, (page - 1) * size])


def rows(verdict: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return one of the verdict's lists of objects; empty where there is none."""
    return verdict.get(key) or []


def table(verdict: dict[str, Any], key: str) -> pd.DataFrame:
    """Return one of the verdict's lists of objects as a table; empty where there is none."""
    return pd.DataFrame(rows(verdict, key))


def exceeding(verdict: dict[str, Any]) -> dict[float, tuple[float, float, float]]:
    """Return the share of pairs whose clipmem exceeds each size, and its interval; empty where the verdict has none.

    Example:
        >>> exceeding({"exceeding": [{"size": 0.2, "share": 0.1, "low": 0.05, "high": 0.2}, {"size": 0.3}]})
        {0.2: (0.1, 0.05, 0.2)}
    """
    found = {}
    for row in rows(verdict, "exceeding"):
        values = [mapping(row).get(name) for name in ("size", "share", "low", "high")]
        if all(map(is_number, values)):
            size, share, low, high = map(float, values)  # type: ignore[arg-type]
            found[size] = (share, low, high)
    return found


def join_intervals(summary: pd.DataFrame, intervals: pd.DataFrame) -> pd.DataFrame:
    """Add the verdict's low, high and kind, in words, to the groups, in the order of `GROUPS`."""
    known = [column for column in ("low", "high", "kind") if column in intervals and c.GROUP in intervals]
    joined = summary.merge(intervals[[c.GROUP, *known]], on=c.GROUP, how="left") if known else summary.copy()
    for column in ("low", "high"):
        joined[column] = pd.to_numeric(joined[column], errors="coerce") if column in known else float("nan")
    joined["kind"] = joined["kind"].fillna("").astype(str).map(c.of_one_split) if "kind" in known else ""
    order = {group: place for place, group in enumerate(c.GROUPS)}
    return joined.sort_values(c.GROUP, key=lambda names: names.map(order), ignore_index=True)


def explain_null(groups: pd.DataFrame, verdict: dict[str, Any]) -> str:
    """Say whether clipmem is near 0 where it must be, if the verdict judged it; empty without such a group."""
    null = groups[groups[c.GROUP].isin([c.SHARED, c.EXTERNAL])]
    if null.empty:
        return ""
    means = [f"{mean:+.3f} for {group}" for group, mean in zip(null[c.GROUP], null["mean"], strict=True)]
    listed = f"mean clipmem is {' and '.join(means)} pairs".replace("-", "−")
    judged = [check.get("good") for check in rows(verdict, "checks") if check.get("name") in NULL_CHECK]
    good = judged[0] if judged else None
    if good is True:
        return f"The null is near 0: {listed}, where no pair can stand out as memorized."
    if good is False:
        return f"The null is not near 0: {listed}. Read clipmem against that, not against 0."
    return f"The null: {listed}, where no pair can stand out as memorized."


def detection_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row a score: its AUROC, average precision and precision at k, each with its interval, as text."""
    if "score" not in scores:
        return pd.DataFrame()
    shown = pd.DataFrame({"score": scores["score"].astype(str)})
    for metric in DETECTION_METRICS:
        if metric in scores:
            shown[metric] = [_with_interval(row, metric) for row in scores.to_dict("records")]
    return shown


def _with_interval(row: dict[Any, Any], metric: str) -> str:
    value, *interval = (row.get(f"{metric}{end}") for end in ("", "_low", "_high"))
    bounds = f" ({interval[0]:.2f} to {interval[1]:.2f})" if all(map(is_number, interval)) else ""
    return f"{value:.3f}{bounds}" if is_number(value) else ""


def attack_auroc(attacks: pd.DataFrame) -> Any:
    """Return the AUROC of the default attack, the first of the verdict's rows; None where there is none."""
    first = attacks.to_dict("records")[0] if len(attacks) else {}
    return first.get("value") if first.get("measure") == "auroc" else None


def attack_rows(attacks: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return how well each attack tells what a member was trained on, as text, and why some numbers are not there."""
    if not {"attack", "measure"} <= set(attacks.columns):
        return pd.DataFrame(), []
    shown, missing = [], []
    for row in attacks.to_dict("records"):
        if str(row["measure"]) not in ATTACK_MEASURES:
            continue
        if not is_number(row.get("value")):
            missing.append(f"{ATTACK_MEASURES[row['measure']]} of {row['attack']}: {row.get('missing')}")
            continue
        told = {"attack": str(row["attack"]), "measure": ATTACK_MEASURES[row["measure"]], "value": row["value"]}
        ends = {over: [row.get(f"{over}_{end}") for end in ("low", "high")] for over in ("members", "pairs")}
        told |= {
            f"over {over}": f"{low:.3f} to {high:.3f}" if is_number(low) and is_number(high) else ""
            for over, (low, high) in ends.items()
        }
        shown.append(told)
    return pd.DataFrame(shown), missing


def utility_table(utility: pd.DataFrame) -> pd.DataFrame:
    """Return metric, mean and one column a member, or of many the lowest and highest, in the order of the file.

    How well a member can be attacked is no utility of it.
    """
    utility = utility[~utility[c.METRIC].isin(c.ATTACK_METRICS.values())]
    if utility.empty:
        return pd.DataFrame()
    wide = utility.pivot_table(index=c.METRIC, columns=c.MEMBER, values=c.VALUE, sort=False, observed=True)
    mean = wide.mean(axis=1)
    if len(wide.columns) > MEMBERS_SHOWN:
        wide = pd.DataFrame({"lowest member": wide.min(axis=1), "highest member": wide.max(axis=1)})
    wide.insert(0, "mean", mean, allow_duplicates=True)
    return wide.rename_axis(columns=None).reset_index()


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
    """Read the map of an audit's scores."""
    count = fetch_rows(audit.folder / SCORES, f"SELECT count(*) FROM parquet WHERE {_BOTH}")[0][0]
    points = sample_points(audit, c.SIMILARITY_OUT, c.CLIPMEM, colour_by=[c.GROUP, c.PLANTED], limit=LIMIT)
    density = pair_density(audit) if count > LIMIT else pd.DataFrame()
    return ScoreMap(count, points, density, find_corners(audit))


def find_corners(audit: Audit) -> Corners | None:
    """Return where the corners begin, or None where no external pair has both scores."""
    query = f"""
        SELECT count(*) FILTER (WHERE "{c.GROUP}" = '{c.EXTERNAL}'),
            quantile_cont({_X}, {FITTING}) FILTER (WHERE "{c.GROUP}" = '{c.EXTERNAL}'),
            quantile_cont({_Y}, {1 - NOISE}) FILTER (WHERE "{c.GROUP}" = '{c.EXTERNAL}'),
            quantile_cont({_Y}, {NOISE}) FILTER (WHERE "{c.GROUP}" = '{c.EXTERNAL}'),
            count(*) FILTER (WHERE "{c.GROUP}" = '{c.INDEPENDENT}')
        FROM parquet WHERE {_BOTH} AND "{c.GROUP}" IN ('{c.EXTERNAL}', '{c.INDEPENDENT}')
    """
    external, fits, high, low, independent = fetch_rows(audit.folder / SCORES, query)[0]
    return Corners(fits, high, low if independent else None) if external else None


def pair_density(audit: Audit, x: str = c.SIMILARITY_OUT, y: str = c.CLIPMEM) -> pd.DataFrame:
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


def sample_points(
    audit: Audit, x: str, y: str, *, colour_by: Sequence[str] = (), limit: int, seed: int = 0
) -> pd.DataFrame:
    """Draw pairs at random for a figure, those that have both scores.

    Args:
        audit: a finished audit.
        x: a score.
        y: a score.
        colour_by: further columns: scores, group, label or planted.
        limit: at most so many pairs.
        seed: what they are drawn from; the same ones every time.

    Returns:
        Columns row, then x, y and the further ones by their names; in the order of the tables.
    """
    names = dict.fromkeys([x, y, *colour_by])
    unknown = [name for name in names if name not in (*BY_NAME, c.GROUP, c.LABEL, c.PLANTED)]
    if unknown:
        raise ValueError(f"columns must be scores, {c.GROUP}, {c.LABEL} or {c.PLANTED}, not {unknown[0]!r}")
    from_pairs = [name for name in names if name in (c.LABEL, c.PLANTED)]
    from_scores = [name for name in names if name not in from_pairs]
    shown = [f'{number(name)} AS "{name}"' if name in BY_NAME else f'"{name}"' for name in from_scores]
    scores = fetch_frame(audit.folder / SCORES, f"SELECT {', '.join(shown)} FROM parquet")
    known = np.flatnonzero(np.isfinite(scores[x]) & np.isfinite(scores[y]))
    rows = known if len(known) <= limit else np.sort(np.random.default_rng(seed).choice(known, limit, replace=False))
    table = scores.take(rows).reset_index(drop=True)
    if from_pairs:
        count_pairs_of(audit)
        quoted = ", ".join(f'"{name}"' for name in from_pairs)
        pairs = fetch_frame(audit.folder / PAIRS, f"SELECT {quoted} FROM parquet")
        table[from_pairs] = pairs.take(rows).to_numpy()
    table.insert(0, "row", rows)
    return table[["row", *names]]


def locked_towers(config: AuditConfig) -> dict[str, str]:
    """Return the names of the locked towers, by side: image, text.

    Example:
        >>> locked_towers(AuditConfig(lock_text=True, text_tower="all-MiniLM-L6-v2"))
        {'text': 'all-MiniLM-L6-v2'}
    """
    usual = f"{config.model} ({config.pretrained})"
    return {
        side: getattr(config, f"{side}_tower") or usual for side in ("image", "text") if getattr(config, f"lock_{side}")
    }


def model_words(config: AuditConfig) -> str:
    """Return in a few words what each member is.

    Example:
        >>> model_words(AuditConfig()), model_words(AuditConfig(lock_text=True, text_tower="all-MiniLM-L6-v2"))
        ('model small', 'model small and a head on all-MiniLM-L6-v2')
    """
    towers = locked_towers(config)
    if len(towers) == 2:
        return f"heads on {' and '.join(towers.values())}"
    return " and ".join([f"model {config.model}", *(f"a head on {name}" for name in towers.values())])
