"""The results of an audit: faults of the pipeline, probably wrong captions, striking pairs, the
verdict, groups and utility."""

import streamlit as st

from clipmem_core.dashboard import overview as o
from clipmem_core.dashboard.cards import draw_strips
from clipmem_core.dashboard.deciding import draw_wrong
from clipmem_core.dashboard.page import TIGHT_STYLE, open_page
from clipmem_core.dashboard.plain import explained_errors

audit = open_page("Overview")
with explained_errors():
    st.html(TIGHT_STYLE)  # the answers fit a screen
    verdict = audit.verdict
    o.draw_source(audit)
    o.draw_incidents(audit)
    draw_wrong(audit)
    draw_strips(audit)
    o.draw_verdict(verdict)
    o.draw_sizes(audit, verdict)
    o.draw_details(audit, verdict)
