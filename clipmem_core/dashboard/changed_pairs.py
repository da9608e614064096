"""A comparison of two audits → a dot for every pair to choose one from, and the pairs that changed most, as cards."""

from typing import Any

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.change_cards import Sides, draw_change_cards
from clipmem_core.dashboard.choices import draw_pages, read_page
from clipmem_core.figures.audit_scores import comparison_figure
from clipmem_core.review.compare import Comparison
from clipmem_core.scores.table import words

SIZE = 12
CONFIG = {"displaylogo": False, "scrollZoom": True, "modeBarButtonsToRemove": ["toImage", "select2d", "lasso2d"]}


def draw_points(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Draw one audit's score against the other's, and the pair that was clicked on."""
    if comparison.points.empty:
        st.info("No pair has this score in both audits: choose another score.", icon=":material/info:")
        return
    drawn, scored = len(comparison.points), comparison.n_scored
    few = "" if drawn == scored else f"{drawn:,} of {scored:,} pairs are drawn, chosen at random. "
    st.caption(f"{few}Colours are the groups in the first audit. Click a dot to see its pair.")
    event: Any = st.plotly_chart(
        comparison_figure(comparison.points, column=comparison.column, names=(one.name, other.name)),
        key=f"comparison-{one.name}-{other.name}-{comparison.column}",
        on_select="rerun",
        selection_mode="points",
        config=CONFIG,
        alt=f"{words(comparison.column)} of each pair in the first audit against that in the second",
    )
    chosen = _clicked(event)
    row = comparison.points[comparison.points["row_one"] == chosen]
    if chosen is not None and len(row):
        draw_change_cards(_sides(one, other), comparison.column, row.to_dict("records"), key="clicked")


def _clicked(event: Any) -> int | None:  # noqa: ANN401  what Streamlit gives back
    """Return the row, in the first audit, of the dot that was clicked on last; None where there is none."""
    points = (event.get("selection") or {}).get("points") or []
    data = points[-1].get("customdata") if points else None
    return int(data[0]) if data else None


def draw_changed(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Draw the pairs whose score changed most, a page of them."""
    changed = comparison.changed
    if changed.empty:
        return
    page, pages = read_page(len(changed), SIZE)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        st.subheader("Changed most", anchor=False, width="content")
        draw_pages(page, pages, key="changed-pages")
    shown = changed.iloc[(page - 1) * SIZE : page * SIZE]
    draw_change_cards(_sides(one, other), comparison.column, shown.to_dict("records"), key="changed")


def _sides(one: Audit, other: Audit) -> Sides:
    return Sides(one, other, links={"In first": one, "In second": other})
