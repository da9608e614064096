"""The page Browse: queues, search, filters, order and conditions, which read and write the address,
and the pairs that fit."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.tables.verdict import queues
from clipmem_core.dashboard.component.pairs import (
    BROWSE_KEYS,
    REPLACES,
    TABLE,
    draw_grid,
    draw_key_list,
)
from clipmem_core.dashboard.deciding import (
    BADGES,
    Notice,
    draw_notice,
    locked_session,
)
from clipmem_core.dashboard.page import (
    choose_listed,
    choose_segment,
    draw_link,
    draw_pages,
    draw_set,
    peek_selection,
    read_choice,
    read_page,
    read_selection,
    write_selection,
)
from clipmem_core.dashboard.plain import (
    draw_table,
    explained_errors,
    in_a_row,
    pairs_in_words,
    read_uncertainty,
)
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.figures import BAR_COLOUR, OTHER
from clipmem_core.review.bulk_edits import preview_replacement
from clipmem_core.review.cards import BY_CAPTION, MARKS, cards
from clipmem_core.review.decisions import CHOICES, open_review
from clipmem_core.review.filters import (
    count_pairs,
    find_rows,
    frequent_values,
    pair_ids,
    score_counts,
    score_span,
)
from clipmem_core.review.views import (
    ANY,
    CAPTION,
    DECIDED,
    MAP_X,
    MATCH,
    MAX_NAME,
    NONE,
    PICTURE,
    RANDOM,
    UNDECIDED,
    Range,
    Selection,
    read_views,
    store_view,
    to_parameters,
)
from clipmem_core.scores.registry import BY_NAME, CARD_SCORES, FILTER_SCORES, words
from clipmem_core.utils import columns as c

_FIELDS = ("group", "label", "injected", "decision", "incident", "words", "check")
LAYOUTS = {"": ":material/grid_view:", TABLE: ":material/table_rows:"}
_DECISIONS = {"": "All decisions", UNDECIDED: UNDECIDED, DECIDED: DECIDED}
_DECISIONS |= {name: BADGES[name][0] for name in CHOICES}
_ANY = {"": "any"}
_CHECKS = {name: check.label for name, check in CHECKS.items()}
_NAMES = {"decision": _DECISIONS, "check": _CHECKS}  # of values
_SORTS = {  # (order, ascending) → name
    (c.CLIPMEM, True): "Least memorized first",
    (c.CLIPMEM_TEXT, False): "Memorized by the text encoder first",
    (c.CLIPMEM_IMAGE, False): "Memorized by the image encoder first",
    (c.SIMILARITY_OUT, True): "Worst fitting caption first",
    (c.SIMILARITY_OUT, False): "Best fitting caption first",
    (RANDOM, False): "Random order",
}
INJECTED = {ANY: "any injected error", NONE: "no injected error"}
_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in r"\`*_{}[]()#+-.!|$:~<>"})
_STEPS = 200  # of a slider


def changed(selection: Selection, **changes: Any) -> Selection:
    """Return a selection with other conditions; a search sorts by match from its beginning to its
    end."""
    new = replace(selection, **changes)
    if new.searched and not selection.searched:
        return replace(new, order=MATCH, ascending=False)
    if new.order == MATCH and not new.searched:
        return replace(new, order=c.REVIEW_PLACE, ascending=False)
    return new


def read_filters(suspicious: str = c.SUSPICION) -> Selection:
    """Return the selection of the address; `suspicious` is the page's order of suspicious pairs,
    and `REVIEW_PLACE` that with random spot checks."""
    selection = read_selection()
    by_suspicion = selection.order in (c.SUSPICION, c.REVIEW_PLACE)
    return replace(selection, order=suspicious) if by_suspicion else selection


def conditions(selection: Selection) -> list[tuple[str, Selection]]:
    """Return every condition as text, with the selection without it."""
    chips = [
        (f"{field}: {_NAMES.get(field, {}).get(value, value)}", changed(selection, **{field: ""}))
        for field in _FIELDS
        if (value := getattr(selection, field))
    ]
    for removed in selection.ranges:
        others = tuple(each for each in selection.ranges if each != removed)
        ends = [
            "…" if math.isinf(end) else f"{end:.4g}".replace("-", "−")
            for end in (removed.low, removed.high)
        ]
        text = f"{words(removed.column)} {' to '.join(ends)}"
        chips.append((text, changed(selection, ranges=others)))
    if outline := selection.outline:
        axes = f"{words(outline.x)} and {words(outline.y)}"
        place = selection.map if outline.x == MAP_X else axes
        chips.append((f"outlined on the map of {place}", changed(selection, outline=None, map="")))
    side = f"{selection.by}s"
    if selection.meaning:
        chips.append((f"{side} close to: {selection.meaning}", changed(selection, meaning="")))
    if selection.like:
        chips.append((f"{side} similar to {selection.like}", changed(selection, like="")))
    return [(" ".join(text.split()), rest) for text, rest in chips]


def cleared(selection: Selection) -> Selection:
    """Return a selection without conditions, in the same order if it needs no search."""
    order = c.REVIEW_PLACE if selection.order == MATCH else selection.order
    return Selection(order=order, ascending=selection.ascending and order == selection.order)


def draw_filters(audit: Audit, selection: Selection) -> None:
    """Draw search, order, the button of all filters with the number of active ones, and links to
    other views of the selection."""
    active = len(conditions(selection))
    with in_a_row(gap="xsmall"):
        draw_search(selection, "meaning", "Search by meaning", width=180)
        _draw_order(audit, selection)
        label = f"Filter ({active})" if active else "Filter"
        with st.popover(label, icon=":material/filter_list:", key="filters"):
            _draw_drawer(audit, selection)
        choose_segment("Layout", LAYOUTS, parameter="layout", hidden=True)
        st.space("stretch")
        with in_a_row(width="content"):
            draw_link("embeddings", "Map", audit, selection)
            draw_link("review", "Review", audit, selection)
            draw_key_list(BROWSE_KEYS)


def _draw_order(audit: Audit, selection: Selection) -> None:
    """Draw the order in words; a table's heads sort by any score."""
    lists = reversed(queues(audit.verdict).items())
    sorts = {(order, False): f"{queue.name} first" for order, queue in lists} | _SORTS
    if selection.searched:
        sorts = {(MATCH, False): "Best match first"} | sorts
    chosen = selection.order, selection.ascending
    lowest_first = selection.ascending != selection.lowest_first
    usual = f"{words(selection.order)}, {'low to high' if lowest_first else 'high to low'}"
    names = {chosen: usual} | sorts

    def sort(place: int) -> None:
        order, ascending = list(names)[place]
        write_selection(replace(peek_selection(), order=order, ascending=ascending))

    draw_set(
        st.selectbox,
        "Sort",
        range(len(names)),
        key="order",
        value=list(names).index(chosen),
        on_choose=sort,
        format_func=list(names.values()).__getitem__,
        width=200,
        label_visibility="collapsed",
    )


