"""The filters of pairs: search, choices, the histogram of each score with a range, and the chips of
the active ones. They read and write the address."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import streamlit as st

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.dashboard.deciding import BADGES
from clipmem_core.dashboard.page import draw_set, peek_selection, read_selection, write_selection
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.figures import BAR_COLOUR
from clipmem_core.review.decisions import CHOICES
from clipmem_core.review.filters import frequent_values, score_counts, score_span
from clipmem_core.review.views import (
    ANY,
    CAPTION,
    DECIDED,
    MAP_X,
    MATCH,
    NONE,
    PICTURE,
    UNDECIDED,
    Range,
    Selection,
)
from clipmem_core.scores.registry import BY_NAME, FILTER_SCORES, words
from clipmem_core.utils import columns as c

_FIELDS = ("group", "label", "injected", "decision", "incident", "words", "check")
_DECISIONS = {"": "All decisions", UNDECIDED: UNDECIDED, DECIDED: DECIDED}
_DECISIONS |= {name: BADGES[name][0] for name in CHOICES}
_ANY = {"": "any"}
_CHECKS = {name: check.label for name, check in CHECKS.items()}
_NAMES = {"decision": _DECISIONS, "check": _CHECKS}  # of values
_INJECTED = {ANY: "any injected error", NONE: "no injected error"}
_SIDES = {CAPTION: "captions: by meaning", PICTURE: "pictures: by members of this audit"}
_STEPS = 200  # of a slider


def read_filters(suspicious: str = c.SUSPICION) -> Selection:
    """Return the selection of the address; `suspicious` is the page's order of suspicious pairs,
    and `REVIEW_PLACE` that with random spot checks."""
    selection = read_selection()
    by_suspicion = selection.order in (c.SUSPICION, c.REVIEW_PLACE)
    return replace(selection, order=suspicious) if by_suspicion else selection


def changed(selection: Selection, **changes: Any) -> Selection:
    """Return a selection with other conditions; a search sorts by match from its beginning to its
    end."""
    new = replace(selection, **changes)
    if new.searched and not selection.searched:
        return replace(new, order=MATCH, ascending=False)
    if new.order == MATCH and not new.searched:
        return replace(new, order=c.REVIEW_PLACE, ascending=False)
    return new


def _write(**changes: Any) -> None:
    """Change conditions in the address. A callback."""
    write_selection(changed(peek_selection(), **changes))


def conditions(selection: Selection) -> list[tuple[str, Selection]]:
    """Return every condition as text, with the selection without it."""
    chips: list[tuple[str, dict[str, Any]]] = [
        (f"{field}: {_NAMES.get(field, {}).get(value, value)}", {field: ""})
        for field in _FIELDS
        if (value := getattr(selection, field))
    ]
    for removed in selection.ranges:
        ends = f"{removed.low:.4g} to {removed.high:.4g}".replace("-inf", "…").replace("inf", "…")
        others = tuple(each for each in selection.ranges if each != removed)
        chips.append((f"{words(removed.column)} {ends}".replace("-", "−"), {"ranges": others}))
    if outline := selection.outline:
        axes = f"{words(outline.x)} and {words(outline.y)}"
        name = selection.map if outline.x == MAP_X else axes
        chips.append((f"outlined on the map of {name}", {"outline": None, "map": ""}))
    if selection.meaning:
        chips.append((f"{selection.by}s close to: {selection.meaning}", {"meaning": ""}))
    if selection.like:
        chips.append((f"{selection.by}s similar to {selection.like}", {"like": ""}))
    return [(" ".join(text.split()), changed(selection, **without)) for text, without in chips]


def draw_conditions(selection: Selection) -> None:
    """Draw every condition as a chip that can be removed."""
    chips = dict(conditions(selection))

    def remove(remaining: Sequence[str]) -> None:
        (*_, removed) = [text for text in chips if text not in remaining]
        no_condition = Selection(order=selection.order, ascending=selection.ascending)
        write_selection(chips[removed] if remaining else changed(no_condition))

    if chips:
        draw_set(
            st.multiselect,
            "Active filters",
            list(chips),
            key="conditions",
            value=list(chips),
            on_choose=remove,
            wrap=True,
            label_visibility="collapsed",
        )


def draw_filters(audit: Audit, selection: Selection) -> None:
    """Draw every filter, each score with the histogram of its values."""
    draw_search(selection, "words", "Words in the caption", width="stretch")
    _choose(selection, "by", "Search among", _SIDES)
    kinds, labels = (
        {name: name for name in frequent_values(audit, column)} for column in (c.INJECTED, c.LABEL)
    )
    left, right = st.columns(2)
    with left:
        _choose(selection, "decision", "Decision", _DECISIONS)
        groups = {group: c.group_words(group) for group in audit.record.groups}
        _choose(selection, "group", "Group", _ANY | groups)
    with right:
        _choose(selection, "check", "Check", _ANY | _CHECKS)
        _choose(selection, "label", "Label", _ANY | labels)
    _choose(selection, "injected", "Injected error", _ANY | (kinds and _INJECTED | kinds))
    for column in dict.fromkeys([*FILTER_SCORES, *(each.column for each in selection.ranges)]):
        _draw_range(audit, selection, column)


def draw_search(selection: Selection, field: str, label: str, *, width: Any) -> None:
    """Draw the box of a field of the selection that is searched by text."""
    draw_set(
        st.text_input,
        label,
        key=field,
        value=getattr(selection, field),
        on_choose=lambda text: _write(**{field: text}),
        type="search",
        placeholder=label,
        width=width,
        label_visibility="collapsed",
    )


def _choose(selection: Selection, field: str, label: str, names: Mapping[str, str]) -> None:
    """Draw the values of a field, with that of the address, as a list of their names; nothing if
    there is no choice."""
    current = getattr(selection, field)
    listed = {**names, current: names.get(current, current)}
    if len(listed) > 1:
        draw_set(
            st.selectbox,
            label,
            list(listed),
            key=field,
            value=current,
            on_choose=lambda value: _write(**{field: value}),
            format_func=listed.__getitem__,
        )


def _draw_range(audit: Audit, selection: Selection, column: str) -> None:
    """Draw the histogram of a score, and two handles that select a range of it."""
    lowest, highest = score_span(audit, column) or (0.0, 0.0)
    if lowest == highest:
        return
    current = next((each for each in selection.ranges if each.column == column), Range(column))
    step = (highest - lowest) / _STEPS
    ends = np.clip([current.low, current.high], lowest, highest)

    def choose_range(chosen: tuple[float, float]) -> None:
        low, high = chosen
        # A browser rounds the ends; a handle at its end is open.
        new = Range(
            column,
            -math.inf if low < lowest + step / 2 else low,
            math.inf if high > highest - step / 2 else high,
        )
        ranges = {each.column: each for each in peek_selection().ranges} | {column: new}
        _write(ranges=tuple(each for each in ranges.values() if each != Range(each.column)))

    counts, _ = score_counts(audit, column)
    heights = 100 * np.sqrt(counts / counts.max())  # a bar of few pairs stays visible
    bars = [
        f'<div style="flex:1;height:{height:.0f}%;background:{BAR_COLOUR}"></div>'
        for height in heights
    ]
    style = "display:flex;align-items:end;gap:1px;height:28px"
    with st.container(gap=None):
        st.html(f'<div style="{style}">{"".join(bars)}</div>')
        draw_set(
            st.slider,
            words(column),
            lowest,
            highest,
            key=f"range-{column}",
            value=tuple(ends.tolist()),
            on_choose=choose_range,
            step=step,
            format="%.3g",
            help=BY_NAME[column].help or None,
        )
