"""The captions of a pair, each with its own scores, to be removed or edited one by one, and what the checks found."""

import dataclasses
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.dashboard.deciding import BADGES, Notice, as_lines, captions_key, current_captions, in_turn, view_of
from clipmem_core.dashboard.errors import LIMIT, one_line
from clipmem_core.dashboard.plain import as_html, cut, show_text
from clipmem_core.pairs.checks import CHECKS
from clipmem_core.review.cards import PairCard, caption_scores
from clipmem_core.review.decisions import REMOVE, Edit, open_review
from clipmem_core.review.rows import failed_checks

CAPTION_LIMIT = 600
FULL_LIMIT = 5000
EDITED = "caption_edited"  # the caption whose box is open, by the key of its button
Fate = Literal["stays", "removed", "edited", "added"]
_CHANGED = """<div style="overflow-wrap:anywhere;font-size:.875rem"><{tag} style="opacity:.65">{text}</{tag}></div>"""


@dataclasses.dataclass(frozen=True)
class Line:
    """One caption as it stands: its place among the pair's own and among those that were decided, None where none."""

    fate: Fate
    own: int | None
    now: int | None


def standing_lines(own: Sequence[str], now: Sequence[str]) -> list[Line]:
    """Return what became of each of a pair's own captions, and which came to them.

    Example:
        >>> [line.fate for line in standing_lines(["a", "b", "c"], ["a", "c!"])]
        ['stays', 'edited', 'removed']
    """
    lines: list[Line] = []
    for kind, a, b, c, d in SequenceMatcher(None, own, now, autojunk=False).get_opcodes():
        shared = min(b - a, d - c)
        fate: Fate = "stays" if kind == "equal" else "edited"
        lines += [Line(fate, a + step, c + step) for step in range(shared)]
        lines += [Line("removed", place, None) for place in range(a + shared, b)]
        lines += [Line("added", None, place) for place in range(c + shared, d)]
    return lines


def draw_captions(audit: Audit, card: PairCard) -> None:
    """Draw all captions with the scores of each where there are any, and the long ones in full below."""
    scores, now = caption_scores(audit, card.pair_id), current_captions(card)
    lines = standing_lines(card.captions, now)
    st.subheader("Caption" if len(lines) == 1 else "Captions", anchor=False)
    with st.container(gap="xsmall"):
        for line in lines:
            _draw_line(audit, card, now, line)
            if line.own in scores:
                score = scores[line.own]
                odd = ":orange[:material/warning: fits much worse than the others] · " if score.odd else ""
                st.caption(f"{odd}{score.words}")
    _draw_failed(audit, card)
    long = [caption for caption in card.captions if cut(caption, CAPTION_LIMIT) != caption]
    if long:
        with st.expander("In full", icon=":material/notes:"):
            for caption in long:
                show_text(caption if len(caption) <= FULL_LIMIT else f"{caption[:FULL_LIMIT]}…")


def _draw_failed(audit: Audit, card: PairCard) -> None:
    """Draw what the checks found; a page of a pair is of use without."""
    try:
        failed = [CHECKS[name] for name in failed_checks(audit, card.row)]
    except InputError as error:
        show_text(f"Checks cannot be shown: {one_line(error)}", limit=LIMIT)
        return
    if failed:
        with st.container(horizontal=True, gap="small"):
            for check in failed:
                st.badge(check.label, icon=":material/rule:", color="orange", help=f"{check.help} {check.advice}")


def _draw_line(audit: Audit, card: PairCard, now: tuple[str, ...], line: Line) -> None:
    """Draw a caption and, where a pair has or had several, what can be done with this one."""
    several = len(card.captions) > 1 or len(now) > 1
    with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False):
        with st.container(gap=None):
            if line.own is not None and line.fate != "stays":
                text = as_html(card.captions[line.own], limit=CAPTION_LIMIT)
                st.html(_CHANGED.format(tag="s", text=text))
            if line.now is not None:
                show_text(now[line.now], limit=CAPTION_LIMIT)
        if several and not _to_be_removed(card):
            _draw_buttons(audit, card, now, line)
    _draw_box(audit, card, now, line)


