"""One pair: its picture and captions, why it scores as it does, what is like it, and what a person decides."""

import streamlit as st

from clipmem_core.dashboard.deciding import draw_decision, draw_edits, guard_keys
from clipmem_core.dashboard.filters import read_filters
from clipmem_core.dashboard.page import open_page
from clipmem_core.dashboard.pair import (
    draw_captions,
    draw_choices,
    draw_nearest,
    draw_picture,
    draw_scores,
    draw_terms,
    draw_way,
    find_pair,
)
from clipmem_core.dashboard.plain import explained_errors

audit = open_page("Pair")
with explained_errors():
    selection = read_filters(audit)
    card = find_pair(audit, selection)
    draw_way(audit, selection, card)
    draw_decision(audit, card)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        draw_picture(audit, card)
    with right:
        draw_captions(audit, card)
        draw_scores(audit, card)
        draw_edits(audit, card)
        guard_keys(card)
    draw_terms(audit, card)
    draw_choices(audit, card)
    draw_nearest(audit, card)
