"""What a person says of pairs → entries of the review's log at once, and a sign on the page that they were stored.

Buttons write in their callbacks, which run before the page is drawn: the page then shows what is stored. A callback
leaves a notice for `draw_notice`; what was told in this session is kept, so that undo takes back one's own.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.dashboard.address import PAIR, peek_selection, write
from clipmem_core.dashboard.plain import show_text
from clipmem_core.review.cards import PairCard
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, Decision, Outcome, Review, open_review
from clipmem_core.review.rows import neighbours, pair_ids
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import find_row

Colour = Literal["green", "red", "blue", "gray"]
BADGES: dict[str | None, tuple[str, str, Colour]] = {  # decision → word, icon, colour
    KEEP: ("keep", ":material/check_circle:", "green"),
    REMOVE: ("remove", ":material/delete:", "red"),
    RECAPTION: ("recaption", ":material/edit:", "blue"),
    None: ("undecided", ":material/radio_button_unchecked:", "gray"),
}
NOTICE = "deciding_notice"
TOLD = "deciding_told"  # the events of this session that can be undone: (audit, number)
SEEN = "deciding_seen"  # (pair, the entry of the log that the page shows)
GO_ON = "deciding_go_on"
ASKED = "deciding_asked"
FOR_OTHER_HELP = "Decided in another audit of the data set, where the pair has other captions. It does not count here."
SHOWN = 300  # characters of a note, an id or a caption


@dataclass(frozen=True)
class Notice:
    """What became of a press of a button: our own sentence, and text that others wrote."""

    sentence: str
    about: str = ""
    good: bool = True
    event: int | None = None  # what its Undo button takes back


@contextmanager
def noticed_errors() -> Iterator[None]:
    """Turn an `InputError` in a callback, which draws nothing, into the notice of the next run."""
    try:
        yield
    except InputError as error:
        st.session_state[NOTICE] = Notice("This could not be stored.", " ".join(str(error).split()), good=False)


def draw_badge(decision: Decision | None) -> None:
    """Draw what was decided as a badge."""
    word, icon, colour = BADGES[decision.decision if decision else None]
    st.badge(word, icon=icon, color=colour)
    if decision is not None and decision.for_other:
        st.badge(decision.words, icon=BADGES[decision.for_other][1], color="gray", help=FOR_OTHER_HELP)


def decide(
    audit: Audit, card: PairCard, decision: str | None, *, captions: Sequence[str] = (), note: str | None = None
) -> None:
    """Store a decision on the page's pair and, if that is wished, go on to the next undecided one. A callback.

    Args:
        audit: the audit that the person looks at.
        card: the pair.
        decision: keep, remove, recaption, or None to take it back.
        captions: the new ones, for recaption.
        note: None leaves the note as it is.
    """
    with noticed_errors():
        goes_on = decision is not None and note is None and st.session_state.get(GO_ON, True)
        following = neighbours(audit, peek_selection(), card.pair_id).next_undecided if goes_on else None
        outcome = open_review(audit).decide(
            [card.pair_id], decision, captions=captions, note=note, audit=audit.name, seen=_shown_entry(card.pair_id)
        )
        remember(audit, outcome)
        what = f"Stored: {BADGES[decision][0]}." if note is None else "Note stored."
        end = " No undecided pair is left in this selection." if goes_on and following is None else ""
        st.session_state[NOTICE] = _overtaken(outcome) or Notice(what + end, card.pair_id, event=outcome.event)
        if following is not None:
            write(pair=following)


def _shown_entry(pair_id: str) -> int | None:
    pair, entry = st.session_state.get(SEEN, (None, None))
    return entry if pair == pair_id else None


def _overtaken(outcome: Outcome) -> Notice | None:
    """Return the warning where somebody else decided between what the page showed and the press of the button."""
    other = outcome.overtaken
    if other is None:
        return None
    word = BADGES[other.decision][0]
    sentence = f"Stored, but somebody else had just said {word}; yours stands now. Undo brings theirs back."
    return Notice(sentence, other.pair_id, good=False, event=outcome.event)


def remember(audit: Audit, outcome: Outcome) -> None:
    """Keep an event of this session, so that undo finds it."""
    st.session_state.setdefault(TOLD, []).append((audit.name, outcome.event))


def undo(audit: Audit, event: int | None = None) -> None:
    """Take back an event, else the last one of this session, else the last decision of the log. A callback."""
    with noticed_errors():
        told = st.session_state.get(TOLD, [])
        own = [number for name, number in told if name == audit.name]
        wanted = event or (own[-1] if own else None)
        st.session_state[TOLD] = [each for each in told if each != (audit.name, wanted)]
        review = open_review(audit)
        outcome = review.undo(wanted)
        st.session_state[NOTICE] = _taken_back(audit, outcome, review)


def _taken_back(audit: Audit, outcome: Outcome | None, review: Review) -> Notice:
    """Say what an undo took back, and go to its pair where it is only one."""
    if outcome is None:
        return Notice("There is nothing to undo.", good=False)
    if outcome.pairs == 0:
        return Notice("Nothing was undone: somebody has decided anew since.", good=False)
    last = review.history(page=1, size=1).iloc[0]
    left = f" {_pairs(outcome.left)}, decided anew since, stayed as it is." if outcome.left else ""
    sentence = f"Undone: {BADGES[last['decision']][0]}, {_pairs(outcome.pairs)}.{left}"
    if outcome.pairs > 1:
        return Notice(sentence)
    pair_id = str(last["first_pair_id"])
    if PAIR in st.query_params and find_row(audit, pair_id) is not None:
        write(pair=pair_id)
    return Notice(sentence, pair_id)


def draw_notice(audit: Audit, *, key: str) -> None:
    """Draw what became of the last press of a button, once, with a button that undoes it.

    Args:
        audit: the audit of the page.
        key: tells the notices of a page apart.
    """
    notice: Notice | None = st.session_state.pop(NOTICE, None)
    if notice is None:
        return
    st.toast(notice.sentence, icon=":material/check:" if notice.good else ":material/warning:")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        icon = ":green[:material/check:]" if notice.good else ":orange[:material/warning:]"
        st.markdown(f"{icon} {notice.sentence}", width="content")
        if notice.event is not None:
            st.button("Undo", type="tertiary", key=f"{key}-undo", on_click=undo, args=(audit, notice.event))
        if notice.about:
            show_text(notice.about, limit=SHOWN)


@dataclass(frozen=True)
class Asked:
    """A decision on many pairs that waits for a yes; `pairs` are the ticked ones, None where all are meant."""

    decision: str | None
    count: int
    pairs: tuple[str, ...] | None
    selection: Selection


def draw_bulk(audit: Audit, selection: Selection, count: int, ticked: Sequence[str]) -> None:
    """Draw the buttons that decide for the ticked pairs, or for all pairs of the selection, at once.

    The page draws what became of it with `draw_notice`.

    Args:
        audit: the audit of the page.
        selection: the pairs that the page shows.
        count: how many these are, on all of its pages.
        ticked: the pairs that are ticked, by id.
    """
    if count == 0 and not ticked:
        return
    scopes = ([f"the {_pairs(len(ticked))} ticked"] if ticked else []) + [f"all {_pairs(count)} of this selection"]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        scope = st.selectbox("Decide for", scopes, width=300)
        pairs = tuple(ticked) if ticked and scope == scopes[0] else None
        size = count if pairs is None else len(pairs)
        for decision, label in ((KEEP, "Keep"), (REMOVE, "Remove"), (None, "Undecided")):
            asked = Asked(decision, size, pairs, selection)
            st.button(label, icon=BADGES[decision][1], key=f"bulk-{label}", on_click=_ask, args=(audit, asked))
    _draw_question(audit, selection)


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count:,} pairs"


def _ask(audit: Audit, asked: Asked) -> None:
    """Decide for one pair at once; more of them wait for a yes. A callback."""
    st.session_state.pop(ASKED, None)
    if asked.count > 1:
        st.session_state[ASKED] = asked
    else:
        _decide_all(audit, asked)


def _draw_question(audit: Audit, selection: Selection) -> None:
    """Draw the question that waits, unless the page shows other pairs by now."""
    asked: Asked | None = st.session_state.get(ASKED)
    if asked is None or asked.selection != selection:
        st.session_state.pop(ASKED, None)
        return
    word, icon, _ = BADGES[asked.decision]
    with st.container(border=True, horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"Say **{word}** of **{_pairs(asked.count)}**?", width="content")
        yes = st.button(f"Yes, {word}: {_pairs(asked.count)}", type="primary", icon=icon, key="bulk-yes")
        st.button("No", key="bulk-no", on_click=lambda: st.session_state.pop(ASKED, None))
    if yes:
        with st.spinner("Storing…"):
            _decide_all(audit, asked)
        st.rerun()


def _decide_all(audit: Audit, asked: Asked) -> None:
    """Store the decision; where the selection has grown or shrunk since the question, ask again."""
    st.session_state.pop(ASKED, None)
    with noticed_errors():
        ids = asked.pairs if asked.pairs is not None else pair_ids(audit, asked.selection)
        if len(ids) != asked.count:
            st.session_state[ASKED] = dataclasses.replace(asked, count=len(ids))
            st.session_state[NOTICE] = Notice("The selection has changed in the meantime: look again.", good=False)
            return
        outcome = open_review(audit).decide(ids, asked.decision, audit=audit.name)
        remember(audit, outcome)
        sentence = f"Stored: {BADGES[asked.decision][0]}, for {_pairs(outcome.pairs)}."
        st.session_state[NOTICE] = Notice(sentence, event=outcome.event)
