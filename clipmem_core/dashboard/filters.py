"""The widgets that show and change a selection: queues, search, filters, order and removable chips.

Each widget is set from the address before it is drawn, and its callback writes into the address what was changed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.columns import CLIPMEM
from clipmem_core.dashboard.address import LAYOUT, peek_selection, write, write_selection
from clipmem_core.dashboard.chips import (
    SIDES,
    changed,
    cleared,
    conditions,
    learned_by_g,
    queue_of,
    with_queue,
    with_range,
)
from clipmem_core.dashboard.numbers import number, read_verdict
from clipmem_core.review.decisions import CHOICES
from clipmem_core.review.rows import labels, planted_kinds, score_span
from clipmem_core.review.selection import ANY, DECIDED, MATCH, NONE, TEXT_SIDE, UNDECIDED, Range, Selection
from clipmem_core.scores.table import BY_NAME, words

GRID, TABLE = "grid", "table"
LAYOUTS = {GRID: ":material/grid_view: Grid", TABLE: ":material/table_rows: Table"}
DECISIONS = {
    UNDECIDED: "undecided",
    DECIDED: "decided",
    **{choice: choice for choice in CHOICES},
}
DIRECTIONS = {False: "highest first", True: "lowest first"}
RANGE_KEYS = ("range-column", "range-low", "range-high")


def draw_queues(audit: Audit, selection: Selection, layout: str) -> None:
    """Draw the two queues and the choice of grid or table."""
    named = queues(read_verdict(audit))
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        st.session_state["queue"] = queue_of(selection)
        st.segmented_control(
            "Queue",
            list(named),
            key="queue",
            format_func=lambda order: named[order].name,
            on_change=_take_queue,
            label_visibility="collapsed",
        )
        st.session_state["layout"] = layout
        st.segmented_control(
            "Layout",
            list(LAYOUTS),
            key="layout",
            required=True,
            format_func=LAYOUTS.__getitem__,
            on_change=_take_layout,
            label_visibility="collapsed",
        )


def draw_filters(audit: Audit, selection: Selection) -> None:
    """Draw search, the filters that are used most, and all others behind a button."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        asked = "what a caption says" if searched_side(selection) == TEXT_SIDE else "what a picture shows"
        _draw_text("meaning", "Search by meaning", selection.meaning, asked, width=250)
        _draw_text("words", "Words in the caption", selection.words, "", width=200)
        _choose("decision", "Decision", ["", *DECISIONS], selection.decision, _or_any(DECISIONS.__getitem__), width=130)
        with st.popover("More filters", icon=":material/tune:"):
            _draw_more(audit, selection)


def draw_conditions(selection: Selection) -> None:
    """Draw every condition as a chip that can be removed; nothing where there is none."""
    found = conditions(selection)
    if not found:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        places = list(range(len(found)))
        key = "conditions"
        st.session_state[key] = places
        st.multiselect(
            "Active filters",
            places,
            key=key,
            format_func=lambda place: found[place][0],
            on_change=_remove,
            label_visibility="collapsed",
            wrap=True,
        )
        st.button("Clear all", type="tertiary", icon=":material/close:", on_click=_clear)


def draw_order(selection: Selection) -> None:
    """Draw the choice of the score that orders, and the direction."""
    scores = [MATCH, *BY_NAME] if selection.searched else list(BY_NAME)
    _choose("order", "Order by", scores, selection.order, words, width=180)
    turned = learned_by_g(selection)
    names = {ascending: DIRECTIONS[ascending != turned] for ascending in (False, True)}
    _choose("ascending", "Direction", list(names), selection.ascending, names.__getitem__, width=135)


def _draw_more(audit: Audit, selection: Selection) -> None:
    record = audit.record
    groups = _with(selection.group, record.groups)
    _choose("group", "Group", ["", *groups], selection.group, _or_any(str))
    known = _with(selection.label, labels(audit))
    if known:
        _choose("label", "Label", ["", *known], selection.label, _or_any(str))
    kinds = planted_kinds(audit)
    if kinds or selection.planted:
        options = _with(selection.planted, [ANY, NONE, *kinds])
        names = {ANY: "planted, any kind", NONE: "not planted"}
        _choose("planted", "Planted", ["", *options], selection.planted, _or_any(lambda kind: names.get(kind, kind)))
    _draw_range(audit)
    options = ["", *_with(selection.member, record.members)]
    _choose("by", "Search by meaning among", list(SIDES), searched_side(selection), SIDES.__getitem__)
    _choose("member", "Search with the encoders of", options, selection.member, lambda name: name or "all, their mean")


def searched_side(selection: Selection) -> str:
    """Return what a search by meaning goes over, whether there is one or not."""
    return replace(selection, meaning=selection.meaning or "anything", like="").side


def _draw_range(audit: Audit) -> None:
    """Draw the range of a score, which becomes a condition when its button is pressed."""
    column, low, high = RANGE_KEYS
    scores = list(BY_NAME)
    chosen = st.selectbox("Score range", scores, key=column, index=scores.index(CLIPMEM), format_func=words)
    span = score_span(audit, chosen)
    ends = [number(end) for end in span] if span else ["none", "none"]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.number_input("From", value=None, key=low, placeholder=ends[0], step=None, format="%.4g", width=110)
        st.number_input("To", value=None, key=high, placeholder=ends[1], step=None, format="%.4g", width=110)
        st.button("Add", icon=":material/add:", on_click=_add_range)


def _with(chosen: str, options: Sequence[str]) -> list[str]:
    """Return the options and, where it is none of them, what the address asks for."""
    return [*options] if not chosen or chosen in options else [chosen, *options]


def _or_any(name: Callable[[str], str]) -> Callable[[str], str]:
    return lambda option: name(option) if option else "any"


def _draw_text(field: str, label: str, value: str, placeholder: str, *, width: int) -> None:
    st.session_state[field] = value
    st.text_input(
        label,
        key=field,
        type="search",
        placeholder=placeholder,
        on_change=_take,
        args=(field,),
        width=width,
    )


def _choose(
    field: str,
    label: str,
    options: Sequence[Any],
    value: object,
    name: Callable[[Any], str],
    *,
    width: int | None = None,
) -> None:
    st.session_state[field] = value
    st.selectbox(
        label,
        options,
        key=field,
        format_func=name,
        on_change=_take,
        args=(field,),
        width="stretch" if width is None else width,
    )


def _take(field: str) -> None:
    value = st.session_state[field]
    write_selection(changed(peek_selection(), **{field: "" if value is None else value}))


def _take_queue() -> None:
    order = st.session_state["queue"]
    if order:
        write_selection(with_queue(peek_selection(), order))


def _take_layout() -> None:
    write(**{LAYOUT: None if st.session_state["layout"] == GRID else st.session_state["layout"]})


def _remove() -> None:
    """Remove the first condition whose chip was taken away; all of them where none is left."""
    selection = peek_selection()
    left = set(st.session_state["conditions"])
    gone = [rest for place, (_, rest) in enumerate(conditions(selection)) if place not in left]
    write_selection(gone[0] if len(gone) == 1 else cleared(selection))


def _clear() -> None:
    write_selection(cleared(peek_selection()))


def _add_range() -> None:
    column, low, high = (st.session_state[key] for key in RANGE_KEYS)
    if low is None and high is None:
        return
    write_selection(with_range(peek_selection(), Range(column, low, high)))
    for key in RANGE_KEYS[1:]:
        st.session_state[key] = None
