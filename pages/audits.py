"""Start an audit once it was checked, see how far those at work are, and open, rename or delete the others."""

import streamlit as st

from clipmem_core.audits.states import list_states
from clipmem_core.dashboard.audit_actions import draw_message
from clipmem_core.dashboard.audit_list import choose, draw_list
from clipmem_core.dashboard.checking import draw_check
from clipmem_core.dashboard.frame import PARAMETER, open_bare_page
from clipmem_core.dashboard.starting import draw_request
from clipmem_core.dashboard.trouble import explained_errors

VIEWS = {"list": "All audits", "start": "Start an audit"}
VIEW = "view"


def show_started(name: str) -> None:
    """Show the audit that was just started, with all of the address changed in one step."""
    choose(name)
    st.switch_page("pages/audits.py", query_params={VIEW: "list", PARAMETER: name})


def keep_view() -> None:
    """Write the chosen view into the address."""
    st.query_params[VIEW] = st.session_state[VIEW]


open_bare_page("Audits")
with explained_errors():
    usual = "list" if list_states() else "start"
    view = st.query_params.get(VIEW, usual)
    st.session_state[VIEW] = view if view in VIEWS else usual
    st.segmented_control(
        "View", VIEWS, format_func=VIEWS.get, key=VIEW, on_change=keep_view, required=True, label_visibility="collapsed"
    )
    draw_message()
    if st.session_state[VIEW] == "start":
        draw_check(draw_request(), started=show_started)
    else:
        draw_list()
