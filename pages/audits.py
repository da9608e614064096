"""All audits: start one, follow its progress, open or delete it."""

from clipmem_core.auditing.folder.jobs import list_states
from clipmem_core.dashboard.audits import draw_check, draw_list, draw_request
from clipmem_core.dashboard.page import (
    choose_segment,
    open_bare_page,
    read_choice,
)

VIEWS = {"list": "All audits", "start": "Start an audit"}
VIEW = "view"  # in the address


with open_bare_page("Audits"):
    usual = "list" if list_states() else "start"
    view = read_choice(VIEW, VIEWS, usual)
    # Each view has its own widget: a late message of the browser for the previous view changes
    # nothing.
    choose_segment("View", VIEWS, parameter=VIEW, key=f"{VIEW}-{view}", default=usual, hidden=True)
    if view == "start":
        draw_check(draw_request())
    else:
        draw_list()
