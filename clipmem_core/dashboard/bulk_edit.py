"""The dialog that finds and replaces in the captions of many pairs: every change is seen before it is stored."""

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.dashboard.deciding import Notice, in_turn, review_session
from clipmem_core.dashboard.errors import LIMIT, one_line
from clipmem_core.dashboard.numbers import pairs_in_words
from clipmem_core.dashboard.plain import as_html, difference_html, show_text
from clipmem_core.review.bulk_edit import Changes, Rule, preview, store_changes
from clipmem_core.review.decisions import open_review
from clipmem_core.review.rows import pair_ids
from clipmem_core.review.selection import Selection

SIZE = 8  # pairs on a page of the preview
MAX_PATTERN = 500  # characters
ID_LIMIT = 80
OPENED = "bulk_edit_opened"
KEPT = "bulk_edit_changes"  # the changes that are shown, and what they were worked out from
STYLE = """<style>
.change { font-size: .875rem; line-height: 1.5; overflow-wrap: anywhere; margin-bottom: .6rem }
.change .id { opacity: .7; font-size: .8rem }
.change del { background: #d62d2044; text-decoration-color: #d62d20 }
.change ins { background: #1a9f4744; text-decoration-color: #1a9f47 }
.change del + ins { margin-left: .25em }
</style>"""
HELP = r"Python's syntax, as of the package regex. In the replacement \1 is the first group, \g<name> a named one."


def draw_bulk_edit(audit: Audit, selection: Selection) -> None:
    """Draw the button that opens the dialog for all pairs of the selection."""
    st.button("Find and replace in captions…", icon=":material/find_replace:", key="bulk-edit", on_click=_open)
    if st.session_state.pop(OPENED, False):
        _dialog(audit, selection)


def _open() -> None:
    """Have the dialog opened by the run that follows, and the menu closed that its button is in. A callback."""
    st.session_state[OPENED] = True
    review_session().presses += 1


@st.dialog("Find and replace in captions", width="large")
def _dialog(audit: Audit, selection: Selection) -> None:
    ids = tuple(pair_ids(audit, selection))
    st.caption(f"In the captions of the {pairs_in_words(len(ids))} of this selection, as they stand now.")
    rule = _draw_rule()
    if not rule.find:
        st.caption("Every change is shown before anything is stored, and all of them are undone as one.")
        return
    try:
        with st.spinner("Looking…"):
            changes = _changes(audit, ids, rule)
    except InputError as error:
        st.warning("Nothing is changed.", icon=":material/warning:")
        show_text(one_line(error), limit=LIMIT)
        return
    _draw_changes(changes)
    label = f"Change {changes.captions:,} captions of {pairs_in_words(len(changes.pairs))}"
    if st.button(label, type="primary", icon=":material/edit:", disabled=not changes.pairs, key="bulk-edit-store"):
        _store(audit, changes)
        st.rerun()


def _draw_rule() -> Rule:
    with st.container(horizontal=True, gap="small"):
        find = st.text_input("Find", key="bulk-edit-find", max_chars=MAX_PATTERN)
        replace = st.text_input("Replace with", key="bulk-edit-replace", max_chars=MAX_PATTERN)
    with st.container(horizontal=True, gap="medium"):
        regular = st.toggle("Regular expression", key="bulk-edit-regular", help=HELP)
        match_case = st.toggle("Match case", value=True, key="bulk-edit-case")
    return Rule(find, replace, regular=regular, match_case=match_case)


def _changes(audit: Audit, ids: tuple[str, ...], rule: Rule) -> Changes:
    """Return what a rule changes; turning a page of the preview does not work it out again."""
    asked = (audit.name, ids, rule, open_review(audit).position())
    known = st.session_state.get(KEPT)
    if known is None or known[0] != asked:
        known = st.session_state[KEPT] = (asked, preview(audit, ids, rule))
    changes: Changes = known[1]
    return changes


def _draw_changes(changes: Changes) -> None:
    for count, sentence in (
        (changes.emptied, "captions would have nothing left: they stay as they are."),
        (changes.removed, "pairs are to be removed: they stay as they are."),
    ):
        if count:
            st.caption(f"{count:,} {sentence}")
    if not changes.pairs:
        st.info("No caption changes.", icon=":material/search_off:")
        return
    pages = -(-len(changes.pairs) // SIZE)
    page = st.pagination(pages, max_visible_pages=5, key=f"bulk-edit-page-{pages}") if pages > 1 else 1
    st.html(STYLE)
    for change in changes.pairs[(page - 1) * SIZE : page * SIZE]:
        shown = "<br>".join(difference_html(old, new) for old, new in change.captions)
        name = as_html(change.pair_id, limit=ID_LIMIT)
        st.html(f'<div class="change"><div class="id">{name}</div>{shown}</div>')


def _store(audit: Audit, changes: Changes) -> None:
    with in_turn() as session:
        outcome = store_changes(audit, changes)
        session.presses += 1
        left = f" {pairs_in_words(outcome.left)}, decided on meanwhile, stayed as they are." if outcome.left else ""
        if outcome.pairs == 0:
            session.notice = Notice(f"Nothing was changed.{left}", good=False)
            return
        session.remember(audit, open_review(audit), outcome)
        sentence = f"Stored: captions of {pairs_in_words(outcome.pairs)} changed.{left}"
        session.notice = Notice(sentence, event=outcome.event)
