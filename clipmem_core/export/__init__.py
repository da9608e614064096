"""Exports of an audit: the cleaned data set in a format of other tools, the decisions, a report."""

from clipmem_core.export.formats import FORMATS, Format, Summary, write

__all__ = ["FORMATS", "Format", "Summary", "write"]
