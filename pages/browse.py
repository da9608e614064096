"""Pairs sorted by a score, filtered and searched, as pictures or as a table, to open or to decide on."""

from clipmem_core.dashboard.browse import draw_gallery, draw_top
from clipmem_core.dashboard.filters import draw_conditions, draw_filters, read_filters
from clipmem_core.dashboard.page import open_page
from clipmem_core.dashboard.pair_component import follow_destination
from clipmem_core.dashboard.plain import explained_errors

follow_destination()  # before anything is drawn
audit = open_page("Browse")
with explained_errors():
    selection = read_filters(audit)
    actions = draw_top(audit, selection)
    draw_filters(audit, selection)
    draw_conditions(selection)
    draw_gallery(audit, selection, actions=actions)
