"""A selection's queues, search, filters, order and conditions: the widgets that show and change them.

Each widget is set from the address before it is drawn, and its callback writes the change into the address.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from clipmem_core import columns as c
from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.dashboard.page import LAYOUT, draw_set, peek_selection, read_selection, write, write_selection
from clipmem_core.dashboard.pair_component import BROWSE_KEYS, draw_keys
from clipmem_core.dashboard.plain import read_verdict
from clipmem_core.figures.layout import OTHER
from clipmem_core.pairs.checks import CHECKS
from clipmem_core.review import selection as s
from clipmem_core.review.decisions import CHOICES
from clipmem_core.review.rows import frequent_values, score_histogram, score_span
from clipmem_core.review.selection import Range, Selection
from clipmem_core.scores.registry import BY_NAME, QUEUE, scores_in, words

SIDES = {s.IMAGE_SIDE: "pictures", s.TEXT_SIDE: "captions"}
FIELDS = {
    "group": "group",
    "label": "label",
    "planted": "injected error",
    "decision": "decision",
    "words": "words",
}
GRID, TABLE = "grid", "table"
LAYOUTS = {GRID: ":material/grid_view: Grid", TABLE: ":material/table_rows: Table"}
DECISIONS = {"": "All decisions"} | {name: name for name in (s.UNDECIDED, s.DECIDED, *CHOICES)}
PLANTED = {s.ANY: "any injected error", s.NONE: "no injected error"}
DIRECTIONS = {False: "high to low", True: "low to high"}
STEPS = 200  # of a handle from end to end
IN_RANGE = "#2f8f6d"
BARS = "display:flex;align-items:flex-end;gap:1px;height:40px"
HIDDEN = {"label_visibility": "collapsed"}


def changed(selection: Selection, **changes: Any) -> Selection:  # noqa: ANN401  the fields of a selection
    """Return a selection with other conditions. A search is ordered by match from its beginning to its end."""
    new = dataclasses.replace(selection, **changes)
    if new.searched and not selection.searched and "order" not in changes:
        return dataclasses.replace(new, order=s.MATCH, ascending=False)
    if new.order == s.MATCH and not new.searched:
        return dataclasses.replace(new, order=c.MISFIT, ascending=False)
    return new


def read_filters(audit: Audit) -> Selection:
    """Return the selection of the address. Likely wrong captions come first, or high clipmem without a misfit."""
    if "order" not in st.query_params and not peek_selection().searched and not score_span(audit, c.MISFIT):
        st.query_params["order"] = c.CLIPMEM
    return read_selection()


def learned_by_g(selection: Selection) -> bool:
    """Return whether it is in the order of −clipmem: independent pairs alone, which g learned, and g is subtracted."""
    return selection.order == c.CLIPMEM and selection.group == c.INDEPENDENT


def queue_of(selection: Selection) -> str | None:
    """Return the score of the queue whose order a selection has, or None."""
    first = selection == with_queue(selection, selection.order) and selection.order in scores_in(QUEUE)
    return selection.order if first else None


def with_queue(selection: Selection, order: str) -> Selection:
    """Return a selection in the order of a queue, with its filters and without its search."""
    return dataclasses.replace(selection, order=order, ascending=False, meaning="", like="")


def conditions(selection: Selection) -> list[tuple[str, Selection]]:
    """Return every condition in words, with the selection without it."""
    found = [
        (f"{name}: {getattr(selection, field)}", changed(selection, **{field: ""}))
        for field, name in FIELDS.items()
        if getattr(selection, field)
    ]
    if selection.check:
        found.append((f"check: {CHECKS[selection.check].label}", changed(selection, check="")))
    for unwanted in dict.fromkeys(selection.ranges):
        others = tuple(each for each in selection.ranges if each != unwanted)
        low, high = ("…" if end is None else f"{end:.4g}".replace("-", "−") for end in (unwanted.low, unwanted.high))
        found.append((f"{words(unwanted.column)} {low} to {high}", changed(selection, ranges=others)))
    if outline := selection.outline:
        place = selection.map if outline.x == s.MAP_X else f"{words(outline.x)} and {words(outline.y)}"
        found.append((f"outlined on the map of {place}", changed(selection, outline=None, map="")))
    side = SIDES[selection.by]
    if selection.meaning:
        found.append((f"{side} close to: {selection.meaning}", changed(selection, meaning="")))
    if selection.like:
        found.append((f"{side} like that of: {selection.like}", changed(selection, like="")))
    if selection.searched and selection.member:
        found.append((f"encoders of {selection.member}", changed(selection, member="")))
    return [(" ".join(text.split()), rest) for text, rest in found]


def cleared(selection: Selection) -> Selection:
    """Return a selection without conditions, in the same order where it can be."""
    order = c.MISFIT if selection.order == s.MATCH else selection.order
    return Selection(order=order, ascending=selection.ascending and order == selection.order)


def with_range(selection: Selection, wanted: Range) -> Selection:
    """Return a selection with a range in place of those of the same score; one that is open at both ends is none."""
    others = tuple(each for each in selection.ranges if each.column != wanted.column)
    return changed(selection, ranges=others if wanted == Range(wanted.column) else (*others, wanted))


def draw_queues(audit: Audit, selection: Selection, layout: str) -> None:
    """Draw the queues, and the choice of grid or table."""
    names = {order: queue.name for order, queue in reversed(queues(read_verdict(audit)).items())}

    def take_queue(order: str | None) -> None:
        if order:
            write_selection(with_queue(peek_selection(), order))

    def take_layout(chosen: str) -> None:
        write(**{LAYOUT: None if chosen == GRID else chosen})

    def draw(label: str, names: dict[str, str], value: str | None, take: Callable[[Any], None], **look: Any) -> None:
        look |= {"format_func": names.__getitem__, "width": "content"} | HIDDEN
        draw_set(st.segmented_control, label, list(names), key=label.lower(), value=value, take=take, **look)

    draw("Queue", names, queue_of(selection), take_queue)
    draw("Layout", LAYOUTS, layout, take_layout, required=True)


def draw_filters(audit: Audit, selection: Selection) -> None:
    """Draw search, the filters that are used most, the order, and all other filters behind buttons."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        search = f"Search {SIDES[selection.by]} by meaning"
        for field, label, placeholder, width in (
            ("meaning", "Search by meaning", search, 235),
            ("words", "Words in the caption", "Words in the caption", 165),
        ):
            look = {"type": "search", "placeholder": placeholder, "width": width} | HIDDEN
            draw_set(st.text_input, label, key=field, value=getattr(selection, field), take=_taker(field), **look)
        _choose(selection, "decision", "Decision", DECISIONS, DECISIONS.__getitem__, width=132, **HIDDEN)
        scores = [*([s.MATCH] if selection.searched else []), *BY_NAME, s.RANDOM]
        names = {score: f"Sort by {words(score)}" for score in scores}
        names |= {c.CLIPMEM: "Sort by memorization", s.RANDOM: "Random order"}
        _choose(selection, "order", "Sort by", scores, names.__getitem__, width=190, **HIDDEN)
        turned = learned_by_g(selection)
        named = {ascending: DIRECTIONS[ascending != turned] for ascending in DIRECTIONS}
        _choose(selection, "ascending", "Direction", list(named), named.__getitem__, width=128, **HIDDEN)
        with st.popover("Scores", icon=":material/bar_chart:"):
            _draw_range(audit, selection)
        with st.popover("More", icon=":material/tune:"):
            _draw_more(audit, selection)
        draw_keys(BROWSE_KEYS)


