"""Decisions of a person, written into the review's log at once, with a sign on the page that they were stored.

Buttons write in their callbacks, which run before the page is drawn: the page then shows what is stored. A callback
leaves a notice for `draw_notice`; what was told in this session is kept, so that undo takes back one's own.

Streamlit stops a run, its callbacks too, wherever it touches the session's state, and begins the next one beside it.
So what a callback does is done in one go, on the `ReviewSession`: nothing in it touches the session's state.
"""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.dashboard.address import PAIR, peek_selection, write
from clipmem_core.dashboard.errors import one_line
from clipmem_core.dashboard.numbers import pairs_in_words
from clipmem_core.dashboard.plain import show_text
from clipmem_core.review.cards import PairCard
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, Decision, Outcome, Review, open_review
from clipmem_core.review.rows import neighbours
from clipmem_core.review.tables import find_row

Colour = Literal["green", "red", "blue", "gray"]
BADGES: dict[str | None, tuple[str, str, Colour]] = {  # decision → word, icon, colour
    KEEP: ("keep", ":material/check_circle:", "green"),
    REMOVE: ("remove", ":material/delete:", "red"),
    RECAPTION: ("recaption", ":material/edit:", "blue"),
    None: ("undecided", ":material/radio_button_unchecked:", "gray"),
}
SESSION = "review_session"
SEEN = "deciding_seen"  # (pair, the entry of the log that the page shows)
GO_ON = "deciding_go_on"
FOR_OTHER_HELP = "Decided in another audit of the data set, where the pair has other captions. It does not count here."
SHOWN = 300  # characters of a note, an id or a caption
LATE = "Pressed while the page was being drawn: not stored."


@dataclass(frozen=True)
class Notice:
    """What became of a press of a button: our own sentence, and text that others wrote."""

    sentence: str
    about: str = ""
    good: bool = True
    event: int | None = None  # what its Undo button takes back


@dataclass
class ReviewSession:
    """What a session has told, and where that leads."""

    turn: threading.RLock = field(default_factory=threading.RLock)
    presses: int = 0  # answered: what was drawn before the last of them is past
    told: list[tuple[str, int]] = field(default_factory=list)  # what can be undone: the audit, the event
    own: list[tuple[Path, range]] = field(default_factory=list)  # the session's entries of a log
    notes: dict[str, str] = field(default_factory=dict)  # what a note's box told last
    notice: Notice | None = None
    way: tuple[str | None, str] | None = None  # from the pair of the address to the one to show

    def takes(self, press: int | None) -> bool:
        """Tell whether a press is the first since its button was drawn; of a second one, the notice says what became.

        Older ones are none of a person: Streamlit's keys may set off the button that was there before as well.

        Args:
            press: the number that the button was drawn with; None for one that may be pressed again.
        """
        if press in (None, self.presses):
            self.presses += 1
            return True
        if press == self.presses - 1:
            before = self.notice or Notice("")
            self.notice = dataclasses.replace(before, sentence=f"{before.sentence} {LATE}".strip(), good=False)
        return False

    def remember(self, audit: Audit, review: Review, outcome: Outcome) -> None:
        """Keep an event of this session, so that undo finds it."""
        self.told.append((audit.name, outcome.event))
        self.keep(review, outcome)

    def keep(self, review: Review, outcome: Outcome) -> None:
        """Keep which entries of the log are the session's own."""
        self.own.append((review.path, range(outcome.first, outcome.first + outcome.pairs)))

    def wrote(self, review: Review, entry: int) -> bool:
        """Tell whether an entry of a log is the session's own."""
        return any(path == review.path and entry in entries for path, entries in self.own)


def review_session() -> ReviewSession:
    """Return what the session of the browser has told so far."""
    if SESSION not in st.session_state:
        st.session_state[SESSION] = ReviewSession()
    session: ReviewSession = st.session_state[SESSION]
    return session


@contextmanager
def in_turn() -> Iterator[ReviewSession]:
    """Give a callback its turn in the session, in which it draws nothing; an `InputError` becomes the next notice.

    What is done in it may not touch the session's state or the address.
    """
    session = review_session()
    with session.turn:
        try:
            yield session
        except InputError as error:
            session.notice = Notice("This could not be stored.", one_line(error), good=False)


def draw_badge(decision: Decision | None) -> None:
    """Draw what was decided as a badge."""
    word, icon, colour = BADGES[decision.decision if decision else None]
    st.badge(word, icon=icon, color=colour)
    if decision is not None and decision.for_other:
        st.badge(decision.words, icon=BADGES[decision.for_other][1], color="gray", help=FOR_OTHER_HELP)


