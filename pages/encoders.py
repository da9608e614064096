"""Which encoder memorized what: their parts of clipmem, and UnitMem by layer and paradigm."""

from clipmem_core.dashboard.encoders import draw_parts, draw_units
from clipmem_core.dashboard.page import choose_segment, open_page

VIEWS = {"parts": ":material/call_split: Parts of clipmem", "units": ":material/blur_on: Units"}

with open_page("Encoders") as audit:
    view = choose_segment("View", VIEWS, parameter="view", hidden=True)
    if view == "parts":
        draw_parts(audit)
    else:
        draw_units(audit)
