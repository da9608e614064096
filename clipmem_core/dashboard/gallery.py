"""The page of pairs that an address asks for, as pictures or as a table."""

from dataclasses import replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.columns import CLIPMEM, MISFIT
from clipmem_core.config import InputError
from clipmem_core.dashboard.address import LAYOUT, PAGE, SIZE, draw_pages, draw_set, read_number, read_page, write
from clipmem_core.dashboard.bulk import draw_bulk
from clipmem_core.dashboard.deciding import draw_notice
from clipmem_core.dashboard.errors import draw_fault
from clipmem_core.dashboard.filters import GRID, TABLE, conditions, draw_queues, learned_by_g, queue_of
from clipmem_core.dashboard.frame import TIGHT_STYLE
from clipmem_core.dashboard.grid import draw_grid
from clipmem_core.dashboard.numbers import pairs_in_words, read_noise, read_verdict
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.review_mode import draw_start
from clipmem_core.dashboard.saved_views import draw_views
from clipmem_core.review.cards import cards
from clipmem_core.review.rows import count_pairs, find_rows, misfit_note, score_span
from clipmem_core.review.selection import MATCH, Selection
from clipmem_core.scores.registry import BY_NAME, CARD, scores_in, words

PAGE_SIZES = (12, 24, 48, 96)
USUAL_SIZE = 24
SUBTRACTED = "These pairs were learned by g, which is subtracted, so the lowest clipmem is the most memorized."
MEANINGS = {name: score.legend for name, score in scores_in(CARD).items()} | {
    MATCH: "cosine with what was searched for."
}


def read_layout() -> str:
    """Return the layout of the address: grid, unless it says table."""
    return TABLE if st.query_params.get(LAYOUT) == TABLE else GRID


def draw_top(audit: Audit, selection: Selection) -> DeltaGenerator:
    """Draw the queues and the layouts, and return the place beside them for what is done with all pairs."""
    st.html(TIGHT_STYLE)  # the pictures have the screen
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        draw_queues(audit, selection, read_layout())
        st.space("stretch")
        return st.container(horizontal=True, vertical_alignment="center", gap="small", width="content")


def draw_gallery(audit: Audit, selection: Selection, *, beside: DeltaGenerator) -> None:
    """Draw the pairs of a selection, the page that the address names, and at a place what is done with all of them."""
    count = _count(audit, selection)
    with beside:
        draw_views(audit, selection)
        draw_bulk(audit, selection, count)
        if count:
            draw_start(audit, selection)
    if count == 0:
        _draw_nothing(audit, selection)
        return
    size = read_number(SIZE, USUAL_SIZE, among=PAGE_SIZES)
    page, pages = read_page(count, size)
    shown = cards(audit, find_rows(audit, selection, page=page, size=size), selection)
    _draw_legend(audit, selection, count)
    draw_notice(audit, key="browse")
    draw_grid(
        audit,
        shown,
        selection=selection,
        key=f"browse-{audit.name}",
        layout=read_layout(),
        page=page,
        pages=pages,
        main=True,
    )
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom", gap="small"):
        _draw_size(size)
        draw_pages(page, pages, key="pages")


def _count(audit: Audit, selection: Selection) -> int:
    """Count the pairs; a search that cannot be made is told as that, and ends the page."""
    if not selection.searched:
        return count_pairs(audit, selection)
    try:
        with st.spinner("Searching…"):
            return count_pairs(audit, selection)
    except InputError as error:
        draw_fault("This search cannot be made.", error, icon=":material/search_off:")
        st.stop()


def _draw_size(size: int) -> None:
    draw_set(
        st.selectbox,
        "Per page",
        PAGE_SIZES,
        key=SIZE,
        value=size,
        take=lambda chosen: write(**{SIZE: chosen, PAGE: None}),
        width=85,
    )


def _draw_legend(audit: Audit, selection: Selection, count: int) -> None:
    queue = queue_of(selection)
    why = queues(read_verdict(audit))[queue].sentence if queue else ""
    why = SUBTRACTED if queue and learned_by_g(selection) else why
    noted = MEANINGS | {MISFIT: misfit_note(audit) or MEANINGS[MISFIT]}
    meanings = "\n".join(f"- **{words(score)}**: {meaning}" for score, meaning in noted.items())
    unlisted = 0 if selection.order == MATCH else count_pairs(audit, replace(selection, order=CLIPMEM)) - count
    absent = f"{pairs_in_words(unlisted)} without {words(selection.order)} not listed." if unlisted > 0 else ""
    told = [f"**{pairs_in_words(count)}.**", absent, why, read_noise(audit).explain()]
    st.caption(" ".join(filter(None, told)), help=meanings)


def _draw_nothing(audit: Audit, selection: Selection) -> None:
    """Say that there are no pairs, and which condition to give up."""
    if selection.order in BY_NAME and score_span(audit, selection.order) is None:
        st.info(f"No pair of this audit has a score {words(selection.order)}.", icon=":material/info:")
        absent = BY_NAME[selection.order].absent
        st.caption(f"{words(selection.order)} {absent}" if absent else "Order by another score.")
        return
    st.info("No pair fits all of these conditions.", icon=":material/search_off:")
    rests = [(f"without “{text}”", rest) for text, rest in conditions(selection)]
    rests += [("sorted by memorization", replace(selection, order=CLIPMEM))] if selection.order != MATCH else []
    left = [(text, count_pairs(audit, rest)) for text, rest in rests]
    for text, count in left:
        if count:
            show_text(f"{text}: {pairs_in_words(count)}")
    if not any(count for _, count in left):
        st.caption("Remove more than one of them, or clear them all.")
