"""The faults of a pipeline on the page Overview, each with a button that repairs its pairs."""

from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.audit.store import PAIRS, Audit
from clipmem_core.columns import CAPTIONS
from clipmem_core.dashboard.cards import CAPTION_LIMIT, STRIP_SIZE, draw_card_row
from clipmem_core.dashboard.deciding import draw_notice, locked_session, undo
from clipmem_core.dashboard.page import BROWSE, PAIR_PAGE, draw_pages, link, read_page
from clipmem_core.dashboard.plain import cut, pairs_in_words, show_strong, show_text
from clipmem_core.review.cards import FirstCaption, cards
from clipmem_core.review.incidents import (
    incident_pairs,
    incident_states,
    incidents_line,
    state_words,
    store_repairs,
)
from clipmem_core.review.queries import fetch_numbered
from clipmem_core.review.selection import Selection

_INCIDENTS = "incidents"  # the parameter of a page of incidents
_SHOWN = 4  # on a page
_LOST = 5  # pairs with a link


def draw_incidents(audit: Audit) -> None:
    """Draw how many wrong pairs the faults of the pipeline explain, and each fault that is open or
    repaired."""
    draw_notice(audit)
    if line := incidents_line(audit):
        show_strong(line)
    states = incident_states(audit)
    listed = states[states["is_open"] | (states["repaired"] > 0)]
    page, pages = read_page(len(listed), _SHOWN, parameter=_INCIDENTS)
    for state in listed[(page - 1) * _SHOWN : page * _SHOWN].itertuples():
        with st.container(border=True, gap="xsmall"):
            _draw_incident(audit, state)
    draw_pages(page, pages, parameter=_INCIDENTS)


def _draw_incident(audit: Audit, state: Any) -> None:
    number = int(state.Index)
    selection = Selection(incident=str(number))
    pairs = incident_pairs(audit)
    pairs = pairs[pairs["number"] == number]
    show_text(state.cause)
    if state.is_open:
        first = pairs[pairs["to_repair"] if state.to_repair else pairs["undecided"]]
        _draw_changes(audit, first[:STRIP_SIZE], selection)
    with st.container(horizontal=True, vertical_alignment="center"):
        if state.to_repair:
            st.button(
                f"Repair {pairs_in_words(state.to_repair)}",
                icon=":material/build:",
                key=f"repair-{number}",
                on_click=_repair,
                args=(audit, number),
            )
        else:
            st.markdown(state_words(state), width="content")
        if state.repaired:
            card = cards(audit, pairs["row"][pairs["repaired"]][-1:].tolist())[0]
            st.button(
                "Undo",
                icon=":material/undo:",
                key=f"undo-{number}",
                on_click=undo,
                args=(audit, card.decision.event if card.decision else 0),
            )
        parameters = link(audit, selection)
        st.page_link(BROWSE, label="Browse", icon=":material/grid_view:", query_params=parameters)
        lost = pairs[pairs["undecided"] & (pairs["from_row"] < 0)]
        if state.repairs and len(lost):
            st.markdown(f"Captions lost: {pairs_in_words(len(lost))}", width="content")
            for card in cards(audit, lost["row"][:_LOST].tolist()):
                parameters = link(audit, selection, pair=card.pair_id)
                st.page_link(PAIR_PAGE, label=f"{card.row + 1:,}", icon="", query_params=parameters)


def _draw_changes(audit: Audit, pairs: pd.DataFrame, selection: Selection) -> None:
    """Draw pictures, each with its caption and below it the one that a repair gives it."""
    shown = cards(audit, pairs["row"].tolist())
    sources = pairs["from_row"].where(pairs["has_repair"], -1).tolist()
    captions = fetch_numbered(audit.folder / PAIRS, [CAPTIONS], sources)
    firsts: dict[str, FirstCaption] = {}
    for card, source in zip(shown, sources, strict=True):
        after = f"→ {cut(captions[source][0][0], CAPTION_LIMIT)}" if source in captions else ""
        firsts[card.pair_id] = 0, [], after
    labels = [f"Pair {card.row + 1:,}" for card in shown]
    draw_card_row(audit, shown, labels, selection, firsts, key=f"incident-{selection.incident}")


def _repair(audit: Audit, number: int) -> None:
    """Repair the pairs of an incident. A callback."""
    with locked_session() as session:
        event = store_repairs(audit, [number]).event
        session.events[audit.name, event] = False  # the key U undoes it
