"""What can be done against memorization, and what it costs: a study's settings to turn on, off and run."""

import streamlit as st

from clipmem_core.dashboard.controls import draw_setting
from clipmem_core.dashboard.page import asked, choose_segment, open_bare_page, write
from clipmem_core.dashboard.plain import draw_fault, explained_errors
from clipmem_core.dashboard.studies import (
    PARAMETER,
    Known,
    beginning,
    choose_study,
    draw_beginning,
    draw_start,
    draw_state,
    draw_waiting,
    is_working,
    known_studies,
    shown_errors,
)
from clipmem_core.dashboard.tradeoff import (
    compared_of,
    draw_changed_pairs,
    draw_references,
    draw_results,
    draw_table,
)
from clipmem_core.studies.arm import NONE, Arm
from clipmem_core.studies.plan import find_arm
from clipmem_core.studies.results import replicates

VIEWS = {"results": ":material/scatter_plot: Results", "start": ":material/add: Start a study"}
VIEW = "view"  # in the address


def show_started(name: str) -> None:
    """Show the study that was just started."""
    write(**{PARAMETER: name, VIEW: None})
    st.rerun()


def show_study(known: Known) -> None:
    """Draw a study: its settings beside the chart, then what each of them did."""
    working = is_working(known.study.name)
    draw_state(known, working=working)
    (left, right), setting = st.columns([1, 2], gap="medium"), Arm()
    with left, shown_errors():
        setting = draw_setting(known.study)
    arm = find_arm(known.study, setting) if setting.text else NONE
    with right, shown_errors():
        if known.done:
            draw_waiting(known, setting, arm, working=working)
        else:
            st.info("No arm of this study is finished yet.", icon=":material/hourglass:")
            return
    chosen = arm if any(name == arm for name, _ in known.done) else None
    with right, shown_errors():
        draw_results(known.study, chosen)
    with shown_errors():
        draw_table(compared_of(known.study), over=replicates(known.study.arms), chosen=chosen)
    with shown_errors():
        draw_changed_pairs(known.study, chosen)


picked = open_bare_page("Mitigations")
with explained_errors():
    known, faults = known_studies()
    begins = beginning(known)
    view = asked(VIEW, VIEWS)
    # A widget for each view: what the browser still sends of the last one's changes nothing in this one.
    choose_segment("View", VIEWS, parameter=VIEW, key=f"mitigations-{view}", hidden=True)
    for fault in faults:
        draw_fault("A study cannot be shown.", fault)
    if view == "start":
        draw_start(picked, started=show_started)
    elif not (known or begins):
        draw_references()
    elif chosen_study := choose_study(known, begins, picked):
        show_study(chosen_study)
    elif begins:
        draw_beginning(begins)
