"""The maps of scores and of embeddings: pictures at the pointer, and beside a map the pairs that were chosen on it."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.audits.verdict import doubt
from clipmem_core.columns import CLIPMEM, GROUP, LABEL, PLANTED, SIMILARITY_OUT
from clipmem_core.dashboard.page import TIGHT_STYLE, choose_listed, choose_segment, link
from clipmem_core.dashboard.pair_component import draw_grid, draw_pointer
from clipmem_core.dashboard.plain import draw_fault, duration, explained_errors, read_verdict, show_text
from clipmem_core.figures.clouds import PERCENTILES, embedding_figure, score_map_figure
from clipmem_core.review.cards import cards
from clipmem_core.review.maps import map_file, map_name, map_points, map_task, map_words
from clipmem_core.review.overview import ScoreMap, load_score_map
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
from clipmem_core.review.tables import Version, count_rows, version_of
from clipmem_core.scores.registry import COLOUR as SCORE_COLOUR
from clipmem_core.scores.registry import scores_in, words

STRIP, STRIP_HEIGHT, STRIP_SIDE = 24, 560, 110  # pairs beside a chart, and pixels of all and of one
AROUND = 11  # a clicked point
CONFIG = {
    "displaylogo": False,
    "displayModeBar": True,
    "scrollZoom": True,
    "modeBarButtonsToRemove": ["toImage", "autoScale2d"],
}


def draw_selectable(
    audit: Audit, figure: go.Figure, *, selection: Selection, columns: tuple[str, str], key: str, alt: str
) -> None:
    """Draw a chart, and beside it the pairs of the shape that somebody drew on it, or those around a clicked point."""
    left, right = st.columns([3, 2], gap="medium")
    with left:
        event: Any = st.plotly_chart(
            figure, key=key, on_select="rerun", selection_mode=("box", "lasso"), config=CONFIG, alt=alt
        )
        outline = drawn_outline(event, *columns)
        clicked = _draw_pointer(audit, outline, key=key)
    with right:
        if clicked is not None:
            around = nearest_rows(figure, clicked)
            st.caption(f"The clicked pair and its {len(around) - 1} nearest on the map.")
            _draw_strip(audit, around, Selection(), key=key)
        elif outline is not None:
            _draw_shape(audit, as_linked(dataclasses.replace(selection, outline=outline)), key=key)
        else:
            st.caption("Click a point, or lasso points to see their pictures.")


def _draw_shape(audit: Audit, selection: Selection, *, key: str) -> None:
    count = count_pairs(audit, selection)
    if count == 0:
        st.caption("No pair inside. Double-click removes the shape.", width="content")
        return
    there, more = link(audit, selection), f" The first {STRIP}, by {words(selection.order)}:" if count > STRIP else ""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        label = f"Open {count:,} pairs in Browse"
        if st.button(label, key=f"{key}-open", type="primary", icon=":material/grid_view:"):
            st.switch_page("pages/browse.py", query_params=there)
        st.caption(f"{count:,} pairs inside.{more}", width="content")
    _draw_strip(audit, find_rows(audit, selection, page=1, size=STRIP), selection, key=key)


def _draw_strip(audit: Audit, rows: Sequence[int], selection: Selection, *, key: str) -> None:
    with st.container(height=STRIP_HEIGHT, border=False):
        draw_grid(audit, cards(audit, rows, selection), selection=selection, key=f"{key}-strip", side=STRIP_SIDE)


def _draw_pointer(audit: Audit, outline: Outline | None, *, key: str) -> int | None:
    """Let the chart show pictures at the pointer, and return the row that was clicked since the shape was drawn."""
    kept = f"{key}-clicked"

    def take(row: int) -> None:
        st.session_state[kept] = row, outline

    chart = f"st-key-{re.sub('[^a-zA-Z0-9_-]', '-', key)}"  # the class that Streamlit gives what has a key
    draw_pointer(audit, chart, key=f"{key}-pointer", take=take)
    row, before = st.session_state.get(kept, (None, None))
    return row if outline is None or outline == before else None


def nearest_rows(figure: go.Figure, row: int) -> list[int]:
    """Return the row of a chart's point, and those of the points that lie nearest to it on the chart."""
    traces = [trace for trace in figure.data if trace.customdata is not None]
    rows, x, y = (np.concatenate([np.asarray(trace[name]) for trace in traces]) for name in ("customdata", "x", "y"))
    places = np.stack([x, y], axis=1).astype(float)
    spread = np.ptp(places, axis=0)
    own = places[rows == row]
    if not len(own):
        return [row]
    distances = np.linalg.norm((places - own[0]) / np.where(spread == 0, 1, spread), axis=1)
    distances[rows == row] = -1
    return [int(found) for found in rows[np.argsort(distances, kind="stable")[: AROUND + 1]]]


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


COLOUR = "colour"  # in the address
COLOUR_KEY = "map-colour"
MAP_COLOURS = {GROUP: "Group", PLANTED: "Injected error"}
LINES = (
    "The lines come from the external pairs, which no member trained on: three quarters of them lie to the right of "
    "the vertical one, and one in twenty above the horizontal one."
)
MIRRORED = (
    "Independent pairs were learned by g, which is subtracted: their clipmem is negative, and memorized pairs lie "
    "below the lower line, as one in twenty external pairs does."
)


