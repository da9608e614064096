"""Decisions and export."""

from clipmem_core.dashboard.frame import open_page

open_page("Decisions and export")