def _to_be_removed(card: PairCard) -> bool:
    return card.decision is not None and card.decision.decision == REMOVE


def _draw_buttons(audit: Audit, card: PairCard, now: tuple[str, ...], line: Line) -> None:
    key = f"{line.own}-{line.now}-{view_of(card)}"
    if line.now is None:
        back = bring_back(card.captions, now, line)
        st.button("Bring back", type="tertiary", key=f"back-{key}", on_click=_store, args=(audit, card, back))
        return
    st.button("Edit", type="tertiary", key=f"edit-{key}", on_click=_open_box, args=(key,))
    last = len(now) < 2
    st.button(
        "Remove",
        type="tertiary",
        key=f"drop-{key}",
        disabled=last,
        help="The pair's last caption: remove the pair instead." if last else "Remove this caption alone",
        on_click=_store,
        args=(audit, card, _with(now, line.now, "")),
    )


def _open_box(key: str) -> None:
    st.session_state[EDITED] = key


def _draw_box(audit: Audit, card: PairCard, now: tuple[str, ...], line: Line) -> None:
    """Draw the box that one caption is edited in, where its button was pressed last."""
    key = f"{line.own}-{line.now}-{view_of(card)}"
    if line.now is None or st.session_state.get(EDITED) != key:
        return
    place, box = line.now, f"edited-{key}"

    def store() -> None:
        _store(audit, card, _with(now, place, " ".join(st.session_state[box].split())))

    with st.form(f"form-{box}", border=False):
        st.text_area("This caption", " ".join(now[place].split()), key=box)
        st.form_submit_button("Store this caption", icon=BADGES["recaption"][1], key=f"store-{key}", on_click=store)


def _with(now: tuple[str, ...], place: int, text: str) -> tuple[str, ...]:
    """Return captions with another in a place; without it where that is blank."""
    return (*now[:place], *([text] if text.strip() else []), *now[place + 1 :])


def bring_back(own: Sequence[str], now: tuple[str, ...], line: Line) -> tuple[str, ...]:
    """Return captions with one that was removed among them again, after those that stood before it.

    Example:
        >>> bring_back(["a", "b", "c"], ("a", "c"), Line("removed", 1, None))
        ('a', 'b', 'c')
    """
    assert line.own is not None
    before = [other.now for other in standing_lines(own, now) if other.own is not None and other.own < line.own]
    at = max((place for place in before if place is not None), default=-1) + 1
    return (*now[:at], own[line.own], *now[at:])


def _store(audit: Audit, card: PairCard, captions: tuple[str, ...]) -> None:
    """Store what one caption became, unless somebody has decided on the pair since it was drawn. A callback."""
    box = captions_key(audit, card)
    untouched = st.session_state.get(box) == as_lines(current_captions(card))
    stored = False
    with in_turn() as session:
        session.takes(None)
        review, entry = open_review(audit), card.decision.entry if card.decision else 0
        if not captions:
            session.notice = Notice("Not stored: this is the pair's last caption. Remove the pair instead.", good=False)
        elif captions == current_captions(card):
            session.notice = Notice("Not stored: this is the caption it has.", good=False)
        else:
            if captions == card.captions:  # its own, all of them again: nothing is decided any more
                outcome = review.decide([card.pair_id], None, audit=audit.name)
            else:
                outcome = review.edit({card.pair_id: Edit(captions, entry)}, audit=audit.name)
            stored = outcome.pairs > 0
            if stored:
                session.remember(audit, review, outcome)
                session.notice = Notice("Stored: this caption.", card.pair_id, event=outcome.event)
            else:
                sentence = "Not stored: somebody else has just decided on this pair. Look at it, then do it again."
                session.notice = Notice(sentence, card.pair_id, good=False)
    if stored and untouched:
        st.session_state.pop(box, None)  # the box with all captions is to show what stands now
