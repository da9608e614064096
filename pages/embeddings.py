"""A map of pictures or captions by similarity, coloured by scores or decisions, to select pairs
from."""

from dataclasses import replace

import streamlit as st

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.tables.maps import SIDES, map_path, map_request
from clipmem_core.dashboard.deciding import BADGES
from clipmem_core.dashboard.histogram_filters import (
    conditions,
    draw_conditions,
    draw_search,
    read_filters,
)
from clipmem_core.dashboard.maps import draw_selectable
from clipmem_core.dashboard.page import (
    choose_listed,
    choose_segment,
    draw_job_request,
    draw_link,
    open_page,
)
from clipmem_core.dashboard.plain import explained_errors, in_a_row, pairs_in_words
from clipmem_core.figures import LISTED, embedding_figure
from clipmem_core.review.decisions import decided
from clipmem_core.review.filters import find_rows, frequent_values, score_span
from clipmem_core.review.overview import map_points
from clipmem_core.review.views import Selection
from clipmem_core.scores.registry import COLOUR_SCORES, words
from clipmem_core.utils.columns import DECISION, GROUP, INJECTED, LABEL, MAP_X, MAP_Y

# A map is as high as the screen, on a telephone half as high; names stand out from points.
STYLE = """<style>
[class*=st-key-map-]:has(> * > .stPlotlyChart) { height: max(20rem, 100vh - 14rem); }
@media (max-width: 600px) { [class*=st-key-map-]:has(> * > .stPlotlyChart) { height: 26rem; } }
.annotation { pointer-events: none; }
.annotation-text { paint-order: stroke; stroke: Canvas; stroke-width: 3px; font-weight: 600;
  fill: CanvasText !important; }
</style>"""


@st.fragment
def draw_map(audit: Audit, side: str, colour_by: str, selection: Selection) -> None:
    """Draw a map, or the progress of the job that draws it, which needs no click to start."""
    st.html(STYLE)
    with explained_errors():
        if not map_path(audit, side).is_file():
            request = map_request(audit, side)
            job = request.find()
            if job is None or job.exit_code == 0:
                request.start()
            reason = "No map yet. Build it once; it is cached."
            draw_job_request(request, reason=reason, label="Try again")
            return
        points = map_points(audit, side, colour_by)
        pairs = audit.record.pairs
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
    st.caption(
        f"Similar {side} lie close together; axes and distances between far groups have no "
        f"meaning. The map shows {len(points):,} of {pairs:,} pairs."
    )


with open_page("Map") as audit:
    selection = read_filters()
    columns = [name for name in COLOUR_SCORES if score_span(audit, name)] + [GROUP]
    columns += [DECISION] * bool(decided(audit).codes.any())
    columns += [name for name in (LABEL, INJECTED) if frequent_values(audit, name)]
    colours = {name: f"Colour: {words(name)}" for name in columns}
    with in_a_row():
        draw_search(selection, "words", "Words in the caption", width=200)
        colour_by = choose_listed(
            "Colour", colours, parameter="colour", width=220, label_visibility="collapsed"
        )
        names = {side: f"Similar {side}" for side in SIDES}
        side = choose_segment("Similar", names, parameter="side", hidden=True)
        st.space("stretch")
        draw_link("browse", "Browse", audit, selection)
    draw_conditions(selection)
    draw_map(audit, side, colour_by, selection)
