"""How many captions are probably wrong: what the scores say, and what is left by what people decided."""

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.columns import REVIEW_PLACE
from clipmem_core.dashboard.address import link
from clipmem_core.dashboard.plain import show_strong, show_text
from clipmem_core.review.review_queue import first_queue
from clipmem_core.review.selection import UNDECIDED, Selection
from clipmem_core.review.wrong_captions import wrong_words

IN_ORDER = Selection(order=REVIEW_PLACE, ascending=True, decision=UNDECIDED)


def draw_wrong(audit: Audit) -> None:
    """Draw in a line how many captions are wrong and what is left to look at, and below it what that rests on."""
    sentence, basis = wrong_words(audit)
    if sentence:
        show_strong(sentence)
    elif basis:
        show_text(f"How many captions are wrong is not known: {basis}.")
    if sentence and basis:
        with st.expander("What this count rests on", icon=":material/help_center:"):
            show_text(basis)


def draw_way(audit: Audit) -> None:
    """Draw the way to the next pairs to look at, where the audit says their order."""
    if first_queue(audit).order != REVIEW_PLACE:
        return
    st.page_link(
        "pages/review.py",
        label="Look at the next ones: the most suspicious, and one in ten at random",
        icon=":material/playlist_add_check:",
        query_params=link(audit, IN_ORDER),
        help="What was found among those at random says how many are left, whatever the scores are worth. A removal or "
        "another caption counts as a wrong one, a keep as a right one.",
    )
