"""The page Review, the number of wrong captions, and the links that lead to a review."""

from dataclasses import replace

import streamlit as st

from clipmem_core.audit.store import Audit
from clipmem_core.audit.verdict import queues
from clipmem_core.columns import REVIEW_PLACE
from clipmem_core.dashboard.filters import conditions
from clipmem_core.dashboard.page import TIGHT_STYLE, link, read_selection
from clipmem_core.dashboard.pair_component import BROWSE, REVIEW_KEYS, draw_keys, draw_single
from clipmem_core.dashboard.plain import read_verdict, show_strong, show_text
from clipmem_core.review.rows import count_pairs, first_queue
from clipmem_core.review.selection import RANDOM, UNDECIDED, Selection
from clipmem_core.review.wrong_captions import random_check, wrong_words
from clipmem_core.scores.prevalence import CHECKED

THIS_PAGE = "pages/review.py"


def read_queue(audit: Audit) -> Selection:
    """Return the selection of the address; the default order is likely wrong captions first."""
    selection = read_selection()
    if selection.searched or "order" in st.query_params:
        return selection
    first = first_queue(audit)
    return replace(selection, order=first.order, ascending=first.ascending)


def draw_review(audit: Audit, selection: Selection) -> None:
    """Draw the pairs of a selection one after another."""
    st.html(TIGHT_STYLE)
    listed = replace(selection, decision="") if selection.decision == UNDECIDED else selection
    if count_pairs(audit, listed):
        queue = queues(read_verdict(audit)).get(listed.order)
        draw_single(audit, selection, title=queue.name if queue else "")
    else:
        st.info("No pair fits this selection.", icon=":material/search_off:")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.page_link(BROWSE, label="Filter in Browse", icon=":material/grid_view:", query_params=link(audit, listed))
        show_text(" · ".join(text for text, _ in conditions(listed)))
        draw_keys(REVIEW_KEYS)


def draw_start(audit: Audit, selection: Selection) -> None:
    """Draw the link to the review of a selection."""
    parameters = link(audit, selection, order=selection.order)  # Review's default order differs from Browse's
    st.page_link(THIS_PAGE, label="Start review", icon=":material/rate_review:", query_params=parameters)


def draw_wrong(audit: Audit) -> None:
    """Draw how many captions are wrong, the basis of the estimate, and links to the review and to a random check."""
    sentence, basis = wrong_words(audit)
    if sentence:
        show_strong(sentence)
    elif basis:
        show_text(f"The number of wrong captions is unknown: {basis}.")
    if first_queue(audit).order == REVIEW_PLACE:
        in_order = Selection(order=REVIEW_PLACE, ascending=True, decision=UNDECIDED)
        links = [("Review next (includes 10 % random spot checks)", ":material/playlist_add_check:", in_order)]
        if random_text := random_check(audit):
            at_random = Selection(order=RANDOM, decision=UNDECIDED)
            links.append((f"Check {CHECKED} at random", ":material/casino:", at_random))
        with st.container(horizontal=True):
            for label, icon, selection in links:
                st.page_link(THIS_PAGE, label=label, icon=icon, query_params=link(audit, selection))
        show_text(random_text)
    if sentence and basis:
        with st.expander("How this is estimated", icon=":material/help_center:"):
            show_text(basis)