def _draw_drawer(audit: Audit, selection: Selection) -> None:
    """Draw every filter, each score with the distribution of its values, and the stored views."""
    draw_search(selection, "words", "Words in the caption", width="stretch")
    sides = {CAPTION: "captions: by meaning", PICTURE: "pictures: by members of this audit"}
    _choose(selection, "by", "Search among", sides)
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
    _choose(selection, "injected", "Injected error", _ANY | (kinds and INJECTED | kinds))
    ranged = [each.column for each in selection.ranges]
    for column in dict.fromkeys([*FILTER_SCORES, *ranged]):
        _draw_range(audit, selection, column)
    _draw_views(audit, selection)


def _draw_views(audit: Audit, selection: Selection) -> None:
    """Draw the stored views, each a link with a button that deletes it, and a field that stores
    this one."""
    views = read_views(audit)
    for place, (name, parameters) in enumerate(views.items()):
        with in_a_row(horizontal_alignment="distribute"):
            draw_link("browse", name.translate(_MARKDOWN), audit, None, **parameters)
            st.button(
                "",
                key=f"view-{place}",
                icon=":material/delete:",
                type="tertiary",
                help="Delete this view",
                on_click=store_view,
                args=(audit, name, None),
            )

    def store() -> None:
        if name := st.session_state["view-name"].strip():
            store_view(audit, name, to_parameters(peek_selection()))
        st.session_state["view-name"] = ""

    st.text_input("Save this view as", key="view-name", max_chars=MAX_NAME, on_change=store)


