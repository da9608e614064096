"""The results of an audit: probably wrong captions, the most striking pairs, the verdict, groups and utility."""

import streamlit as st

from clipmem_core.dashboard.cards import draw_strips
from clipmem_core.dashboard.maps import draw_score_map
from clipmem_core.dashboard.overview import (
    draw_exceeding,
    draw_groups,
    draw_header,
    draw_sizes,
    draw_tables,
    draw_verdict,
)
from clipmem_core.dashboard.page import TIGHT_STYLE, open_page
from clipmem_core.dashboard.plain import explained_errors
from clipmem_core.dashboard.review import draw_wrong
from clipmem_core.review.overview import load_overview

audit = open_page("Overview")
with explained_errors():
    st.html(TIGHT_STYLE)  # the answers fit a screen
    overview = load_overview(audit)
    draw_header(overview)
    count, trust = st.columns(2, gap="medium")
    with count:
        draw_wrong(audit)
    with trust:
        draw_verdict(overview)
    draw_strips(audit)
    draw_sizes(overview)
    draw_groups(overview)
    draw_exceeding(overview)
    draw_score_map(audit)
    draw_tables(overview)
