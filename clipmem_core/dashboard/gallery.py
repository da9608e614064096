"""The page of pairs that an address asks for, as cards or as a table."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.columns import GROUP, MISFIT, PLANTED, SE
from clipmem_core.config import InputError
from clipmem_core.dashboard.address import (
    LAYOUT,
    PAGE,
    SIZE,
    draw_pages,
    draw_set,
    link,
    read_number,
    read_page,
    read_view,
    write,
    write_page,
)
from clipmem_core.dashboard.bulk import draw_bulk, draw_tick, draw_tick_all, tick, ticked_pairs
from clipmem_core.dashboard.cards import draw_cards
from clipmem_core.dashboard.deciding import draw_notice, review_session
from clipmem_core.dashboard.errors import draw_fault
from clipmem_core.dashboard.filters import GRID, TABLE, conditions, draw_order, learned_by_g, queue_of
from clipmem_core.dashboard.numbers import pairs_in_words, read_noise, read_verdict
from clipmem_core.dashboard.plain import cut, show_text
from clipmem_core.dashboard.review_mode import draw_start
from clipmem_core.dashboard.thumbnails import data_uri, start_thumbnails
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.rows import audit_root, count_pairs, find_rows, misfit_note, score_span
from clipmem_core.review.selection import MATCH, Selection
from clipmem_core.scores.table import BY_NAME, CARD, ROW, scores_in, words

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
    if (row := st.session_state.pop(OPENED, None)) is not None:  # the pair that the person comes back from
        st.html(TO_THE_CARD.format(row=row), unsafe_allow_javascript=True)


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
    draw_set(
        st.selectbox,
        "Per page",
        PAGE_SIZES,
        key=SIZE,
        value=size,
        take=lambda chosen: write(**{SIZE: chosen, PAGE: None}),
        width=85,
    )
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


def _draw_legend(audit: Audit, selection: Selection, count: int) -> None:
    queue = queue_of(selection)
    why = queues(read_verdict(audit))[queue].sentence if queue else ""
    why = SUBTRACTED if queue and learned_by_g(selection) else why
    noted = MEANINGS | {MISFIT: misfit_note(audit) or MEANINGS[MISFIT]}
    meanings = "\n".join(f"- **{words(score)}**: {meaning}" for score, meaning in noted.items())
    st.caption(
        " ".join(filter(None, [f"**{pairs_in_words(count)}.**", why, read_noise(audit).explain()])), help=meanings
    )


def _draw_bulk(
    audit: Audit, selection: Selection, count: int, shown: Sequence[PairCard], ticked: Sequence[str]
) -> None:
    """Draw what is done for many pairs at once; what became of it stands outside, where it is seen."""
    label = f"Decide for {len(ticked):,} selected" if ticked else "Decide for many"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        key = f"bulk-{review_session().presses}"  # another one, which is closed, once something was decided
        with st.popover(label, key=key, icon=":material/checklist:", width="content"):
            draw_bulk(audit, selection, count, ticked)
        draw_tick_all(shown, ticked)
        draw_start(audit, selection)


def _draw_nothing(audit: Audit, selection: Selection) -> None:
    """Say that there are no pairs, and which condition to give up."""
    if selection.order != MATCH and score_span(audit, selection.order) is None:
        st.info(f"No pair of this audit has a score {words(selection.order)}.", icon=":material/info:")
        absent = BY_NAME[selection.order].absent
        st.caption(f"{words(selection.order)} {absent}" if absent else "Order by another score.")
        return
    st.info("No pair fits all of these conditions.", icon=":material/search_off:")
    left = [(text, count_pairs(audit, rest)) for text, rest in conditions(selection)]
    for text, count in left:
        if count:
            show_text(f"without “{text}”: {pairs_in_words(count)}")
    if not any(count for _, count in left):
        st.caption("Remove more than one of them, or clear them all.")


def _turned() -> None:
    st.session_state[TURNED] = True


def _go(page: int) -> None:
    write_page(page)
    _turned()


SIDE = 64
ROW_HEIGHT = 68
CAPTION_LIMIT = 85  # three lines; the pair's own page has the rest


def draw_table(audit: Audit, cards: Sequence[PairCard], *, selection: Selection, ticked: Sequence[str]) -> None:
    """Draw pairs as a table; selecting rows ticks their pairs.

    Args:
        audit: where the pairs are from.
        cards: the pairs of one page.
        selection: the pairs that a link into a pair walks through.
        ticked: the ids of the pairs that are ticked.
    """
    table = pair_table(audit, cards, selection)
    ids = [card.pair_id for card in cards]
    key = f"table-{hash((tuple(ids), tuple(ticked)))}"
    rows = [place for place, pair_id in enumerate(ids) if pair_id in set(ticked)]
    st.dataframe(
        table,
        key=key,
        hide_index=True,
        row_height=ROW_HEIGHT,
        height=min(len(table), 12) * ROW_HEIGHT + 40,
        column_config=_columns(table),
        on_select=lambda: _tick_rows(key, ids),
        selection_mode="multi-row",
        selection_default={"selection": {"rows": rows}},
        alt="The pairs of this page with their scores",
    )


def pair_table(audit: Audit, cards: Sequence[PairCard], selection: Selection) -> pd.DataFrame:
    """Return one row a pair: picture, link, captions, decision, the scores shown, group and planted kind."""
    pictures = start_thumbnails(audit_root(audit), [card.image for card in cards], side=SIDE)
    hidden = (MATCH,) if read_noise(audit).error else (MATCH, SE)
    scores = [name for name in dict.fromkeys((selection.order, *scores_in(ROW))) if name not in hidden]
    view = read_view()
    columns: dict[str, list[Any]] = {
        "picture": [data_uri(picture.result()[0]) for picture in pictures],
        "pair": [f"pair?{urlencode(link(audit, selection, pair=card.pair_id, **view))}" for card in cards],
        "caption": [cut(" ".join(" · ".join(card.captions).split()), CAPTION_LIMIT) for card in cards],
        "decision": [card.decision.words if card.decision else "" for card in cards],
    }
    if any(card.match is not None for card in cards):
        columns[MATCH] = [card.match for card in cards]
    columns |= {name: [card.scores.get(name) for card in cards] for name in scores}
    columns |= {
        GROUP: [card.group for card in cards],
        PLANTED: [card.planted or "" for card in cards],
    }
    return pd.DataFrame(columns)


def _columns(table: pd.DataFrame) -> dict[str, Any]:
    named: dict[str, Any] = {name: words(name) for name in map(str, table.columns)}
    numbers = [name for name in named if name in {MATCH, *scores_in(ROW)} or pd.api.types.is_numeric_dtype(table[name])]
    return named | {
        "picture": st.column_config.ImageColumn("picture", width=SIDE + 16),
        "pair": st.column_config.LinkColumn("pair", display_text="Open", width=60),
        "decision": st.column_config.TextColumn("decision", width=78),
        "caption": st.column_config.TextColumn("caption", width=230),
        **{
            name: st.column_config.NumberColumn(named[name], format="%.3f", width=max(72, 28 + 6 * len(name)))
            for name in numbers
        },
    }


def _tick_rows(key: str, ids: Sequence[str]) -> None:
    rows = set(st.session_state[key]["selection"]["rows"])
    tick([pair_id for place, pair_id in enumerate(ids) if place not in rows], on=False)
    tick([pair_id for place, pair_id in enumerate(ids) if place in rows], on=True)
