"""Ticked pairs, and a decision on all of them, or on all pairs of a selection, at once."""

from collections.abc import Sequence

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.review.cards import PairCard
from clipmem_core.review.selection import Selection, to_parameters

TICKED, VIEW = "ticked_pairs", "ticked_view"


def ticked_pairs(audit: Audit, selection: Selection) -> list[str]:
    """Return the ids of the ticked pairs, in the order they were ticked; none are left from another view.

    The order of the pairs is no part of the view: the same pairs can be ticked.
    """
    parameters = to_parameters(selection)
    view = (audit.name, *sorted((name, value) for name, value in parameters.items() if name not in _ORDER))
    if st.session_state.get(VIEW) != view:
        st.session_state[VIEW], st.session_state[TICKED] = view, []
    return st.session_state[TICKED]


_ORDER = ("order", "ascending")


def tick(pair_ids: Sequence[str], *, on: bool) -> None:
    """Tick pairs, or take their ticks away."""
    others = [pair_id for pair_id in st.session_state.get(TICKED, []) if pair_id not in set(pair_ids)]
    st.session_state[TICKED] = [*others, *pair_ids] if on else others


def draw_tick(card: PairCard) -> None:
    """Draw the box that ticks a pair."""
    key = f"tick-{card.row}"
    st.session_state[key] = card.pair_id in st.session_state[TICKED]
    st.checkbox("Select this pair", key=key, on_change=_take, args=(key, card.pair_id), label_visibility="collapsed")


def draw_tick_all(cards: Sequence[PairCard], ticked: Sequence[str]) -> None:
    """Draw the buttons that tick the whole page, and nothing."""
    ids = [card.pair_id for card in cards]
    st.button("Select page", type="tertiary", on_click=tick, args=(ids,), kwargs={"on": True})
    if ticked:
        st.button(
            f"Unselect {len(ticked):,}", type="tertiary", on_click=tick, args=(list(ticked),), kwargs={"on": False}
        )


def _take(key: str, pair_id: str) -> None:
    tick([pair_id], on=bool(st.session_state[key]))
