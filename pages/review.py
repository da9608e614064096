"""Pairs one after another, each judged by a key: what is pressed is taken in the browser and stored as it goes."""

from clipmem_core.dashboard.errors import explained_errors
from clipmem_core.dashboard.frame import open_page
from clipmem_core.dashboard.reviewing import draw_review, read_queue

audit = open_page("Review")
with explained_errors():
    draw_review(audit, read_queue(audit))
