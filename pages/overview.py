"""The results of an audit: probably wrong captions and what to do about them, then what is
memorized."""

import streamlit as st

from clipmem_core.dashboard import overview as o
from clipmem_core.dashboard.cards import draw_strip
from clipmem_core.dashboard.deciding import draw_notice, draw_reviewed, draw_wrong
from clipmem_core.dashboard.page import open_page
from clipmem_core.dashboard.plain import show_text
from clipmem_core.review.overview import memorization_line
from clipmem_core.utils.columns import CLIPMEM, SUSPICION

with open_page("Overview") as audit:
    draw_notice(audit)
    draw_wrong(audit)
    o.draw_incidents(audit)
    draw_strip(audit, SUSPICION)
    draw_reviewed(audit)
    st.header("Memorization")
    show_text(memorization_line(audit.verdict))
    draw_strip(audit, CLIPMEM)
    o.draw_verdict(audit.verdict)
    o.draw_details(audit)
