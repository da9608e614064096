"""Results of mitigations: arms in a chart and a table, the parts of the encoders, and the pairs
that changed."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from clipmem_core import columns as c
from clipmem_core import glossary
from clipmem_core.audit.store import Audit
from clipmem_core.dashboard.cards import ComparedAudits, draw_change_cards
from clipmem_core.dashboard.page import choose_listed, draw_pages, read_page
from clipmem_core.figures.studies import MEMORIZATION, TEXT, UTILITY, means_figure, tradeoff_figure
from clipmem_core.studies import lab
from clipmem_core.studies import results as r
from clipmem_core.studies.arm import NONE

NO_VALUE = "–"
_PAGE_SIZE = 12  # pairs that changed
PERCENT = {r.CLIPMEM_NET, lab.RETRIEVAL}
HELP = {
    r.CLIPMEM_NET: "Mean clipmem less that of held-out pairs, in % of the baseline's.",
    c.ATTACK_TPR: "Share of its training pairs that an attacker detects at 1 % FPR, who has the "
    "other members.",
    c.ATTACK_AUROC: "The same over all thresholds.",
    lab.MEMBERSHIP_AUROC: glossary.meaning(glossary.AUROC),
    c.CLIPMEM_IMAGE: "The image encoder's part of clipmem.",
    c.CLIPMEM_TEXT: "The text encoder's part of clipmem.",
    lab.RETRIEVAL: "Mean of six recalls on held-out pairs, in % of the baseline's.",
    "linear_probe": "Accuracy of a linear probe.",
    "zero_shot": "Accuracy without any training on labels.",
    lab.SECONDS: "Seconds of training, relative to the baseline.",
}


def draw_chart(
    table: pd.DataFrame,
    titles: Mapping[str, str],
    *,
    over: str,
    key: str,
    chosen: str | None = None,
) -> None:
    """Draw the choice of two measures, and utility against memorization with intervals."""
    measured = set(table["measure"])
    chosen_measures = []
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for label, named in (("Memorization", r.MEMORIZATIONS), ("Utility", r.UTILITIES)):
            options: dict[str, Any] = {
                "parameter": label.lower(),
                "key": f"mitigation-{label.lower()}",
            }
            names = [name for name in named if name in measured]
            style: dict[str, Any] = {"width": 250, "format_func": r.MEASURES.__getitem__}
            chosen_measures.append(choose_listed(label, names, **options, **style))
    memorized, useful = chosen_measures
    points = points_of(table, titles, memorized, useful)
    axes = (r.MEASURES[memorized], r.MEASURES[useful])
    best = r.front(points, MEMORIZATION, UTILITY)
    values = [", ".join(lines) for lines in points.loc[points[lab.ARM].isin([NONE, chosen]), TEXT]]
    st.plotly_chart(
        tradeoff_figure(points, titles=axes, front=best, chosen=chosen),
        key=f"mitigation-chart-{key}",
        config={"displayModeBar": False},
        alt=f"{axes[1]} against {axes[0]} of {len(points)} settings. {'; '.join(values)}. "
        f"Pareto-optimal, from the least memorized: {', '.join(best)}.",
    )
    bars = f"the 95 % interval of its difference to the baseline over {over}"
    st.caption(
        f"Each dot is a setting, its bars {bars}. The line joins the Pareto-optimal settings."
    )


def points_of(
    table: pd.DataFrame, titles: Mapping[str, str], memorized: str, useful: str
) -> pd.DataFrame:
    """Return one row per arm as `tradeoff_figure` takes them: the baseline plus the differences
    with their intervals.

    Arms without all members, or pairs, are compared with the baseline on the same ones.
    """
    points = []
    base = table[table[lab.ARM] == NONE].set_index("measure")["value"]
    for arm, measures in table.groupby(lab.ARM, sort=False):
        rows = measures.set_index("measure")
        if not {memorized, useful} <= set(rows.index):
            continue
        point: dict[str, Any] = {lab.ARM: arm, TEXT: [titles.get(str(arm), str(arm))]}
        for axis, measure in ((MEMORIZATION, memorized), (UTILITY, useful)):
            difference, low, high = (
                float(rows[end][measure]) for end in ("difference", "low", "high")
            )
            ends = (float(base[measure]) + end for end in (difference, low, high))
            point |= dict(zip((axis, f"{axis}_low", f"{axis}_high"), ends, strict=True))
            against = (
                f"; against the baseline {_interval(difference, low, high)}" if arm != NONE else ""
            )
            point[TEXT].append(f"{r.MEASURES[measure]} {point[axis]:.3f}{against}")
        points.append(point)
    return pd.DataFrame(points)


def _interval(mean: float, low: float, high: float) -> str:
    ends = f" [{low:+z.3f}, {high:+z.3f}]" if pd.notna(low) else ""
    return f"{mean:+z.3f}{ends}".replace("-", "−")


def draw_table(
    table: pd.DataFrame, titles: Mapping[str, str], *, over: str, chosen: str | None = None
) -> None:
    """Draw every arm against the baseline in a table, the chosen one first."""
    rows = table[table[lab.ARM] != NONE]
    st.subheader("Each setting against the baseline", anchor=False)
    numbers, texts = table_of(rows, titles, chosen)
    shades = [
        "background-color: rgba(106,111,216,0.18)" if title == titles.get(chosen or "") else ""
        for title in numbers["setting"]
    ]
    # Cells show texts, and columns sort by their numbers
    shown = {head: dict(zip(numbers[head], texts[head], strict=True)) for head in texts}
    formats: dict[Any, Any] = {
        head: functools.partial(dict.get, by_number) for head, by_number in shown.items()
    }
    styled = numbers.style.apply(lambda column: shades).format(formats, na_rep=NO_VALUE)
    columns: dict[str, Any] = {
        head: st.column_config.NumberColumn(head, help=HELP[name])
        for name, head in r.MEASURES.items()
        if head in numbers
    }
    columns["setting"] = st.column_config.TextColumn("setting", pinned=True)
    columns["n"] = st.column_config.NumberColumn("n", help=f"How many {over} are compared.")
    alt = f"Differences of {len(numbers)} settings to the baseline, with 95 % intervals over {over}"
    st.dataframe(
        styled, hide_index=True, column_config=columns, key="mitigation-differences", alt=alt
    )
    cell = f"the mean paired difference to the baseline with its 95 % interval over {over}"
    st.caption(
        f"Each cell is {cell}; * differs from 0 after Holm's correction for the number of settings."
    )


def table_of(
    rows: pd.DataFrame, titles: Mapping[str, str], chosen: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row per arm, the chosen one first: the numbers that the table sorts by, and the
    texts it shows."""
    numbers = []
    texts = []
    for arm, measures in sorted(
        rows.groupby(lab.ARM, sort=False), key=lambda group: group[0] != chosen
    ):
        by_measure = {str(row["measure"]): row for row in measures.to_dict("records")}
        cells = {head: _cell(by_measure.get(name), name) for name, head in r.MEASURES.items()}
        first = {"setting": titles.get(str(arm), str(arm)), "n": int(measures["n"].max())}
        numbers.append(first | {head: cell[0] for head, cell in cells.items()})
        texts.append({head: text for head, (_, text) in cells.items()})
    shown = pd.DataFrame(texts)
    shown = shown.loc[:, (shown != NO_VALUE).any()]
    return pd.DataFrame(numbers)[["setting", "n", *shown]], shown


