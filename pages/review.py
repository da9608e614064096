"""Pairs one after another, each decided by a key; the browser sends the decisions in batches."""

from dataclasses import replace
from urllib.parse import urlencode

import streamlit as st

from clipmem_core.auditing.tables.verdict import queues
from clipmem_core.dashboard.deciding import draw_incidents
from clipmem_core.dashboard.histogram_filters import conditions, read_filters
from clipmem_core.dashboard.page import draw_link, link, open_page
from clipmem_core.dashboard.pair_component import REVIEW_KEYS, draw_key_list, draw_single
from clipmem_core.dashboard.plain import in_a_row, show_text
from clipmem_core.errors.certificate import NEXT
from clipmem_core.lab.setting import DECISIONS
from clipmem_core.review.filters import count_pairs
from clipmem_core.review.views import RANDOM, RANDOM_CHECK, UNDECIDED, Selection
from clipmem_core.utils.columns import REVIEW_PLACE, SUSPICION

with open_page("Review") as audit:
    selection = read_filters(REVIEW_PLACE)
    listed = replace(selection, decision="") if selection.decision == UNDECIDED else selection
    if count_pairs(audit, listed):
        queue_order = SUSPICION if listed.order == REVIEW_PLACE else listed.order
        queue = queues(audit.verdict).get(queue_order)
        title = "random check" if listed == RANDOM_CHECK else queue.name if queue else ""
        suspicious, checks = (
            f"review?{urlencode(link(audit, Selection(order=order, decision=UNDECIDED)))}"
            for order in (REVIEW_PLACE, RANDOM)
        )
        here = urlencode(link(audit, setting=DECISIONS))
        links = [
            ("Review next", suspicious),
            (f"Check {NEXT} more at random", checks),
            ("Overview", f"overview?{here}"),
            ("Export", f"decisions?{here}"),
            ("See what your decisions change", f"mitigations?{here}"),
        ]
        if listed != RANDOM_CHECK:
            draw_incidents(audit, folded=True)
        draw_single(audit, selection, title=title, links=links)
    else:
        st.info("No pair fits this selection.")
    with in_a_row():
        draw_link("browse", "Filter in Browse", audit, listed)
        show_text(" · ".join(text for text, _ in conditions(listed)))
        draw_key_list(REVIEW_KEYS)
