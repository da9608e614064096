"""Errors that a person can mend, in plain lines on the page, never a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from clipmem_core.config import InputError
from clipmem_core.dashboard.plain import show_text

LIMIT = 1000  # characters of what an error or a process says


def one_line(said: object) -> str:
    """Return what an error or a process says in one line."""
    return " ".join(str(said).split())


@contextmanager
def explained_errors() -> Iterator[None]:
    """Show an `InputError` of the block, which names the file and the fix, and end the page there."""
    try:
        yield
    except InputError as error:
        st.error("This audit cannot be shown.", icon=":material/error:")
        show_text(one_line(error))
        st.stop()


@contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """Say in one line that a part of the page cannot be shown, and why; the rest of the page stays."""
    try:
        yield
    except InputError as error:
        show_text(f"{what} cannot be shown: {one_line(error)}", limit=LIMIT)


def draw_fault(sentence: str, said: object, *, icon: str = ":material/error:") -> None:
    """Draw what failed, in our own words, and below it in one line what an error or a process says of it."""
    st.error(sentence, icon=icon)
    show_text(one_line(said), limit=LIMIT)
