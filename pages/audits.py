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
    """Show the audit that was just started."""
    choose(name)
    st.query_params.from_dict({VIEW: "list", PARAMETER: name})
    st.rerun()


def keep_view(key: str) -> None:
    """Write the chosen view into the address."""
    st.query_params[VIEW] = st.session_state[key]


open_bare_page("Audits")
with explained_errors():
    usual = "list" if list_states() else "start"
    view = st.query_params.get(VIEW, usual)
    view = view if view in VIEWS else usual
    # A widget of its own for each view: what the browser still sends of the last view's changes nothing in this one.
    key = f"{VIEW}-{view}"
    st.session_state[key] = view
    st.segmented_control(
        "View",
        VIEWS,
        format_func=VIEWS.get,
        key=key,
        on_change=keep_view,
        args=(key,),
        required=True,
        label_visibility="collapsed",
    )
    draw_message()
    if view == "start":
        draw_check(draw_request(), started=show_started)
    else:
        draw_list()
