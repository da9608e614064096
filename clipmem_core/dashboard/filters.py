"""A selection's queues, search, filters, order and conditions: the widgets that show and change them.

Each widget is set from the address before it is drawn, and its callback writes into the address what was changed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.columns import CLIPMEM, INDEPENDENT, MISFIT
from clipmem_core.dashboard.page import LAYOUT, draw_set, peek_selection, read_selection, write, write_selection
from clipmem_core.dashboard.pair_component import BROWSE_KEYS, draw_keys
from clipmem_core.dashboard.plain import cut, number, read_verdict
from clipmem_core.figures.layout import OTHER
from clipmem_core.pairs.checks import CHECKS
from clipmem_core.review.decisions import CHOICES
from clipmem_core.review.rows import labels, planted_kinds, score_histogram, score_span
from clipmem_core.review.selection import (
    ANY,
    DECIDED,
    IMAGE_SIDE,
    MAP_X,
    MATCH,
    NONE,
    RANDOM,
    UNDECIDED,
    Range,
    Selection,
)
from clipmem_core.scores.registry import BY_NAME, CARD, QUEUE, scores_in, words

LIMIT = 60
SIDES = {IMAGE_SIDE: "pictures", "text": "captions"}
NAMES = {name: name for name in ("group", "label", "planted", "decision", "words")}


def changed(selection: Selection, **changes: Any) -> Selection:  # noqa: ANN401  the fields of a selection
    """Return a selection with other conditions, in an order that makes sense with them.

    A search that begins is ordered by match, and one that ends no longer is.

    Example:
        >>> changed(Selection(), meaning="a frog").order
        'match'
    """
    new = dataclasses.replace(selection, **changes)
    if new.searched and not selection.searched and "order" not in changes:
        return dataclasses.replace(new, order=MATCH, ascending=False)
    if new.order == MATCH and not new.searched:
        return dataclasses.replace(new, order=MISFIT, ascending=False)
    return new


def read_filters(audit: Audit) -> Selection:
    """Return the selection of the address. Likely wrong captions come first, or high clipmem without a misfit."""
    if "order" not in st.query_params and not peek_selection().searched and not score_span(audit, MISFIT):
        st.query_params["order"] = CLIPMEM
    return read_selection()


def learned_by_g(selection: Selection) -> bool:
    """Tell whether it is in the order of −clipmem: independent pairs alone, which g learned, and g is subtracted."""
    return selection.order == CLIPMEM and selection.group == INDEPENDENT


def queue_of(selection: Selection) -> str | None:
    """Return the score of the queue that a selection is in the order of, or None."""
    first = selection == with_queue(selection, selection.order) and selection.order in scores_in(QUEUE)
    return selection.order if first else None


def with_queue(selection: Selection, order: str) -> Selection:
    """Return a selection in the order of a queue, no search, all else kept."""
    return dataclasses.replace(selection, order=order, ascending=False, meaning="", like="")


def conditions(selection: Selection) -> list[tuple[str, Selection]]:
    """Return every condition in words, cut to a chip's length, with the selection that is left without it."""
    found = [
        (f"{word}: {getattr(selection, field)}", changed(selection, **{field: ""}))
        for field, word in NAMES.items()
        if getattr(selection, field)
    ]
    if selection.check:
        found.append((f"check: {CHECKS[selection.check].label}", changed(selection, check="")))
    for unwanted in dict.fromkeys(selection.ranges):
        others = tuple(each for each in selection.ranges if each != unwanted)
        found.append((_between(unwanted), changed(selection, ranges=others)))
    if outline := selection.outline:
        columns = f"{words(outline.x)} and {words(outline.y)}"
        place = f"the map of embeddings {selection.map}" if outline.x == MAP_X else columns
        found.append((f"outlined on {place}", changed(selection, outline=None, map="")))
    side = SIDES[selection.by]
    if selection.meaning:
        found.append((f"{side} close to: {selection.meaning}", changed(selection, meaning="")))
    if selection.like:
        found.append((f"{side} like that of: {selection.like}", changed(selection, like="")))
    if selection.searched and selection.member:
        found.append((f"encoders of {selection.member}", changed(selection, member="")))
    return [(cut(" ".join(text.split()), LIMIT), rest) for text, rest in found]


def cleared(selection: Selection) -> Selection:
    """Return a selection without conditions, in the same order where it can be."""
    order = MISFIT if selection.order == MATCH else selection.order
    return Selection(order=order, ascending=selection.ascending and order == selection.order)