def draw_search(selection: Selection, field: str, label: str, *, width: Any) -> None:
    """Draw the box of a field of the selection that is searched by text."""
    _draw_field(
        st.text_input,
        selection,
        field,
        label,
        type="search",
        placeholder=label,
        width=width,
        label_visibility="collapsed",
    )


def draw_conditions(selection: Selection) -> None:
    """Draw every condition as a chip that can be removed."""
    chips = conditions(selection)
    if not chips:
        return
    places = range(len(chips))

    def remove(remaining: Sequence[int]) -> None:
        removed = [chips[place][1] for place in places if place not in remaining]
        write_selection(removed[0] if len(removed) == 1 else cleared(selection))

    with in_a_row():
        draw_set(
            st.multiselect,
            "Active filters",
            places,
            key="conditions",
            value=[*places],
            on_choose=remove,
            format_func=lambda place: chips[place][0],
            wrap=True,
            label_visibility="collapsed",
        )
        st.button(
            "Clear all",
            type="tertiary",
            icon=":material/close:",
            on_click=lambda: write_selection(cleared(selection)),
        )


def _draw_range(audit: Audit, selection: Selection, column: str) -> None:
    """Draw the distribution of a score, and two handles that select a range of it."""
    span = score_span(audit, column)
    if span is None or not span[0] < span[1]:
        return
    current = next((each for each in selection.ranges if each.column == column), Range(column))
    lowest, highest = span
    step = (highest - lowest) / _STEPS
    ends = np.clip([current.low, current.high], lowest, highest).tolist()

    def choose_range(chosen: tuple[float, float]) -> None:
        low, high = chosen
        # A browser rounds the ends; a handle at its end is open.
        new = Range(
            column,
            -math.inf if low < lowest + step / 2 else low,
            math.inf if high > highest - step / 2 else high,
        )
        selection = peek_selection()
        ranges = [each for each in selection.ranges if each.column != column]
        if new != Range(column):
            ranges.append(new)
        write_selection(changed(selection, ranges=tuple(ranges)))

    with st.container(gap=None):
        st.caption(words(column), help=BY_NAME[column].help or None)
        st.html(_bars(*score_counts(audit, column), *ends))
        draw_set(
            st.slider,
            words(column),
            lowest,
            highest,
            key=f"range-{column}",
            value=tuple(ends),
            on_choose=choose_range,
            step=step,
            format="%.3g",
            label_visibility="collapsed",
        )


def _bars(counts: np.ndarray, edges: np.ndarray, low: float, high: float) -> str:
    """Return a histogram as HTML, the bars within a range in colour."""
    heights = 100 * np.sqrt(counts / counts.max())  # a bar of few pairs stays visible
    colours = np.where((edges[1:] >= low) & (edges[:-1] <= high), BAR_COLOUR, OTHER)
    bars = [
        f'<div style="flex:1;height:{height:.0f}%;background:{colour}"></div>'
        for height, colour in zip(heights, colours, strict=True)
    ]
    style = "display:flex;align-items:end;gap:1px;height:28px;margin-bottom:.6rem"
    return f'<div style="{style}">{"".join(bars)}</div>'


def _choose(selection: Selection, field: str, label: str, names: Mapping[str, str]) -> None:
    """Draw the values of a field, with that of the address, as a list of their names; nothing if
    there is no choice."""
    current = getattr(selection, field)
    listed = {**names, current: names.get(current, current)}
    if len(listed) > 1:
        options = list(listed)
        _draw_field(
            st.selectbox, selection, field, label, options=options, format_func=listed.__getitem__
        )


def _draw_field(
    draw: Callable[..., Any], selection: Selection, field: str, label: str, **options: Any
) -> None:
    """Draw a widget that shows a field of the selection and changes it."""

    def choose(value: str | None) -> None:
        write_selection(changed(peek_selection(), **{field: value or ""}))

    value = getattr(selection, field)
    draw_set(draw, label, key=field, value=value, on_choose=choose, **options)


PAGE_SIZES = ("12", "24", "48", "96")
DEFAULT_SIZE = "24"
LEGEND = {name: score.legend for name, score in CARD_SCORES.items()} | {
    MATCH: "cosine with the search."
}
MAX_TEXT = 500  # characters


