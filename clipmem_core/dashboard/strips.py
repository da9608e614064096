"""The first pairs of each queue as a row of pictures, with the way to them in Browse."""

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.dashboard.address import link
from clipmem_core.dashboard.numbers import number, read_verdict
from clipmem_core.dashboard.plain import as_html, cut
from clipmem_core.dashboard.thumbnails import alt_text, start_thumbnails
from clipmem_core.dashboard.trouble import explained_errors
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.rows import audit_root, find_rows
from clipmem_core.review.selection import Selection
from clipmem_core.scores.table import Queue, words

SIZE = 6
CAPTION_LIMIT = 60
STYLE = """<style>
[class*="st-key-strip-"] [data-testid="stImage"] img { aspect-ratio: 1; object-fit: contain; }
.strip-caption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
</style>"""


def draw_strips(audit: Audit) -> None:
    """Draw the first pairs of either queue."""
    st.html(STYLE)
    for order, queue in queues(read_verdict(audit)).items():
        with explained_errors():
            _draw_strip(audit, Selection(order=order), queue)


def _draw_strip(audit: Audit, selection: Selection, queue: Queue) -> None:
    """Draw the first pairs of a selection; nothing where it holds none."""
    rows = find_rows(audit, selection, page=1, size=SIZE)
    if not rows:
        return
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        st.subheader(queue.name, anchor=False, width="content")
        there = link(audit, selection)
        st.page_link("pages/browse.py", label="Browse in this order", icon=":material/grid_view:", query_params=there)
    st.caption(queue.sentence)
    found = cards(audit, rows, selection)
    pictures = start_thumbnails(audit_root(audit), [card.image for card in found])
    with st.grid(SIZE, min_column_width=120, gap="small", key=f"strip-{selection.order}") as grid:
        for card, picture in zip(found, pictures, strict=True):
            with grid.cell(), st.container(gap="xsmall"):
                _draw_tile(audit, card, selection, *picture.result())


def _draw_tile(audit: Audit, card: PairCard, selection: Selection, picture: bytes, fault: str) -> None:
    """Draw a picture, its first caption, and its score, which leads to the pair."""
    caption = cut(" ".join(card.captions[:1]), CAPTION_LIMIT)
    st.image(picture, width="stretch", alt=alt_text(caption, fault))
    score = f"{words(selection.order)} {number(card.scores[selection.order])}"
    there = link(audit, selection, pair=card.pair_id)
    st.page_link("pages/pair.py", label=score, icon="", query_params=there)
    st.html(f'<div class="strip-caption" dir="auto">{as_html(caption)}</div>')
