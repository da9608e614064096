"""Review mode: a component of our own that takes keys in the browser, and the links that lead to it.

`review_mode.js` shows the pairs, `review_outbox.js` keeps what is pressed until the server says that it is stored; what
they ask of the server is in `review_routes`.
"""

from dataclasses import replace
from pathlib import Path

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.dashboard.address import link, read_selection
from clipmem_core.dashboard.filters import conditions
from clipmem_core.dashboard.numbers import read_verdict
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.review_routes import PREFIX
from clipmem_core.review.review_queue import first_queue
from clipmem_core.review.rows import count_pairs
from clipmem_core.review.selection import UNDECIDED, Selection, to_parameters

THIS_PAGE, BROWSE = "pages/review.py", "pages/browse.py"
PARTS = ("review_mode.html", "review_mode.css", "review_outbox.js", "review_mode.js")
HTML, CSS, *JS = (Path(__file__).with_name(name).read_text("utf-8") for name in PARTS)
STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 3rem 2rem .5rem; }
@media (max-width: 600px) { [data-testid="stMainBlockContainer"] { padding: 3.75rem 1rem .5rem; } }
[data-testid="stMainBlockContainer"] h1 { font-size: 1.4rem; }
</style>"""
_component = st.components.v2.component("clipmem_review", html=HTML, css=CSS, js="\n".join(JS))


def read_queue(audit: Audit) -> Selection:
    """Return the selection of the address; where it says no order, the pairs that are probably wrong come first."""
    selection = read_selection()
    if selection.searched or "order" in st.query_params:
        return selection
    first = first_queue(audit)
    return replace(selection, order=first.order, ascending=first.ascending)


def draw_review(audit: Audit, selection: Selection) -> None:
    """Draw the pairs of a selection one after another.

    A pair stays in its place when it is decided, so the page itself passes over the decided ones of `undecided`.
    """
    st.html(STYLE)  # the pair has the screen
    walked = replace(selection, decision="") if selection.decision == UNDECIDED else selection
    if count_pairs(audit, walked):
        _draw_queue(audit, walked, undecided=selection.decision in ("", UNDECIDED))
    else:
        st.info("No pair fits this selection.", icon=":material/search_off:")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        there = link(audit, walked)
        st.page_link(BROWSE, label="Filter in Browse", icon=":material/grid_view:", query_params=there)
        show_text(" · ".join(text for text, _ in conditions(walked)))


def _draw_queue(audit: Audit, selection: Selection, *, undecided: bool) -> None:
    queue = queues(read_verdict(audit)).get(selection.order)
    _component(
        key=f"review-{audit.name}",
        data={
            "prefix": PREFIX,
            "audit": audit.name,
            "dataset": audit.record.dataset_fingerprint,
            "selection": to_parameters(selection),
            "undecided": undecided,
            "title": queue.name if queue else "",
        },
    )


def draw_start(audit: Audit, selection: Selection | None = None) -> None:
    """Draw the link to the review of a selection, of the pairs that are probably wrong without one."""
    chosen = selection or first_queue(audit)
    there = link(audit, chosen, order=chosen.order)  # said even where Browse would leave it out
    st.page_link(THIS_PAGE, label="Start review", icon=":material/rate_review:", query_params=there)
