"""The page of pairs that an address asks for, as cards or as a table."""

from collections.abc import Sequence

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.config import InputError
from clipmem_core.dashboard.address import LAYOUT, PAGE, SIZE, read_number, write
from clipmem_core.dashboard.cards import draw_cards
from clipmem_core.dashboard.chips import conditions, learned_by_g, queue_of
from clipmem_core.dashboard.choices import draw_pages, read_page, write_page
from clipmem_core.dashboard.deciding import draw_bulk, draw_notice, open_desk
from clipmem_core.dashboard.filters import GRID, TABLE, draw_order
from clipmem_core.dashboard.numbers import read_noise, read_verdict
from clipmem_core.dashboard.pair_table import draw_table
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.ticks import draw_tick, draw_tick_all, ticked_pairs
from clipmem_core.dashboard.trouble import draw_fault
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.rows import count_pairs, find_rows, score_span
from clipmem_core.review.selection import MATCH, Selection
from clipmem_core.scores.table import BY_NAME, CARD, scores_in, words

PAGE_SIZES = (12, 24, 48, 96)
USUAL_SIZE = 24
TURNED = "page_turned"
OPENED = "pair_opened"  # the row that the page of a pair showed last
TO_THE_CARD = """<script>document.querySelector('.st-key-tick-{row}')?.scrollIntoView({{block: 'center'}})</script>"""
TO_THE_TOP = """<script>document.querySelector('[data-testid="stMain"]')?.scrollTo(0, 0)</script>"""
SUBTRACTED = "These pairs were learned by g, which is subtracted, so the lowest clipmem is the most memorized."
MEANINGS = {name: score.legend for name, score in scores_in(CARD).items()} | {
    MATCH: "cosine with what was searched for."
}


def read_layout() -> str:
    """Return the layout of the address: grid, unless it says table."""
    return TABLE if st.query_params.get(LAYOUT) == TABLE else GRID


def draw_gallery(audit: Audit, selection: Selection) -> None:
    """Draw the pairs of a selection, the page that the address names, and what can be done with them."""
    count = _count(audit, selection)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom", gap="small"):
        draw_order(selection)
        size = _draw_size()
        page, pages = read_page(count, size)
        st.space("stretch")
        draw_pages(page, pages, key="pages", turned=_turned)
    if count == 0:
        _draw_nothing(audit, selection)
        return
    shown = cards(audit, find_rows(audit, selection, page=page, size=size), selection)
    ticked = ticked_pairs(audit, selection)
    _draw_legend(audit, selection, count)
    draw_notice(audit, key="browse")
    _draw_bulk(audit, selection, count, shown, ticked)
    if read_layout() == TABLE:
        draw_table(audit, shown, selection=selection, ticked=ticked)
    else:
        draw_cards(audit, shown, selection=selection, draw_tick=draw_tick)
    _draw_steps(pages, page)
    _scroll_back()


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


def _draw_size() -> int:
    size = read_number(SIZE, USUAL_SIZE, among=PAGE_SIZES)
    st.session_state[SIZE] = size
    st.selectbox("Per page", PAGE_SIZES, key=SIZE, on_change=_take_size, width=85)
    return size


def _draw_steps(pages: int, page: int) -> None:
    """Draw the way to the pages before and after, also for the arrow keys."""
    if pages == 1:
        return
    with st.container(horizontal=True, horizontal_alignment="center", vertical_alignment="center"):
        st.button("Previous", shortcut="Left", disabled=page == 1, on_click=_go, args=(page - 1,))
        st.caption(f"Page {page:,} of {pages:,}", width="content")
        st.button("Next", shortcut="Right", disabled=page == pages, on_click=_go, args=(page + 1,))
    if st.session_state.pop(TURNED, False):
        st.html(f"{TO_THE_TOP}<!-- {page} -->", unsafe_allow_javascript=True)


def _scroll_back() -> None:
    """Show the card of the pair that the person comes back from, if it is on this page."""
    row = st.session_state.pop(OPENED, None)
    if row is not None:
        st.html(TO_THE_CARD.format(row=row), unsafe_allow_javascript=True)


def _draw_legend(audit: Audit, selection: Selection, count: int) -> None:
    pairs = "1 pair" if count == 1 else f"{count:,} pairs"
    queue = queue_of(selection)
    why = queues(read_verdict(audit))[queue].sentence if queue else ""
    why = SUBTRACTED if queue and learned_by_g(selection) else why
    meanings = "\n".join(f"- **{words(score)}**: {meaning}" for score, meaning in MEANINGS.items())
    st.caption(" ".join(filter(None, [f"**{pairs}.**", why, read_noise(audit).explain()])), help=meanings)


def _draw_bulk(
    audit: Audit, selection: Selection, count: int, shown: Sequence[PairCard], ticked: Sequence[str]
) -> None:
    """Draw what is done for many pairs at once; what became of it stands outside, where it is seen."""
    label = f"Decide for {len(ticked):,} selected" if ticked else "Decide for many"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        key = f"bulk-{open_desk().presses}"  # another one, which is closed, once something was decided
        with st.popover(label, key=key, icon=":material/checklist:", width="content"):
            draw_bulk(audit, selection, count, ticked)
        draw_tick_all(shown, ticked)


def _draw_nothing(audit: Audit, selection: Selection) -> None:
    """Say that there are no pairs, and which condition to give up."""
    if selection.order != MATCH and score_span(audit, selection.order) is None:
        st.info(f"No pair of this audit has a score {words(selection.order)}.", icon=":material/info:")
        st.caption(_why_missing(selection.order))
        return
    st.info("No pair fits all of these conditions.", icon=":material/search_off:")
    left = [(text, count_pairs(audit, rest)) for text, rest in conditions(selection)]
    for text, count in left:
        if count:
            show_text(f"without “{text}”: {count:,} {'pair' if count == 1 else 'pairs'}")
    if not any(count for _, count in left):
        st.caption("Remove more than one of them, or clear them all.")


def _why_missing(order: str) -> str:
    absent = BY_NAME[order].absent
    return f"{words(order)} {absent}" if absent else "Order by another score."


def _take_size() -> None:
    write(**{SIZE: st.session_state[SIZE], PAGE: None})


def _turned() -> None:
    st.session_state[TURNED] = True


def _go(page: int) -> None:
    write_page(page)
    _turned()