def decide(
    audit: Audit, card: PairCard, decision: str | None, *, captions: Sequence[str] = (), press: int | None = None
) -> None:
    """Store a decision on the page's pair and, if that is wished, go on to the next undecided one. A callback.

    Args:
        audit: the audit that the person looks at.
        card: the pair.
        decision: keep, remove, recaption, or None to take it back.
        captions: the new ones, for recaption.
        press: the number that the button was drawn with, see `ReviewSession`.
    """
    goes_on = decision is not None and st.session_state.get(GO_ON, True)
    selection, (shown, entry) = peek_selection(), st.session_state.get(SEEN, (None, None))
    seen = entry if shown == card.pair_id else None
    with in_turn() as session:
        if not session.takes(press):
            return
        following = neighbours(audit, selection, card.pair_id).next_undecided if goes_on else None
        review = open_review(audit)
        outcome = review.decide([card.pair_id], decision, captions=captions, audit=audit.name, seen=seen)
        session.remember(audit, review, outcome)
        end = " No undecided pair is left in this selection." if goes_on and following is None else ""
        stored = Notice(f"Stored: {BADGES[decision][0]}.{end}", card.pair_id, event=outcome.event)
        session.notice = _overtaken(session, review, outcome) or stored
        session.way = (card.pair_id, following) if following is not None else None


def write_note(audit: Audit, card: PairCard, typed: str, *, box: str, drawn: str) -> None:
    """Store a note beside whatever was decided, if a person changed it. A callback.

    A browser sends what its boxes say with whatever else it sends, also of boxes that are gone, and Streamlit may call
    that a change. So the note is compared with what its box told last, and with what is stored.

    Args:
        audit: the audit that the person looks at.
        card: the pair.
        typed: the note.
        box: tells the boxes apart.
        drawn: what the box was drawn with.
    """
    with in_turn() as session:
        review = open_review(audit)
        stands = review.current(card.pair_id)
        before, stored = session.notes.get(box, drawn), stands.note if stands else ""
        if typed in (before, stored):
            return
        if stored != before:
            sentence = "Not stored: somebody else has changed the note. Look at it, then write yours again:"
            session.notice = Notice(sentence, typed, good=False)
            return
        decision, captions = (stands.decision, stands.captions) if stands else (None, ())
        outcome = review.decide([card.pair_id], decision, captions=captions, note=typed, audit=audit.name)
        session.notes[box] = typed
        session.remember(audit, review, outcome)
        session.notice = Notice("Note stored.", card.pair_id, event=outcome.event)


def _overtaken(session: ReviewSession, review: Review, outcome: Outcome) -> Notice | None:
    """Return the warning where somebody else decided between what the page showed and the press of the button."""
    other = outcome.overtaken
    if other is None or session.wrote(review, other.entry):
        return None
    word = BADGES[other.decision][0]
    sentence = f"Stored, but somebody else had just said {word}; yours stands now. Undo brings theirs back."
    return Notice(sentence, other.pair_id, good=False, event=outcome.event)


def undo(audit: Audit, event: int | None = None, *, press: int | None = None) -> None:
    """Take back an event, else the last one of this session, else the last decision of the log. A callback."""
    shown = st.query_params.get(PAIR)
    with in_turn() as session:
        if not session.takes(press):
            return
        own = [number for name, number in session.told if name == audit.name]
        wanted = event or (own[-1] if own else None)
        review = open_review(audit)
        outcome = review.undo(wanted)
        session.told = [each for each in session.told if each != (audit.name, wanted)]
        session.notice, pair_id = _taken_back(outcome, review)
        if outcome is not None:
            session.keep(review, outcome)
        if shown and pair_id is not None and find_row(audit, pair_id) is not None:
            session.way = (shown, pair_id)


def _taken_back(outcome: Outcome | None, review: Review) -> tuple[Notice, str | None]:
    """Return what an undo took back, and its pair where it is only one."""
    if outcome is None:
        return Notice("There is nothing to undo.", good=False), None
    if outcome.pairs == 0:
        return Notice("Nothing was undone: somebody has decided anew since.", good=False), None
    last = review.history(page=1, size=1).iloc[0]
    left = f" {pairs_in_words(outcome.left)}, decided anew since, stayed as it is." if outcome.left else ""
    sentence = f"Undone: {BADGES[last['decision']][0]}, {pairs_in_words(outcome.pairs)}.{left}"
    pair_id = str(last["first_pair_id"])
    return (Notice(sentence, pair_id), pair_id) if outcome.pairs == 1 else (Notice(sentence), None)


def go_on() -> None:
    """Write into the address the pair that the last press leads to, once the page is drawn that was pressed."""
    session = review_session()
    if session.way is None:
        return
    left, there = session.way
    if st.query_params.get(PAIR, left) == left:
        write(pair=there)
    session.way = None


def draw_notice(audit: Audit, *, key: str) -> None:
    """Draw what became of the last press of a button, once, with a button that undoes it.

    Args:
        audit: the audit of the page.
        key: tells the notices of a page apart.
    """
    session = review_session()
    notice, session.notice = session.notice, None
    if notice is None:
        return
    st.toast(notice.sentence, icon=":material/check:" if notice.good else ":material/warning:")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        icon = ":green[:material/check:]" if notice.good else ":orange[:material/warning:]"
        st.markdown(f"{icon} {notice.sentence}", width="content")
        if notice.event is not None:
            st.button(
                "Undo", type="tertiary", key=f"{key}-undo-{notice.event}", on_click=undo, args=(audit, notice.event)
            )
        if notice.about:
            show_text(notice.about, limit=SHOWN)
