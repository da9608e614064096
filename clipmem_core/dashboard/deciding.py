"""Decisions by buttons of a page, stored at once, with a notice that undoes them; and the number of
wrong captions.

Buttons store in their callbacks, which run before the page is drawn, and store a notice for
`draw_notice`. Streamlit may stop a callback at any access to the session's state and start the next
run in parallel, so a callback only changes its `ReviewSession`, under the lock of `locked_session`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from zlib import crc32

import streamlit as st

from clipmem_core.audit.check_table import stored_checks
from clipmem_core.audit.store import Audit
from clipmem_core.columns import REVIEW_PLACE
from clipmem_core.dashboard.page import BROWSE, link
from clipmem_core.dashboard.plain import one_line, pairs_in_words, show_strong, show_text
from clipmem_core.glossary import P_WRONG, meaning
from clipmem_core.io import InputError
from clipmem_core.review.cards import PairCard
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, open_review
from clipmem_core.review.rows import check_counts, score_span
from clipmem_core.review.selection import RANDOM_CHECK, UNDECIDED, Selection
from clipmem_core.review.wrong_captions import random_check, wrong_lines
from clipmem_core.scores.prevalence import CHECKED

Colour = Literal["green", "red", "blue", "gray"]
BADGES: dict[str | None, tuple[str, str, Colour]] = {  # decision → label, icon, colour
    KEEP: ("keep", ":material/check_circle:", "green"),
    REMOVE: ("remove", ":material/delete:", "red"),
    RECAPTION: ("change caption", ":material/edit:", "blue"),
    None: ("undecided", ":material/radio_button_unchecked:", "gray"),
}
REVIEW = "pages/review.py"
_SESSION = "review_session"
LIMIT = 300  # characters of a note or an error
NEXT_LABEL = "Review next (includes 10 % random spot checks)"
_REPEATED = "repeated_caption"  # a check
ESTIMATED = (
    "Counts are sums of these probabilities, with 95 % intervals. If you find more wrong "
    "captions than expected, or "
    "fewer, all other probabilities follow. If the random spot checks contradict them, the "
    "number that remains comes "
    "from the spot checks alone. You can stop where fewer than one in ten of the next pairs is "
    "expected to be wrong."
)


@dataclass(frozen=True)
class Notice:
    """The result of a pressed button: a sentence, and foreign text."""

    sentence: str
    text: str = ""
    good: bool = True
    event: int | None = None  # for its Undo button


@dataclass
class ReviewSession:
    """The state that callbacks change."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    presses: int = 0  # part of the keys of menus, so that a pressed button closes its menu
    notice: Notice | None = None
    events: dict[tuple[str, int], bool] = field(
        default_factory=dict
    )  # audit, number in the log → whether undone

    def saved(self, audit: Audit, sentence: str, event: int) -> None:
        """Set the notice of an event, which its button and the key U undo."""
        self.notice = Notice(sentence, event=event)
        self.events[audit.name, event] = False


def review_session() -> ReviewSession:
    """Return the state of the browser's session."""
    if _SESSION not in st.session_state:
        st.session_state[_SESSION] = ReviewSession()
    session: ReviewSession = st.session_state[_SESSION]
    return session


@contextmanager
def locked_session() -> Iterator[ReviewSession]:
    """Return the session's state, locked for the block; an `InputError` becomes the next notice."""
    session = review_session()
    with session.lock:
        try:
            yield session
        except InputError as error:
            session.notice = Notice("This could not be saved.", one_line(error), good=False)


def undo(audit: Audit, event: int, *, done: str = "Undone") -> None:
    """Undo an event, which may be an undo itself. A callback."""
    with locked_session() as session:
        review = open_review(audit)
        outcome = review.undo(event)
        if outcome is None or outcome.pairs == 0:
            session.notice = Notice(f"Not {done.lower()}: there is a newer decision.", good=False)
            return
        session.events[audit.name, event] = True
        label = BADGES[review.history(page=1, size=1).iloc[0]["decision"]][0]
        unchanged = (
            f" {pairs_in_words(outcome.skipped)}, with newer decisions, unchanged."
            if outcome.skipped
            else ""
        )
        session.notice = Notice(f"{done}: {label}, {pairs_in_words(outcome.pairs)}.{unchanged}")


