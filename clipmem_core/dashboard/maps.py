"""The maps of scores and of similar pairs, and beside each the pairs under the pointer or the
selected ones."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.dashboard.page import choose_segment, link
from clipmem_core.dashboard.pair_component import draw_grid, draw_pointer
from clipmem_core.dashboard.plain import ZOOMABLE, explained_errors, pairs_in_words
from clipmem_core.figures import pair_map_figure
from clipmem_core.review.cards import cards
from clipmem_core.review.filters import count_pairs, find_rows
from clipmem_core.review.overview import points_and_density
from clipmem_core.review.views import Outline, Selection, from_parameters, to_parameters
from clipmem_core.scores.registry import words
from clipmem_core.utils.columns import GROUP, INJECTED, LABEL

# Pairs beside a chart, pixels of the strip and of a picture
_STRIP = 24
_STRIP_HEIGHT = 560
_STRIP_SIDE = 110
CLASSES = {GROUP: "Group", LABEL: "Label", INJECTED: "Injected error"}


def draw_selectable(
    audit: Audit,
    figure: go.Figure,
    *,
    selection: Selection,
    columns: tuple[str, str],
    key: str,
    alt: str,
    height: Any = "content",
) -> None:
    """Draw a chart to select from. Beside it are the pairs within the shape that a person drew, the
    pairs that a click kept, or else the pairs under the pointer."""
    kept = f"{key}-kept"
    left, right = st.columns([3, 2], gap="medium")
    with left:
        event: Any = st.plotly_chart(
            figure,
            key=key,
            on_select="rerun",
            selection_mode="lasso",
            height=height,
            config=ZOOMABLE,
            alt=alt,
        )
    outline = drawn_outline(event, *columns)
    rows = st.session_state.get(kept)
    with right:
        if rows:
            st.button("Close", type="tertiary", on_click=st.session_state.pop, args=(kept,))
            _draw_strip(audit, rows, selection, key=key)
        elif outline is not None:
            _draw_shape(audit, replace(selection, outline=outline), key=key)
        else:
            st.caption("The pairs under the pointer. Click to keep them, or lasso points.")
        draw_pointer(
            audit,
            # Streamlit derives the class from the key.
            f"st-key-{re.sub('[^a-zA-Z0-9_-]', '-', key)}",
            selection,
            follows=not rows and outline is None,
            kept=kept,
        )


def _draw_shape(audit: Audit, selection: Selection, *, key: str) -> None:
    # With the rounding of an address, as in Browse
    selection = from_parameters(to_parameters(selection))[0]
    count = count_pairs(audit, selection)
    if count == 0:
        st.caption("No pair inside. Double-click removes the shape.")
        return
    label = f"Open {pairs_in_words(count)} in Browse"
    if st.button(label, key=f"{key}-open", type="primary"):
        st.switch_page("pages/browse.py", query_params=link(audit, selection))
    rows = find_rows(audit, selection, size=_STRIP)
    if count > _STRIP:
        st.caption(f"The first {_STRIP}, by {words(selection.order)}:")
    _draw_strip(audit, rows, selection, key=key)


def _draw_strip(audit: Audit, rows: Sequence[int], selection: Selection, *, key: str) -> None:
    with st.container(height=_STRIP_HEIGHT, border=False):
        pairs = cards(audit, rows, selection)
        draw_grid(audit, pairs, selection=selection, key=f"{key}-strip", side=_STRIP_SIDE)


def drawn_outline(event: Any, x: str, y: str) -> Outline | None:
    """Return the lasso that was drawn last on a chart of the columns x and y, or None."""
    lassos = event["selection"]["lasso"]
    corners = tuple(zip(lassos[-1]["x"], lassos[-1]["y"], strict=True)) if lassos else ()
    return Outline(x, y, corners) if len(corners) > 2 else None


@st.fragment
def draw_scatter(audit: Audit, x: str, y: str) -> None:
    """Draw the pairs with two scores to select from, and the choice of their colours. Only this
    fragment reruns when the colours change or a shape is drawn."""
    with explained_errors():
        points, density, count = points_and_density(audit, x, y)
        if not count:
            st.info(f"No pair has both {words(x)} and {words(y)}.")
            return
        classes = {name: label for name, label in CLASSES.items() if points[name].notna().any()}
        colour_by = choose_segment("Colour", classes, parameter="colour")
        draw_selectable(
            audit,
            pair_map_figure(points, (x, y), colour_by=colour_by, density=density),
            selection=Selection(),
            columns=(x, y),
            key=f"{y}-{audit.name}",
            alt=f"{count:,} pairs: {words(y)} against {words(x)}.",
        )
        if len(points) < count:
            st.caption(
                f"The points are a random sample of {len(points):,} of {count:,} pairs. The grey "
                "area shows all pairs, and a shape selects among all."
            )
