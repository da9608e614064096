"""Mitigations: train the members of an audit again with settings on, and see memorization against
utility."""

from clipmem_core.dashboard.mitigations import draw_lab, draw_study
from clipmem_core.dashboard.page import choose_listed, open_page
from clipmem_core.lab.experiment import Study

with open_page("Mitigations") as audit:
    studies = [study.name for study in Study.every() if study.rows_files]
    shown = ""
    if studies:
        titles = {"": f"this audit: {audit.name}"} | {name: f"study: {name}" for name in studies}
        shown = choose_listed(
            "Results of",
            titles,
            parameter="study",
            clears=["setting", "page"],
            width=400,
        )
    if shown:
        draw_study(shown)
    else:
        draw_lab(audit)
