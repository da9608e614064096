"""A finished audit's verdict, utility and config → the tables of the report, each cell as the text that is shown."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from clipmem_core.audits.store import Audit
from clipmem_core.columns import GROUP, GROUPS, MEMBER, METRIC, VALUE
from clipmem_core.review.groups import group_summary

_METRICS = {"auroc": "AUROC", "average_precision": "average precision", "precision_at_k": "precision at k"}


@dataclass(frozen=True)
class TextTable:
    """A table under its title; without rows it is not shown."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def number(value: Any, digits: int = 3) -> str:
    """Return a number as text, with a real minus sign, and an empty text for anything else.

    Example:
        >>> number(-0.12345), number(None)
        ('−0.123', '')
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return f"{value:,.{digits}f}".replace("-", "−")


def objects(values: Any, key: str) -> list[dict[str, Any]]:
    """Return one of a JSON object's lists of objects; empty where there is none."""
    listed = values.get(key) if isinstance(values, dict) else None
    return [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []


def groups_with_intervals(audit: Audit) -> pd.DataFrame:
    """Return group, n, mean, low, high and kind, in the order of `GROUPS`: the verdict's interval where it has one."""
    known = {str(row.get(GROUP)): row for row in objects(audit.verdict, "groups")}
    summary = group_summary(audit)
    order = {group: place for place, group in enumerate(GROUPS)}
    summary = summary.sort_values(GROUP, key=lambda names: names.map(order), ignore_index=True)
    for column in ("low", "high"):
        values = [known.get(group, {}).get(column) for group in summary[GROUP]]
        summary[column] = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").astype(float)
    return summary.assign(kind=[str(known.get(group, {}).get("kind") or "") for group in summary[GROUP]])


def group_table(groups: pd.DataFrame) -> TextTable:
    """Show groups with their means and intervals."""
    kinds = "; ".join(dict.fromkeys(filter(None, groups["kind"])))
    rows = [
        (str(row[GROUP]), f"{row['n']:,}", *(number(row[name]) for name in ("mean", "low", "high")))
        for row in groups.to_dict("records")
    ]
    return TextTable(
        "clipmem by group", ("group", "pairs", "mean", "low", "high"), rows, f"low to high: {kinds}" if kinds else ""
    )


def detection_table(verdict: Any) -> TextTable:
    """Show how well each score finds the planted captions, with intervals."""
    rows = [
        (str(row.get("score", "")), *(_with_interval(row, metric) for metric in _METRICS))
        for row in objects(verdict, "detection")
    ]
    return TextTable("How well each score finds the planted captions", ("score", *_METRICS.values()), rows)


def _with_interval(row: Mapping[str, Any], metric: str) -> str:
    low, high = number(row.get(f"{metric}_low"), 2), number(row.get(f"{metric}_high"), 2)
    return number(row.get(metric)) + (f" ({low} to {high})" if low and high else "")


def utility_table(utility: pd.DataFrame) -> TextTable:
    """Show each metric's mean over the members, and each member's."""
    if utility.empty:
        return TextTable("Utility", (), ())
    wide = utility.pivot_table(index=METRIC, columns=MEMBER, values=VALUE, sort=False, observed=True)
    rows = [(str(name), *map(number, [values.mean(), *values.tolist()])) for name, values in wide.iterrows()]
    return TextTable("Utility of the members", ("metric", "mean", *map(str, wide.columns)), rows)


def settings_table(config: Mapping[str, Any]) -> TextTable:
    """Show everything an audit's config holds, versions included, one setting a row."""
    return TextTable("How this audit was made", ("setting", "value"), list(_flat(config)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
