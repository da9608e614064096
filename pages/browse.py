"""Pairs in the order of a score, filtered and searched, as cards or as a table, to be opened or decided on."""

from clipmem_core.dashboard.address import read_selection
from clipmem_core.dashboard.errors import explained_errors
from clipmem_core.dashboard.filters import draw_conditions, draw_filters, draw_queues
from clipmem_core.dashboard.frame import open_page
from clipmem_core.dashboard.gallery import draw_gallery, read_layout

audit = open_page("Browse")
with explained_errors():
    selection = read_selection()
    draw_queues(audit, selection, read_layout())
    draw_filters(audit, selection)
    draw_conditions(selection)
    draw_gallery(audit, selection)
