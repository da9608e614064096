"""The tables of a report, each cell as the text that is shown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from clipmem_core.audits.store import Audit
from clipmem_core.columns import GROUP
from clipmem_core.review.groups import group_summary
from clipmem_core.review.overview import is_number, join_intervals, mapping, table
from clipmem_core.review.overview import rows as rows_of
from clipmem_core.review.overview import utility_table as wide_utility

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
    return f"{value:,.{digits}f}".replace("-", "−") if is_number(value) else ""


def groups_with_intervals(audit: Audit) -> pd.DataFrame:
    """Return group, n, mean, low, high and kind, in the order of `GROUPS`: the verdict's interval where it has one."""
    return join_intervals(group_summary(audit), table(mapping(audit.verdict), "groups"))


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
        for row in rows_of(mapping(verdict), "detection")
    ]
    return TextTable("How well each score finds the planted captions", ("score", *_METRICS.values()), rows)


def _with_interval(row: Mapping[str, Any], metric: str) -> str:
    low, high = number(row.get(f"{metric}_low"), 2), number(row.get(f"{metric}_high"), 2)
    return number(row.get(metric)) + (f" ({low} to {high})" if low and high else "")


def utility_table(utility: pd.DataFrame) -> TextTable:
    """Show each metric's mean over the members, and each member's."""
    wide = wide_utility(utility)
    if wide.empty:
        return TextTable("Utility", (), ())
    rows = [(str(name), *map(number, values)) for name, *values in wide.itertuples(index=False, name=None)]
    return TextTable("Utility of the members", tuple(map(str, wide.columns)), rows)


def settings_table(config: Mapping[str, Any]) -> TextTable:
    """Show everything an audit's config holds, versions included, one setting a row."""
    return TextTable("How this audit was made", ("setting", "value"), list(_flat(config)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
