"""All audits: start one, follow its progress, open or delete it."""

from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.audit import status as s
from clipmem_core.audit.jobs import jobs_folder
from clipmem_core.audit.store import CONFIG
from clipmem_core.dashboard.new_audit import draw_check, draw_request
from clipmem_core.dashboard.page import (
    AUDIT,
    CHOICE,
    choose_segment,
    open_bare_page,
    read_choice,
    store_choice,
)
from clipmem_core.dashboard.plain import bytes_in_words, draw_fault, explained_errors, show_strong
from clipmem_core.dashboard.running import draw_progress
from clipmem_core.io import InputError

VIEWS = {"list": "All audits", "start": "Start an audit"}
VIEW = "view"  # in the address
TABLE = "audits-table"
MESSAGE = "audits-message"  # shown once, after the rerun that follows an action
COLUMNS = {
    "pairs": st.column_config.NumberColumn(format="localized"),
    "begun": st.column_config.DatetimeColumn("started", format="YYYY-MM-DD HH:mm"),
    "size": st.column_config.NumberColumn("size on disk", format="bytes"),
}


def draw_list() -> None:
    """Draw all audits, and the progress and actions of the selected one."""
    if message := st.session_state.pop(MESSAGE, ""):
        st.success(message, icon=":material/check:")
    states = s.list_states()
    _watch([(state.audit.name, state.word) for state in states])
    if not states:
        st.info("No audit yet. Start one above.", icon=":material/science:")
        return
    selected = _draw_table(states)
    if selected is None:
        st.caption("Select a row to open or delete an audit, or to see its progress.")
        return
    with st.container(border=True):
        show_strong(selected.audit.name)
        if selected.word == s.BROKEN:
            draw_fault("This audit is broken.", selected.fault)
        elif selected.word != s.DONE:
            draw_progress(selected.audit.name)
        if not selected.at_work:
            _draw_actions(selected)


@st.fragment(run_every=2)
def _watch(drawn: list[tuple[str, str]]) -> None:
    """Rerun the page when an audit starts or ends."""
    if [(state.audit.name, state.word) for state in s.list_states()] != drawn:
        st.rerun()


def _draw_table(states: list[s.State]) -> s.State | None:
    names = [state.audit.name for state in states]
    name = st.query_params.get(AUDIT) or st.session_state.get(CHOICE)
    selected = [names.index(name)] if name in names else []
    rows = []
    for state in states:
        row: dict[str, Any] = state.row | {"begun": None, "size": None}
        if state.audit.begun:
            row["begun"] = datetime.fromtimestamp((state.audit.folder / CONFIG).stat().st_mtime)
            row["size"] = s.folder_bytes(state.audit.folder)
        rows.append(row)

    def select() -> None:
        chosen = st.session_state[TABLE].selection.rows
        store_choice(names[chosen[0]] if chosen else None)

    st.session_state[TABLE] = {"selection": {"rows": selected, "columns": [], "cells": []}}
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
    if not selected:
        return None
    store_choice(name)
    return states[selected[0]]


def _draw_actions(state: s.State) -> None:
    name = state.audit.name
    with st.container(horizontal=True, vertical_alignment="center"):
        if state.word == s.DONE:
            st.page_link(
                "pages/overview.py",
                label="Open",
                icon=":material/open_in_new:",
                query_params={AUDIT: name},
            )
        with st.popover("Delete", icon=":material/delete:", key=f"delete-{name}"):
            size = bytes_in_words(
                s.folder_bytes(state.audit.folder) + s.folder_bytes(jobs_folder() / name)
            )
            st.markdown(f"Deletes {size}: members, scores and output. Decisions are kept.")
            typed = st.text_input(
                "Type its name to confirm", key=f"confirm-{name}", placeholder=name
            ).strip()
            confirmed = st.button(
                "Delete for good", key=f"delete-now-{name}", type="primary", disabled=typed != name
            )
    if confirmed:
        try:
            freed = s.delete_audit(name)
        except (InputError, OSError) as error:
            draw_fault("The audit was not deleted.", error)
            return
        st.session_state[MESSAGE] = f"Deleted; {bytes_in_words(freed)} freed."
        store_choice(None)
        st.rerun()


def show_started(name: str) -> None:
    """Show the audit that was just started."""
    store_choice(name)
    st.query_params.from_dict({VIEW: "list", AUDIT: name})
    st.rerun()


open_bare_page("Audits")
with explained_errors():
    usual = "list" if s.list_states() else "start"
    view = read_choice(VIEW, VIEWS, usual)
    # Each view has its own widget: a late message of the browser for the previous view changes
    # nothing.
    choose_segment("View", VIEWS, parameter=VIEW, key=f"{VIEW}-{view}", default=usual, hidden=True)
    if view == "start":
        draw_check(draw_request(), started=show_started)
    else:
        draw_list()
