"""Decisions with the widgets of a page, written into the review's log at once, with a sign that they were stored.

Buttons write in their callbacks, which run before the page is drawn: the page then shows what is stored. A callback
leaves a notice for `draw_notice`; the session keeps its own decisions, so that undo takes back one of them.

Streamlit stops a run, its callbacks too, wherever it touches the session's state, and begins the next one beside it.
So what a callback does is done in one go, on the `ReviewSession`: nothing in it touches the session's state.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.dashboard.page import PAIR, peek_selection, write
from clipmem_core.dashboard.plain import LIMIT, moment, one_line, pairs_in_words, show_text
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
LATE = "Pressed while the page was loading: not saved."


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
        """
        if press in (None, self.presses):
            self.presses += 1
            return True
        if press == self.presses - 1:
            before = self.notice or Notice("")
            self.notice = replace(before, sentence=f"{before.sentence} {LATE}".strip(), good=False)
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
            session.notice = Notice("This could not be saved.", one_line(error), good=False)


def draw_badge(decision: Decision | None) -> None:
    """Draw what was decided as a badge."""
    word, icon, colour = BADGES[decision.decision if decision else None]
    st.badge(word, icon=icon, color=colour)
    if decision is not None and decision.for_other:
        st.badge(decision.words, icon=BADGES[decision.for_other][1], color="gray", help=FOR_OTHER_HELP)


def decide(
    audit: Audit, card: PairCard, decision: str | None, *, captions: Sequence[str] = (), press: int | None = None
) -> None:
    """Store a decision on the page's pair and, if that is wished, go on to the next undecided one. A callback."""
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
        stored = Notice(f"Saved: {BADGES[decision][0]}.{end}", card.pair_id, event=outcome.event)
        if (other := outcome.overtaken) is not None and not session.wrote(review, other.entry):
            word = BADGES[other.decision][0]
            sentence = f"Saved. Just marked {word} in another tab; yours replaces it. Undo brings it back."
            stored = Notice(sentence, other.pair_id, good=False, event=outcome.event)
        session.notice = stored
        session.way = (card.pair_id, following) if following is not None else None


def write_note(audit: Audit, card: PairCard, typed: str, *, box: str, drawn: str) -> None:
    """Store a note beside whatever was decided, if a person changed it. A callback.

    A browser sends what its boxes say with whatever else it sends, also of boxes that are gone, and Streamlit may call
    that a change. So the note is compared with what its box told last, and with what is stored.
    """
    with in_turn() as session:
        review = open_review(audit)
        stands = review.current(card.pair_id)
        before, stored = session.notes.get(box, drawn), stands.note if stands else ""
        if typed in (before, stored):
            return
        if stored != before:
            sentence = "Not saved: the note has just changed in another tab. Read it, then write yours again:"
            session.notice = Notice(sentence, typed, good=False)
            return
        decision, captions = (stands.decision, stands.captions) if stands else (None, ())
        outcome = review.decide([card.pair_id], decision, captions=captions, note=typed, audit=audit.name)
        session.notes[box] = typed
        session.remember(audit, review, outcome)
        session.notice = Notice("Note saved.", card.pair_id, event=outcome.event)


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
        return Notice("Nothing undone: there is a newer decision.", good=False), None
    last = review.history(page=1, size=1).iloc[0]
    left = f" {pairs_in_words(outcome.left)}, with newer decisions, unchanged." if outcome.left else ""
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
    """Draw what became of the last press of a button, once, with a button that undoes it."""
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


GO_ON_TOGGLE = "go_on_toggle"
POLL_SECONDS = 2
LINE_HEIGHT = 26  # pixels of a line in the captions box
LINES = (3, 9)  # the box is at least and at most so high
ROW, SHOWN_WHOLE = "deciding", "shown-whole"  # what the keys begin with of the buttons' row, and of what is drawn last
GUARD = Path(__file__).with_name("guard.js").read_text("utf-8").replace("LATE", LATE)


def draw_decision(audit: Audit, card: PairCard) -> None:
    """Draw the pair's decision and the buttons that change it, in rows that stay where they are from pair to pair.

    Each button is of its pair and of one press: another pair, and the next press, has buttons of its own.
    """
    view, press = view_of(card), {"press": review_session().presses}

    def keep_going_on() -> None:
        st.session_state[GO_ON] = st.session_state[GO_ON_TOGGLE]

    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"{ROW}-{view}"):
        for label, shortcut, decision in (("Keep", "K", KEEP), ("Remove", "X", REMOVE)):
            st.button(
                label,
                shortcut=shortcut,
                icon=BADGES[decision][1],
                key=f"{decision}-{view}",
                on_click=decide,
                args=(audit, card, decision),
                kwargs=press,
            )
        icon = ":material/undo:"
        st.button("Undo", shortcut="U", icon=icon, key=f"undo-{view}", on_click=undo, args=(audit,), kwargs=press)
        st.session_state[GO_ON_TOGGLE] = st.session_state.get(GO_ON, True)
        st.toggle("Advance automatically", key=GO_ON_TOGGLE, on_change=keep_going_on)
    left, right = st.columns([2, 3])
    with left:
        _draw_stored(audit, card.pair_id, drawn=_entry(card.decision))
    with right:
        draw_notice(audit, key="pair")


