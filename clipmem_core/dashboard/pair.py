"""The pair of an address: its picture, captions and scores, and the way to the pairs before and after it."""

from typing import NoReturn

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.columns import CLIPMEM, SE
from clipmem_core.dashboard.address import PAIR, link, read_view, write
from clipmem_core.dashboard.deciding import go_on
from clipmem_core.dashboard.gallery import OPENED, TO_THE_TOP
from clipmem_core.dashboard.numbers import number, read_noise, read_verdict
from clipmem_core.dashboard.pair_picture import large_picture
from clipmem_core.dashboard.plain import cut, show_chips, show_text
from clipmem_core.dashboard.thumbnails import alt_text
from clipmem_core.figures.colours import PLANTED_COLOUR, group_colour
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.rows import audit_root, find_rows, neighbours
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import find_row
from clipmem_core.scores.table import BY_NAME, scores_in, words
from clipmem_core.scores.table import PAIR as SHOWN_HERE

BROWSE, THIS_PAGE = "pages/browse.py", "pages/pair.py"
CAPTION_LIMIT = 600
FULL_LIMIT = 5000
ROOM = (640, 520)  # pixels on the page
ENLARGED = 4  # times at most: the pictures of small sets are tiny


def find_pair(audit: Audit, selection: Selection) -> PairCard:
    """Return the pair of the address, else the first one of the selection; ends the page where there is none."""
    go_on()
    asked = st.query_params.get(PAIR)
    row = find_row(audit, asked) if asked else next(iter(find_rows(audit, selection, page=1, size=1)), None)
    if row is None:
        _end(audit, selection, asked)
    card = cards(audit, [row], selection)[0]
    st.query_params[PAIR] = card.pair_id  # whether asked for or not: a link from this very page leaves the old address
    return card


def _end(audit: Audit, selection: Selection, asked: str | None) -> NoReturn:
    if asked:
        st.warning("This audit has no such pair.", icon=":material/search_off:")
        show_text(f"asked for: {asked}", limit=300)
        first = link(audit, selection, **read_view())
        st.page_link(THIS_PAGE, label="Open the first pair", icon=":material/image:", query_params=first)
    else:
        st.info("No pair fits this selection.", icon=":material/info:")
    _draw_way_back(audit, selection)
    st.stop()


def _draw_way_back(audit: Audit, selection: Selection) -> None:
    parameters = link(audit, selection, **read_view())
    st.page_link(BROWSE, label="Back to browse", icon=":material/grid_view:", query_params=parameters)


def draw_way(audit: Audit, selection: Selection, card: PairCard) -> None:
    """Draw the way back to Browse, where the pair stands in the selection, and the buttons to the pairs around it."""
    there = neighbours(audit, selection, card.pair_id)
    steps = [
        ("Previous", ":material/chevron_left:", "Left", there.previous),
        ("Next", ":material/chevron_right:", "Right", there.next),
        ("Next undecided", ":material/skip_next:", "N", there.next_undecided),
    ]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        _draw_way_back(audit, selection)
        for label, icon, shortcut, pair in steps:
            st.button(label, icon=icon, shortcut=shortcut, disabled=pair is None, on_click=write, kwargs={"pair": pair})
        place = "not in this selection" if there.place is None else f"{there.place:,} of {there.count:,}"
        place += f", by {words(selection.order)}" if there.place is not None else ""
        st.caption(place, width="content")


def draw_picture(audit: Audit, card: PairCard) -> None:
    """Draw the picture, as large as there is room for, and what is known of the pair besides its scores."""
    picture, size, fault = large_picture(audit_root(audit), card.image)
    caption = cut(card.captions[0], 120) if card.captions else ""
    st.image(picture, width=_width(size), alt=alt_text(caption, fault))
    facts = [f"Picture cannot be read: {fault}"] if fault else []
    facts += [f"{size[0]:,} × {size[1]:,} pixels"] if size else []
    facts += [f"label: {card.label}"] if card.label else []
    facts += [f"id: {card.pair_id}"]
    facts += [f"file: {card.image}"] if card.image != card.pair_id else []
    planted = [(f"planted: {card.planted}", PLANTED_COLOUR)] if card.planted else []
    with st.container(gap="xsmall"):
        show_chips([(card.group, group_colour(card.group)), *planted])
        for fact in facts:
            show_text(fact, limit=CAPTION_LIMIT)
        _scroll_up(card)


def _scroll_up(card: PairCard) -> None:
    """Show another pair from its top. Its gap is not seen here; without a key of its own it runs only once."""
    if st.session_state.get(OPENED, card.row) != card.row:
        with st.container(key=f"top-{card.row}"):
            st.html(f"{TO_THE_TOP}<!-- {card.row} -->", unsafe_allow_javascript=True)
    st.session_state[OPENED] = card.row


def _width(size: tuple[int, int] | None) -> int:
    """Return how wide a picture is drawn, so that it fills the room there is.

    Example:
        >>> _width((64, 64)), _width((2000, 1000)), _width((100, 5200))
        (256, 640, 10)
    """
    if size is None:
        return ROOM[1] // 2
    return max(1, round(size[0] * min(ENLARGED, ROOM[0] / size[0], ROOM[1] / size[1])))


def draw_captions(card: PairCard) -> None:
    """Draw all captions, and the long ones in full below."""
    st.subheader("Caption" if len(card.captions) == 1 else "Captions", anchor=False)
    with st.container(gap="xsmall"):
        for caption in card.captions:
            show_text(caption, limit=CAPTION_LIMIT)
    long = [caption for caption in card.captions if cut(caption, CAPTION_LIMIT) != caption]
    if long:
        with st.expander("In full", icon=":material/notes:"):
            for caption in long:
                show_text(caption if len(caption) <= FULL_LIMIT else f"{caption[:FULL_LIMIT]}…")


def draw_scores(audit: Audit, card: PairCard) -> None:
    """Draw the pair's scores, and how far clipmem can be trusted."""
    noise = read_noise(audit)
    around = noise.around(card.scores.get(CLIPMEM), card.scores.get(SE))
    st.metric("clipmem", f"{number(card.scores.get(CLIPMEM))}{around}", help=BY_NAME[CLIPMEM].help)
    st.caption(noise.explain())
    told = {
        name: f"High: {queue.name[0].lower()}{queue.name[1:]}. {queue.sentence}"
        for name, queue in queues(read_verdict(audit)).items()
    }
    with st.grid(2, min_column_width=130) as grid:
        for name, score in scores_in(SHOWN_HERE).items():
            grid.metric(score.label, number(card.scores.get(name)), help=score.help or told.get(name))
