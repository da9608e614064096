"""Text on a page: foreign text as it is, errors in one line, and numbers in few digits.

Captions, labels, file names and messages may hold HTML, Markdown, formulas, emoji codes or Streamlit's directives.
They reach the page through this module or through data tables, never through a function that reads Markdown.
"""

import html
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.io import is_number, mapping

LIMIT = 1000  # characters of what an error or a process says
LINES = 6
MODERATED = "moderated"  # the verdict's word for errors of single pairs
MODERATED_ERROR = "standard error (pooled with like pairs; ± 1.96 of it covers 95 %)"
UNITS = ("B", "kB", "MB", "GB", "TB")


def show_text(text: str, *, limit: int = 0) -> None:
    """Write text as it is, parsed as nothing; a limit in characters cuts it visibly."""
    st.text(cut(text, limit) if limit else text)


def cut(text: str, limit: int) -> str:
    """Return text of at most `limit` characters and a few lines, with an ellipsis where something is missing."""
    short = "\n".join(text.splitlines()[:LINES]) if text.count("\n") >= LINES else text
    short = short[:limit].rstrip() if len(short) > limit else short
    return short if short == text else f"{short}…"


def as_html(text: str, *, limit: int = 0) -> str:
    """Return HTML that shows text as it is, and isolates the direction it is written in: for `st.html`."""
    return f"<bdi>{html.escape(cut(text, limit) if limit else text)}</bdi>"


def difference_html(before: str, after: str) -> str:
    """Return HTML that shows how a text changes, word by word: `del` for what goes, `ins` for what comes."""
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
    """Write a row of words, each after a dot of its colour."""
    dots = (
        f'<span style="white-space:nowrap"><span aria-hidden="true" style="color:{colour}">●</span> '
        f"{as_html(word)}</span>"
        for word, colour in chips
    )
    st.html(f'<div style="display:flex;flex-wrap:wrap;gap:0 .8rem;font-size:.85rem">{"".join(dots)}</div>')


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


@dataclass(frozen=True)
class Noise:
    """The uncertainty of clipmem in an audit."""

    error: str = ""  # what the errors of single pairs are; empty where there are none to show
    floor: float | None = None  # standard deviation of clipmem over external pairs, which no member learned

    def around(self, clipmem: float | None, error: float | None) -> str:
        """Return what is written after a pair's clipmem."""
        if clipmem is None:
            return ""
        if error is not None and self.error:
            return f" ± {error:.2f}"
        return "" if self.floor is None else f" (noise {self.floor:.2f})"

    def explain(self) -> str:
        """Return one line on what `around` writes."""
        if self.error:
            return f"± {self.error}."
        if self.floor is None:
            return "This audit has no estimate of the error of clipmem."
        return f"Noise {self.floor:.2f}: SD of clipmem over external pairs, which no member saw."


def read_verdict(audit: Audit) -> dict[str, Any]:
    """Return an audit's verdict, empty where it is missing or broken."""
    try:
        return mapping(audit.verdict)
    except InputError:
        return {}


def read_noise(audit: Audit) -> Noise:
    """Return the uncertainty that an audit's verdict states."""
    verdict = read_verdict(audit)
    error = MODERATED_ERROR if verdict.get("se_kind") == MODERATED else ""
    floor: Any = verdict.get("external_sd")
    return Noise(error, float(floor) if is_number(floor) else None)


def number(value: float | None) -> str:
    """Return a score with the digits that matter: −0.35, 0.031, 3.00; a dash where it is None or not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    small = 0 < abs(value) < 0.095
    return (f"{value:.2g}" if small else f"{value:.2f}").replace("-", "−")


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def duration(seconds: float) -> str:
    """Return a time in two units at most; nothing where it is not finite."""
    if not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def bytes_in_words(count: int) -> str:
    """Return a size in the unit that suits it."""
    power = min(len(UNITS) - 1, int(math.log10(count) // 3)) if count else 0
    return f"{count:,} B" if power == 0 else f"{count / 1000**power:.1f} {UNITS[power]}"


def pairs_in_words(count: int) -> str:
    """Return a number of pairs."""
    return "1 pair" if count == 1 else f"{count:,} pairs"


def moment(time: str) -> str:
    """Return an ISO time without its seconds."""
    return f"{time[:10]} {time[11:16]}"
