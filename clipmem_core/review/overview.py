"""A finished audit → what the overview says of it, read at once: a broken file shows before anything is drawn."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from clipmem_core.audits.record import Record
from clipmem_core.audits.store import PAIRS, QUARANTINE, UTILITY, Audit
from clipmem_core.columns import EXTERNAL, GROUP, GROUPS, MEMBER, METRIC, SHARED, VALUE, of_one_split
from clipmem_core.config import InputError
from clipmem_core.review.groups import group_bins, group_summary
from clipmem_core.review.tables import count_rows

BINS = 60
DETECTION_METRICS = ["auroc", "average_precision", "precision_at_k"]


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
    """Read an audit for the overview.

    Raises:
        InputError: a file is missing or broken; the message names it and says what to do.
    """
    verdict = audit.verdict
    return Overview(
        audit=audit,
        record=audit.record,
        verdict=verdict,
        pairs=count_rows(audit.folder / PAIRS),
        quarantined=count_rows(audit.folder / QUARANTINE),
        groups=join_intervals(group_summary(audit), table(verdict, "groups")),
        bins=group_bins(audit, bins=BINS),
        utility=utility_table(_utility(audit)),
    )


def mapping(values: Any) -> dict[str, Any]:
    """Return a JSON object as it is, and an empty one for anything else: an optional part that is not there."""
    return values if isinstance(values, dict) else {}


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a number that can be shown."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _utility(audit: Audit) -> pd.DataFrame:
    utility = audit.utility
    if not {MEMBER, METRIC, VALUE} <= set(utility.columns):
        raise InputError(f"{audit.folder / UTILITY} lacks columns: delete it and run the audit again")
    return utility


def rows(verdict: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return one of the verdict's lists of objects; empty where there is none."""
    listed = verdict.get(key)
    return [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []


def table(verdict: dict[str, Any], key: str) -> pd.DataFrame:
    """Return one of the verdict's lists of objects as a table; empty where there is none."""
    return pd.DataFrame(rows(verdict, key))


def join_intervals(summary: pd.DataFrame, intervals: pd.DataFrame) -> pd.DataFrame:
    """Add the verdict's low, high and kind, in words, to the groups, in the order of `GROUPS`."""
    known = [column for column in ("low", "high", "kind") if column in intervals and GROUP in intervals]
    joined = summary.merge(intervals[[GROUP, *known]], on=GROUP, how="left") if known else summary.copy()
    for column in ("low", "high"):
        joined[column] = pd.to_numeric(joined[column], errors="coerce") if column in known else float("nan")
    joined["kind"] = joined["kind"].fillna("").astype(str).map(of_one_split) if "kind" in known else ""
    order = {group: place for place, group in enumerate(GROUPS)}
    return joined.sort_values(GROUP, key=lambda names: names.map(order), ignore_index=True)


def explain_null(groups: pd.DataFrame, verdict: dict[str, Any]) -> str:
    """Say whether clipmem is near 0 where it must be, if the verdict judged it; empty without such a group.

    Args:
        groups: group and mean.
        verdict: the audit's.
    """
    null = groups[groups[GROUP].isin([SHARED, EXTERNAL])]
    if null.empty:
        return ""
    means = [f"{mean:+.3f} for {group}" for group, mean in zip(null[GROUP], null["mean"], strict=True)]
    listed = f"mean clipmem is {' and '.join(means)} pairs".replace("-", "−")
    judged = [check.get("good") for check in rows(verdict, "checks") if "null group" in str(check.get("name"))]
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


def utility_table(utility: pd.DataFrame) -> pd.DataFrame:
    """Return metric, mean and one column a member, metrics and members in the order of the file."""
    if utility.empty:
        return pd.DataFrame()
    wide = utility.pivot_table(index=METRIC, columns=MEMBER, values=VALUE, sort=False, observed=True)
    mean = wide.mean(axis=1)
    wide.insert(0, "mean", mean, allow_duplicates=True)
    return wide.rename_axis(columns=None).reset_index()
