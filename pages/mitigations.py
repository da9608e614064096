"""Mitigations: turn settings of a study on and off, see memorization against utility, and start a study."""

import streamlit as st

from clipmem_core.dashboard import studies as s
from clipmem_core.dashboard import tradeoff as t
from clipmem_core.dashboard.controls import draw_setting
from clipmem_core.dashboard.page import choose_segment, open_bare_page, read_choice, write
from clipmem_core.dashboard.plain import draw_fault, explained_errors, show_strong
from clipmem_core.studies.arm import NONE, Arm
from clipmem_core.studies.plan import find_arm
from clipmem_core.studies.results import replicates, sentence_of
from clipmem_core.studies.study_folder import ARM

VIEWS = {"results": ":material/scatter_plot: Results", "start": ":material/add: Start a study"}
VIEW = "view"  # in the address


def show_started(name: str) -> None:
    """Show the study that was just started."""
    write(**{s.PARAMETER: name, VIEW: None})
    st.rerun()


def show_study(state: s.StudyState) -> None:
    """Draw a study: its settings beside the chart, then the effect of each."""
    study, running = state.study, s.is_running(state.study.name)
    s.draw_state(state, running=running)
    (left, right), setting = st.columns([1, 2], gap="medium"), Arm()
    with left, s.shown_errors():
        setting = draw_setting(study)
    arm = find_arm(study, setting) if setting.text else NONE
    with right, s.shown_errors():
        if not state.done:
            st.info("No arm of this study is finished yet.", icon=":material/hourglass:")
            return
        s.draw_missing(state, setting, arm, running=running)
    chosen = arm if any(name == arm for name, _ in state.done) else None
    with right, s.shown_errors():
        table = t.compared_of(study)
        if chosen == NONE:
            st.caption("No mitigation is on. Turn one on to see its effect.")
        elif chosen is not None and (table[ARM] == chosen).any():
            show_strong(sentence_of(table, chosen))
        elif chosen is not None:
            st.caption("This setting and the baseline have no seed in common yet.")
        t.draw_chart(table, over=replicates(study.arms), key=study.name, chosen=chosen)
    with s.shown_errors():
        t.draw_table(t.compared_of(study), over=replicates(study.arms), chosen=chosen)
    with s.shown_errors():
        t.draw_changed_pairs(study, chosen)


audit = open_bare_page("Mitigations")
with explained_errors():
    states, faults = s.list_states()
    starting = s.starting_study(states)
    view = read_choice(VIEW, VIEWS)
    # Each view has its own widget: a late message of the browser for the previous view changes nothing.
    choose_segment("View", VIEWS, parameter=VIEW, key=f"mitigations-{view}", hidden=True)
    for fault in faults:
        draw_fault("A study cannot be shown.", fault)
    if view == "start":
        s.draw_start(audit, started=show_started)
    elif not (states or starting):
        t.draw_references()
    elif state := s.choose_study(states, starting):
        show_study(state)
    elif starting:
        s.draw_starting(starting)
