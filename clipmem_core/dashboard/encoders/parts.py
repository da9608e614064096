"""An audit → its pairs by how much of their clipmem lies in either encoder, to choose pairs from."""

from pathlib import Path

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.columns import CLIPMEM_IMAGE, CLIPMEM_TEXT, GROUP, LABEL, PLANTED
from clipmem_core.dashboard.choices import choose_segment
from clipmem_core.dashboard.map_selection import draw_selectable
from clipmem_core.dashboard.trouble import explained_errors
from clipmem_core.figures.encoders import contribution_figure
from clipmem_core.review.encoders import ContributionMap, load_contributions
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import Version, version_of

COLOUR = "colour"  # in the address
KEY = "encoder-colour"
COLOURS = {GROUP: "Group", PLANTED: "Planted kind", LABEL: "Label"}
MEANING = (
    "Each dot is a pair: how much of its clipmem lies in the text encoder (up) and how much in the image encoder "
    "(right); on a dotted line both add up to the same clipmem."
)


@st.fragment
def draw_contribution_map(audit: Audit) -> None:
    """Draw the pairs; only this runs again when the colours change or a shape is drawn."""
    st.subheader("Text against image encoder, pair by pair", anchor=False)
    with explained_errors():
        found = _loaded(audit.folder, version_of(audit))
        if found.count == 0:
            st.info("No pair has contributions of both encoders.", icon=":material/info:")
            return
        colour_by = _draw_colours([name for name in COLOURS if found.points[name].notna().any()])
        draw_selectable(
            audit,
            contribution_figure(found.points, colour_by=colour_by, density=found.density),
            selection=Selection(),
            columns=(CLIPMEM_IMAGE, CLIPMEM_TEXT),
            key=f"contributions-{audit.name}",
            alt=f"{found.count:,} pairs: the text encoder's part of clipmem against the image encoder's.",
        )
    st.caption(_explained(found))


@st.cache_data(max_entries=4, show_spinner=False)
def _loaded(folder: Path, version: Version) -> ContributionMap:
    """Keep the points of a few audits: a lasso runs this again. A changed file is read anew."""
    return load_contributions(Audit(folder))


def _draw_colours(offered: list[str]) -> str:
    """Draw the columns to colour by that have values, unless there is but one."""
    if len(offered) < 2:
        return GROUP
    return choose_segment("Colour", {name: COLOURS[name] for name in offered}, parameter=COLOUR, key=KEY, usual=GROUP)


def _explained(found: ContributionMap) -> str:
    drawn = len(found.points)
    if drawn == found.count:
        return MEANING
    return (
        f"{MEANING} Drawn are {drawn:,} of {found.count:,} pairs, at random; the grey behind them counts all pairs, "
        "and a shape selects among all of them."
    )