@st.fragment
def draw_score_map(audit: Audit) -> None:
    """Draw the map; only it runs again when its colours change or a shape is drawn on it."""
    st.subheader("Learned and memorized", anchor=False)
    with explained_errors():
        score_map = _loaded(audit.folder, version_of(audit))
        if score_map.count == 0:
            st.info("No pair has both similarity out and clipmem.", icon=":material/info:")
            return
        colour_by = (
            choose_segment("Colour", MAP_COLOURS, parameter=COLOUR, key=COLOUR_KEY)
            if score_map.points[PLANTED].notna().any()
            else GROUP
        )
        figure = score_map_figure(
            score_map.points, colour_by=colour_by, corners=score_map.corners, density=score_map.density
        )
        draw_selectable(
            audit,
            figure,
            selection=Selection(),
            columns=(SIMILARITY_OUT, CLIPMEM),
            key=f"score-map-{audit.name}",
            alt=f"Map of {score_map.count:,} pairs: similarity out against clipmem, its corners named.",
        )
    st.caption(f"{_explained(score_map)} {doubt(read_verdict(audit))}".strip())


@st.cache_data(max_entries=4, show_spinner=False)
def _loaded(folder: Path, version: Version) -> ScoreMap:
    """Keep the maps of a few audits: a lasso runs the page again. A changed file is read anew."""
    return load_score_map(Audit(folder))


def _explained(score_map: ScoreMap) -> str:
    """Return what the lines are, and what is drawn and what is selected."""
    corners = score_map.corners
    lines = "" if corners is None else LINES if corners.low is None else f"{LINES} {MIRRORED}"
    drawn = len(score_map.points)
    if drawn == score_map.count:
        return lines
    thinned = (
        f"Points are {drawn:,} of {score_map.count:,} pairs, drawn at random; the grey behind them counts all pairs, "
        "and a shape selects among all of them."
    )
    return f"{lines} {thinned}".strip()


MEMBER, SIDE, COLOUR = "member", "side", "colour"  # in the address
SIDES = {IMAGE_SIDE: "Pictures", TEXT_SIDE: "Captions"}
EMBEDDING_COLOURS = (*scores_in(SCORE_COLOUR), GROUP, LABEL, PLANTED)
MEANING = (
    "Pairs that the model finds similar lie close together. Axes and distances between far groups have no meaning."
)


def draw_choices(audit: Audit) -> tuple[str, str]:
    """Draw which embeddings are shown and what colours them."""
    st.html(TIGHT_STYLE)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        member = _choose("Model", MEMBER, list(audit.record.members))
        side = _choose("Embeddings of", SIDE, list(SIDES), named=SIDES.__getitem__)
        colour = _choose("Colour", COLOUR, list(EMBEDDING_COLOURS), named=words)
    return map_name(member, side), colour


def _choose(label: str, parameter: str, options: list[str], *, named: Callable[[str], str] = str) -> str:
    return choose_listed(label, options, parameter=parameter, key=f"map-{parameter}", width=180, named=named)


def draw_embedding_map(audit: Audit, name: str, colour_by: str) -> None:
    """Draw a map, or how to get it."""
    if map_file(audit, name) is None:
        _draw_waiting(audit, name)
    else:
        _draw_map(audit, name, colour_by)


@st.fragment
def _draw_map(audit: Audit, name: str, colour_by: str) -> None:
    """Draw a map; only it runs again when a shape is drawn on it."""
    with explained_errors():
        points = map_points(audit, name, colour_by)
        pairs = count_rows(audit.folder / PAIRS)
        draw_selectable(
            audit,
            embedding_figure(points, colour_by=colour_by, named=map_words(audit, name)),
            selection=Selection(map=name),
            columns=(MAP_X, MAP_Y),
            key=f"embeddings-{name}",
            alt=f"Map of {len(points):,} pairs by their embeddings, coloured by {words(colour_by)}.",
        )
    st.caption(_embedding_explained(colour_by, drawn=len(points), pairs=pairs))


def _embedding_explained(colour_by: str, *, drawn: int, pairs: int) -> str:
    """Return what the places mean, where the colours end, and who is not on the map."""
    low, high = PERCENTILES
    scale = "" if colour_by in (GROUP, LABEL, PLANTED) else f" Colours end at the {low}nd and {high}th percentile."
    left_out = (
        f" {drawn:,} of the {pairs:,} pairs are a random sample; the others are not on the map and cannot "
        "be selected on it."
    )
    return f"{MEANING}{scale}{left_out if pairs > drawn else ''}"


@st.fragment(run_every=1)
def _draw_waiting(audit: Audit, name: str) -> None:
    """Draw which stage a map is at, every second, and open it as soon as it is there."""
    with explained_errors():
        if map_file(audit, name) is not None:
            st.rerun()
        job = map_task(audit, name).find()
        if job is not None and job.running:
            stage = job.last_line or "starting"
            show_text(f"Building the map: {stage} ({duration(job.age)} so far).", limit=200)
            st.caption("The map is cached. You can close this page while it is built.")
            return
        if job is not None and job.failed:
            draw_fault("The map could not be built.", job.last_line.removeprefix("error: "))
        else:
            st.info("No map yet. Build it once; it is cached.", icon=":material/bubble_chart:")
        if st.button("Build the map", type="primary", icon=":material/bubble_chart:"):
            map_task(audit, name).start()
            st.rerun()
