"""The maps of scores and of embeddings: pictures at the pointer, and beside a map the selected
pairs."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from clipmem_core.audit.store import Audit
from clipmem_core.audit.verdict import doubt
from clipmem_core.columns import CLIPMEM, GROUP, INJECTED, LABEL, SIMILARITY_OUT
from clipmem_core.dashboard.component.pairs import draw_grid, draw_pointer
from clipmem_core.dashboard.page import BROWSE, choose_listed, choose_segment, link
from clipmem_core.dashboard.plain import (
    ZOOMABLE,
    explained_errors,
    in_a_row,
    pairs_in_words,
    read_verdict,
)
from clipmem_core.dashboard.running import draw_task
from clipmem_core.figures import PERCENTILES, embedding_figure, score_map_figure
from clipmem_core.review.cards import cards
from clipmem_core.review.maps import map_file, map_points, map_task
from clipmem_core.review.overview import load_score_map
from clipmem_core.review.queries import count_pairs_of
from clipmem_core.review.rows import count_pairs, find_rows
from clipmem_core.review.selection import (
    IMAGE_SIDE,
    MAP_X,
    MAP_Y,
    TEXT_SIDE,
    Outline,
    Selection,
    box,
    from_parameters,
    to_parameters,
)
from clipmem_core.scores.registry import COLOUR_SCORES, words

# Pairs beside a chart, pixels of the strip and of a picture
_STRIP = 24
_STRIP_HEIGHT = 560
_STRIP_SIDE = 110
_MAP_COLOURS = {GROUP: "Group", INJECTED: "Injected error"}
_SIDES = {IMAGE_SIDE: "Pictures", TEXT_SIDE: "Captions"}
_LINES = (
    "The lines come from the held-out pairs, which no member trained on: three quarters of them "
    "lie to the right of the vertical line, and one in twenty above the horizontal line."
)
_MIRRORED = (
    "Independent pairs were learned by g, which is subtracted: their memorized pairs lie below the "
    "lower line."
)


def draw_selectable(
    audit: Audit,
    figure: go.Figure,
    *,
    selection: Selection,
    columns: tuple[str, str],
    key: str,
    alt: str,
) -> None:
    """Draw a chart, and beside it the clicked pair or the pairs within the shape drawn on the
    chart."""
    clicked_key = f"{key}-clicked"
    left, right = st.columns([3, 2], gap="medium")
    with left:
        event: Any = st.plotly_chart(
            figure,
            key=key,
            on_select="rerun",
            selection_mode=("box", "lasso"),
            config=ZOOMABLE,
            alt=alt,
        )
        outline = drawn_outline(event, *columns)

        def click(row: int) -> None:
            st.session_state[clicked_key] = row, outline

        # Streamlit derives the class from the key.
        css_class = f"st-key-{re.sub('[^a-zA-Z0-9_-]', '-', key)}"
        draw_pointer(audit, css_class, key=f"{key}-pointer", on_choose=click)
    row, outline_at_click = st.session_state.get(clicked_key, (None, None))
    with right:
        if row is not None and outline in (None, outline_at_click):
            _draw_strip(audit, [row], Selection(), key=key)
        elif outline is not None:
            _draw_shape(audit, dataclasses.replace(selection, outline=outline), key=key)
        else:
            st.caption("Click a point, or lasso points to see their pictures.")


def _draw_shape(audit: Audit, selection: Selection, *, key: str) -> None:
    # With the rounding of an address, as in Browse
    selection = from_parameters(to_parameters(selection))[0]
    count = count_pairs(audit, selection)
    if count == 0:
        st.caption("No pair inside. Double-click removes the shape.")
        return
    label = f"Open {pairs_in_words(count)} in Browse"
    if st.button(label, key=f"{key}-open", type="primary", icon=":material/grid_view:"):
        st.switch_page(BROWSE, query_params=link(audit, selection))
    if count > _STRIP:
        st.caption(f"The first {_STRIP}, by {words(selection.order)}:")
    _draw_strip(audit, find_rows(audit, selection, size=_STRIP), selection, key=key)


def _draw_strip(audit: Audit, rows: Sequence[int], selection: Selection, *, key: str) -> None:
    with st.container(height=_STRIP_HEIGHT, border=False):
        pairs = cards(audit, rows, selection)
        draw_grid(audit, pairs, selection=selection, key=f"{key}-strip", side=_STRIP_SIDE)


def drawn_outline(event: Mapping[str, Any], x: str, y: str) -> Outline | None:
    """Return the shape that was drawn last on a chart of the columns x and y, or None."""
    selected = event.get("selection") or {}
    lassos = [lasso for lasso in selected.get("lasso") or [] if len(lasso["x"]) >= 3]
    boxes = selected.get("box") or []
    if lassos:
        return Outline(x, y, tuple(zip(lassos[-1]["x"], lassos[-1]["y"], strict=True)))
    return box(x, y, boxes[-1]["x"], boxes[-1]["y"]) if boxes else None


@st.fragment
def draw_score_map(audit: Audit) -> None:
    """Draw the map of scores; only this fragment reruns when its colours change or a shape is drawn
    on it."""
    st.subheader("Learned and memorized", anchor=False)
    with explained_errors():
        points, density, count, corners = load_score_map(audit)
        if count == 0:
            st.info("No pair has both similarity out and clipmem.")
            return
        colour_by = GROUP
        if points[INJECTED].notna().any():
            colour_by = choose_segment("Colour", _MAP_COLOURS, parameter="colour")
        draw_selectable(
            audit,
            score_map_figure(points, colour_by=colour_by, corners=corners, density=density),
            selection=Selection(),
            columns=(SIMILARITY_OUT, CLIPMEM),
            key=f"score-map-{audit.name}",
            alt=f"Map of {count:,} pairs: similarity out against clipmem, its corners named.",
        )
    notes = [sample_note(len(points), count), doubt(read_verdict(audit))]
    if corners:
        lines = _LINES if corners.low is None else f"{_LINES} {_MIRRORED}"
        notes.insert(0, lines)
    st.caption(" ".join(filter(None, notes)))


def sample_note(drawn: int, count: int) -> str:
    """Explain a map that shows a random sample of its pairs; empty if it shows all."""
    if drawn == count:
        return ""
    return (
        f"Points are a random sample of {drawn:,} of {count:,} pairs; the grey area counts all, "
        "and a shape selects among all."
    )


def draw_choices(audit: Audit) -> tuple[str, str]:
    """Draw the choice of embeddings and colour, and return the map's name and the colour's
    column."""
    colours = [*COLOUR_SCORES, GROUP, LABEL, INJECTED]
    with in_a_row("bottom"):
        member = choose_listed("Model", list(audit.record.members), parameter="member", width=180)
        side = choose_listed(
            "Embeddings of",
            _SIDES,
            parameter="side",
            width=180,
        )
        colour = choose_listed("Colour", colours, parameter="colour", width=180, format_func=words)
    return f"{member}.{side}", colour


@st.fragment
def draw_embedding_map(audit: Audit, name: str, colour_by: str) -> None:
    """Draw a map of embeddings, or the button that builds it."""
    with explained_errors():
        if map_file(audit, name) is None:
            draw_task(
                map_task(audit, name),
                lambda: map_file(audit, name),
                reason="No map yet. Build it once; it is cached.",
                label="Build the map",
            )
            return
        points = map_points(audit, name, colour_by)
        pairs = count_pairs_of(audit)
        draw_selectable(
            audit,
            embedding_figure(points, colour_by=colour_by),
            selection=Selection(map=name),
            columns=(MAP_X, MAP_Y),
            key=f"embeddings-{name}",
            alt=f"Map of {len(points):,} pairs by their embeddings, coloured by "
            f"{words(colour_by)}.",
        )
    notes = [
        "Similar pairs lie close together. Axes and distances between far groups have no meaning."
    ]
    if colour_by not in (GROUP, LABEL, INJECTED):
        notes.append("Colours end at the {}nd and {}th percentile.".format(*PERCENTILES))
    if pairs > len(points):
        notes.append(f"The map shows a random sample of {len(points):,} of {pairs:,} pairs.")
    st.caption(" ".join(notes))
