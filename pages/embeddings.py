"""A map of pictures or captions by similarity, coloured by scores or decisions, to select pairs
from."""

from clipmem_core.dashboard.histogram_filters import draw_conditions, read_filters
from clipmem_core.dashboard.maps import draw_choices, draw_map
from clipmem_core.dashboard.page import open_page

with open_page("Map") as audit:
    selection = read_filters()
    side, colour_by = draw_choices(audit, selection)
    draw_conditions(selection)
    draw_map(audit, side, colour_by, selection)