def _entry(decision: Decision | None) -> int:
    return decision.entry if decision else 0


@st.fragment(run_every=POLL_SECONDS)
def _draw_stored(audit: Audit, pair_id: str, *, drawn: int) -> None:
    """Draw what is stored of a pair, every two seconds anew: somebody else may decide in the meantime."""
    try:
        review = open_review(audit)
        decision = review.current(pair_id)
    except InputError as error:
        show_text(f"Decisions cannot be read: {one_line(error)}", limit=LIMIT)
        return
    st.session_state[SEEN] = (pair_id, _entry(decision))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        draw_badge(decision)
        if decision is not None and decision.decision is not None:
            st.caption(f"{moment(decision.time)} UTC", width="content")
        if _entry(decision) != drawn and not review_session().wrote(review, _entry(decision)):
            st.badge("just now, in another tab", icon=":material/group:", color="orange")
    if decision is not None and decision.decision == RECAPTION:
        with st.container(gap=None):
            for caption in decision.captions:
                show_text(f"→ {caption}", limit=SHOWN)
    if decision is not None and decision.note:
        show_text(f"note: {decision.note}", limit=SHOWN)


def draw_edits(audit: Audit, card: PairCard) -> None:
    """Draw the box that the captions are edited in, and the note. What is being typed stays until it is stored."""
    key = captions_key(audit, card)
    if key not in st.session_state:
        st.session_state[key] = as_lines(current_captions(card))
    lines = min(max(len(current_captions(card)) + 1, LINES[0]), LINES[1])
    with st.form(f"form-{key}", border=False):
        st.text_area("Captions, one a line", key=key, height=24 + LINE_HEIGHT * lines)
        st.form_submit_button(
            "Change caption",
            icon=BADGES[RECAPTION][1],
            shortcut="E",
            key=f"{RECAPTION}-{view_of(card)}",
            on_click=_recaption,
            args=(audit, card, review_session().presses),
            help="Saves the captions as they are in the box. Ctrl+Enter in the box does the same.",
        )
    note = f"note-{audit.name}-{card.row}-{_entry(card.decision)}"  # another entry may bring another note
    drawn = card.decision.note if card.decision else ""
    if note not in st.session_state:
        st.session_state[note] = drawn
    hint = "Saved with Enter or on leaving the field"

    def store() -> None:
        write_note(audit, card, st.session_state[note], box=note, drawn=drawn)

    st.text_input("Note", key=note, on_change=store, placeholder=hint)


def view_of(card: PairCard) -> str:
    """Return what names a pair as it is shown between two presses."""
    return f"{card.row}-{review_session().presses}"


def guard_keys(card: PairCard) -> None:
    """Let a press count only while the pair is on screen that its button is of; drawn once the pair is.

    The server takes one press of a view and no second. This guard stands before it, in the browser, where one sees what
    is on screen, and says at once of which press nothing became.
    """
    view = view_of(card)
    with st.container(key=f"{SHOWN_WHOLE}-{view}"):
        st.html(f"<script>{GUARD}</script><!-- {view} -->", unsafe_allow_javascript=True)


def captions_key(audit: Audit, card: PairCard) -> str:
    """Return the key of the box that a pair's captions are edited in."""
    return f"captions-{audit.name}-{card.row}"


def as_lines(captions: tuple[str, ...]) -> str:
    r"""Return captions as lines of text; one that has several lines becomes one.

    Example:
        >>> as_lines(("a red\nboat", "a boat"))
        'a red boat\na boat'
    """
    return "\n".join(" ".join(caption.split()) for caption in captions)


def current_captions(card: PairCard) -> tuple[str, ...]:
    """Return the captions that a pair has by what was decided on it: the new ones, or its own."""
    recaptioned = card.decision is not None and card.decision.decision == RECAPTION
    return card.decision.captions if card.decision is not None and recaptioned else card.captions


def _recaption(audit: Audit, card: PairCard, press: int) -> None:
    """Store the captions of the box, unless they are none, or those that the pair has anyway. A callback."""
    text = as_lines(tuple(line for line in st.session_state[captions_key(audit, card)].splitlines() if line.strip()))
    session = review_session()
    if press != session.presses:
        return
    if not text:
        session.notice = Notice("Not saved: write at least one caption.", good=False)
    elif text == as_lines(card.captions):
        sentence = "Not saved: these are the captions it has. Edit them, or press Keep."
        session.notice = Notice(sentence, good=False)
    else:
        decide(audit, card, RECAPTION, captions=text.split("\n"), press=press)
