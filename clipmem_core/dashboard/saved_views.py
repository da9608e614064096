"""Views that somebody saved under a name: filters and order of Browse, for all audits of the data set."""

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.address import peek_selection, write_selection
from clipmem_core.dashboard.deciding import Notice, in_turn
from clipmem_core.review.decisions import open_review
from clipmem_core.review.log import LONGEST, save_view, saved_views
from clipmem_core.review.selection import Selection, from_parameters, to_parameters

NAME, CHOSEN = "view-name", "view-chosen"


def draw_views(audit: Audit, selection: Selection) -> None:
    """Draw the saved views to choose from, and the box that saves the one that is shown."""
    views = saved_views(open_review(audit).path)
    with st.popover("Views", icon=":material/bookmark:", width="content"):
        if views:
            shown = next((name for name, given in views.items() if given == to_parameters(selection)), None)
            st.session_state[CHOSEN] = shown
            st.selectbox(
                "Saved views", list(views), key=CHOSEN, index=None, placeholder="Choose", on_change=_open, args=(audit,)
            )
            if shown:
                st.button("Delete this view", icon=":material/delete:", on_click=_delete, args=(audit, shown))
        st.text_input("Save these filters and this order as", key=NAME, max_chars=LONGEST)
        st.button("Save", icon=":material/bookmark_add:", on_click=_save, args=(audit,))


def _open(audit: Audit) -> None:
    parameters = saved_views(open_review(audit).path).get(st.session_state[CHOSEN] or "")
    if parameters is not None:
        write_selection(from_parameters(parameters)[0])


def _save(audit: Audit) -> None:
    name, parameters = st.session_state[NAME], to_parameters(peek_selection())
    with in_turn() as session:
        save_view(open_review(audit).path, name, parameters)
        session.notice = Notice("View saved.", name.strip())
        name = ""
    st.session_state[NAME] = name


def _delete(audit: Audit, name: str) -> None:
    with in_turn() as session:
        save_view(open_review(audit).path, name, None)
        session.notice = Notice("View deleted.", name)
