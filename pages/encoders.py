"""Which encoder memorized what: their parts of clipmem, what their units respond to, and the studies of it."""

import streamlit as st

from clipmem_core.dashboard.address import write
from clipmem_core.dashboard.encoder_map import draw_contribution_map
from clipmem_core.dashboard.encoder_means import draw_doubts, draw_means, draw_sslmem
from clipmem_core.dashboard.encoder_paradigms import draw_paradigms
from clipmem_core.dashboard.encoder_studies import draw_studies
from clipmem_core.dashboard.encoder_units import draw_units
from clipmem_core.dashboard.frame import open_page
from clipmem_core.dashboard.trouble import explained_errors

VIEWS = {
    "parts": (":material/call_split: Parts of clipmem", [draw_doubts, draw_contribution_map, draw_means, draw_sslmem]),
    "units": (":material/blur_on: Units", [draw_units, draw_paradigms]),
    "studies": (":material/science: Studies", [lambda audit: draw_studies()]),
}
VIEW, KEY = "view", "encoders-view"

audit = open_page("Encoders")
with explained_errors():
    view = st.query_params.get(VIEW, "")
    st.session_state[KEY] = view = view if view in VIEWS else next(iter(VIEWS))
    st.segmented_control(
        "View",
        list(VIEWS),
        key=KEY,
        format_func=lambda name: VIEWS[name][0],
        on_change=lambda: write(**{VIEW: st.session_state[KEY]}),
        required=True,
        label_visibility="collapsed",
    )
    for draw in VIEWS[view][1]:
        draw(audit)
