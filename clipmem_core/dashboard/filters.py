"""The widgets of a selection: queues, search, filters, order and conditions. They read and write
the address."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from clipmem_core import columns as c
from clipmem_core.audit.store import Audit
from clipmem_core.audit.verdict import queues
from clipmem_core.dashboard import page
from clipmem_core.dashboard.component.pairs import BROWSE_KEYS, draw_key_list
from clipmem_core.dashboard.deciding import BADGES
from clipmem_core.dashboard.plain import read_verdict
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.review import selection as s
from clipmem_core.review.decisions import CHOICES
from clipmem_core.review.rows import frequent_values, score_span
from clipmem_core.review.selection import Range, Selection
from clipmem_core.scores.registry import BY_NAME, QUEUE_SCORES, words

_SIDES = {s.CAPTION: "captions", s.PICTURE: "pictures"}
_FIELDS = {
    "group": "group",
    "label": "label",
    "injected": "injected error",
    "decision": "decision",
    "words": "words",
}
TABLE = "table"  # in the address
LAYOUTS = {"": ":material/grid_view: Grid", TABLE: ":material/table_rows: Table"}
_DECISIONS = {"": "All decisions", s.UNDECIDED: s.UNDECIDED, s.DECIDED: s.DECIDED}
_DECISIONS |= {name: BADGES[name][0] for name in CHOICES}
_ORDERS = {
    c.CLIPMEM: "Sort by memorization",
    c.REVIEW_PLACE: "Order of review",
    s.RANDOM: "Random order",
}
INJECTED = {s.ANY: "any injected error", s.NONE: "no injected error"}
DIRECTIONS = {False: "high to low", True: "low to high"}
_STEPS = 200  # of a slider
_HIDDEN = {"label_visibility": "collapsed"}


def changed(selection: Selection, **changes: Any) -> Selection:
    """Return a selection with other conditions; a search sorts by match from its beginning to its
    end."""
    new = dataclasses.replace(selection, **changes)
    if new.searched and not selection.searched and "order" not in changes:
        return dataclasses.replace(new, order=s.MATCH, ascending=False)
    if new.order == s.MATCH and not new.searched:
        return dataclasses.replace(new, order=c.REVIEW_PLACE, ascending=False)
    return new


def read_filters(audit: Audit) -> Selection:
    """Return the selection of the address. Without an order it is that of the review, or clipmem in
    an old audit."""
    searched = page.peek_selection().searched
    if "order" not in st.query_params and not searched and not score_span(audit, c.REVIEW_PLACE):
        st.query_params["order"] = c.CLIPMEM
    return page.read_selection()


def queue_of(selection: Selection) -> str | None:
    """Return the score of the queue whose order a selection has, or None."""
    by_queue = with_queue(selection, selection.order)
    in_queue = selection == by_queue and selection.order in QUEUE_SCORES
    return selection.order if in_queue else None


def with_queue(selection: Selection, order: str) -> Selection:
    """Return a selection in the order of a queue, with its filters and without its search."""
    return dataclasses.replace(selection, order=order, ascending=False, meaning="", like="")


def conditions(selection: Selection) -> list[tuple[str, Selection]]:
    """Return every condition as text, with the selection without it."""
    chips = [
        (f"{name}: {_DECISIONS.get(value, value)}", changed(selection, **{field: ""}))
        for field, name in _FIELDS.items()
        if (value := getattr(selection, field))
    ]
    if selection.check:
        chips.append((f"check: {CHECKS[selection.check].label}", changed(selection, check="")))
    for removed in dict.fromkeys(selection.ranges):
        others = tuple(each for each in selection.ranges if each != removed)
        low, high = (
            "…" if end is None else f"{end:.4g}".replace("-", "−")
            for end in (removed.low, removed.high)
        )
        text = f"{words(removed.column)} {low} to {high}"
        chips.append((text, changed(selection, ranges=others)))
    if outline := selection.outline:
        axes = f"{words(outline.x)} and {words(outline.y)}"
        place = selection.map if outline.x == s.MAP_X else axes
        chips.append((f"outlined on the map of {place}", changed(selection, outline=None, map="")))
    side = _SIDES[selection.by]
    if selection.meaning:
        chips.append((f"{side} close to: {selection.meaning}", changed(selection, meaning="")))
    if selection.like:
        chips.append((f"{side} similar to {selection.like}", changed(selection, like="")))
    return [(" ".join(text.split()), rest) for text, rest in chips]


def cleared(selection: Selection) -> Selection:
    """Return a selection without conditions, in the same order if it needs no search."""
    order = c.REVIEW_PLACE if selection.order == s.MATCH else selection.order
    return Selection(order=order, ascending=selection.ascending and order == selection.order)


def draw_queues(audit: Audit, selection: Selection) -> None:
    """Draw the queues, and the choice of grid or table."""
    names = {order: queue.name for order, queue in reversed(queues(read_verdict(audit)).items())}

    def choose_queue(order: str | None) -> None:
        if order:
            page.write_selection(with_queue(page.peek_selection(), order))

    style = {"value": queue_of(selection), "format_func": names.__getitem__} | _HIDDEN
    page.draw_set(
        st.segmented_control, "Queue", list(names), key="queue", on_choose=choose_queue, **style
    )
    page.choose_segment("Layout", LAYOUTS, parameter=page.LAYOUT, key="layout", hidden=True)


def draw_filters(audit: Audit, selection: Selection) -> None:
    """Draw search, the most used filters, the order, and all other filters behind buttons."""
    with st.container(horizontal=True, vertical_alignment="center"):
        _type(selection, "meaning", "Search by meaning", width=175)
        sides = {side: f"in {name}" for side, name in _SIDES.items()}
        _choose(selection, "by", "Search in", sides, width=125, **_HIDDEN)
        _type(selection, "words", "Words in the caption", width=165)
        _choose(selection, "decision", "Decision", _DECISIONS, width=155, **_HIDDEN)
        scores = [*([s.MATCH] if selection.searched else []), *BY_NAME]
        orders = {score: f"Sort by {words(score)}" for score in scores} | _ORDERS
        _choose(selection, "order", "Sort by", orders, width=170, **_HIDDEN)
        directions = {
            ascending: DIRECTIONS[ascending != selection.lowest_first] for ascending in DIRECTIONS
        }
        _choose(selection, "ascending", "Direction", directions, width=128, **_HIDDEN)
        with st.popover("Scores", icon=":material/bar_chart:"):
            _draw_range(audit, selection)
        with st.popover("More", icon=":material/tune:"):
            kinds = frequent_values(audit, c.INJECTED)
            injected = INJECTED | dict(zip(kinds, kinds, strict=True)) if kinds else {}
            labels = frequent_values(audit, c.LABEL)
            groups = audit.record.groups
            _choose_any(selection, "group", "Group", dict(zip(groups, groups, strict=True)))
            _choose_any(selection, "label", "Label", dict(zip(labels, labels, strict=True)))
            _choose_any(selection, "injected", "Injected error", injected)
            checks = {name: check.label for name, check in CHECKS.items()}
            _choose_any(selection, "check", "Check", checks)
        draw_key_list(BROWSE_KEYS)


def _type(selection: Selection, field: str, label: str, *, width: int) -> None:
    page.draw_set(
        st.text_input,
        label,
        key=field,
        value=getattr(selection, field),
        on_choose=_setter(field),
        type="search",
        placeholder=label,
        width=width,
        **_HIDDEN,
    )


def _choose_any(selection: Selection, field: str, label: str, names: dict[str, str]) -> None:
    """Draw a list with "any" and the value of the address; nothing without options."""
    current = getattr(selection, field)
    listed = {"": "any", current: current or "any"} | names
    if len(listed) > 1:
        _choose(selection, field, label, listed)


def draw_conditions(selection: Selection) -> None:
    """Draw every condition as a chip that can be removed."""
    chips = conditions(selection)
    if not chips:
        return
    places = list(range(len(chips)))

    def remove(remaining: Sequence[int]) -> None:
        removed = [rest for place, (_, rest) in enumerate(chips) if place not in remaining]
        page.write_selection(removed[0] if len(removed) == 1 else cleared(selection))

    with st.container(horizontal=True, vertical_alignment="center"):
        page.draw_set(
            st.multiselect,
            "Active filters",
            places,
            key="conditions",
            value=places,
            on_choose=remove,
            format_func=lambda place: chips[place][0],
            wrap=True,
            **_HIDDEN,
        )
        st.button(
            "Clear all",
            type="tertiary",
            icon=":material/close:",
            on_click=lambda: page.write_selection(cleared(selection)),
        )


def _draw_range(audit: Audit, selection: Selection) -> None:
    """Draw a score with two handles that select a range."""
    scores = list(BY_NAME)
    first = scores.index(selection.ranges[-1].column if selection.ranges else c.CLIPMEM)
    column = st.selectbox("Score", scores, index=first, key="range-column", format_func=words)
    span = score_span(audit, column)
    if span is None or not span[0] < span[1]:
        st.caption("The values of this score have no range.")
        return
    current = next((each for each in selection.ranges if each.column == column), Range(column))
    ends = (
        span[0] if current.low is None else current.low,
        span[1] if current.high is None else current.high,
    )

    def choose_range(chosen: tuple[float, float]) -> None:
        low, high = (
            None if end == default else end for end, default in zip(chosen, span, strict=True)
        )
        selection = page.peek_selection()
        others = [each for each in selection.ranges if each.column != column]
        if (low, high) != (None, None):
            others.append(Range(column, low, high))
        page.write_selection(changed(selection, ranges=tuple(others)))

    page.draw_set(
        st.slider,
        words(column),
        key=f"range-{column}",
        value=tuple(np.clip(ends, *span).tolist()),
        on_choose=choose_range,
        min_value=span[0],
        max_value=span[1],
        step=(span[1] - span[0]) / _STEPS,
        format="%.3g",
        **_HIDDEN,
    )


def _choose(
    selection: Selection, field: str, label: str, names: Mapping[Any, str], **style: Any
) -> None:
    """Draw the values of a field as a list of their names."""
    page.draw_set(
        st.selectbox,
        label,
        list(names),
        key=field,
        value=getattr(selection, field),
        on_choose=_setter(field),
        format_func=names.__getitem__,
        **style,
    )


def _setter(field: str) -> Callable[[Any], None]:
    return lambda value: page.write_selection(
        changed(page.peek_selection(), **{field: "" if value is None else value})
    )
