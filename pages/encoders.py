"""Which encoder memorized what: their parts of clipmem, and UnitMem."""

from clipmem_core.dashboard import encoders as e
from clipmem_core.dashboard.page import choose_segment, open_page
from clipmem_core.dashboard.plain import explained_errors

VIEWS = {
    "parts": (
        ":material/call_split: Parts of clipmem",
        [e.draw_doubts, e.draw_contribution_map, e.draw_means, e.draw_sslmem],
    ),
    "units": (":material/blur_on: Units", [e.draw_units, e.draw_paradigms]),
}
VIEW = "view"  # in the address

audit = open_page("Encoders")
with explained_errors():
    names = {view: name for view, (name, _) in VIEWS.items()}
    view = choose_segment("View", names, parameter=VIEW, key="encoders-view", hidden=True)
    for draw in VIEWS[view][1]:
        draw(audit)
