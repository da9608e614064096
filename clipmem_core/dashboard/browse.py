"""The page Browse: queues, search, filters, order and conditions, which read and write the address,
and the pairs that fit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from clipmem_core import columns as c
from clipmem_core.audit.store import Audit
from clipmem_core.audit.verdict import queues
from clipmem_core.dashboard.component.pairs import BROWSE_KEYS, draw_grid, draw_key_list
from clipmem_core.dashboard.deciding import (
    BADGES,
    REVIEW,
    Notice,
    draw_notice,
    locked_session,
    review_session,
)
from clipmem_core.dashboard.page import (
    LAYOUT,
    PAGE,
    SIZE,
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
    draw_fault,
    draw_table,
    in_a_row,
    pairs_in_words,
    read_uncertainty,
    read_verdict,
    show_text,
)
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.io import InputError
from clipmem_core.review.batch import preview_replacement
from clipmem_core.review.cards import BY_CAPTION, MARKS, cards
from clipmem_core.review.decisions import CHOICES, KEEP, REMOVE, open_review
from clipmem_core.review.rows import count_pairs, find_rows, frequent_values, pair_ids, score_span
from clipmem_core.review.selection import (
    ANY,
    CAPTION,
    DECIDED,
    MAP_X,
    MATCH,
    NONE,
    PICTURE,
    RANDOM,
    UNDECIDED,
    Range,
    Selection,
)
from clipmem_core.scores.registry import BY_NAME, CARD_SCORES, QUEUE_SCORES, words

_SIDES = {CAPTION: "captions", PICTURE: "pictures"}
_FIELDS = {
    "group": "group",
    "label": "label",
    "injected": "injected error",
    "decision": "decision",
    "incident": "incident",
    "words": "words",
}
TABLE = "table"  # in the address
LAYOUTS = {"": ":material/grid_view: Grid", TABLE: ":material/table_rows: Table"}
_DECISIONS = {"": "All decisions", UNDECIDED: UNDECIDED, DECIDED: DECIDED}
_DECISIONS |= {name: BADGES[name][0] for name in CHOICES}
_ORDERS = {
    c.CLIPMEM: "Sort by memorization",
    RANDOM: "Random order",
}
INJECTED = {ANY: "any injected error", NONE: "no injected error"}
DIRECTIONS = {False: "high to low", True: "low to high"}
_STEPS = 200  # of a slider
_HIDDEN = {"label_visibility": "collapsed"}


def changed(selection: Selection, **changes: Any) -> Selection:
    """Return a selection with other conditions; a search sorts by match from its beginning to its
    end."""
    new = replace(selection, **changes)
    if new.searched and not selection.searched and "order" not in changes:
        return replace(new, order=MATCH, ascending=False)
    if new.order == MATCH and not new.searched:
        return replace(new, order=c.REVIEW_PLACE, ascending=False)
    return new


def read_filters(audit: Audit, *, suspicious: str = c.SUSPICION) -> Selection:
    """Return the selection of the address. Without an order it is `suspicious`, or clipmem in an
    old audit.

    `suspicious` is the page's order of suspicious pairs: `REVIEW_PLACE` is that with random spot
    checks.
    """
    searched = peek_selection().searched
    if "order" not in st.query_params and not searched and not score_span(audit, c.SUSPICION):
        st.query_params["order"] = c.CLIPMEM
    selection = read_selection()
    by_suspicion = selection.order in (c.SUSPICION, c.REVIEW_PLACE)
    return replace(selection, order=suspicious) if by_suspicion else selection


def queue_of(selection: Selection) -> str | None:
    """Return the score of the queue whose order a selection has, or None."""
    by_queue = with_queue(selection, selection.order)
    in_queue = selection == by_queue and selection.order in QUEUE_SCORES
    return selection.order if in_queue else None


def with_queue(selection: Selection, order: str) -> Selection:
    """Return a selection in the order of a queue, with its filters and without its search."""
    return replace(selection, order=order, ascending=False, meaning="", like="")


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
        place = selection.map if outline.x == MAP_X else axes
        chips.append((f"outlined on the map of {place}", changed(selection, outline=None, map="")))
    side = _SIDES[selection.by]
    if selection.meaning:
        chips.append((f"{side} close to: {selection.meaning}", changed(selection, meaning="")))
    if selection.like:
        chips.append((f"{side} similar to {selection.like}", changed(selection, like="")))
    return [(" ".join(text.split()), rest) for text, rest in chips]


def cleared(selection: Selection) -> Selection:
    """Return a selection without conditions, in the same order if it needs no search."""
    order = c.REVIEW_PLACE if selection.order == MATCH else selection.order
    return Selection(order=order, ascending=selection.ascending and order == selection.order)


def draw_queues(audit: Audit, selection: Selection) -> None:
    """Draw the queues, and the choice of grid or table."""
    names = {order: queue.name for order, queue in reversed(queues(read_verdict(audit)).items())}

    def choose_queue(order: str | None) -> None:
        if order:
            write_selection(with_queue(peek_selection(), order))

    style = {"value": queue_of(selection), "format_func": names.__getitem__} | _HIDDEN
    draw_set(
        st.segmented_control, "Queue", list(names), key="queue", on_choose=choose_queue, **style
    )
    choose_segment("Layout", LAYOUTS, parameter=LAYOUT, hidden=True)


def draw_filters(audit: Audit, selection: Selection) -> None:
    """Draw search, the most used filters, the order, and all other filters behind buttons."""
    with in_a_row():
        _type(selection, "meaning", "Search by meaning", width=175)
        sides = {side: f"in {name}" for side, name in _SIDES.items()}
        _choose(selection, "by", "Search in", sides, width=125, **_HIDDEN)
        _type(selection, "words", "Words in the caption", width=165)
        _choose(selection, "decision", "Decision", _DECISIONS, width=155, **_HIDDEN)
        scores = [*([MATCH] if selection.searched else []), *BY_NAME]
        orders = {score: f"Sort by {words(score)}" for score in scores} | _ORDERS
        del orders[c.REVIEW_PLACE]  # a selected page would have random pairs
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
    draw_set(
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
        write_selection(removed[0] if len(removed) == 1 else cleared(selection))

    with in_a_row():
        draw_set(
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
            on_click=lambda: write_selection(cleared(selection)),
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
        selection = peek_selection()
        others = [each for each in selection.ranges if each.column != column]
        if (low, high) != (None, None):
            others.append(Range(column, low, high))
        write_selection(changed(selection, ranges=tuple(others)))

    draw_set(
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
    draw_set(
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
    return lambda value: write_selection(
        changed(peek_selection(), **{field: "" if value is None else value})
    )


PAGE_SIZES = ("12", "24", "48", "96")
DEFAULT_SIZE = "24"
PICTURES_BY_TEXT = (
    "Pictures are compared with the text by models trained on these captions, which understand "
    "neither other languages nor “not”."
)
SUBTRACTED = (
    "These pairs were learned by g, which is subtracted, so the lowest clipmem is the "
    "most memorized."
)
LEGEND = {name: score.legend for name, score in CARD_SCORES.items()} | {
    MATCH: "cosine with the search."
}
MAX_TEXT = 500  # characters
_ID_LIMIT = 80
OPENED = "bulk_edit_opened"


def draw_gallery(audit: Audit, selection: Selection, *, actions: DeltaGenerator) -> None:
    """Draw the current page of a selection, and in `actions` the buttons for all of its pairs."""
    try:
        with st.spinner("Searching…"):
            count = count_pairs(audit, selection)
    except InputError as error:
        if not selection.searched:
            raise
        draw_fault("This search failed.", error)
        st.stop()
    if count == 0:
        _draw_nothing(audit, selection)
        return
    with actions:
        _draw_bulk(audit, selection, count)
        draw_link(REVIEW, "Start review", ":material/rate_review:", audit, selection)
    size = int(read_choice(SIZE, PAGE_SIZES, DEFAULT_SIZE))
    page, pages = read_page(count, size)
    shown = cards(audit, find_rows(audit, selection, page=page, size=size), selection)
    _draw_legend(audit, selection, count)
    draw_notice(audit)
    draw_grid(
        audit,
        shown,
        selection=selection,
        key=f"browse-{audit.name}",
        table=st.query_params.get(LAYOUT) == TABLE,
        page=(page, pages),
    )
    with in_a_row("bottom", horizontal_alignment="distribute"):
        choose_listed(
            "Per page", PAGE_SIZES, parameter=SIZE, width=85, default=DEFAULT_SIZE, clears=[PAGE]
        )
        draw_pages(page, pages)


def _draw_legend(audit: Audit, selection: Selection, count: int) -> None:
    queue = queue_of(selection)
    meaning = queues(read_verdict(audit))[queue].sentence if queue else ""
    if queue == c.CLIPMEM and selection.lowest_first:
        meaning = SUBTRACTED
    missing = ""
    if selection.order != MATCH:
        unlisted = count_pairs(audit, replace(selection, order=c.CLIPMEM)) - count
        if unlisted > 0:
            missing = f"{pairs_in_words(unlisted)} without {words(selection.order)} not listed."
    sentences = [
        f"**{pairs_in_words(count)}.**",
        missing,
        meaning,
        PICTURES_BY_TEXT if selection.meaning and selection.by == PICTURE else "",
        MARKS if selection.order in BY_CAPTION else "",
        read_uncertainty(audit).explain(),
    ]
    scores = "\n".join(f"- **{words(score)}**: {text}" for score, text in LEGEND.items())
    st.caption(" ".join(filter(None, sentences)), help=scores)


def _draw_nothing(audit: Audit, selection: Selection) -> None:
    """Draw that no pair is listed, and how many there are without each condition."""
    if selection.order in BY_NAME and score_span(audit, selection.order) is None:
        absent = BY_NAME[selection.order].absent
        reason = absent or "is missing in this audit: sort by another score."
        st.info(f"{words(selection.order)} {reason}")
        return
    st.info("No pair fits all of these conditions.")
    rests = [(f"without “{text}”", rest) for text, rest in conditions(selection)]
    if selection.order != MATCH:
        rests.append(("sorted by memorization", replace(selection, order=c.CLIPMEM)))
    for text, rest in rests:
        if count := count_pairs(audit, rest):
            show_text(f"{text}: {pairs_in_words(count)}", limit=_ID_LIMIT)


def _draw_bulk(audit: Audit, selection: Selection, count: int) -> None:
    key = f"bulk-{review_session().presses}"
    with st.popover(f"All {count:,}", key=key, icon=":material/checklist:"):
        st.caption(
            f"Decide for all {pairs_in_words(count)} of this selection, on all of its pages."
        )
        with in_a_row("bottom"):
            for decision, label in ((KEEP, "Keep"), (REMOVE, "Remove"), (None, "Undecided")):
                st.button(
                    label,
                    icon=BADGES[decision][1],
                    key=f"bulk-{label}",
                    on_click=_decide,
                    args=(audit, selection, count, decision),
                )
        st.button(
            "Find and replace in captions…",
            icon=":material/find_replace:",
            key="bulk-edit",
            on_click=_open,
        )
        if st.session_state.pop(OPENED, False):
            _edit_dialog(audit, selection)


def _decide(audit: Audit, selection: Selection, count: int, decision: str | None) -> None:
    """Decide for all pairs of a selection, if they are as many as on the page. A callback."""
    with locked_session() as session:
        session.presses += 1
        ids = pair_ids(audit, selection)
        if len(ids) != count:
            session.notice = Notice("Not saved: the selection has changed meanwhile.", good=False)
            return
        outcome = open_review(audit).decide(ids, decision, audit=audit.name)
        sentence = f"Saved: {BADGES[decision][0]}, for {pairs_in_words(outcome.pairs)}."
        session.saved(audit, sentence, outcome.event)


def _open() -> None:
    """Open the dialog in the next run, and close its menu. A callback."""
    st.session_state[OPENED] = True
    review_session().presses += 1


@st.dialog("Find and replace in captions", width="large")
def _edit_dialog(audit: Audit, selection: Selection) -> None:
    ids = pair_ids(audit, selection)
    pairs = pairs_in_words(len(ids))
    st.caption(
        f"In the current captions of the {pairs} of this selection. Undecided pairs stay in the "
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
        st.caption(f"Unchanged, as they would be empty: {changes.emptied:,} captions.")
    if changes.removed:
        st.caption(f"Unchanged, as marked for removal: {pairs_in_words(changes.removed)}.")
    if changes.edits:
        table = pd.DataFrame(changes.captions, columns=["pair", "before", "after"])
        draw_table(table, alt="Captions before and after the change")
    else:
        st.info("No caption changes.")
    label = f"Change {len(changes.captions):,} captions of {pairs_in_words(len(changes.edits))}"
    if st.button(
        label,
        type="primary",
        icon=":material/edit:",
        disabled=not changes.edits,
        key="bulk-edit-store",
    ):
        with locked_session() as session:
            outcome = open_review(audit).decide_each(changes.edits, audit=audit.name)
            session.presses += 1
            sentence = f"Captions of {pairs_in_words(outcome.pairs)} changed."
            if outcome.skipped:
                sentence += f" {pairs_in_words(outcome.skipped)}, changed meanwhile, unchanged."
            if outcome.pairs:
                session.saved(audit, sentence, outcome.event)
            else:
                session.notice = Notice(sentence, good=False)
        st.rerun()
