"""A member's map of embeddings to choose pairs from; before there is one, its button and its progress."""

from collections.abc import Callable

import streamlit as st

from clipmem_core.audits.jobs import Job
from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.columns import GROUP, LABEL, PLANTED
from clipmem_core.dashboard.choices import choose_listed
from clipmem_core.dashboard.map_selection import draw_selectable
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.trouble import draw_fault, explained_errors
from clipmem_core.figures.maps import PERCENTILES, embedding_figure
from clipmem_core.review.maps import map_file, map_name, map_points, map_task, mapped_members, seconds_to_draw
from clipmem_core.review.selection import IMAGE_SIDE, MAP_X, MAP_Y, TEXT_SIDE, Selection
from clipmem_core.review.tables import count_rows
from clipmem_core.scores.table import COLOUR as SCORE_COLOUR
from clipmem_core.scores.table import scores_in, words

MEMBER, SIDE, COLOUR = "member", "side", "colour"  # in the address
SIDES = {IMAGE_SIDE: "Pictures", TEXT_SIDE: "Captions"}
COLOURS = (*scores_in(SCORE_COLOUR), GROUP, LABEL, PLANTED)
MEANING = (
    "Pairs that the member finds alike lie close together. Only neighbourhoods mean something: neither the axes nor "
    "the distances between far groups do."
)


def draw_choices(audit: Audit) -> tuple[str, str]:
    """Draw which embeddings are shown and what colours them.

    Returns:
        The map's name, and the column of the colours.
    """
    with st.container(horizontal=True, vertical_alignment="bottom"):
        member = _choose("Member", MEMBER, mapped_members(audit))
        side = _choose("Embeddings of", SIDE, list(SIDES), named=SIDES.__getitem__)
        colour = _choose("Colour", COLOUR, list(COLOURS), named=words)
    return map_name(member, side), colour


def _choose(label: str, parameter: str, options: list[str], *, named: Callable[[str], str] = str) -> str:
    return choose_listed(label, options, parameter=parameter, key=f"map-{parameter}", width=180, named=named)


def draw_embedding_map(audit: Audit, name: str, colour_by: str) -> None:
    """Draw a map, or how to get it."""
    if map_file(audit, name) is None:
        _draw_waiting(audit, name)
        return
    _draw_map(audit, name, colour_by)


@st.fragment
def _draw_map(audit: Audit, name: str, colour_by: str) -> None:
    """Draw a map; only it runs again when a shape is drawn on it."""
    with explained_errors():
        points = map_points(audit, name, colour_by)
        pairs = count_rows(audit.folder / PAIRS)
        draw_selectable(
            audit,
            embedding_figure(points, colour_by=colour_by),
            selection=Selection(map=name),
            columns=(MAP_X, MAP_Y),
            key=f"embeddings-{name}",
            alt=f"Map of {len(points):,} pairs by their embeddings, coloured by {words(colour_by)}.",
        )
    st.caption(_explained(colour_by, drawn=len(points), pairs=pairs))


def _explained(colour_by: str, *, drawn: int, pairs: int) -> str:
    """Return what the places mean, where the colours end, and who is not on the map."""
    low, high = PERCENTILES
    scale = "" if colour_by in (GROUP, LABEL, PLANTED) else f" Colours end at the {low}nd and {high}th percentile."
    left_out = (
        f" {drawn:,} of the {pairs:,} pairs were drawn at random; the others are not on the map, nor in what is "
        "selected from it."
    )
    return f"{MEANING}{scale}{left_out if pairs > drawn else ''}"


@st.fragment(run_every=1)
def _draw_waiting(audit: Audit, name: str) -> None:
    """Draw how far a map is, every second, and open it as soon as it is there."""
    with explained_errors():
        if map_file(audit, name) is not None:
            st.rerun()
        job = map_task(audit, name).find()
        seconds = seconds_to_draw(count_rows(audit.folder / PAIRS))
        if job is not None and job.running:
            _draw_progress(job, seconds)
            return
        _draw_reason(job)
        if st.button(f"Draw the map (about {seconds} s)", type="primary", icon=":material/bubble_chart:"):
            map_task(audit, name).start()
            st.rerun()


def _draw_progress(job: Job, seconds: int) -> None:
    passed = job.age
    told = f"of about {seconds} s" if passed <= seconds else f"so far; it usually takes about {seconds} s"
    st.progress(min(0.95, passed / seconds), text=f"{passed:.0f} s {told}")
    show_text(job.last_line, limit=200)
    st.caption("You can close this page; it goes on.")


def _draw_reason(job: Job | None) -> None:
    """Draw why there is no map yet."""
    if job is None or not job.exit_code:
        st.info("These embeddings have no map yet. It is drawn once and kept.", icon=":material/bubble_chart:")
        return
    draw_fault(f"The map could not be drawn (exit code {job.exit_code}).", job.last_line.removeprefix("error: "))
