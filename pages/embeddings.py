"""A map of pictures or captions in the embedding space of a member, coloured by scores, to select
pairs from."""

from clipmem_core.dashboard.maps import draw_choices, draw_embedding_map
from clipmem_core.dashboard.page import open_page
from clipmem_core.dashboard.plain import explained_errors

audit = open_page("Map")
with explained_errors():
    name, colour_by = draw_choices(audit)
    draw_embedding_map(audit, name, colour_by)