def _cell(row: Mapping[Any, Any] | None, measure: str) -> tuple[float, str]:
    """Return the number of a cell and its text, with * if it differs from 0 after Holm's
    correction."""
    if row is None or pd.isna(row["difference"]):
        return math.nan, NO_VALUE
    if measure == lab.SECONDS:
        times = row["value"] / row["baseline"] if row["baseline"] else math.nan
        return times, f"×{times:.2f}" if row["baseline"] else NO_VALUE
    star = " *" if row[r.P_OF_ALL] < r.LEVEL else ""
    if measure in PERCENT and row["baseline"] > 0:
        return 100 * row["difference"] / row["baseline"], f"{r.relative(row)}{star}"
    return row["difference"], f"{_interval(row['difference'], row['low'], row['high'])}{star}"


def draw_parts(table: pd.DataFrame, chosen: str, title: str) -> None:
    """Draw the parts of the encoders in clipmem without and with an arm."""
    rows = table[(table[lab.ARM] == chosen) & table["measure"].isin(r.PARTS)].dropna(
        subset=["value"]
    )
    if rows.empty:
        return
    means = []
    for row in rows.to_dict("records"):
        encoder = r.PARTS[row["measure"]].split()[0]
        for name, mean in (("without", row["baseline"]), ("with", row["value"])):
            ends = (
                row["baseline"] + row[end] if name == "with" else np.nan for end in ("low", "high")
            )
            means.append([name, encoder, row["n"], mean, *ends])
    columns = ["name", "encoder", "n", "mean", "low", "high"]
    st.subheader("In which encoder", anchor=False)
    nothing = pd.DataFrame(columns=["encoder", "mean"])
    figure = means_figure(
        pd.DataFrame(means, columns=columns), nothing, title="part of clipmem", noun="members"
    )
    st.plotly_chart(
        figure,
        key="mitigation-parts",
        config={"displayModeBar": False},
        alt=f"Parts of the image and the text encoder in clipmem, without and with: {title}",
    )
    parts = "; ".join(
        f"{r.PARTS[row['measure']]} {r.relative(row)}" for row in rows.to_dict("records")
    )
    paper = "The paper finds most memorization in the text encoder."
    st.caption(f"{parts.capitalize()}. {paper} Bars: interval of the difference.")


def draw_changed_pairs(audit: Audit, arm: str) -> None:
    """Draw the pairs whose clipmem changed most from the baseline to an arm, a page of them."""
    members = lab.finished_members(audit, arm)
    before, after = (lab.clipmem_by_pair(audit, name, members) for name in (NONE, arm))
    change = np.where(lab.read_setting(audit, arm)[1].compared, after - before, np.nan)
    order = np.argsort(-np.abs(change), kind="stable")
    order = order[np.isfinite(change[order])]
    st.subheader("Pairs that changed most", anchor=False)
    st.caption(
        f"By the change of their clipmem in {len(members)} members. The largest changes are "
        "partly chance."
    )
    page, pages = read_page(len(order), _PAGE_SIZE)
    records = [
        {
            "row_one": row,
            "row_other": row,
            "one": before[row],
            "other": after[row],
            "difference": change[row],
        }
        for row in order[(page - 1) * _PAGE_SIZE : page * _PAGE_SIZE].tolist()
    ]
    sides = ComparedAudits(audit, audit, names=("without", "with"), links={"Open pair": audit})
    draw_change_cards(sides, c.CLIPMEM, records, key="mitigation")
    draw_pages(page, pages, key="mitigation-pages")
