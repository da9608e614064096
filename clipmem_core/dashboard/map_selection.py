"""A box or a lasso drawn on a chart → the pairs inside it, counted, and opened in Browse."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.address import link
from clipmem_core.review.rows import count_pairs
from clipmem_core.review.selection import Outline, Selection, box, from_parameters, to_parameters

CONFIG = {
    "displaylogo": False,
    "displayModeBar": True,
    "scrollZoom": True,
    "modeBarButtonsToRemove": ["toImage", "autoScale2d"],
}


def draw_selectable(
    audit: Audit, figure: go.Figure, *, selection: Selection, columns: tuple[str, str], key: str, alt: str
) -> None:
    """Draw a chart, and below it the way to the pairs of the shape that somebody drew on it.

    Nothing opens by itself, so that who comes back finds the chart and not the way out of it.

    Args:
        audit: where the points are from.
        figure: the chart.
        selection: order and map of the selection that is opened; its outline is the shape.
        columns: the chart's x and y.
        key: of the chart.
        alt: what is on it, for those who cannot see it.
    """
    above = st.container()
    event: Any = st.plotly_chart(
        figure, key=key, on_select="rerun", selection_mode=("box", "lasso"), config=CONFIG, alt=alt
    )
    outline = drawn_outline(event, *columns)
    with above, st.container(horizontal=True, vertical_alignment="center", height=48, border=False):
        if outline is None:
            st.caption("Draw a lasso or a box around pairs to open them in Browse.", width="content")
        else:
            _draw_way_out(audit, as_linked(dataclasses.replace(selection, outline=outline)), key=f"{key}-open")


def _draw_way_out(audit: Audit, selection: Selection, *, key: str) -> None:
    count = count_pairs(audit, selection)
    if count == 0:
        st.caption("No pair lies inside. A double click takes the shape away.", width="content")
    elif st.button(f"Open {count:,} pairs in Browse", key=key, type="primary", icon=":material/grid_view:"):
        st.switch_page("pages/browse.py", query_params=link(audit, selection))


def drawn_outline(event: Mapping[str, Any], x: str, y: str) -> Outline | None:
    """Return the shape that was drawn last on a chart of the columns x and y, or None where there is none."""
    selected = event.get("selection") or {}
    lassos = [lasso for lasso in selected.get("lasso") or [] if len(lasso["x"]) >= 3]
    boxes = selected.get("box") or []
    if lassos:
        return Outline(x, y, tuple(zip(lassos[-1]["x"], lassos[-1]["y"], strict=True)))
    return box(x, y, boxes[-1]["x"], boxes[-1]["y"]) if boxes else None


def as_linked(selection: Selection) -> Selection:
    """Return a selection as an address tells it: what is counted here is then what Browse shows."""
    return from_parameters(to_parameters(selection))[0]
