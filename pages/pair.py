"""One pair: picture, captions and decision as in review, the terms of its score, and similar
pairs."""

import streamlit as st

from clipmem_core.dashboard import pair as p
from clipmem_core.dashboard.browse import read_filters
from clipmem_core.dashboard.component.pairs import REVIEW_KEYS, draw_followed, draw_key_list
from clipmem_core.dashboard.deciding import draw_notice
from clipmem_core.dashboard.page import open_page
from clipmem_core.dashboard.plain import in_a_row

with open_page("Pair") as audit:
    selection = read_filters()
    card = p.find_pair(audit, selection)
    with in_a_row():
        p.draw_way_back(audit, selection)
        draw_key_list(REVIEW_KEYS)
    draw_followed(audit, selection, card.pair_id)
    draw_notice(audit)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        p.draw_facts(audit, card)
        p.draw_note(audit, card)
    with right:
        p.draw_scores(audit, card)
    p.draw_details(audit, card)
