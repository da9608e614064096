"""The maps of scores and of similar pairs, and beside each the pairs under the pointer or the
selected ones."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.tables.maps import SIDES, map_path, map_request
from clipmem_core.auditing.tables.verdict import doubt
from clipmem_core.dashboard.component.pairs import draw_grid, draw_pointer
from clipmem_core.dashboard.deciding import BADGES
from clipmem_core.dashboard.histogram_filters import conditions, draw_search
from clipmem_core.dashboard.page import (
    choose_listed,
    choose_segment,
    draw_link,
    link,
)
from clipmem_core.dashboard.plain import (
    ZOOMABLE,
    explained_errors,
    in_a_row,
    pairs_in_words,
)
from clipmem_core.dashboard.running_audit import draw_job_request
from clipmem_core.figures import (
    LISTED,
    embedding_figure,
    score_map_figure,
)
from clipmem_core.review.cards import cards
from clipmem_core.review.decisions import decided
from clipmem_core.review.filters import count_pairs, find_rows, frequent_values, score_span
from clipmem_core.review.overview import map_points, points_and_density, score_corners
from clipmem_core.review.queries import count_pairs_of
from clipmem_core.review.views import (
    Outline,
    Selection,
    box,
    from_parameters,
    to_parameters,
)
from clipmem_core.scores.registry import COLOUR_SCORES, words
from clipmem_core.utils.columns import (
    CLIPMEM,
    DECISION,
    GROUP,
    INJECTED,
    LABEL,
    MAP_X,
    MAP_Y,
    SIMILARITY_OUT,
)

# Pairs beside a chart, pixels of the strip and of a picture
_STRIP = 24
_STRIP_HEIGHT = 560
_STRIP_SIDE = 110
CLASSES = {GROUP: "Group", LABEL: "Label", INJECTED: "Injected error"}
# A map is as high as the screen, on a telephone half as high; names stand out from points.
_STYLE = """<style>
[class*=st-key-map-]:has(> * > .stPlotlyChart) { height: max(20rem, 100vh - 14rem); }
@media (max-width: 600px) { [class*=st-key-map-]:has(> * > .stPlotlyChart) { height: 26rem; } }
.annotation { pointer-events: none; }
.annotation-text { paint-order: stroke; stroke: Canvas; stroke-width: 3px; font-weight: 600;
  fill: CanvasText !important; }
</style>"""
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
    height: Any = "content",
) -> None:
    """Draw a chart, and beside it the pairs under the pointer, those that a click kept, or those
    within the shape drawn on the chart."""
    kept_key = f"{key}-kept"
    left, right = st.columns([3, 2], gap="medium")
    with left:
        event: Any = st.plotly_chart(
            figure,
            key=key,
            on_select="rerun",
            selection_mode=("box", "lasso"),
            height=height,
            config=ZOOMABLE,
            alt=alt,
        )
    outline = drawn_outline(event, *columns)
    rows, outline_at_click = st.session_state.get(kept_key, ([], None))
    clicked = bool(rows) and outline in (None, outline_at_click)

    def keep(rows: list[int]) -> None:
        st.session_state[kept_key] = rows, outline

    with right:
        if clicked:
            st.button("Close", icon=":material/close:", type="tertiary", on_click=keep, args=([],))
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
            follows=not clicked and outline is None,
            key=f"{key}-pointer",
            on_choose=keep,
        )


def _draw_shape(audit: Audit, selection: Selection, *, key: str) -> None:
    # With the rounding of an address, as in Browse
    selection = from_parameters(to_parameters(selection))[0]
    count = count_pairs(audit, selection)
    if count == 0:
        st.caption("No pair inside. Double-click removes the shape.")
        return
    label = f"Open {pairs_in_words(count)} in Browse"
    if st.button(label, key=f"{key}-open", type="primary", icon=":material/grid_view:"):
        st.switch_page("pages/browse.py", query_params=link(audit, selection))
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
def draw_scatter(audit: Audit, x: str, y: str, draw: Callable[..., go.Figure]) -> None:
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
            draw(points, colour_by=colour_by, density=density),
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


def draw_score_map(audit: Audit) -> None:
    """Draw the map of scores, and what its lines mean."""
    st.subheader("Learned and memorized")
    corners = score_corners(audit)
    figure = functools.partial(score_map_figure, corners=corners)
    draw_scatter(audit, SIMILARITY_OUT, CLIPMEM, figure)
    notes = [doubt(audit.verdict)]
    if corners:
        notes.insert(0, _LINES if corners.low is None else f"{_LINES} {_MIRRORED}")
    st.caption(" ".join(notes))


def draw_choices(audit: Audit, selection: Selection) -> tuple[str, str]:
    """Draw the search for words and the choice of map and colour, and return the side of the map
    and the colour's column."""
    scores = [name for name in COLOUR_SCORES if score_span(audit, name)]
    classes = [name for name in (LABEL, INJECTED) if frequent_values(audit, name)]
    if decided(audit).codes.any():
        classes.insert(0, DECISION)
    with in_a_row():
        draw_search(selection, "words", "Words in the caption", width=200)
        colours = {name: f"Colour: {words(name)}" for name in [*scores, GROUP, *classes]}
        colour = choose_listed(
            "Colour", colours, parameter="colour", width=220, label_visibility="collapsed"
        )
        sides = {side: f"Similar {side}" for side in SIDES}
        side = choose_segment("Similar", sides, parameter="side", hidden=True)
        st.space("stretch")
        draw_link("browse", "Browse", audit, selection)
    return side, colour


@st.fragment
def draw_map(audit: Audit, side: str, colour_by: str, selection: Selection) -> None:
    """Draw a map, or the progress of the job that draws it, which needs no click to start."""
    st.html(_STYLE)
    with explained_errors():
        path = map_path(audit, side)
        if not path.is_file():
            task = map_request(audit, side)
            job = task.find()
            if job is None or job.exit_code == 0:
                task.start()
            draw_job_request(
                task,
                reason="No map yet. Build it once; it is cached.",
                label="Try again",
            )
            return
        points = map_points(audit, side, colour_by)
        pairs = count_pairs_of(audit)
        points[LISTED] = True
        if conditions(selection):
            rows = find_rows(audit, selection, size=pairs)
            points[LISTED] = points["row"].isin(rows)
            st.caption(f"{len(rows):,} of {pairs_in_words(pairs)} fit; the others are grey.")
        if colour_by == DECISION:
            labels = {decision: label for decision, (label, *_) in BADGES.items()}
            points[DECISION] = points[DECISION].map(labels)
        draw_selectable(
            audit,
            embedding_figure(points, colour_by=colour_by),
            selection=replace(selection, map=side),
            columns=(MAP_X, MAP_Y),
            key=f"map-{audit.name}-{side}",
            alt=f"Map of {len(points):,} {side}, coloured by {words(colour_by)}.",
            height="stretch",
        )
    notes = [
        f"Similar {side} lie close together; axes and distances between far groups have no meaning."
    ]
    if pairs > len(points):
        notes.append(f"The map shows a random sample of {len(points):,} of {pairs:,} pairs.")
    st.caption(" ".join(notes))