def _draw_more(audit: Audit, selection: Selection) -> None:
    groups, kinds, checks = (
        list(audit.record.groups),
        frequent_values(audit, c.PLANTED),
        {n: k.label for n, k in CHECKS.items()},
    )
    _choose_listed(selection, "group", "Group", groups)
    _choose_listed(selection, "label", "Label", frequent_values(audit, c.LABEL))
    _choose_listed(selection, "planted", "Injected error", [*PLANTED, *kinds] if kinds else [], names=PLANTED)
    _choose_listed(selection, "check", "Check", list(checks), names=checks)
    _choose(selection, "by", "Search by meaning among", list(SIDES), SIDES.__getitem__)
    _choose_listed(
        selection, "member", "Search with the encoders of", audit.record.members, names={"": "all, their mean"}
    )


def _choose_listed(
    selection: Selection, field: str, label: str, options: Sequence[str], names: Mapping[str, str] | None = None
) -> None:
    """Draw a list with "any" and, where it is missing, the value of the address; nothing without options."""
    chosen = getattr(selection, field)
    listed = list(dict.fromkeys(["", *([chosen] if chosen not in options else []), *options]))
    if len(listed) > 1:
        _choose(selection, field, label, listed, lambda name: (names or {}).get(name, name) or "any")


def draw_conditions(selection: Selection) -> None:
    """Draw every condition as a chip that can be removed."""
    found = conditions(selection)
    if not found:
        return
    places = list(range(len(found)))

    def remove(left: Sequence[int]) -> None:
        gone = [rest for place, (_, rest) in enumerate(found) if place not in left]
        write_selection(gone[0] if len(gone) == 1 else cleared(selection))

    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        look = {"format_func": lambda place: found[place][0], "wrap": True} | HIDDEN
        draw_set(st.multiselect, "Active filters", places, key="conditions", value=places, take=remove, **look)
        clear, icon = (lambda: write_selection(cleared(selection))), ":material/close:"
        st.button("Clear all", type="tertiary", icon=icon, on_click=clear)


