"""Which encoder memorized what: their parts of clipmem, and UnitMem by layer and paradigm."""

from clipmem_core.dashboard.encoders import draw_answer, draw_parts, draw_units, with_encoders
from clipmem_core.dashboard.page import choose_segment, open_page
from clipmem_core.lab.encoders import trained_words

VIEWS = {"parts": ":material/call_split: Parts of clipmem", "units": ":material/blur_on: Units"}

with open_page("Encoders") as audit:
    draw_answer(audit)
    audits = {each.name: each for each in dict.fromkeys((with_encoders(audit), audit))}
    names = {name: trained_words(each.record.config) for name, each in audits.items()}
    shown = audits[choose_segment("What trained", names, parameter="trained")]
    view = choose_segment("View", VIEWS, parameter="view", hidden=True)
    if view == "parts":
        draw_parts(shown)
    else:
        draw_units(shown)
