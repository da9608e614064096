"""How many captions are probably wrong: what the scores say, and what is left by what people decided."""

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.columns import REVIEW_PLACE
from clipmem_core.dashboard.address import link
from clipmem_core.dashboard.plain import show_strong, show_text
from clipmem_core.review.review_queue import first_queue
from clipmem_core.review.selection import RANDOM, UNDECIDED, Selection
from clipmem_core.review.wrong_captions import random_check, wrong_words
from clipmem_core.scores.prevalence import CHECKED

IN_ORDER = Selection(order=REVIEW_PLACE, ascending=True, decision=UNDECIDED)
AT_RANDOM = Selection(order=RANDOM, decision=UNDECIDED)


def draw_wrong(audit: Audit) -> None:
    """Draw how many captions are wrong, how that is estimated, and links to the review and to a random check."""
    sentence, basis = wrong_words(audit)
    if sentence:
        show_strong(sentence)
    elif basis:
        show_text(f"The number of wrong captions is not known: {basis}.")
    if first_queue(audit).order == REVIEW_PLACE:
        with st.container(horizontal=True):
            _draw_link(
                audit, IN_ORDER, "Review next (includes 10 % random spot checks)", ":material/playlist_add_check:"
            )
            if shows := random_check(audit):
                _draw_link(audit, AT_RANDOM, f"Check {CHECKED} at random", ":material/casino:")
        show_text(shows)
    if sentence and basis:
        with st.expander("How this is estimated", icon=":material/help_center:"):
            show_text(basis)


def _draw_link(audit: Audit, selection: Selection, label: str, icon: str) -> None:
    st.page_link("pages/review.py", label=label, icon=icon, query_params=link(audit, selection))
