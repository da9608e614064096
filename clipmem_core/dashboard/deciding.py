"""Decisions by buttons of a page, stored at once, with a notice that undoes them; and the number of
wrong captions.

Buttons store in their callbacks, which run before the page is drawn, and store a notice for
`draw_notice`. Streamlit may stop a callback at any access to the session's state, so a callback
reads its `ReviewSession` once, before it stores a decision, and then changes only that object.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.dashboard.page import draw_link, link
from clipmem_core.dashboard.plain import (
    in_a_row,
    in_one_line,
    pairs_in_words,
    show_strong,
    show_text,
)
from clipmem_core.errors.certificate import NEXT
from clipmem_core.review.decisions import (
    KEEP,
    RECAPTION,
    REMOVE,
    SEVERAL,
    Outcome,
    count_decisions,
    open_review,
)
from clipmem_core.review.views import RANDOM_CHECK, UNDECIDED, Selection
from clipmem_core.review.wrong_captions import review_progress, wrong_lines
from clipmem_core.utils.columns import P_WRONG, REVIEW_PLACE, meaning
from clipmem_core.utils.io import InputError

BADGES: dict[str | None, tuple[str, str, Any]] = {  # decision → label, icon, colour
    KEEP: ("keep", ":material/check_circle:", "green"),
    REMOVE: ("remove", ":material/delete:", "red"),
    RECAPTION: ("change caption", ":material/edit:", "blue"),
    SEVERAL: ("several", ":material/checklist:", "gray"),
    None: ("undecided", ":material/radio_button_unchecked:", "gray"),
}
_SESSION = "review_session"


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

    notice: Notice | None = None
    # Audit and number in the log → whether undone
    events: dict[tuple[str, int], bool] = field(default_factory=dict)

    def saved(self, audit: Audit, done: str, outcome: Outcome) -> None:
        """Set the notice of what was done, which its button and the key U undo."""
        self.notice = Notice(f"{done}: {outcome_words(outcome)}", event=outcome.event)
        self.events[audit.name, outcome.event] = False


def outcome_words(outcome: Outcome) -> str:
    """Return how many pairs were decided, and how many were left as they are."""
    words = f"{pairs_in_words(outcome.pairs)}."
    if outcome.skipped:
        words += f" Unchanged, as a newer decision exists: {pairs_in_words(outcome.skipped)}."
    return words


def draw_badge(decision: str | None) -> None:
    """Draw a decision."""
    label, icon, colour = BADGES[decision]
    st.badge(label, icon=icon, color=colour)


def review_session() -> ReviewSession:
    """Return the state of the browser's session."""
    session: ReviewSession = st.session_state.setdefault(_SESSION, ReviewSession())
    return session


@contextmanager
def storing_decisions() -> Iterator[ReviewSession]:
    """Return the session's state; an `InputError` of the block becomes the next notice."""
    session = review_session()
    try:
        yield session
    except InputError as error:
        session.notice = Notice("This could not be saved.", in_one_line(error), good=False)


def undo(audit: Audit, event: int) -> None:
    """Undo an event, which may be an undo itself. A callback."""
    with storing_decisions() as session:
        review = open_review(audit)
        outcome = review.undo(event)
        if not outcome.pairs:
            session.notice = Notice("Not undone: these pairs have a newer decision.", good=False)
            return
        session.events[audit.name, event] = True
        label = BADGES[review.history(page=1, size=1).iloc[0]["decision"]][0]
        session.notice = Notice(f"Undone: {label}, {outcome_words(outcome)}")


def draw_undo(audit: Audit, event: int, *, key: str) -> None:
    """Draw the button that undoes an event."""
    st.button("Undo", key=key, on_click=undo, args=(audit, event))


def draw_notice(audit: Audit) -> None:
    """Draw the result of the last pressed button, once, with a button that undoes it."""
    session = review_session()
    notice = session.notice
    session.notice = None
    if notice is None:
        return
    st.toast(notice.sentence, icon=":material/check:" if notice.good else ":material/warning:")
    with in_a_row():
        icon = ":green[:material/check:]" if notice.good else ":orange[:material/warning:]"
        st.markdown(f"{icon} {notice.sentence}", width="content")
        if notice.event is not None:
            draw_undo(audit, notice.event, key=f"notice-undo-{notice.event}")
        if notice.text:
            show_text(notice.text, limit=300)


def draw_wrong(audit: Audit) -> None:
    """Draw how many captions are wrong, the button that reviews the next one, and a link to random
    checks."""
    for line in wrong_lines(audit)[:1]:
        show_strong(line)
    if review_progress(audit).is_wide:
        st.caption(f"This range is wide. {NEXT} random checks narrow it.")
    with in_a_row():
        about = "The likeliest wrong captions first; one pair in ten is a random spot check."
        if st.button("Review next", type="primary", help=about):
            suspicious = Selection(order=REVIEW_PLACE, decision=UNDECIDED)
            st.switch_page("pages/review.py", query_params=link(audit, suspicious))
        checks = replace(RANDOM_CHECK, decision=UNDECIDED)
        draw_link("review", f"Check {NEXT} at random", audit, checks)


def draw_reviewed(audit: Audit) -> None:
    """Draw how many pairs are decided, what random checks guarantee, what is not seen, and how all
    of it is estimated."""
    counts = count_decisions(audit)
    total = sum(counts.values())
    done = total - counts[UNDECIDED]
    st.progress(done / total, f"{done:,} of {total:,} pairs decided")
    for line in wrong_lines(audit)[1:]:
        show_text(line)
    with st.expander("How this is estimated"):
        show_text(meaning(P_WRONG))
        show_text(
            "Before you decide, the count is the sum of the pairs' probabilities. It starts from "
            "the scores alone and can be off by a factor of two or more; the interval allows for "
            "errors that the scores overrate, underrate or miss. Each decision corrects it, and "
            "random checks pull it to the truth. Up to three in a hundred decisions may be slips. "
            "The upper bound comes from random checks alone, without any model. It holds whenever "
            "you stop; a pair that you kept counts as right."
        )