def _draw_range(audit: Audit, selection: Selection) -> None:
    """Draw the histogram of a score with two handles that cut a range out."""
    ranged = selection.ranges[-1].column if selection.ranges else c.CLIPMEM
    scores, key = list(BY_NAME), "range-column"
    column = st.selectbox("Score", scores, index=scores.index(ranged), key=key, format_func=words)
    found, span = score_histogram(audit, column), score_span(audit, column)
    if found is None or span is None:
        st.caption("The values of this score have no range.")
        return
    wanted = next((each for each in selection.ranges if each.column == column), Range(column))
    low, high = (
        float(np.clip(usual if end is None else end, *span))
        for end, usual in zip((wanted.low, wanted.high), span, strict=True)
    )
    st.html(histogram_html(*found, low, high))

    def take(ends: tuple[float, float]) -> None:
        low, high = (None if end == usual else end for end, usual in zip(ends, span, strict=True))
        write_selection(with_range(peek_selection(), Range(column, low, high)))

    step, key = (span[1] - span[0]) / STEPS, f"histogram-{column}"
    look = {"min_value": span[0], "max_value": span[1], "step": step, "format": "%.3g"} | HIDDEN
    draw_set(st.slider, words(column), key=key, value=(low, high), take=take, **look)


def histogram_html(counts: np.ndarray, edges: np.ndarray, low: float, high: float) -> str:
    """Return the bars of a histogram as HTML; those outside of a range are grey."""
    tallest = max(counts.max(), 1)
    bars = (
        f'<i style="flex:1;min-height:{min(count, 1)}px;height:{100 * count / tallest:.1f}%;'
        f'background:{IN_RANGE if right >= low and left <= high else OTHER}"></i>'
        for count, left, right in zip(counts.tolist(), edges[:-1], edges[1:], strict=True)
    )
    return f'<div aria-hidden="true" style="{BARS}">{"".join(bars)}</div>'


def _choose(
    selection: Selection, field: str, label: str, options: Any, named: Callable[[Any], str], **look: Any
) -> None:
    """Draw a list that shows and changes a field of the selection."""
    look["format_func"] = named
    draw_set(st.selectbox, label, list(options), key=field, value=getattr(selection, field), take=_taker(field), **look)


def _taker(field: str) -> Callable[[Any], None]:
    return lambda value: write_selection(changed(peek_selection(), **{field: "" if value is None else value}))
