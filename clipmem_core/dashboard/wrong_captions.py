"""How many captions are probably wrong: what the scores say, and what is left by what people decided."""

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.columns import REVIEW_PLACE
from clipmem_core.dashboard.address import link
from clipmem_core.dashboard.plain import show_strong, show_text
from clipmem_core.review.overview import Overview
from clipmem_core.review.selection import UNDECIDED, Selection
from clipmem_core.review.wrong_captions import likely_wrong, wrong_so_far

IN_ORDER = Selection(order=REVIEW_PLACE, ascending=True, decision=UNDECIDED)


def draw_likely(overview: Overview) -> None:
    """Draw how many captions are wrong by the scores alone, and below it what that rests on."""
    sentence, basis = likely_wrong(overview.verdict)
    if sentence:
        show_strong(sentence)
    elif basis:
        show_text(f"How many captions are wrong is not known: {basis}.")
    if sentence and basis:
        with st.expander("What this count rests on", icon=":material/help_center:"):
            show_text(basis)


def draw_so_far(audit: Audit) -> None:
    """Draw how many of the captions that people looked at were wrong, what is left, and the way to the next ones."""
    found = wrong_so_far(audit)
    if found is None:
        return
    if found.sentence:
        show_text(found.sentence)
    st.page_link(
        "pages/review.py",
        label="Look at the next ones: the most suspicious, and one in ten at random",
        icon=":material/playlist_add_check:",
        query_params=link(audit, IN_ORDER),
        help="What was found among those at random says how many are left, whatever the scores are worth. A removal or "
        "another caption counts as a wrong one, a keep as a right one.",
    )