def draw_gallery(audit: Audit, selection: Selection) -> None:
    """Draw the current page of a selection."""
    part = "search" if selection.searched else "audit"
    with explained_errors(f"This {part} cannot be shown."), st.spinner("Searching…"):
        count = count_pairs(audit, selection)
    if selection.meaning and selection.by == PICTURE:
        st.caption(
            "Pictures are compared with the text by models trained on these captions only: they "
            "miss rare things, other languages and “not”. Search among captions first; from a "
            "picture that is right, “Similar” finds others."
        )
    if count == 0:
        order = selection.order
        if order in BY_NAME and score_span(audit, order) is None:
            absent = BY_NAME[order].absent or "is missing in this audit: sort by another score."
            st.info(f"{words(order)} {absent}")
        else:
            st.info("No pair fits all of these conditions.")
        return
    if chosen := st.session_state.pop(REPLACES, None):
        _edit_dialog(audit, pair_ids(audit, selection) if chosen is True else chosen)
    size = int(read_choice("size", PAGE_SIZES, DEFAULT_SIZE))
    page, pages = read_page(count, size)
    draw_notice(audit)
    draw_grid(
        audit,
        cards(audit, find_rows(audit, selection, page=page, size=size), selection),
        selection=selection,
        key=f"browse-{audit.name}",
        layout=st.query_params.get("layout", ""),
        page=(page, pages),
    )
    with in_a_row("bottom", horizontal_alignment="distribute"):
        choose_listed(
            "Per page",
            PAGE_SIZES,
            parameter="size",
            width=85,
            default=DEFAULT_SIZE,
            clears=["page"],
        )
        draw_pages(page, pages)
    _draw_legend(audit, selection, count)


def _draw_legend(audit: Audit, selection: Selection, count: int) -> None:
    order = selection.order
    queue = queues(audit.verdict).get(order)
    sentences = [f"**{pairs_in_words(count)}.**"]
    if order != MATCH:
        unlisted = count_pairs(audit, replace(selection, order=c.CLIPMEM)) - count
        if unlisted > 0:
            sentences.append(f"Not listed: {pairs_in_words(unlisted)} without {words(order)}.")
    if order == c.CLIPMEM and selection.lowest_first:
        sentences.append(
            "These pairs were learned by g, which is subtracted, so the lowest clipmem is the "
            "most memorized."
        )
    elif queue:
        sentences.append(queue.sentence)
    if order in BY_CAPTION:
        sentences.append(MARKS)
    if order == c.CLIPMEM:
        sentences.append(read_uncertainty(audit).explain())
    scores = "\n".join(f"- **{words(score)}**: {text}" for score, text in LEGEND.items())
    st.caption(" ".join(sentences), help=scores)


@st.dialog("Find and replace in captions", width="large")
def _edit_dialog(audit: Audit, ids: Sequence[str]) -> None:
    st.caption(
        f"Searches the current captions of {pairs_in_words(len(ids))}. Undecided pairs stay in the "
        "review."
    )
    with in_a_row():
        find = st.text_input("Find", key="bulk-edit-find", max_chars=MAX_TEXT)
        replacement = st.text_input("Replace with", key="bulk-edit-replace", max_chars=MAX_TEXT)
    match_case = st.toggle("Match case", value=True, key="bulk-edit-case")
    if not find:
        st.caption("You see every change before it is saved; one undo reverts all of them.")
        return
    with st.spinner("Searching…"):
        changes = preview_replacement(audit, ids, find, replacement, match_case=match_case)
    if changes.emptied:
        st.caption(f"Unchanged captions, which would be empty: {changes.emptied:,}")
    if changes.removed:
        st.caption(f"Unchanged pairs, marked for removal: {changes.removed:,}")
    if not changes.edits:
        st.info("No caption changes.")
        return
    table = pd.DataFrame(changes.captions, columns=["pair", "before", "after"])
    draw_table(table, alt="Captions before and after the change")
    count = len(changes.captions)
    pairs = pairs_in_words(len(changes.edits))
    label = f"Change {count:,} caption{'s' * (count != 1)} of {pairs}"
    if st.button(label, type="primary", icon=":material/edit:", key="bulk-edit-store"):
        with locked_session() as session:
            outcome = open_review(audit).decide_each(changes.edits, audit=audit.name)
            if outcome.pairs:
                session.saved(audit, "Captions changed", outcome)
            else:
                session.notice = Notice("Not changed: there are newer decisions.", good=False)
        st.rerun()
