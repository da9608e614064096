"""The map of an audit's scores, similarity_out against clipmem, to choose pairs from."""

from pathlib import Path

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import doubt
from clipmem_core.columns import CLIPMEM, GROUP, PLANTED, SIMILARITY_OUT
from clipmem_core.dashboard.choices import choose_segment
from clipmem_core.dashboard.map_selection import draw_selectable
from clipmem_core.dashboard.numbers import read_verdict
from clipmem_core.dashboard.trouble import explained_errors
from clipmem_core.figures.clouds import score_map_figure
from clipmem_core.review.score_map import ScoreMap, load_score_map
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import Version, version_of

COLOUR = "colour"  # in the address
KEY = "map-colour"
COLOURS = {GROUP: "Group", PLANTED: "Planted kind"}
LINES = (
    "The lines come from the external pairs, which no member trained on: three quarters of them lie to the right of "
    "the vertical one, and one in twenty above the horizontal one."
)
MIRRORED = (
    "Independent pairs were learned by g, which is subtracted: for them clipmem is negative, and learned by heart is "
    "below the lower line, which one in twenty external pairs falls short of."
)


@st.fragment
def draw_score_map(audit: Audit) -> None:
    """Draw the map; only it runs again when its colours change or a shape is drawn on it."""
    st.subheader("What was learned, and what was learned by heart", anchor=False)
    with explained_errors():
        score_map = _loaded(audit.folder, version_of(audit))
        if score_map.count == 0:
            st.info("No pair has both similarity out and clipmem.", icon=":material/info:")
            return
        colour_by = (
            choose_segment("Colour", COLOURS, parameter=COLOUR, key=KEY)
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
