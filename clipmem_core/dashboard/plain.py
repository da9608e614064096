"""Text on a page: foreign text as it is, errors in one line, and numbers in few digits.

Captions, labels, file names and messages may hold HTML, Markdown, formulas, emoji codes or
Streamlit's directives. They reach the page through this module or through data tables, never
through a function that reads Markdown.
"""

import html
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from clipmem_core.utils.io import InputError

LIMIT = 1000  # characters of a message
# Plotly's settings of a chart to zoom into and to select from
ZOOMABLE = {
    "displaylogo": False,
    "displayModeBar": True,
    "scrollZoom": True,
    "modeBarButtonsToRemove": ["toImage", "autoScale2d"],
}
_LINES = 6


def in_a_row(vertical_alignment: Any = "center", **options: Any) -> DeltaGenerator:
    """Return a container whose elements are side by side."""
    return st.container(horizontal=True, vertical_alignment=vertical_alignment, **options)


def show_text(text: str, *, limit: int = 0) -> None:
    """Write text without parsing it; a limit in characters cuts it, with an ellipsis."""
    st.text(cut(text, limit) if limit else text)


def cut(text: str, limit: int) -> str:
    """Return text of at most `limit` characters and a few lines, with an ellipsis if it was cut."""
    short = "\n".join(text.split("\n")[:_LINES])[:limit]
    return text if short == text else f"{short.rstrip()}…"


def show_title(text: str, subject: str = "") -> None:
    """Write text as the page's main heading, and in lighter letters the subject of the page."""
    about = (
        f' <bdi style="font-weight:400;opacity:.75">{html.escape(subject)}</bdi>' if subject else ""
    )
    st.html(
        '<h1 dir="auto" '
        f'style="margin:0;padding:0;overflow-wrap:anywhere">{html.escape(text)}{about}</h1>'
    )


def show_strong(text: str, *, provisional: bool = False) -> None:
    """Write text in bold, or in grey if it is provisional."""
    style = "opacity:.65" if provisional else "font-weight:600"
    st.html(f'<div dir="auto" style="{style};overflow-wrap:anywhere">{html.escape(text)}</div>')


def in_one_line(message: object, limit: int = 0) -> str:
    """Return a message in one line; a limit in characters cuts it, with an ellipsis."""
    line = " ".join(str(message).split())
    return cut(line, limit) if limit else line


@contextmanager
def explained_errors(
    sentence: str = "This audit cannot be shown.", *, ends: bool = True
) -> Iterator[None]:
    """Show an `InputError` of the block, which names the file and the fix, below a sentence, and
    end the page there, or go on."""
    try:
        yield
    except InputError as error:
        draw_fault(sentence, error)
        if ends:
            st.stop()


def show_command(command: str, purpose: str = "Command line:") -> None:
    """Show a command for a terminal; without a purpose, it does the same as the page."""
    st.caption(purpose)
    st.code(command, language=None, wrap_lines=True)  # colours of the shell are too light


def draw_fault(sentence: str, message: object) -> None:
    """Draw which step failed, and below it in one line the message of the error or process."""
    st.error(sentence, icon=":material/error:")
    show_text(in_one_line(message), limit=LIMIT)


def draw_figure(figure: go.Figure, *, key: str, alt: str) -> None:
    """Draw a figure without a toolbar."""
    st.plotly_chart(figure, key=key, config={"displayModeBar": False}, alt=alt)


def draw_table(values: pd.DataFrame, *, alt: str) -> None:
    """Draw a table: numbers with three decimals, names with spaces for underscores."""
    shown = values.rename(columns=lambda name: name.replace("_", " ")).round(3)
    st.dataframe(shown, hide_index=True, alt=alt)


def format_score(value: float | None) -> str:
    """Return a score in two or three digits: −0.35, 0.031, 3.00; a dash if it is None or not
    finite."""
    if value is None or not math.isfinite(value):
        return "–"
    small = 0 < abs(value) < 0.095
    return (f"{value:.2g}" if small else f"{value:.2f}").replace("-", "−")


def format_difference(value: float | None) -> str:
    """Return a difference with its sign."""
    return f"+{format_score(value)}" if value is not None and value > 0 else format_score(value)


def duration(seconds: float) -> str:
    """Return a time in minutes; empty if it is not finite."""
    return f"{max(1, round(seconds / 60)):,} min" if math.isfinite(seconds) else ""


def pairs_in_words(count: int) -> str:
    """Return a number of pairs as text."""
    return "1 pair" if count == 1 else f"{count:,} pairs"


def moment(time: str) -> str:
    """Return an ISO time without its seconds."""
    return f"{time[:10]} {time[11:16]}"
