"""The buttons, the note and the captions box that change what is decided on a pair.

What somebody else says of the pair in the meantime shows by itself.
"""

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.dashboard.deciding import (
    BADGES,
    GO_ON,
    LATE,
    SEEN,
    SHOWN,
    Notice,
    decide,
    draw_badge,
    draw_notice,
    review_session,
    undo,
    write_note,
)
from clipmem_core.dashboard.errors import LIMIT, one_line
from clipmem_core.dashboard.numbers import moment
from clipmem_core.dashboard.plain import show_text
from clipmem_core.review.cards import PairCard
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, Decision, open_review

GO_ON_TOGGLE = "go_on_toggle"
POLL_SECONDS = 2
LINE_HEIGHT = 26  # pixels of a line in the captions box
LINES = (3, 9)  # the box is at least and at most so high
ROW, SHOWN_WHOLE = "deciding", "shown-whole"  # what the keys begin with of the buttons' row, and of what is drawn last
GUARD = f"""
(() => {{
    if (window.clipmemGuard) return
    const guard = window.clipmemGuard = {{pressed: '', at: 0, answered: true, moved: 0, late: 0}}
    const BUTTONS = '[class*="st-key-{ROW}-"] button, [class*="st-key-{RECAPTION}-"] button'
    const REST = 300, SAID = 5000, LOST = 10000  // milliseconds
    const running = () => document.querySelector('[data-testid=stApp]').dataset.testScriptState !== 'notRunning'
    new MutationObserver(() => {{
        guard.moved = performance.now()
        guard.answered ||= running()
    }}).observe(document.body, {{subtree: true, attributeFilter: ['data-test-script-state']}})
    const view = name => [...document.querySelectorAll(`[class*="st-key-${{name}}-"]`)]
        .map(e => e.className.match(`st-key-${{name}}-([0-9-]+)`)[1]).join()
    const rests = () => !running() && performance.now() - guard.moved > REST
        && (guard.answered || performance.now() - guard.at > LOST)
    const say = () => {{
        const line = document.getElementById('clipmem-late') ?? document.body.appendChild(document.createElement('div'))
        Object.assign(line, {{id: 'clipmem-late', role: 'status', textContent: '{LATE}'}})
        line.style = 'position:fixed;bottom:1rem;left:50%;transform:translateX(-50%);z-index:1000000;'
            + 'padding:.6rem 1rem;border-radius:.5rem;background:#8a4b00;color:#fff'
        clearTimeout(guard.timer)
        guard.timer = setTimeout(() => line.remove(), SAID)
    }}
    const take = (event, decides) => {{
        const asked = view('{ROW}')
        if (!asked) return
        const drawing = asked === guard.pressed || (decides && asked !== view('{SHOWN_WHOLE}'))
        if (event.repeat || (drawing && !rests())) {{
            event.preventDefault()
            event.stopImmediatePropagation()
            if (event.repeat) return
            guard.late += 1
            say()
        }} else if (decides) {{
            Object.assign(guard, {{pressed: asked, at: performance.now(), answered: false}})
        }}
    }}
    addEventListener('keydown', event => {{
        const key = event.key.toLowerCase()
        const pressed = ['enter', ' '].includes(key) && event.target.closest?.(BUTTONS)
        const decides = ['k', 'x', 'u', 'e'].includes(key) || pressed
        const typing = event.composedPath()[0].closest?.(
            'textarea, [contenteditable], [role=dialog], input:not([type=checkbox])')
        if (typing || event.ctrlKey || event.metaKey || event.altKey) return
        if (decides || ['n', 'arrowleft', 'arrowright'].includes(key)) take(event, decides)
    }}, true)
    addEventListener('click', event => {{
        if (event.detail > 0 && event.target.closest?.(BUTTONS)) take(event, true)  // 0: by a key
    }}, true)
}})()
"""


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
    """Draw what is stored of a pair, every two seconds anew: somebody else may decide in the meantime.

    Args:
        audit: the audit of the page.
        pair_id: the page's pair.
        drawn: the log's entry on the pair when the page was drawn; one's own decisions draw the page anew.
    """
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
            st.badge("somebody else, just now", icon=":material/group:", color="orange")
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
            "Recaption",
            icon=BADGES[RECAPTION][1],
            shortcut="E",
            key=f"{RECAPTION}-{view_of(card)}",
            on_click=_recaption,
            args=(audit, card, review_session().presses),
            help="Stores the captions as they stand in the box. Ctrl+Enter in the box does the same.",
        )
    note = f"note-{audit.name}-{card.row}-{_entry(card.decision)}"  # another entry may bring another note
    drawn = card.decision.note if card.decision else ""
    if note not in st.session_state:
        st.session_state[note] = drawn
    hint = "Stored with Enter, or on leaving the field"

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
        session.notice = Notice("Not stored: write at least one caption.", good=False)
    elif text == as_lines(card.captions):
        sentence = "Not stored: these are the captions it has. Edit them, or press Keep."
        session.notice = Notice(sentence, good=False)
    else:
        decide(audit, card, RECAPTION, captions=text.split("\n"), press=press)