def draw_notice(audit: Audit, *, key: str) -> None:
    """Draw the result of the last pressed button, once, with a button that undoes it."""
    session = review_session()
    notice = session.notice
    session.notice = None
    if notice is None:
        return
    st.toast(notice.sentence, icon=":material/check:" if notice.good else ":material/warning:")
    with st.container(horizontal=True, vertical_alignment="center"):
        icon = ":green[:material/check:]" if notice.good else ":orange[:material/warning:]"
        st.markdown(f"{icon} {notice.sentence}", width="content")
        if notice.event is not None:
            button = f"{key}-undo-{notice.event}"
            st.button(
                "Undo", type="tertiary", key=button, on_click=undo, args=(audit, notice.event)
            )
        if notice.text:
            show_text(notice.text, limit=LIMIT)


def draw_note(audit: Audit, card: PairCard) -> None:
    """Draw the box of a pair's note, which is independent of its decision."""
    stored = card.decision.note if card.decision else ""
    key = f"note-{audit.name}-{card.row}-{crc32(stored.encode())}"  # another note needs another box
    with st.form(f"{key}-form", border=False):
        st.text_area("Note", stored, key=key, height=80, max_chars=2000)
        store: dict[str, Any] = {
            "on_click": _store_note,
            "args": (audit, card.pair_id, stored, key),
        }
        st.form_submit_button("Save note", icon=":material/edit_note:", **store)


def _store_note(audit: Audit, pair_id: str, before: str, key: str) -> None:
    """Store a note, unless another tab has changed it. A callback."""
    typed = st.session_state[key]
    with locked_session() as session:
        review = open_review(audit)
        current = review.current(pair_id)
        if (current.note if current else "") != before:
            sentence = (
                "Not saved: the note has just changed in another tab. Read it, then "
                "write yours again:"
            )
            session.notice = Notice(sentence, typed, good=False)
        elif typed != before:
            decision = current.decision if current else None
            captions = current.captions if current and decision == RECAPTION else ()
            outcome = review.decide(
                [pair_id], decision, captions=captions, note=typed, audit=audit.name
            )
            session.saved(audit, "Note saved.", outcome.event)


def draw_wrong(audit: Audit) -> None:
    """Draw how many captions are wrong and of what kind, what is not seen, and links to what to do
    next."""
    lines = wrong_lines(audit)
    if lines:
        show_strong(lines[0])
    for line in lines[1:]:
        show_text(line)
    text = random_check(audit)[0]
    with st.container(horizontal=True):
        if score_span(audit, REVIEW_PLACE):
            parameters = link(audit, Selection(order=REVIEW_PLACE, decision=UNDECIDED))
            st.page_link(
                REVIEW,
                label=NEXT_LABEL,
                icon=":material/playlist_add_check:",
                query_params=parameters,
            )
        if text:
            label = f"Check {CHECKED} at random"
            parameters = link(audit, replace(RANDOM_CHECK, decision=UNDECIDED))
            st.page_link(
                REVIEW, label=label, icon=":material/casino:", query_params=parameters, help=text
            )
        if count := stored_checks(audit) and check_counts(audit)[_REPEATED]:
            label = f"Same caption on many pictures: {pairs_in_words(count)}"
            parameters = link(audit, Selection(check=_REPEATED))
            st.page_link(BROWSE, label=label, icon=":material/notes:", query_params=parameters)
    with st.expander("How this is estimated", icon=":material/help_center:"):
        show_text(meaning(P_WRONG))
        show_text(ESTIMATED)
