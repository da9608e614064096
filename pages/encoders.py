"""Which encoder memorized what: their parts of clipmem, UnitMem, and the studies of both encoders."""

from clipmem_core.dashboard.encoders import draw_contribution_map, draw_doubts, draw_means, draw_sslmem, draw_studies
from clipmem_core.dashboard.page import choose_segment, open_page
from clipmem_core.dashboard.plain import explained_errors
from clipmem_core.dashboard.units import draw_paradigms, draw_units

VIEWS = {
    "parts": (":material/call_split: Parts of clipmem", [draw_doubts, draw_contribution_map, draw_means, draw_sslmem]),
    "units": (":material/blur_on: Units", [draw_units, draw_paradigms]),
    "studies": (":material/science: Studies", [lambda audit: draw_studies()]),
}
VIEW = "view"  # in the address

audit = open_page("Encoders", draw_without_audit=draw_studies)
with explained_errors():
    names = {view: name for view, (name, _) in VIEWS.items()}
    view = choose_segment("View", names, parameter=VIEW, key="encoders-view", hidden=True)
    for draw in VIEWS[view][1]:
        draw(audit)
