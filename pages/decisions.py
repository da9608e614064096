"""The decisions on the pairs of a data set, their history with undo, checks, exports and
re-audits."""

from clipmem_core.dashboard.deciding import draw_notice, draw_reviewed, draw_wrong
from clipmem_core.dashboard.decisions import (
    draw_checks,
    draw_decisions,
    draw_exports,
    draw_history,
    draw_reaudits,
)
from clipmem_core.dashboard.page import choose_segment, draw_link, open_page
from clipmem_core.lab.setting import DECISIONS

VIEWS = {
    "decisions": (":material/checklist: Decisions", draw_decisions),
    "checks": (":material/rule: Checks", draw_checks),
    "history": (":material/history: History", draw_history),
    "export": (":material/output: Export", draw_exports),
    "again": (":material/autorenew: Re-audit", draw_reaudits),
}

with open_page("Decisions and export") as audit:
    draw_wrong(audit)
    draw_reviewed(audit)
    label = "See what your decisions change in training (about 30 s)"
    draw_link("mitigations", label, audit, setting=DECISIONS)
    names = {view: name for view, (name, _) in VIEWS.items()}
    view = choose_segment("View", names, parameter="view", hidden=True)
    draw_notice(audit)
    VIEWS[view][1](audit)
