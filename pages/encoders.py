"""Which encoder memorized what: their parts of clipmem, UnitMem, and the studies of both encoders."""

from clipmem_core.dashboard import encoders as e
from clipmem_core.dashboard.page import choose_segment, open_page
from clipmem_core.dashboard.plain import explained_errors

VIEWS = {
    "parts": (
        ":material/call_split: Parts of clipmem",
        [e.draw_doubts, e.draw_contribution_map, e.draw_means, e.draw_sslmem],
    ),
    "units": (":material/blur_on: Units", [e.draw_units, e.draw_paradigms]),
    "studies": (":material/science: Studies", [lambda audit: e.draw_studies()]),
}
VIEW = "view"  # in the address

audit = open_page("Encoders", draw_without_audit=e.draw_studies)
with explained_errors():
    names = {view: name for view, (name, _) in VIEWS.items()}
    view = choose_segment("View", names, parameter=VIEW, key="encoders-view", hidden=True)
    for draw in VIEWS[view][1]:
        draw(audit)
