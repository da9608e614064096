"""The buttons that open an audit, give it another name, or delete it once its name was typed."""

from collections.abc import Callable

import streamlit as st

from clipmem_core.audits.jobs import jobs_folder
from clipmem_core.audits.status import DONE, State, delete_audit, folder_bytes, rename_audit
from clipmem_core.config import InputError
from clipmem_core.dashboard.errors import draw_fault
from clipmem_core.dashboard.numbers import bytes_in_words

MESSAGE = "audits-message"  # what was done last, to be told on the page that follows

Choose = Callable[[str | None], None]


def draw_actions(state: State, choose: Choose) -> None:
    """Draw what can be done with an audit that nobody works on; a finished one can be opened.

    Args:
        state: how it stands.
        choose: called with the name to show next, or None.
    """
    if state.at_work:
        return
    name = state.audit.name
    with st.container(horizontal=True, vertical_alignment="center"):
        if state.word == DONE:
            st.page_link("pages/overview.py", label="Open", icon=":material/open_in_new:", query_params={"audit": name})
        if state.audit.begun:
            with st.popover("Rename", icon=":material/edit:", key=f"rename-{name}"):
                _draw_rename(name, choose)
        with st.popover("Delete", icon=":material/delete:", key=f"delete-{name}"):
            _draw_delete(state, choose)


def draw_message() -> None:
    """Draw, once, what was done last."""
    if message := st.session_state.pop(MESSAGE, ""):
        st.success(message, icon=":material/check:")


def _draw_rename(name: str, choose: Choose) -> None:
    new = st.text_input("New name", value=name, key=f"new-name-of-{name}").strip()
    if not st.button("Rename", key=f"rename-now-{name}", type="primary", disabled=new in ("", name)):
        return
    try:
        rename_audit(name, new)
    except (InputError, OSError) as error:
        draw_fault("It keeps its name.", error)
        return
    st.session_state[MESSAGE] = "The audit has its new name."
    choose(new)
    st.rerun()


def _draw_delete(state: State, choose: Choose) -> None:
    name = state.audit.name
    size = bytes_in_words(folder_bytes(state.audit.folder) + folder_bytes(jobs_folder() / name))
    st.markdown(f"Deletes {size}: members, scores and output. Decisions on its pairs stay.")
    typed = st.text_input("Type its name to confirm", key=f"confirm-{name}", placeholder=name).strip()
    if not st.button("Delete for good", key=f"delete-now-{name}", type="primary", disabled=typed != name):
        return
    try:
        freed = delete_audit(name)
    except (InputError, OSError) as error:
        draw_fault("It was not deleted.", error)
        return
    st.session_state[MESSAGE] = f"Deleted; {bytes_in_words(freed)} are free again."
    choose(None)
    st.rerun()