def with_range(selection: Selection, wanted: Range) -> Selection:
    """Return a selection with a range in place of those of the same score; the ends may come in any order.

    A range that is open at both ends is none.
    """
    low, high = wanted.low, wanted.high
    if low is not None and high is not None and low > high:
        wanted = Range(wanted.column, high, low)
    others = tuple(r for r in selection.ranges if r.column != wanted.column)
    none = low is None and high is None
    return changed(selection, ranges=others if none else (*others, wanted))


def _between(wanted: Range) -> str:
    name = words(wanted.column)
    low, high = (None if end is None else f"{end:.4g}".replace("-", "−") for end in (wanted.low, wanted.high))
    if low is None:
        return f"{name}: any" if high is None else f"{name} ≤ {high}"
    return f"{name} ≥ {low}" if high is None else f"{name} {low} to {high}"


GRID, TABLE = "grid", "table"
LAYOUTS = {GRID: ":material/grid_view: Grid", TABLE: ":material/table_rows: Table"}
DECISIONS = {
    UNDECIDED: "undecided",
    DECIDED: "decided",
    **{choice: choice for choice in CHOICES},
}
DIRECTIONS = {False: "high to low", True: "low to high"}
STEPS = 200  # of a handle from end to end
IN_RANGE = "#2f8f6d"
BARS = "display:flex;align-items:flex-end;gap:1px;height:40px;margin-bottom:-1rem"
RANGE_KEYS = ("range-column", "range-low", "range-high")


def draw_queues(audit: Audit, selection: Selection, layout: str) -> None:
    """Draw the two queues, the choice of grid or table, and what can be done with all pairs that are shown."""
    named = {order: queue.name for order, queue in reversed(queues(read_verdict(audit)).items())}

    def take_queue(order: str | None) -> None:
        if order:
            write_selection(with_queue(peek_selection(), order))

    def take_layout(chosen: str) -> None:
        write(**{LAYOUT: None if chosen == GRID else chosen})

    widgets: list[tuple[str, dict[str, str], str | None, Callable[[Any], None], dict[str, Any]]] = [
        ("Queue", named, queue_of(selection), take_queue, {}),
        ("Layout", LAYOUTS, layout, take_layout, {"required": True}),
    ]
    for label, names, value, take, look in widgets:
        look |= {"format_func": names.__getitem__, "label_visibility": "collapsed", "width": "content"}
        draw_set(st.segmented_control, label, list(names), key=label.lower(), value=value, take=take, **look)


