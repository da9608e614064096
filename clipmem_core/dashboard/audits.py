"""The page Audits: a table of all audits, and the actions on the chosen one: open, rename, delete."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.audits.jobs import jobs_folder
from clipmem_core.audits.status import (
    BROKEN,
    DONE,
    SCORING,
    TRAINING,
    State,
    all_progress,
    delete_audit,
    folder_bytes,
    list_states,
    odd_names,
    rename_audit,
    training_seconds_left,
)
from clipmem_core.audits.store import CONFIG
from clipmem_core.config import InputError
from clipmem_core.dashboard.page import AUDIT, CHOICE
from clipmem_core.dashboard.plain import bytes_in_words, draw_fault, duration, show_strong, show_text
from clipmem_core.dashboard.running import draw_progress, share_counted, share_done

TABLE = "audits-table"
AT_WORK = "audits-at-work"
COLUMNS = {
    "state": st.column_config.TextColumn(width=135),
    "pairs": st.column_config.NumberColumn(format="localized"),
    "begun": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm"),
    "size": st.column_config.NumberColumn("size on disk", format="bytes"),
    "training": st.column_config.NumberColumn(
        "training (s)", format="%.0f", help="Seconds that its members trained, all of them together."
    ),
}


def draw_list() -> None:
    """Draw what is at work, all audits, and the one that was chosen."""
    states = list_states()
    _draw_at_work()
    if not states:
        st.info("There is no audit yet: start one.", icon=":material/science:")
        return
    chosen = _draw_table(states)
    if odd := odd_names():
        show_text(f"not shown, since no audit can have such a name: {', '.join(map(repr, odd))}", limit=300)
    if chosen is None:
        st.caption("Choose a row to open, rename or delete an audit, or to see its progress.")
        return
    with st.container(border=True):
        _draw_panel(chosen)


def choose(name: str | None) -> None:
    """Keep the chosen audit in the address and in the session, as every page does."""
    if name is None:
        st.session_state.pop(CHOICE, None)
        st.query_params.pop(AUDIT, None)
        return
    st.session_state[CHOICE] = name
    st.query_params[AUDIT] = name


@st.fragment(run_every=2)
def _draw_at_work() -> None:
    """Draw how far each audit at work is, every two seconds, and the whole page again when one comes or ends."""
    states = [state for state in list_states() if state.at_work]
    now = [(state.audit.name, state.word) for state in states]
    if st.session_state.get(AT_WORK, now) != now:
        st.session_state[AT_WORK] = now
        st.rerun()
    st.session_state[AT_WORK] = now
    if not states:
        return
    rows = [_work_row(state) for state in states]
    bar = st.column_config.ProgressColumn("progress", format="percent", min_value=0, max_value=1)
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        column_config={"progress": bar, "training left": st.column_config.TextColumn(width=125)},
        placeholder="",
        alt="Progress of each audit that waits or runs",
    )


def _work_row(state: State) -> dict[str, Any]:
    row = {"at work": state.audit.name, "state": state.word, "progress": 0.0, "training left": ""}
    if state.word == SCORING:
        return row | {"progress": 1.0}
    if state.word != TRAINING:
        return row | {"progress": share_counted(state.job) if state.job else 0.0}
    members = all_progress(state.audit.folder, state.audit.record.members)
    return row | {"progress": share_done(members), "training left": duration(training_seconds_left(members))}


def _draw_table(states: list[State]) -> State | None:
    """Draw all audits and return the chosen one."""
    names = [state.audit.name for state in states]
    asked = st.query_params.get(AUDIT) or st.session_state.get(CHOICE)
    place = names.index(asked) if asked in names else None
    if place is not None:
        choose(names[place])
    rows = [place] if place is not None else []
    st.session_state[TABLE] = {"selection": {"rows": rows, "columns": [], "cells": []}}
    st.dataframe(
        pd.DataFrame([_row(state) for state in states]),
        key=TABLE,
        hide_index=True,
        column_config=COLUMNS,
        placeholder="",
        on_select=lambda: choose(_selected(names)),
        selection_mode="single-row",
        alt="All audits: name, state, data set, protocol, sizes",
    )
    return states[place] if place is not None else None


def _selected(names: list[str]) -> str | None:
    rows = st.session_state[TABLE].selection.rows
    return names[rows[0]] if rows and rows[0] < len(names) else None


def _row(state: State) -> dict[str, Any]:
    row = state.row | dict.fromkeys(["begun", "size", "training"])
    if not state.audit.begun:
        return row
    row["size"] = folder_bytes(state.audit.folder)
    if row["state"] == BROKEN:
        return row
    return row | {
        "begun": datetime.fromtimestamp((state.audit.folder / CONFIG).stat().st_mtime),
        "training": sum(m.seconds for m in all_progress(state.audit.folder, state.audit.record.members)) or None,
    }


def _draw_panel(state: State) -> None:
    show_strong(state.audit.name)
    if state.word == BROKEN:
        st.error("This audit is broken.", icon=":material/error:")
        show_text(" ".join(state.fault.split()))
    elif state.word != DONE:
        draw_progress(state.audit.name)
    draw_actions(state, choose)


MESSAGE = "audits-message"  # what was done last, to be told on the page that follows

Choose = Callable[[str | None], None]


def draw_actions(state: State, choose: Choose) -> None:
    """Draw what can be done with an audit that nobody works on; a finished one can be opened."""
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
        draw_fault("The audit was not renamed.", error)
        return
    st.session_state[MESSAGE] = "Renamed."
    choose(new)
    st.rerun()


def _draw_delete(state: State, choose: Choose) -> None:
    name = state.audit.name
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
