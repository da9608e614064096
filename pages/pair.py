"""One pair: picture, captions and decision as in review, the terms of its score, and similar pairs."""

import streamlit as st

from clipmem_core.dashboard.deciding import draw_note, draw_notice
from clipmem_core.dashboard.filters import read_filters
from clipmem_core.dashboard.page import TIGHT_STYLE, open_page
from clipmem_core.dashboard.pair import draw_facts, draw_nearest, draw_scores, draw_terms, draw_way_back, find_pair
from clipmem_core.dashboard.pair_component import REVIEW_KEYS, draw_followed, draw_keys
from clipmem_core.dashboard.plain import explained_errors

audit = open_page("Pair")
with explained_errors():
    selection = read_filters(audit)
    card = find_pair(audit, selection)
    st.html(TIGHT_STYLE)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        draw_way_back(audit, selection)
        draw_keys(REVIEW_KEYS)
    draw_followed(audit, selection, card.pair_id)
    draw_notice(audit, key="pair")
    left, right = st.columns([3, 2], gap="medium")
    with left:
        draw_facts(audit, card)
        draw_note(audit, card)
    with right:
        draw_scores(audit, card)
    draw_terms(audit, card)
    draw_nearest(audit, card)
