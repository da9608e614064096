"""Audits."""

from clipmem_core.dashboard.frame import open_bare_page

open_bare_page("Audits")
