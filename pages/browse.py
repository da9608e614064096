"""Pairs in the order of a score, filtered and searched, as pictures or as a table, to be opened or decided on."""

from clipmem_core.dashboard.browse import draw_gallery, draw_top
from clipmem_core.dashboard.errors import explained_errors
from clipmem_core.dashboard.filters import draw_conditions, draw_filters, read_filters
from clipmem_core.dashboard.frame import open_page
from clipmem_core.dashboard.pair_component import follow_way

follow_way()  # before anything is drawn that is left at once
audit = open_page("Browse")
with explained_errors():
    selection = read_filters(audit)
    beside = draw_top(audit, selection)
    draw_filters(audit, selection)
    draw_conditions(selection)
    draw_gallery(audit, selection, beside=beside)
