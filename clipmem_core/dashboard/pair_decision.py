"""A pair and its decision → the buttons, the note and the captions box that change it.

What somebody else says of the pair in the meantime shows by itself.
"""

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.dashboard.deciding import (
    BADGES,
    GO_ON,
    NOTICE,
    SEEN,
    SHOWN,
    Notice,
    decide,
    draw_badge,
    draw_notice,
    noticed_errors,
    undo,
)
from clipmem_core.dashboard.plain import show_text
from clipmem_core.review.cards import PairCard
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, Decision, open_review

GO_ON_TOGGLE = "go_on_toggle"
POLL_SECONDS = 2
LINE_HEIGHT = 26  # pixels of a line in the captions box
LINES = (3, 9)  # the box is at least and at most so high


def draw_decision(audit: Audit, card: PairCard) -> None:
    """Draw the pair's decision and the buttons that change it, in rows that stay where they are from pair to pair."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.button("Keep", shortcut="K", icon=BADGES[KEEP][1], on_click=decide, args=(audit, card, KEEP))
        st.button("Remove", shortcut="X", icon=BADGES[REMOVE][1], on_click=decide, args=(audit, card, REMOVE))
        st.button("Undo", shortcut="U", icon=":material/undo:", on_click=undo, args=(audit,))
        st.session_state[GO_ON_TOGGLE] = st.session_state.get(GO_ON, True)
        st.toggle("Go on after deciding", key=GO_ON_TOGGLE, on_change=_keep_going_on)
    left, right = st.columns([2, 3])
    with left:
        _draw_stored(audit, card.pair_id, drawn=_entry(card.decision))
    with right:
        draw_notice(audit, key="pair")


def _keep_going_on() -> None:
    st.session_state[GO_ON] = st.session_state[GO_ON_TOGGLE]


def _entry(decision: Decision | None) -> int:
    return decision.entry if decision else 0


@st.fragment(run_every=POLL_SECONDS)
def _draw_stored(audit: Audit, pair_id: str, *, drawn: int) -> None:
    """Draw what is stored of a pair, every two seconds anew: somebody else may decide in the meantime.

    Args:
        audit: the audit of the page.
        pair_id: the page's pair.
        drawn: the log's entry on the pair when the page was drawn; one's own decisions draw the page anew.
    """
    try:
        decision = open_review(audit).current(pair_id)
    except InputError as error:
        show_text(f"Decisions cannot be read: {' '.join(str(error).split())}", limit=1000)
        return
    st.session_state[SEEN] = (pair_id, _entry(decision))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        draw_badge(decision)
        if decision is not None and decision.decision is not None:
            st.caption(_moment(decision.time), width="content")
        if _entry(decision) != drawn:
            st.badge("somebody else, just now", icon=":material/group:", color="orange")
    if decision is not None and decision.decision == RECAPTION:
        for caption in decision.captions:
            show_text(f"→ {caption}", limit=SHOWN)
    if decision is not None and decision.note:
        show_text(f"note: {decision.note}", limit=SHOWN)


def _moment(time: str) -> str:
    """Return an ISO time in UTC without its seconds, made of digits and our own words only.

    Example:
        >>> _moment("2025-01-31T12:34:56+00:00")
        '2025-01-31 12:34 UTC'
    """
    return f"{time[:10]} {time[11:16]} UTC"


def draw_edits(audit: Audit, card: PairCard) -> None:
    """Draw the box that the captions are edited in, and the note. What is being typed stays until it is stored."""
    key = captions_key(audit, card)
    if key not in st.session_state:
        st.session_state[key] = as_lines(_current(card))
    lines = min(max(len(_current(card)) + 1, LINES[0]), LINES[1])
    with st.form(f"form-{key}", border=False):
        st.text_area("Captions, one a line", key=key, height=24 + LINE_HEIGHT * lines)
        st.form_submit_button(
            "Recaption",
            icon=BADGES[RECAPTION][1],
            shortcut="E",
            on_click=_recaption,
            args=(audit, card),
            help="Stores the captions as they stand in the box. Ctrl+Enter in the box does the same.",
        )
    note = f"note-{audit.name}-{card.row}-{_entry(card.decision)}"  # another entry may bring another note
    if note not in st.session_state:
        st.session_state[note] = card.decision.note if card.decision else ""
    hint = "Stored with Enter, or on leaving the field"
    st.text_input("Note", key=note, on_change=_note, args=(audit, card, note), placeholder=hint)


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


def _current(card: PairCard) -> tuple[str, ...]:
    recaptioned = card.decision is not None and card.decision.decision == RECAPTION
    return card.decision.captions if card.decision is not None and recaptioned else card.captions


def _recaption(audit: Audit, card: PairCard) -> None:
    """Store the captions of the box, unless they are none, or those that the pair has anyway. A callback."""
    text = as_lines(tuple(line for line in st.session_state[captions_key(audit, card)].splitlines() if line.strip()))
    if not text:
        st.session_state[NOTICE] = Notice("Not stored: write at least one caption.", good=False)
    elif text == as_lines(card.captions):
        st.session_state[NOTICE] = Notice(
            "Not stored: these are the captions it has. Edit them, or press Keep.", good=False
        )
    else:
        decide(audit, card, RECAPTION, captions=text.split("\n"))


def _note(audit: Audit, card: PairCard, key: str) -> None:
    """Store the note beside whatever was decided. A callback."""
    with noticed_errors():
        stands = open_review(audit).current(card.pair_id)
        captions = stands.captions if stands else ()
        decide(audit, card, stands.decision if stands else None, captions=captions, note=st.session_state[key])
