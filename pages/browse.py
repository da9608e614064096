"""Pairs sorted by a score, filtered and searched, as pictures or as a table, to open or to decide on."""

import streamlit as st

from clipmem_core.dashboard.browse import draw_gallery
from clipmem_core.dashboard.filters import draw_conditions, draw_filters, draw_queues, read_filters
from clipmem_core.dashboard.page import TIGHT_STYLE, open_page
from clipmem_core.dashboard.pair_component import follow_destination
from clipmem_core.dashboard.plain import explained_errors
from clipmem_core.review.search import prepare_search

follow_destination()  # before anything is drawn
audit = open_page("Browse")
with explained_errors():
    selection = read_filters(audit)
    st.html(TIGHT_STYLE)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        draw_queues(audit, selection)
        st.space("stretch")
        actions = st.container(horizontal=True, vertical_alignment="center", gap="small", width="content")
    draw_filters(audit, selection)
    draw_conditions(selection)
    draw_gallery(audit, selection, actions=actions)
    prepare_search(audit)
