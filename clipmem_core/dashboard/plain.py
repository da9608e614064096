"""Text that others wrote, shown on the page as it is, whatever it spells.

Captions, labels, file names and messages may hold HTML, Markdown, formulas, emoji codes or Streamlit's directives.
They reach the page through this module or through data tables, never through a function that reads Markdown.
"""

import html
import re
from difflib import SequenceMatcher

import streamlit as st

LINES = 6


def show_text(text: str, *, limit: int = 0) -> None:
    """Write text as it is, parsed as nothing; a limit in characters cuts it visibly."""
    st.text(cut(text, limit) if limit else text)


def cut(text: str, limit: int) -> str:
    """Return text of at most `limit` characters and a few lines, with an ellipsis where something is missing.

    Example:
        >>> cut("a long caption", 6)
        'a long…'
    """
    lines = text.splitlines()
    short = "\n".join(lines[:LINES]) if len(lines) > LINES else text
    short = short[:limit].rstrip() if len(short) > limit else short
    return short if short == text else f"{short}…"


def as_html(text: str, *, limit: int = 0) -> str:
    """Return HTML that shows text as it is, and keeps the direction it is written in to itself: for `st.html`.

    Example:
        >>> as_html("<b>")
        '<bdi>&lt;b&gt;</bdi>'
    """
    return f"<bdi>{html.escape(cut(text, limit) if limit else text)}</bdi>"


def difference_html(before: str, after: str) -> str:
    """Return HTML that shows how a text changes, word by word: what goes in `del`, what comes in `ins`.

    Example:
        >>> difference_html("a red <b>", "a blue <b>")
        '<bdi>a <del>red</del><ins>blue</ins> &lt;b&gt;</bdi>'
    """
    old, new = (re.split(r"(\s+)", text) for text in (before, after))
    parts = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, came = (html.escape("".join(words)) for words in (old[a:b], new[c:d]))
        parts.append(came if kind == "equal" else f"<del>{gone}</del>" * bool(gone) + f"<ins>{came}</ins>" * bool(came))
    return f"<bdi>{''.join(parts)}</bdi>"


def show_title(text: str, of: str = "") -> None:
    """Write text as the page's main heading, and in lighter letters what the page is about."""
    about = f' <bdi style="font-weight:400;opacity:.65">{html.escape(of)}</bdi>' if of else ""
    st.html(f'<h1 dir="auto" style="margin:0;padding:0;overflow-wrap:anywhere">{html.escape(text)}{about}</h1>')


def show_strong(text: str) -> None:
    """Write text in bold."""
    st.html(f'<div dir="auto" style="font-weight:600;overflow-wrap:anywhere">{html.escape(text)}</div>')


def show_chips(chips: list[tuple[str, str]]) -> None:
    """Write a row of words, each after a dot of its colour.

    Args:
        chips: (word, colour) pairs; the colours are ours, the words may be anything.
    """
    dots = (
        f'<span style="white-space:nowrap"><span aria-hidden="true" style="color:{colour}">●</span> '
        f"<bdi>{html.escape(word)}</bdi></span>"
        for word, colour in chips
    )
    st.html(f'<div style="display:flex;flex-wrap:wrap;gap:0 .8rem;font-size:.85rem">{"".join(dots)}</div>')
