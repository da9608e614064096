"""An error a person can mend → two plain lines on the page, never a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from clipmem_core.config import InputError
from clipmem_core.dashboard.plain import show_text


@contextmanager
def explained_errors() -> Iterator[None]:
    """Show an `InputError` of the block, which names the file and the fix, and end the page there."""
    try:
        yield
    except InputError as error:
        st.error("This audit cannot be shown.", icon=":material/error:")
        show_text(" ".join(str(error).split()))
        st.stop()


def draw_fault(sentence: str, said: object, *, icon: str = ":material/error:") -> None:
    """Draw what failed, in our own words, and below it in one line what an error or a process says of it.

    Args:
        sentence: of our own words.
        said: an error, or text of others.
        icon: of the sentence.
    """
    st.error(sentence, icon=icon)
    show_text(" ".join(str(said).split()), limit=1000)
