"""Pairs one after another, each judged by a key: what is pressed is taken in the browser and stored as it goes."""

from clipmem_core.dashboard.page import open_page
from clipmem_core.dashboard.plain import explained_errors
from clipmem_core.dashboard.review import draw_review, read_queue

audit = open_page("Review")
with explained_errors():
    draw_review(audit, read_queue(audit))
