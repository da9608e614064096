"""Pairs sorted by a score, filtered and searched, as pictures or as a table, to open or to decide
on."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import streamlit as st

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.tables.verdict import queues
from clipmem_core.dashboard.deciding import Notice, draw_notice, storing_decisions
from clipmem_core.dashboard.histogram_filters import (
    conditions,
    draw_conditions,
    draw_filters,
    draw_search,
    read_filters,
)
from clipmem_core.dashboard.page import (
    choose_listed,
    choose_segment,
    draw_link,
    draw_pages,
    draw_set,
    open_page,
    peek_selection,
    read_choice,
    read_page,
    write_selection,
)
from clipmem_core.dashboard.pair_component import (
    BROWSE_KEYS,
    REPLACES,
    TABLE,
    draw_grid,
    draw_key_list,
)
from clipmem_core.dashboard.plain import draw_table, explained_errors, in_a_row, pairs_in_words
from clipmem_core.review.bulk_edits import preview_replacement
from clipmem_core.review.cards import BY_CAPTION, MARKS, cards
from clipmem_core.review.decisions import open_review
from clipmem_core.review.filters import count_pairs, find_rows, pair_ids, score_span
from clipmem_core.review.search import features_of_text, prepare
from clipmem_core.review.views import (
    MATCH,
    PICTURE,
    RANDOM,
    Selection,
)
from clipmem_core.scores.registry import BY_NAME, CARD_SCORES, words
from clipmem_core.utils import columns as c

LAYOUTS = {"": ":material/grid_view:", TABLE: ":material/table_rows:"}
SORTS = {  # (order, ascending) → name
    (c.CLIPMEM, True): "Least memorized first",
    (c.CLIPMEM_TEXT, False): "Memorized by the text encoder first",
    (c.CLIPMEM_IMAGE, False): "Memorized by the image encoder first",
    (c.SIMILARITY_OUT, True): "Worst fitting caption first",
    (c.SIMILARITY_OUT, False): "Best fitting caption first",
    (RANDOM, False): "Random order",
}
PAGE_SIZES = ("12", "24", "48", "96")
DEFAULT_SIZE = "24"
LEGEND = {name: score.legend for name, score in CARD_SCORES.items()} | {
    MATCH: "cosine with the search."
}
MAX_TEXT = 500  # characters


def draw_order(audit: Audit, selection: Selection) -> None:
    """Draw the order in words; a table's heads sort by any score."""
    lists = reversed(queues(audit.verdict).items())
    names = {(order, False): f"{queue.name} first" for order, queue in lists} | SORTS
    if selection.searched:
        names = {(MATCH, False): "Best match first"} | names
    chosen = selection.order, selection.ascending
    direction = "low to high" if selection.ascending != selection.lowest_first else "high to low"
    names.setdefault(chosen, f"{words(selection.order)}, {direction}")

    def sort(chosen: tuple[str, bool]) -> None:
        order, ascending = chosen
        write_selection(replace(peek_selection(), order=order, ascending=ascending))

    draw_set(
        st.selectbox,
        "Sort",
        list(names),
        key="order",
        value=chosen,
        on_choose=sort,
        format_func=names.__getitem__,
        width=200,
        label_visibility="collapsed",
    )


def draw_legend(audit: Audit, selection: Selection, count: int) -> None:
    """Draw how many pairs are listed, what their order means, and what each score is."""
    order = selection.order
    sentences = [f"**{pairs_in_words(count)}.**"]
    unlisted = count_pairs(audit, replace(selection, order=c.CLIPMEM)) - count
    if order != MATCH and unlisted > 0:
        sentences.append(f"Not listed: {pairs_in_words(unlisted)} without {words(order)}.")
    if order == c.CLIPMEM and selection.lowest_first:
        sentences.append(
            "These pairs were learned by g, which is subtracted, so the lowest clipmem is the "
            "most memorized."
        )
    elif queue := queues(audit.verdict).get(order):
        sentences.append(queue.sentence)
    if order in BY_CAPTION:
        sentences.append(MARKS)
    scores = "\n".join(f"- **{words(score)}**: {text}" for score, text in LEGEND.items())
    st.caption(" ".join(sentences), help=scores)


@st.dialog("Find and replace in captions", width="large")
def find_and_replace(audit: Audit, ids: Sequence[str]) -> None:
    """Preview and store a replacement in the captions of some pairs."""
    st.caption(
        f"Searches the current captions of {pairs_in_words(len(ids))}. Undecided pairs stay in the "
        "review. You see every change before it is saved; one undo reverts all of them."
    )
    with in_a_row():
        find = st.text_input("Find", key="bulk-edit-find", max_chars=MAX_TEXT)
        replacement = st.text_input("Replace with", key="bulk-edit-replace", max_chars=MAX_TEXT)
    match_case = st.toggle("Match case", value=True, key="bulk-edit-case")
    if not find:
        return
    with st.spinner("Searching…"):
        changes = preview_replacement(audit, ids, find, replacement, match_case=match_case)
    for count, reason in (
        (changes.emptied, "captions, which would be empty"),
        (changes.removed, "pairs, marked for removal"),
    ):
        if count:
            st.caption(f"Unchanged {reason}: {count:,}")
    if not changes.edits:
        st.info("No caption changes.")
        return
    table = pd.DataFrame(changes.captions, columns=["pair", "before", "after"])
    draw_table(table, alt="Captions before and after the change")
    pairs = pairs_in_words(len(changes.edits))
    label = f"Change {len(table):,} caption{'s' * (len(table) != 1)} of {pairs}"
    if st.button(label, type="primary", key="bulk-edit-store"):
        with storing_decisions() as session:
            outcome = open_review(audit).decide_each(changes.edits, audit=audit.name)
            if outcome.pairs:
                session.saved(audit, "Captions changed", outcome)
            else:
                session.notice = Notice("Not changed: there are newer decisions.", good=False)
        st.rerun()


with open_page("Browse") as audit:
    selection = read_filters()
    active = len(conditions(selection))
    with in_a_row(gap="xsmall"):
        draw_search(selection, "meaning", "Search by meaning", width=180)
        draw_order(audit, selection)
        label = f"Filter ({active})" if active else "Filter"
        with st.popover(label, icon=":material/filter_list:", key="filters"):
            draw_filters(audit, selection)
        choose_segment("Layout", LAYOUTS, parameter="layout", hidden=True)
        st.space("stretch")
        with in_a_row(width="content"):
            draw_link("embeddings", "Map", audit, selection)
            draw_link("review", "Review", audit, selection)
            draw_key_list(BROWSE_KEYS)
    draw_conditions(selection)
    prepare(features_of_text, audit.record.config, "picture")
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
        reason = "No pair fits all of these conditions."
        order = selection.order
        if order in BY_NAME and score_span(audit, order) is None:
            absent = BY_NAME[order].absent or "is missing in this audit: sort by another score."
            reason = f"{words(order)} {absent}"
        st.info(reason)
        st.stop()
    if chosen := st.session_state.pop(REPLACES, None):
        find_and_replace(audit, pair_ids(audit, selection) if chosen is True else chosen)
    size = int(read_choice("size", PAGE_SIZES, DEFAULT_SIZE))
    page, pages = read_page(count, size)
    draw_notice(audit)
    rows = find_rows(audit, selection, page=page, size=size)
    draw_grid(
        audit,
        cards(audit, rows, selection),
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
    draw_legend(audit, selection, count)
