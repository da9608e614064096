"""A map of pictures or captions as a member sees them, coloured by scores, to choose pairs from."""

from clipmem_core.dashboard.errors import explained_errors
from clipmem_core.dashboard.frame import open_page
from clipmem_core.dashboard.maps import draw_choices, draw_embedding_map

audit = open_page("Map of embeddings")
with explained_errors():
    name, colour_by = draw_choices(audit)
    draw_embedding_map(audit, name, colour_by)
