"""Pairs one after another, each decided by a key; the browser sends the decisions in batches."""

from dataclasses import replace

import streamlit as st

from clipmem_core.audit.verdict import queues
from clipmem_core.dashboard.browse import conditions, read_filters
from clipmem_core.dashboard.component.pairs import REVIEW_KEYS, draw_key_list, draw_single
from clipmem_core.dashboard.component.routes import prepare_judge
from clipmem_core.dashboard.page import BROWSE, TIGHT_STYLE, link, open_page
from clipmem_core.dashboard.plain import explained_errors, read_verdict, show_text
from clipmem_core.review.rows import count_pairs
from clipmem_core.review.selection import RANDOM_CHECK, UNDECIDED

audit = open_page("Review")
with explained_errors():
    selection = read_filters(audit)
    st.html(TIGHT_STYLE)
    listed = replace(selection, decision="") if selection.decision == UNDECIDED else selection
    if count_pairs(audit, listed):
        queue = queues(read_verdict(audit)).get(listed.order)
        title = "random check" if listed == RANDOM_CHECK else queue.name if queue else ""
        draw_single(audit, selection, title=title)
        prepare_judge(audit)
    else:
        st.info("No pair fits this selection.", icon=":material/search_off:")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.page_link(
            BROWSE,
            label="Filter in Browse",
            icon=":material/grid_view:",
            query_params=link(audit, listed),
        )
        show_text(" · ".join(text for text, _ in conditions(listed)))
        draw_key_list(REVIEW_KEYS)
