"""Pairs one after another, each decided by a key; the browser sends the decisions in batches."""

from clipmem_core.dashboard.page import open_page
from clipmem_core.dashboard.plain import explained_errors
from clipmem_core.dashboard.review import draw_review, read_queue

audit = open_page("Review")
with explained_errors():
    draw_review(audit, read_queue(audit))
