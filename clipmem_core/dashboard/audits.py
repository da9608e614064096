"""The page Audits: a table of all audits, and the actions on the selected one: open, delete."""

from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.audits.jobs import jobs_folder
from clipmem_core.audits.status import (
    BROKEN,
    DONE,
    State,
    delete_audit,
    folder_bytes,
    list_states,
)
from clipmem_core.audits.store import CONFIG
from clipmem_core.config import InputError
from clipmem_core.dashboard.page import AUDIT, CHOICE
from clipmem_core.dashboard.plain import bytes_in_words, draw_fault, show_strong, show_text
from clipmem_core.dashboard.running import draw_progress

TABLE = "audits-table"
MESSAGE = "audits-message"  # shown once, after the page has been run again
COLUMNS = {
    "pairs": st.column_config.NumberColumn(format="localized"),
    "begun": st.column_config.DatetimeColumn("started", format="YYYY-MM-DD HH:mm"),
    "size": st.column_config.NumberColumn("size on disk", format="bytes"),
}


def draw_list() -> None:
    """Draw all audits, and the progress and actions of the selected one."""
    if message := st.session_state.pop(MESSAGE, ""):
        st.success(message, icon=":material/check:")
    states = list_states()
    _watch([(state.audit.name, state.word) for state in states])
    if not states:
        st.info("There is no audit yet: start one.", icon=":material/science:")
        return
    selected = _draw_table(states)
    if selected is None:
        st.caption("Choose a row to open or delete an audit, or to see its progress.")
        return
    with st.container(border=True):
        show_strong(selected.audit.name)
        if selected.word == BROKEN:
            st.error("This audit is broken.", icon=":material/error:")
            show_text(" ".join(selected.fault.split()))
        elif selected.word != DONE:
            draw_progress(selected.audit.name)
        if not selected.at_work:
            _draw_actions(selected)


@st.fragment(run_every=2)
def _watch(drawn: list[tuple[str, str]]) -> None:
    """Rerun the page when an audit starts or ends."""
    if [(state.audit.name, state.word) for state in list_states()] != drawn:
        st.rerun()


def choose(name: str | None) -> None:
    """Keep the selected audit in the address and in the session, as every page does."""
    if name is None:
        st.session_state.pop(CHOICE, None)
        st.query_params.pop(AUDIT, None)
    else:
        st.session_state[CHOICE] = st.query_params[AUDIT] = name


def _draw_table(states: list[State]) -> State | None:
    """Draw all audits and return the selected one."""
    names = [state.audit.name for state in states]
    asked = st.query_params.get(AUDIT) or st.session_state.get(CHOICE)
    place = names.index(asked) if asked in names else None
    rows = []
    for state in states:
        row: dict[str, Any] = state.row | {"begun": None, "size": None}
        if state.audit.begun:
            row["begun"] = datetime.fromtimestamp((state.audit.folder / CONFIG).stat().st_mtime)
            row["size"] = folder_bytes(state.audit.folder)
        rows.append(row)

    def select() -> None:
        chosen = st.session_state[TABLE].selection.rows
        choose(names[chosen[0]] if chosen else None)

    shown = [] if place is None else [place]
    st.session_state[TABLE] = {"selection": {"rows": shown, "columns": [], "cells": []}}
    st.dataframe(
        pd.DataFrame(rows),
        key=TABLE,
        hide_index=True,
        column_config=COLUMNS,
        placeholder="",
        on_select=select,
        selection_mode="single-row",
        alt="All audits: name, state, data set, protocol, sizes",
    )
    if place is None:
        return None
    choose(names[place])
    return states[place]


def _draw_actions(state: State) -> None:
    """Draw the buttons that open and delete an audit that nobody works on."""
    name = state.audit.name
    with st.container(horizontal=True, vertical_alignment="center"):
        if state.word == DONE:
            st.page_link("pages/overview.py", label="Open", icon=":material/open_in_new:", query_params={AUDIT: name})
        with st.popover("Delete", icon=":material/delete:", key=f"delete-{name}"):
            _draw_delete(name, state)


def _draw_delete(name: str, state: State) -> None:
    size = bytes_in_words(folder_bytes(state.audit.folder) + folder_bytes(jobs_folder() / name))
    st.markdown(f"Deletes {size}: members, scores and output. Decisions are kept.")
    typed = st.text_input("Type its name to confirm", key=f"confirm-{name}", placeholder=name).strip()
    if not st.button("Delete for good", key=f"delete-now-{name}", type="primary", disabled=typed != name):
        return
    try:
        freed = delete_audit(name)
    except (InputError, OSError) as error:
        draw_fault("The audit was not deleted.", error)
        return
    st.session_state[MESSAGE] = f"Deleted; {bytes_in_words(freed)} freed."
    choose(None)
    st.rerun()
