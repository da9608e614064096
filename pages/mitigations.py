"""Mitigations: train the members of an audit again with settings on, and see memorization against
utility."""

import pandas as pd
import streamlit as st

from clipmem_core.audit.store import Audit
from clipmem_core.config import InputError
from clipmem_core.dashboard import tradeoff as t
from clipmem_core.dashboard.controls import PARAMETER, draw_setting
from clipmem_core.dashboard.lab import ask, enough_members, follow, shown_errors
from clipmem_core.dashboard.page import PAGE, choose_listed, open_page, write
from clipmem_core.dashboard.plain import draw_fault, explained_errors, show_command, show_strong
from clipmem_core.studies import lab
from clipmem_core.studies import results as r
from clipmem_core.studies.arm import BASELINE
from clipmem_core.studies.study_folder import list_studies, open_study

STUDY = "study"  # in the address: a finished study in place of the audit
COVERS = (
    "{} of {} members. The interval covers other members of this audit; they share its pairs and "
    "its held-out pairs: "
    "`python -m clipmem_core study` covers other splits of the pairs too."
)


def draw_study(name: str) -> None:
    """Draw the results of a study."""
    study = open_study(name)
    compared = r.differences(study.rows)
    titles = study.request["arms"]
    for arm, title in titles.items():
        if (compared[lab.ARM] == arm).any():
            st.text(r.sentence_of(compared, arm, title))
    t.draw_chart(compared, titles, over=r.OF_SPLITS, key=name)
    t.draw_table(compared, titles, over=r.OF_SPLITS)


def draw_lab(audit: Audit) -> None:
    """Draw the settings of an audit beside the chart, then what the chosen one changes."""
    titles = {
        name: title for name, title in lab.list_arms(audit).items() if enough_members(audit, name)
    }
    left, right = st.columns([1, 2], gap="medium")
    with left:
        arm = draw_setting(
            audit, {lab.read_arm(audit, name).text: title for name, title in titles.items()}
        )
    with right:
        try:
            arm = lab.begin(audit, arm)
            ask(audit, arm)
        except InputError as error:
            draw_fault("This setting cannot be trained.", error)
            return
        chosen = arm.name if arm.name in titles else None
        compared = r.differences(lab.lab_table(audit, [*titles, BASELINE]))
        if chosen:
            show_strong(r.sentence_of(compared, chosen, arm.title))
            st.caption(
                COVERS.format(
                    len(lab.finished_members(audit, chosen)), len(lab.paired_members(audit))
                )
            )
        elif not arm.overrides:
            st.caption(
                "Switch a mitigation on: the members train again, and its effect appears here."
            )
        follow(audit, arm)
        if (compared[lab.ARM] == BASELINE).any():
            t.draw_chart(compared, titles, over=r.OF_MEMBERS, key=audit.name, chosen=chosen)
    if chosen:
        with shown_errors():
            t.draw_parts(compared, chosen, arm.title)
    if titles:
        with shown_errors():
            t.draw_table(compared, titles, over=r.OF_MEMBERS, chosen=chosen)
            draw_exports(audit, titles)
    if chosen:
        show_command(r.mitigate_command(audit, arm))
        with shown_errors():
            t.draw_changed_pairs(audit, chosen)


def draw_exports(audit: Audit, titles: dict[str, str]) -> None:
    """Draw the download of all rows, and the removal of a setting."""
    with st.container(horizontal=True):
        rows: pd.DataFrame = lab.lab_table(audit)
        st.download_button(
            "CSV, one row per member",
            data=lambda: rows.to_csv(
                index=False
            ),  # called on a click: nothing is stored that a rerun replaces
            file_name=f"{audit.name}-mitigations.csv",
            mime="text/csv",
            on_click="ignore",
            icon=":material/download:",
        )
        with st.popover("Remove a setting", icon=":material/delete:"):
            removed = st.selectbox(
                "Setting", list(titles), format_func=titles.__getitem__, key="mitigation-removed"
            )
            if st.button("Delete its results", key="mitigation-remove") and removed:
                lab.remove_arm(audit, removed)
                write(**{PARAMETER: None, PAGE: None})
                st.rerun()


audit = open_page("Mitigations")
with explained_errors():
    studies = [
        study.name for study in list_studies() if study.folder.joinpath("arms.parquet").is_file()
    ]
    shown = ""
    if studies:
        titled = {"": f"this audit: {audit.name}"} | {name: f"study: {name}" for name in studies}
        shown = choose_listed(
            "Results of",
            list(titled),
            parameter=STUDY,
            key="mitigations-study",
            clears=[PARAMETER, PAGE],
            width=400,
            format_func=titled.__getitem__,
        )
    if shown:
        draw_study(shown)
    else:
        draw_lab(audit)
