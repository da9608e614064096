"""The page Browse: pairs as a grid or a table, and actions on the whole selection."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.columns import CLIPMEM, MISFIT
from clipmem_core.config import InputError
from clipmem_core.dashboard.deciding import BADGES, Notice, draw_notice, in_turn, review_session
from clipmem_core.dashboard.filters import GRID, TABLE, conditions, draw_queues, learned_by_g, queue_of
from clipmem_core.dashboard.page import (
    LAYOUT,
    PAGE,
    SIZE,
    TIGHT_STYLE,
    draw_pages,
    draw_set,
    read_number,
    read_page,
    write,
)
from clipmem_core.dashboard.pair_component import draw_grid
from clipmem_core.dashboard.plain import (
    as_html,
    difference_html,
    draw_fault,
    pairs_in_words,
    read_noise,
    read_verdict,
    show_text,
)
from clipmem_core.dashboard.review import draw_start
from clipmem_core.review.bulk_edit import Changes, Rule, preview, store_changes
from clipmem_core.review.cards import cards
from clipmem_core.review.decisions import KEEP, REMOVE, open_review
from clipmem_core.review.rows import count_pairs, find_rows, misfit_note, pair_ids, score_span
from clipmem_core.review.selection import MATCH, Selection
from clipmem_core.scores.registry import BY_NAME, CARD, scores_in, words

PAGE_SIZES = (12, 24, 48, 96)
USUAL_SIZE = 24
SUBTRACTED = "These pairs were learned by g, which is subtracted, so the lowest clipmem is the most memorized."
LEGEND = {name: score.legend for name, score in scores_in(CARD).items()} | {MATCH: "cosine with what was searched for."}
QUESTION = "bulk_question"
PREVIEWED = 8  # pairs on a page of the preview of find and replace
MAX_PATTERN = 500  # characters
ID_LIMIT = 80
OPENED = "bulk_edit_opened"
CHANGES = "bulk_edit_changes"  # the changes that are shown, and the input they were computed from
CHANGE_STYLE = """<style>
.change { font-size: .875rem; line-height: 1.5; overflow-wrap: anywhere; margin-bottom: .6rem }
.change .id { opacity: .7; font-size: .8rem }
.change del { background: #d62d2044; text-decoration-color: #d62d20 }
.change ins { background: #1a9f4744; text-decoration-color: #1a9f47 }
.change del + ins { margin-left: .25em }
</style>"""
PATTERN_HELP = (
    r"Python's syntax, as of the package regex. In the replacement \1 is the first group, \g<name> a named one."
)


def draw_top(audit: Audit, selection: Selection) -> DeltaGenerator:
    """Draw the queues and the layouts, and return the place beside them for actions on all pairs."""
    st.html(TIGHT_STYLE)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        draw_queues(audit, selection, TABLE if st.query_params.get(LAYOUT) == TABLE else GRID)
        st.space("stretch")
        return st.container(horizontal=True, vertical_alignment="center", gap="small", width="content")


def draw_gallery(audit: Audit, selection: Selection, *, beside: DeltaGenerator) -> None:
    """Draw the page of a selection that the address names, and in `beside` the actions on all of its pairs."""
    try:
        with st.spinner("Searching…") if selection.searched else nullcontext():
            count = count_pairs(audit, selection)
    except InputError as error:
        if not selection.searched:
            raise
        draw_fault("This search cannot be made.", error, icon=":material/search_off:")
        st.stop()
    if count == 0:
        _draw_nothing(audit, selection)
        return
    with beside:
        _draw_bulk(audit, selection, count)
        draw_start(audit, selection)
    size = read_number(SIZE, USUAL_SIZE, among=PAGE_SIZES)
    page, pages = read_page(count, size)
    shown = cards(audit, find_rows(audit, selection, page=page, size=size), selection)
    _draw_legend(audit, selection, count)
    draw_notice(audit, key="browse")
    table, key = st.query_params.get(LAYOUT) == TABLE, f"browse-{audit.name}"
    draw_grid(audit, shown, selection=selection, key=key, table=table, page=(page, pages))
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom", gap="small"):

        def take(chosen: int) -> None:
            write(**{SIZE: chosen, PAGE: None})

        draw_set(st.selectbox, "Per page", PAGE_SIZES, key=SIZE, value=size, take=take, width=85)
        draw_pages(page, pages, key="pages")


def _draw_legend(audit: Audit, selection: Selection, count: int) -> None:
    queue = queue_of(selection)
    why = queues(read_verdict(audit))[queue].sentence if queue else ""
    why = SUBTRACTED if queue and learned_by_g(selection) else why
    legend = LEGEND | {MISFIT: misfit_note(audit) or LEGEND[MISFIT]}
    meanings = "\n".join(f"- **{words(score)}**: {meaning}" for score, meaning in legend.items())
    unlisted = 0 if selection.order == MATCH else count_pairs(audit, replace(selection, order=CLIPMEM)) - count
    absent = f"{pairs_in_words(unlisted)} without {words(selection.order)} not listed." if unlisted > 0 else ""
    sentences = [f"**{pairs_in_words(count)}.**", absent, why, read_noise(audit).explain()]
    st.caption(" ".join(filter(None, sentences)), help=meanings)


def _draw_nothing(audit: Audit, selection: Selection) -> None:
    """Say that there are no pairs, and which condition to remove."""
    if selection.order in BY_NAME and score_span(audit, selection.order) is None:
        absent = BY_NAME[selection.order].absent or "is missing in this audit: sort by another score."
        st.info(f"{words(selection.order)} {absent}", icon=":material/info:")
        return
    st.info("No pair fits all of these conditions.", icon=":material/search_off:")
    rests = [(f"without “{text}”", rest) for text, rest in conditions(selection)]
    rests += [("sorted by memorization", replace(selection, order=CLIPMEM))] if selection.order != MATCH else []
    for text, rest in rests:
        if count := count_pairs(audit, rest):
            show_text(f"{text}: {pairs_in_words(count)}", limit=ID_LIMIT)


@dataclass(frozen=True)
class Question:
    """A decision on many pairs that waits for a yes."""

    decision: str | None
    count: int
    selection: Selection


def _draw_bulk(audit: Audit, selection: Selection, count: int) -> None:
    """Draw the menu that decides for all pairs of the selection at once."""
    key = f"bulk-{review_session().presses}"
    with st.popover(f"All {count:,}", key=key, icon=":material/checklist:", width="content"):
        st.caption(f"Decide for all {pairs_in_words(count)} of this selection, on all of its pages.")
        with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
            for decision, label in ((KEEP, "Keep"), (REMOVE, "Remove"), (None, "Undecided")):
                question = {QUESTION: Question(decision, count, selection)}
                ask = st.session_state.update
                st.button(label, icon=BADGES[decision][1], key=f"bulk-{label}", on_click=ask, args=(question,))
        st.button("Find and replace in captions…", icon=":material/find_replace:", key="bulk-edit", on_click=_open)
        if st.session_state.pop(OPENED, False):
            _edit_dialog(audit, selection)
        _draw_question(audit, selection)


def _draw_question(audit: Audit, selection: Selection) -> None:
    """Draw the question that waits, unless the page shows other pairs by now."""
    question: Question | None = st.session_state.get(QUESTION)
    if question is None or question.selection != selection:
        st.session_state.pop(QUESTION, None)
        return
    word, icon, _ = BADGES[question.decision]
    with st.container(border=True, horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"Mark **{pairs_in_words(question.count)}** as **{word}**?", width="content")
        yes = st.button(f"Yes, {word}: {pairs_in_words(question.count)}", type="primary", icon=icon, key="bulk-yes")
        st.button("No", key="bulk-no", on_click=lambda: st.session_state.pop(QUESTION, None))
    if yes:
        with st.spinner("Saving…"):
            _decide_all(audit, question)
        st.rerun()


def _decide_all(audit: Audit, question: Question) -> None:
    """Store the decision; where the selection has changed since the question, ask again."""
    st.session_state.pop(QUESTION, None)
    again = None
    with in_turn() as session:
        ids = pair_ids(audit, question.selection)
        if len(ids) == question.count:
            outcome = open_review(audit).decide(ids, question.decision, audit=audit.name)
            sentence = f"Saved: {BADGES[question.decision][0]}, for {pairs_in_words(outcome.pairs)}."
            session.notice = Notice(sentence, event=outcome.event)
            session.presses += 1
        else:
            again = replace(question, count=len(ids))
            session.notice = Notice("The selection has changed meanwhile: check it again.", good=False)
    if again is not None:
        st.session_state[QUESTION] = again


def _open() -> None:
    """Have the dialog opened by the run that follows, and its menu closed. A callback."""
    st.session_state[OPENED] = True
    review_session().presses += 1


@st.dialog("Find and replace in captions", width="large")
def _edit_dialog(audit: Audit, selection: Selection) -> None:
    """Find and replace in the captions of many pairs: every change is shown before it is stored."""
    ids = tuple(pair_ids(audit, selection))
    st.caption(f"In the current captions of the {pairs_in_words(len(ids))} of this selection.")
    with st.container(horizontal=True, gap="small"):
        find = st.text_input("Find", key="bulk-edit-find", max_chars=MAX_PATTERN)
        replacement = st.text_input("Replace with", key="bulk-edit-replace", max_chars=MAX_PATTERN)
    with st.container(horizontal=True, gap="medium"):
        regular = st.toggle("Regular expression", key="bulk-edit-regular", help=PATTERN_HELP)
        match_case = st.toggle("Match case", value=True, key="bulk-edit-case")
    if not find:
        st.caption("You see every change before it is saved; one undo takes all of them back.")
        return
    rule = Rule(find, replacement, regular=regular, match_case=match_case)
    asked = (audit.name, ids, rule, open_review(audit).position())
    cached: tuple[object, Changes] | None = st.session_state.get(CHANGES)
    if cached is None or cached[0] != asked:  # turning a page of the preview does not compute it again
        try:
            with st.spinner("Searching…"):
                cached = st.session_state[CHANGES] = (asked, preview(audit, ids, rule))
        except InputError as error:
            draw_fault("Nothing is changed.", error, icon=":material/warning:")
            return
    changes = cached[1]
    _draw_changes(changes)
    label = f"Change {changes.captions:,} captions of {pairs_in_words(len(changes.pairs))}"
    if st.button(label, type="primary", icon=":material/edit:", disabled=not changes.pairs, key="bulk-edit-store"):
        _store(audit, changes)
        st.rerun()


def _draw_changes(changes: Changes) -> None:
    for count, sentence in (
        (changes.emptied, "captions would be empty and stay unchanged."),
        (changes.removed, "pairs are marked for removal and stay unchanged."),
    ):
        if count:
            st.caption(f"{count:,} {sentence}")
    if not changes.pairs:
        st.info("No caption changes.", icon=":material/search_off:")
        return
    pages = -(-len(changes.pairs) // PREVIEWED)
    page = st.pagination(pages, max_visible_pages=5, key=f"bulk-edit-page-{pages}") if pages > 1 else 1
    st.html(CHANGE_STYLE)
    for change in changes.pairs[(page - 1) * PREVIEWED : page * PREVIEWED]:
        shown = "<br>".join(difference_html(old, new) for old, new in change.captions)
        name = as_html(change.pair_id, limit=ID_LIMIT)
        st.html(f'<div class="change"><div class="id">{name}</div>{shown}</div>')


def _store(audit: Audit, changes: Changes) -> None:
    with in_turn() as session:
        outcome = store_changes(audit, changes)
        session.presses += 1
        left = f" {pairs_in_words(outcome.skipped)}, decided meanwhile, unchanged." if outcome.skipped else ""
        if outcome.pairs == 0:
            session.notice = Notice(f"Nothing was changed.{left}", good=False)
            return
        sentence = f"Saved: captions of {pairs_in_words(outcome.pairs)} changed.{left}"
        session.notice = Notice(sentence, event=outcome.event)
