"""What has been decided on the pairs of a data set, the history of it with undo, and exports of what was decided."""

import streamlit as st

from clipmem_core.dashboard.address import write
from clipmem_core.dashboard.deciding import draw_notice
from clipmem_core.dashboard.decision_history import draw_history
from clipmem_core.dashboard.decision_list import draw_decisions, draw_reviewed
from clipmem_core.dashboard.exporting import draw_exports
from clipmem_core.dashboard.frame import open_page
from clipmem_core.dashboard.trouble import explained_errors

VIEWS = {
    "decisions": (":material/checklist: Decisions", draw_decisions),
    "history": (":material/history: History", draw_history),
    "export": (":material/output: Export", draw_exports),
}
VIEW = "view"

audit = open_page("Decisions and export")
with explained_errors():
    draw_reviewed(audit)
    view = st.query_params.get(VIEW, "decisions")
    st.session_state["decisions-view"] = view = view if view in VIEWS else "decisions"
    st.segmented_control(
        "View",
        list(VIEWS),
        key="decisions-view",
        format_func=lambda name: VIEWS[name][0],
        on_change=lambda: write(**{VIEW: st.session_state["decisions-view"]}),
        required=True,
        label_visibility="collapsed",
    )
    draw_notice(audit, key="decisions")
    VIEWS[view][1](audit)
