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
# in the address
_GRID = ""
TABLE = "table"
LAYOUTS = {_GRID: ":material/grid_view: Grid", TABLE: ":material/table_rows: Table"}
_DECISIONS = {"": "All decisions", s.UNDECIDED: s.UNDECIDED, s.DECIDED: s.DECIDED}
_DECISIONS |= {name: BADGES[name][0] for name in CHOICES}
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
        chips.append(
            (f"{words(removed.column)} {low} to {high}", changed(selection, ranges=others))
        )
    if outline := selection.outline:
        place = (
            selection.map if outline.x == s.MAP_X else f"{words(outline.x)} and {words(outline.y)}"
        )
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
        _choose(
            selection,
            "by",
            "Search in",
            list(_SIDES),
            lambda side: f"in {_SIDES[side]}",
            width=125,
            **_HIDDEN,
        )
        _type(selection, "words", "Words in the caption", width=165)
        _choose(
            selection,
            "decision",
            "Decision",
            _DECISIONS,
            _DECISIONS.__getitem__,
            width=155,
            **_HIDDEN,
        )
        scores = [*([s.MATCH] if selection.searched else []), *BY_NAME, s.RANDOM]
        names = {score: f"Sort by {words(score)}" for score in scores}
        names |= {
            c.CLIPMEM: "Sort by memorization",
            c.REVIEW_PLACE: "Order of review",
            s.RANDOM: "Random order",
        }
        _choose(selection, "order", "Sort by", scores, names.__getitem__, width=170, **_HIDDEN)
        directions = {
            ascending: DIRECTIONS[ascending != selection.lowest_first] for ascending in DIRECTIONS
        }
        _choose(
            selection,
            "ascending",
            "Direction",
            directions,
            directions.__getitem__,
            width=128,
            **_HIDDEN,
        )
        with st.popover("Scores", icon=":material/bar_chart:"):
            _draw_range(audit, selection)
        with st.popover("More", icon=":material/tune:"):
            kinds = frequent_values(audit, c.INJECTED)
            checks = {name: check.label for name, check in CHECKS.items()}
            _choose_listed(selection, "group", "Group", list(audit.record.groups))
            _choose_listed(selection, "label", "Label", frequent_values(audit, c.LABEL))
            _choose_listed(
                selection,
                "injected",
                "Injected error",
                [*INJECTED, *kinds] if kinds else [],
                INJECTED,
            )
            _choose_listed(selection, "check", "Check", list(checks), checks)
        draw_key_list(BROWSE_KEYS)


def _type(selection: Selection, field: str, label: str, *, width: int) -> None:
    style = {
        "type": "search",
        "placeholder": label,
        "width": width,
        "value": getattr(selection, field),
    } | _HIDDEN
    page.draw_set(st.text_input, label, key=field, on_choose=_setter(field), **style)


def _choose_listed(
    selection: Selection,
    field: str,
    label: str,
    options: Sequence[str],
    names: Mapping[str, str] | None = None,
) -> None:
    """Draw a list with "any" and the value of the address; nothing without options."""
    listed = list(dict.fromkeys(["", getattr(selection, field), *options]))
    if len(listed) > 1:
        _choose(
            selection, field, label, listed, lambda name: (names or {}).get(name, name) or "any"
        )


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
        style: dict[str, Any] = {
            "format_func": lambda place: chips[place][0],
            "wrap": True,
        } | _HIDDEN
        style |= {"key": "conditions", "value": places, "on_choose": remove}
        page.draw_set(st.multiselect, "Active filters", places, **style)
        icon = ":material/close:"
        st.button(
            "Clear all",
            type="tertiary",
            icon=icon,
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
    low, high = (
        float(np.clip(default if end is None else end, *span))
        for end, default in zip((current.low, current.high), span, strict=True)
    )

    def choose_range(ends: tuple[float, float]) -> None:
        low, high = (
            None if end == default else end for end, default in zip(ends, span, strict=True)
        )
        selection = page.peek_selection()
        new = Range(column, low, high)
        others = tuple(each for each in selection.ranges if each.column != column)
        page.write_selection(
            changed(selection, ranges=others if new == Range(column) else (*others, new))
        )

    step = (span[1] - span[0]) / _STEPS
    key = f"range-{column}"
    style = {"min_value": span[0], "max_value": span[1], "step": step, "format": "%.3g"} | _HIDDEN
    page.draw_set(
        st.slider, words(column), key=key, value=(low, high), on_choose=choose_range, **style
    )


def _choose(
    selection: Selection,
    field: str,
    label: str,
    options: Any,
    format_func: Callable[[Any], str],
    **style: Any,
) -> None:
    style |= {"key": field, "value": getattr(selection, field), "format_func": format_func}
    page.draw_set(st.selectbox, label, list(options), on_choose=_setter(field), **style)


def _setter(field: str) -> Callable[[Any], None]:
    return lambda value: page.write_selection(
        changed(page.peek_selection(), **{field: "" if value is None else value})
    )
