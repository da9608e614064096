"""Pairs sorted by a score, filtered and searched, as pictures or as a table, to open or to decide
on."""

from clipmem_core.dashboard import browse as b
from clipmem_core.dashboard.component.pairs import follow_destination
from clipmem_core.dashboard.page import open_page
from clipmem_core.review.search import features_of_text, prepare

follow_destination()  # before anything is drawn
with open_page("Browse") as audit:
    selection = b.read_filters()
    b.draw_filters(audit, selection)
    b.draw_conditions(selection)
    b.draw_gallery(audit, selection)
    prepare(features_of_text, audit.record.config, "picture")
