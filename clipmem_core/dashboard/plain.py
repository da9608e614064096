"""Text on a page: foreign text as it is, errors in one line, and numbers in few digits.

Captions, labels, file names and messages may hold HTML, Markdown, formulas, emoji codes or
Streamlit's directives. They reach the page through this module or through data tables, never
through a function that reads Markdown.
"""

import html
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import streamlit as st

from clipmem_core.audit.store import Audit
from clipmem_core.io import InputError

LIMIT = 1000  # characters of a message
_LINES = 6
MODERATED = "moderated"  # `se_kind` of the verdict if single pairs have errors
MODERATED_ERROR = "standard error, pooled over similar pairs (95 % interval: 1.96 times it)"
UNITS = ("B", "kB", "MB", "GB", "TB")


def show_text(text: str, *, limit: int = 0) -> None:
    """Write text without parsing it; a limit in characters cuts it, with an ellipsis."""
    st.text(cut(text, limit) if limit else text)


def cut(text: str, limit: int) -> str:
    """Return text of at most `limit` characters and a few lines, with an ellipsis if it was cut."""
    short = "\n".join(text.splitlines()[:_LINES]) if text.count("\n") >= _LINES else text
    short = short[:limit].rstrip() if len(short) > limit else short
    return short if short == text else f"{short}…"


def as_html(text: str, *, limit: int = 0) -> str:
    """Return text as escaped HTML that isolates its writing direction: for `st.html`."""
    return f"<bdi>{html.escape(cut(text, limit) if limit else text)}</bdi>"


def show_title(text: str, subject: str = "") -> None:
    """Write text as the page's main heading, and in lighter letters the subject of the page."""
    about = (
        f' <bdi style="font-weight:400;opacity:.65">{html.escape(subject)}</bdi>' if subject else ""
    )
    st.html(
        '<h1 dir="auto" '
        f'style="margin:0;padding:0;overflow-wrap:anywhere">{html.escape(text)}{about}</h1>'
    )


def show_strong(text: str) -> None:
    """Write text in bold."""
    st.html(
        f'<div dir="auto" style="font-weight:600;overflow-wrap:anywhere">{html.escape(text)}</div>'
    )


def one_line(message: object) -> str:
    """Return a message in one line."""
    return " ".join(str(message).split())


@contextmanager
def explained_errors(
    sentence: str = "This audit cannot be shown.", *, ends: bool = True
) -> Iterator[None]:
    """Show an `InputError` of the block, which names the file and the fix, and end the page there,
    or go on."""
    try:
        yield
    except InputError as error:
        draw_fault(sentence, error)
        if ends:
            st.stop()


@contextmanager
def one_line_errors(part: str) -> Iterator[None]:
    """Show an `InputError` of the block in one line, and go on with the page."""
    try:
        yield
    except InputError as error:
        show_text(f"{part} cannot be shown: {one_line(error)}", limit=LIMIT)


def show_command(command: str) -> None:
    """Show the command that does the same in a terminal."""
    st.caption("Command line:")
    st.code(command, language="bash", wrap_lines=True)


def draw_fault(sentence: str, message: object, *, icon: str = ":material/error:") -> None:
    """Draw which step failed, and below it in one line the message of the error or process."""
    st.error(sentence, icon=icon)
    show_text(one_line(message), limit=LIMIT)


@dataclass(frozen=True)
class Noise:
    """The uncertainty of clipmem in an audit."""

    error: str = ""  # a description of the errors of single pairs; empty without such errors
    floor: float | None = (
        None  # standard deviation of clipmem over external pairs, which no member trained on
    )

    def around(self, clipmem: float | None, error: float | None) -> str:
        """Return the uncertainty that follows a pair's clipmem."""
        if clipmem is None:
            return ""
        if error is not None and self.error:
            return f" ± {error:.2f}"
        return "" if self.floor is None else f" (noise {self.floor:.2f})"

    def explain(self) -> str:
        """Return a sentence that explains `around`."""
        if self.error:
            return f"± {self.error}."
        if self.floor is None:
            return "This audit has no estimate of the error of clipmem."
        return f"Noise {self.floor:.2f}: SD of clipmem over external pairs, which no member saw."


def read_verdict(audit: Audit) -> dict[str, Any]:
    """Return an audit's verdict, empty where it is missing or broken."""
    try:
        return audit.verdict
    except InputError:
        return {}


def read_noise(audit: Audit) -> Noise:
    """Return the uncertainty that an audit's verdict states."""
    verdict = read_verdict(audit)
    error = MODERATED_ERROR if verdict.get("se_kind") == MODERATED else ""
    floor = verdict.get("external_sd")
    return Noise(error, floor if floor is not None and math.isfinite(floor) else None)


def number(value: float | None) -> str:
    """Return a score in two or three digits: −0.35, 0.031, 3.00; a dash if it is None or not
    finite."""
    if value is None or not math.isfinite(value):
        return "–"
    small = 0 < abs(value) < 0.095
    return (f"{value:.2g}" if small else f"{value:.2f}").replace("-", "−")


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def duration(seconds: float) -> str:
    """Return a time in two units at most; empty if it is not finite."""
    if not math.isfinite(seconds):
        return ""
    minutes, remainder = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {remainder} s" if minutes else f"{remainder} s"


def bytes_in_words(count: int) -> str:
    """Return a size as text, in B to TB."""
    power = min(len(UNITS) - 1, int(math.log10(count) // 3)) if count else 0
    return f"{count:,} B" if power == 0 else f"{count / 1000**power:.1f} {UNITS[power]}"


def pairs_in_words(count: int) -> str:
    """Return a number of pairs as text."""
    return "1 pair" if count == 1 else f"{count:,} pairs"


def moment(time: str) -> str:
    """Return an ISO time without its seconds."""
    return f"{time[:10]} {time[11:16]}"
