"""Faults of the pipeline, each with buttons that decide on its pairs."""

from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.auditing.folder.store import PAIRS, Audit
from clipmem_core.dashboard.cards import CAPTION_LIMIT, STRIP_SIZE, draw_card_row
from clipmem_core.dashboard.deciding import storing_decisions
from clipmem_core.dashboard.page import draw_link, read_part
from clipmem_core.dashboard.plain import cut, in_a_row, pairs_in_words, show_text
from clipmem_core.review.cards import FirstCaption, cards, suspicious_captions
from clipmem_core.review.decisions import KEEP, REMOVE
from clipmem_core.review.incidents import (
    REPAIR,
    decide_incidents,
    incident_pairs,
    incident_states,
    incidents_line,
    state_words,
)
from clipmem_core.review.queries import fetch_numbered
from clipmem_core.review.views import Selection
from clipmem_core.utils.columns import CAPTIONS

_DONE = {REPAIR: "Repaired", REMOVE: "Removed", KEEP: "Kept"}
_PAGE = "incidents"  # the parameter of a page of incidents
_SHOWN = 4  # on a page


def draw_incidents(audit: Audit, *, folded: bool = False) -> None:
    """Draw how many wrong pairs the faults of the pipeline cause, each fault that is open or was
    decided on, and its decisions; unfolded while one is open. `folded`: only open ones, folded."""
    states = incident_states(audit)
    listed = states[states["is_open"] | (states["settled"] > 0)]
    line = incidents_line(audit)
    if listed.empty or (folded and not line):
        return
    shown, draw_numbers = read_part(listed, _SHOWN, parameter=_PAGE)
    icon = ":material/warning:" if line else ":material/check_circle:"
    title = line or "Faults of your pipeline: all are decided."
    with st.expander(title, expanded=bool(line) and not folded, icon=icon):
        repairable = listed.index[listed["to_repair"] > 0].tolist()
        if len(repairable) > 1:
            count = int(listed["to_repair"].sum())
            _draw_action(audit, repairable, REPAIR, f"Repair all {pairs_in_words(count)}")
        for state in shown.itertuples():
            with st.container(gap="xsmall"):
                _draw_incident(audit, state)
        draw_numbers()


def _draw_incident(audit: Audit, state: Any) -> None:
    """Draw the cause of a fault, its first pairs, and the buttons that decide on all of them."""
    number = state.Index
    selection = Selection(incident=str(number))
    pairs = incident_pairs(audit)
    pairs = pairs[pairs["number"] == number]
    show_text(state.cause)
    if state.is_open:
        first = pairs[pairs["to_repair"] if state.to_repair else pairs["undecided"]]
        _draw_changes(audit, first[:STRIP_SIZE], selection)
    show_text(state_words(state))
    with in_a_row():
        if state.to_repair:
            label = f"Repair {pairs_in_words(state.to_repair)}"
            _draw_action(audit, [number], REPAIR, label)
        if state.undecided:
            label = f"Remove {pairs_in_words(state.undecided)}"
            _draw_action(audit, [number], REMOVE, label)
            _draw_action(audit, [number], KEEP, "Keep: it is no fault")
        draw_link("browse", "Browse", audit, selection)


def _draw_action(audit: Audit, numbers: list[int], action: str, label: str) -> None:
    """Draw the button of a decision on incidents."""

    def decide() -> None:
        with storing_decisions() as session:
            session.saved(audit, _DONE[action], decide_incidents(audit, numbers, action))

    key = f"{action}-{'-'.join(map(str, numbers))}"
    kind: Any = "primary" if action == REPAIR else "secondary"
    st.button(label, key=key, type=kind, on_click=decide)


def _draw_changes(audit: Audit, pairs: pd.DataFrame, selection: Selection) -> None:
    """Draw pictures, each with its likeliest wrong caption and the one that a repair gives it."""
    shown = cards(audit, pairs["row"].tolist())
    sources = pairs["from_row"].where(pairs["has_repair"], -1).tolist()
    captions = fetch_numbered(audit.folder / PAIRS, [CAPTIONS], sources)
    worst = suspicious_captions(audit, [card.pair_id for card in shown])
    firsts: dict[str, FirstCaption] = {}
    for card, source in zip(shown, sources, strict=True):
        after = f"→ {cut(captions[source][0][0], CAPTION_LIMIT)}" if source in captions else ""
        number = min(worst.get(card.pair_id, 0), len(card.current) - 1)
        firsts[card.pair_id] = number, [], after
    labels = [f"Pair {card.row + 1:,}" for card in shown]
    draw_card_row(audit, shown, labels, selection, firsts, key=f"incident-{selection.incident}")
