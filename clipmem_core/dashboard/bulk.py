"""Ticked pairs, and a decision on all of them, or on all pairs of a selection, at once."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.bulk_edit import draw_bulk_edit
from clipmem_core.dashboard.deciding import BADGES, Notice, in_turn
from clipmem_core.dashboard.numbers import pairs_in_words
from clipmem_core.review.cards import PairCard
from clipmem_core.review.decisions import KEEP, REMOVE, open_review
from clipmem_core.review.rows import pair_ids
from clipmem_core.review.selection import Selection, to_parameters

TICKED, VIEW = "ticked_pairs", "ticked_view"
ASKED = "deciding_asked"


def ticked_pairs(audit: Audit, selection: Selection) -> list[str]:
    """Return the ids of the ticked pairs, in the order they were ticked; none are left from another view.

    The order of the pairs is no part of the view: the same pairs can be ticked.
    """
    parameters = to_parameters(selection)
    view = (
        audit.name,
        *sorted((name, value) for name, value in parameters.items() if name not in ("order", "ascending")),
    )
    if st.session_state.get(VIEW) != view:
        st.session_state[VIEW], st.session_state[TICKED] = view, []
    return st.session_state[TICKED]


def tick(pair_ids: Sequence[str], *, on: bool) -> None:
    """Tick pairs, or take their ticks away."""
    others = [pair_id for pair_id in st.session_state.get(TICKED, []) if pair_id not in set(pair_ids)]
    st.session_state[TICKED] = [*others, *pair_ids] if on else others


def draw_tick(card: PairCard) -> None:
    """Draw the box that ticks a pair."""
    key = f"tick-{card.row}"
    st.session_state[key] = card.pair_id in st.session_state[TICKED]

    def take() -> None:
        tick([card.pair_id], on=bool(st.session_state[key]))

    st.checkbox("Select this pair", key=key, on_change=take, label_visibility="collapsed")


def draw_tick_all(cards: Sequence[PairCard], ticked: Sequence[str]) -> None:
    """Draw the buttons that tick the whole page, and nothing."""
    ids = [card.pair_id for card in cards]
    st.button("Select page", type="tertiary", on_click=tick, args=(ids,), kwargs={"on": True})
    if ticked:
        st.button(
            f"Unselect {len(ticked):,}", type="tertiary", on_click=tick, args=(list(ticked),), kwargs={"on": False}
        )


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
    scopes = ([f"the {pairs_in_words(len(ticked))} ticked"] if ticked else []) + [
        f"all {pairs_in_words(count)} of this selection"
    ]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        scope = st.selectbox("Decide for", scopes, width=300)
        pairs = tuple(ticked) if ticked and scope == scopes[0] else None
        size = count if pairs is None else len(pairs)
        for decision, label in ((KEEP, "Keep"), (REMOVE, "Remove"), (None, "Undecided")):
            asked = Asked(decision, size, pairs, selection)
            st.button(label, icon=BADGES[decision][1], key=f"bulk-{label}", on_click=_ask, args=(audit, asked))
    draw_bulk_edit(audit, selection, ticked)
    _draw_question(audit, selection)


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
        st.markdown(f"Say **{word}** of **{pairs_in_words(asked.count)}**?", width="content")
        yes = st.button(f"Yes, {word}: {pairs_in_words(asked.count)}", type="primary", icon=icon, key="bulk-yes")
        st.button("No", key="bulk-no", on_click=lambda: st.session_state.pop(ASKED, None))
    if yes:
        with st.spinner("Storing…"):
            _decide_all(audit, asked)
        st.rerun()


def _decide_all(audit: Audit, asked: Asked) -> None:
    """Store the decision; where the selection has grown or shrunk since the question, ask again."""
    st.session_state.pop(ASKED, None)
    again, done = None, False
    with in_turn() as session:
        ids = asked.pairs if asked.pairs is not None else pair_ids(audit, asked.selection)
        if len(ids) == asked.count:
            review = open_review(audit)
            outcome = review.decide(ids, asked.decision, audit=audit.name)
            session.remember(audit, review, outcome)
            sentence = f"Stored: {BADGES[asked.decision][0]}, for {pairs_in_words(outcome.pairs)}."
            session.notice = Notice(sentence, event=outcome.event)
            session.presses += 1
            done = True
        else:
            again = dataclasses.replace(asked, count=len(ids))
            session.notice = Notice("The selection has changed in the meantime: look again.", good=False)
    if again is not None:
        st.session_state[ASKED] = again
    if done and asked.pairs is not None:
        tick(asked.pairs, on=False)
