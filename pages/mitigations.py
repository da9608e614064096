"""Mitigations: train the members of an audit again with settings on, and see memorization against
utility."""

from clipmem_core.dashboard.controls import PARAMETER
from clipmem_core.dashboard.mitigations import draw_lab, draw_study
from clipmem_core.dashboard.page import PAGE, choose_listed, open_page
from clipmem_core.dashboard.plain import explained_errors
from clipmem_core.lab.results import list_studies

audit = open_page("Mitigations")
with explained_errors():
    studies = [study.name for study in list_studies() if (study.folder / "arms.parquet").is_file()]
    shown = ""
    if studies:
        titles = {"": f"this audit: {audit.name}"} | {name: f"study: {name}" for name in studies}
        shown = choose_listed(
            "Results of",
            titles,
            parameter="study",
            clears=[PARAMETER, PAGE],
            width=400,
        )
    if shown:
        draw_study(shown)
    else:
        draw_lab(audit)
