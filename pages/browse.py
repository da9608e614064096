"""Pairs sorted by a score, filtered and searched, as pictures or as a table, to open or to decide
on."""

from contextlib import nullcontext
from dataclasses import replace

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from clipmem_core.audit.store import Audit
from clipmem_core.audit.verdict import queues
from clipmem_core.columns import CLIPMEM, REVIEW_PLACE
from clipmem_core.dashboard.component.pairs import draw_grid, follow_destination
from clipmem_core.dashboard.deciding import (
    BADGES,
    REVIEW,
    Notice,
    draw_notice,
    locked_session,
    review_session,
)
from clipmem_core.dashboard.filters import (
    TABLE,
    conditions,
    draw_conditions,
    draw_filters,
    draw_queues,
    queue_of,
    read_filters,
)
from clipmem_core.dashboard.page import (
    LAYOUT,
    PAGE,
    SIZE,
    TIGHT_STYLE,
    choose_listed,
    draw_pages,
    link,
    open_page,
    read_choice,
    read_page,
)
from clipmem_core.dashboard.plain import (
    draw_fault,
    explained_errors,
    pairs_in_words,
    read_uncertainty,
    read_verdict,
    show_text,
)
from clipmem_core.io import InputError
from clipmem_core.review.cards import BY_CAPTION, MARKS, cards
from clipmem_core.review.decisions import KEEP, REMOVE, open_review
from clipmem_core.review.find_replace import preview_replacement
from clipmem_core.review.rows import count_pairs, find_rows, pair_ids, score_span
from clipmem_core.review.search import prepare_search
from clipmem_core.review.selection import MATCH, Selection
from clipmem_core.scores.registry import BY_NAME, CARD_SCORES, words

PAGE_SIZES = ("12", "24", "48", "96")
DEFAULT_SIZE = "24"
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
        with st.spinner("Searching…") if selection.searched else nullcontext():
            count = count_pairs(audit, selection)
    except InputError as error:
        if not selection.searched:
            raise
        draw_fault("This search failed.", error, icon=":material/search_off:")
        st.stop()
    if count == 0:
        _draw_nothing(audit, selection)
        return
    with actions:
        _draw_bulk(audit, selection, count)
        icon = ":material/rate_review:"
        st.page_link(REVIEW, label="Start review", icon=icon, query_params=link(audit, selection))
    size = int(read_choice(SIZE, PAGE_SIZES, DEFAULT_SIZE))
    page, pages = read_page(count, size)
    shown = cards(audit, find_rows(audit, selection, page=page, size=size), selection)
    _draw_legend(audit, selection, count)
    draw_notice(audit, key="browse")
    draw_grid(
        audit,
        shown,
        selection=selection,
        key=f"browse-{audit.name}",
        table=st.query_params.get(LAYOUT) == TABLE,
        page=(page, pages),
    )
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"
    ):
        choose_listed(
            "Per page",
            PAGE_SIZES,
            parameter=SIZE,
            key=SIZE,
            width=85,
            default=DEFAULT_SIZE,
            clears=[PAGE],
        )
        draw_pages(page, pages, key="pages")


def _draw_legend(audit: Audit, selection: Selection, count: int) -> None:
    queue = queue_of(selection)
    meaning = queues(read_verdict(audit))[queue].sentence if queue else ""
    if queue == CLIPMEM and selection.lowest_first:
        meaning = SUBTRACTED
    missing = ""
    if selection.order != MATCH:
        unlisted = count_pairs(audit, replace(selection, order=CLIPMEM)) - count
        if unlisted > 0:
            missing = f"{pairs_in_words(unlisted)} without {words(selection.order)} not listed."
    sentences = [
        f"**{pairs_in_words(count)}.**",
        missing,
        meaning,
        "One pair in ten is a random spot check." if selection.order == REVIEW_PLACE else "",
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
        st.info(f"{words(selection.order)} {reason}", icon=":material/info:")
        return
    st.info("No pair fits all of these conditions.", icon=":material/search_off:")
    rests = [(f"without “{text}”", rest) for text, rest in conditions(selection)]
    if selection.order != MATCH:
        rests.append(("sorted by memorization", replace(selection, order=CLIPMEM)))
    for text, rest in rests:
        if count := count_pairs(audit, rest):
            show_text(f"{text}: {pairs_in_words(count)}", limit=_ID_LIMIT)


def _draw_bulk(audit: Audit, selection: Selection, count: int) -> None:
    key = f"bulk-{review_session().presses}"
    with st.popover(f"All {count:,}", key=key, icon=":material/checklist:"):
        st.caption(
            f"Decide for all {pairs_in_words(count)} of this selection, on all of its pages."
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
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
    with st.container(horizontal=True):
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
        st.dataframe(table, hide_index=True, height=300, alt="Captions before and after the change")
    else:
        st.info("No caption changes.", icon=":material/search_off:")
    label = f"Change {len(changes.captions):,} captions of {pairs_in_words(len(changes.edits))}"
    if st.button(
        label,
        type="primary",
        icon=":material/edit:",
        disabled=not changes.edits,
        key="bulk-edit-store",
    ):
        with locked_session() as session:
            outcome = open_review(audit).edit(changes.edits, audit=audit.name)
            session.presses += 1
            sentence = f"Captions of {pairs_in_words(outcome.pairs)} changed."
            if outcome.skipped:
                sentence += f" {pairs_in_words(outcome.skipped)}, changed meanwhile, unchanged."
            if outcome.pairs:
                session.saved(audit, sentence, outcome.event)
            else:
                session.notice = Notice(sentence, good=False)
        st.rerun()


follow_destination()  # before anything is drawn
audit = open_page("Browse")
with explained_errors():
    selection = read_filters(audit)
    st.html(TIGHT_STYLE)
    with st.container(horizontal=True, vertical_alignment="center"):
        draw_queues(audit, selection)
        st.space("stretch")
        actions = st.container(horizontal=True, vertical_alignment="center", width="content")
    draw_filters(audit, selection)
    draw_conditions(selection)
    draw_gallery(audit, selection, actions=actions)
    prepare_search(audit)