def draw_filters(audit: Audit, selection: Selection) -> None:
    """Draw search, the filters that are used most, the order, and all other filters behind buttons."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        asked = f"Search {SIDES[selection.by]} by meaning"
        _draw_text("meaning", "Search by meaning", selection.meaning, asked, width=235)
        _draw_text("words", "Words in the caption", selection.words, "Words in the caption", width=165)
        look: dict[str, Any] = {"width": 132, "label_visibility": "collapsed"}
        named = _or_any(DECISIONS.__getitem__, "All decisions")
        _choose("decision", "Decision", ["", *DECISIONS], selection.decision, named, **look)
        draw_order(selection)
        with st.popover("Scores", icon=":material/bar_chart:"):
            draw_ranges(audit, selection)
        with st.popover("More", icon=":material/tune:"):
            _draw_more(audit, selection)
        draw_keys(BROWSE_KEYS)


def draw_conditions(selection: Selection) -> None:
    """Draw every condition as a chip that can be removed; nothing where there is none."""
    found = conditions(selection)
    if not found:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        places, key = list(range(len(found))), "conditions"
        look = {"format_func": lambda place: found[place][0], "label_visibility": "collapsed", "wrap": True}
        draw_set(st.multiselect, "Active filters", places, key=key, value=places, take=_remove, **look)
        st.button(
            "Clear all",
            type="tertiary",
            icon=":material/close:",
            on_click=lambda: write_selection(cleared(peek_selection())),
        )


def draw_order(selection: Selection) -> None:
    """Draw the choice of the score that orders, and the direction."""
    scores = [*([MATCH] if selection.searched else []), *BY_NAME, RANDOM]
    look: dict[str, Any] = {"label_visibility": "collapsed"}
    named = {score: f"Sort by {words(score)}" for score in scores} | {
        CLIPMEM: "Sort by memorization",
        RANDOM: "Random order",
    }
    _choose("order", "Sort by", scores, selection.order, named.__getitem__, width=190, **look)
    turned = learned_by_g(selection)
    names = {ascending: DIRECTIONS[ascending != turned] for ascending in (False, True)}
    _choose("ascending", "Direction", list(names), selection.ascending, names.__getitem__, width=128, **look)


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
        names = {ANY: "any injected error", NONE: "no injected error"}
        _choose(
            "planted", "Injected error", ["", *options], selection.planted, _or_any(lambda kind: names.get(kind, kind))
        )
    _choose("check", "Check", ["", *CHECKS], selection.check, _or_any(lambda name: CHECKS[name].label))
    options = ["", *_with(selection.member, list(audit.record.members))]
    _choose("by", "Search by meaning among", list(SIDES), selection.by, SIDES.__getitem__)
    _choose("member", "Search with the encoders of", options, selection.member, lambda name: name or "all, their mean")


def draw_ranges(audit: Audit, selection: Selection) -> None:
    """Draw a histogram of each score with two handles that cut a range out, and a range of any score by numbers."""
    for column in scores_in(CARD):
        _draw_histogram(audit, selection, column)
    column, low, high = RANGE_KEYS
    scores = list(BY_NAME)
    chosen = st.selectbox("Range of any score", scores, key=column, index=scores.index(CLIPMEM), format_func=words)
    span = score_span(audit, chosen)
    ends = [number(end) for end in span] if span else ["none", "none"]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.number_input("From", value=None, key=low, placeholder=ends[0], step=None, format="%.4g", width=110)
        st.number_input("To", value=None, key=high, placeholder=ends[1], step=None, format="%.4g", width=110)
        st.button("Add", icon=":material/add:", on_click=_add_range)


def _draw_histogram(audit: Audit, selection: Selection, column: str) -> None:
    found, span = score_histogram(audit, column), score_span(audit, column)
    if found is None or span is None:
        return
    counts, edges = found
    wanted = next((given for given in selection.ranges if given.column == column), Range(column))
    low, high = (
        float(np.clip(usual if end is None else end, *span))
        for end, usual in zip((wanted.low, wanted.high), span, strict=True)
    )
    st.html(f"{words(column)}{histogram_html(counts, edges, low, high)}")

    def take(ends: tuple[float, float]) -> None:
        given = [None if end == usual else end for end, usual in zip(ends, span, strict=True)]
        write_selection(with_range(peek_selection(), Range(column, *given)))

    look: dict[str, Any] = {
        "min_value": span[0],
        "max_value": span[1],
        "step": (span[1] - span[0]) / STEPS,
        "format": "%.2f",
    }
    look |= {"label_visibility": "collapsed"}
    draw_set(st.slider, words(column), key=f"histogram-{column}", value=(low, high), take=take, **look)


def histogram_html(counts: np.ndarray, edges: np.ndarray, low: float, high: float) -> str:
    """Return bars as HTML; those outside of a range are grey.

    Args:
        counts: [n_bins].
        edges: [n_bins + 1].
        low: the range's lower end.
        high: its upper end.
    """
    tallest = max(counts.max(), 1)
    bars = (
        f'<i style="flex:1;min-height:{min(count, 1)}px;height:{100 * count / tallest:.1f}%;'
        f'background:{IN_RANGE if right >= low and left <= high else OTHER}"></i>'
        for count, left, right in zip(counts.tolist(), edges[:-1], edges[1:], strict=True)
    )
    return f'<div aria-hidden="true" style="{BARS}">{"".join(bars)}</div>'


def _with(chosen: str, options: Sequence[str]) -> list[str]:
    """Return the options and, where it is none of them, what the address asks for."""
    return [*options] if not chosen or chosen in options else [chosen, *options]


def _or_any(name: Callable[[str], str], without: str = "any") -> Callable[[str], str]:
    return lambda option: name(option) if option else without


def _draw_text(field: str, label: str, value: str, placeholder: str, *, width: int) -> None:
    look = {"type": "search", "placeholder": placeholder, "width": width, "label_visibility": "collapsed"}
    draw_set(st.text_input, label, key=field, value=value, take=partial(_take, field), **look)


def _choose(
    field: str,
    label: str,
    options: Sequence[Any],
    value: object,
    name: Callable[[Any], str],
    *,
    width: int | Literal["stretch"] = "stretch",
    label_visibility: Literal["visible", "collapsed"] = "visible",
) -> None:
    look = {"format_func": name, "width": width, "label_visibility": label_visibility}
    draw_set(st.selectbox, label, options, key=field, value=value, take=partial(_take, field), **look)


def _take(field: str, value: object) -> None:
    write_selection(changed(peek_selection(), **{field: "" if value is None else value}))


def _remove(left: Sequence[int]) -> None:
    """Remove the first condition whose chip was taken away; all of them where none is left."""
    selection = peek_selection()
    gone = [rest for place, (_, rest) in enumerate(conditions(selection)) if place not in left]
    write_selection(gone[0] if len(gone) == 1 else cleared(selection))


def _add_range() -> None:
    column, low, high = (st.session_state[key] for key in RANGE_KEYS)
    if low is None and high is None:
        return
    write_selection(with_range(peek_selection(), Range(column, low, high)))
    for key in RANGE_KEYS[1:]:
        st.session_state[key] = None
