"""A decision on all pairs of a selection at once, on whatever page they are."""

import dataclasses
from dataclasses import dataclass

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.bulk_edit import draw_bulk_edit
from clipmem_core.dashboard.deciding import BADGES, Notice, in_turn, review_session
from clipmem_core.dashboard.numbers import pairs_in_words
from clipmem_core.review.decisions import KEEP, REMOVE, open_review
from clipmem_core.review.rows import pair_ids
from clipmem_core.review.selection import Selection

ASKED = "deciding_asked"


@dataclass(frozen=True)
class Asked:
    """A decision on many pairs that waits for a yes."""

    decision: str | None
    count: int
    selection: Selection


def draw_bulk(audit: Audit, selection: Selection, count: int) -> None:
    """Draw the buttons that decide for all pairs of the selection at once; `draw_notice` says what became of it.

    Args:
        audit: the audit of the page.
        selection: the pairs that the page shows.
        count: how many these are, on all of its pages.
    """
    if count == 0:
        return
    with st.popover(
        f"All {count:,}", key=f"bulk-{review_session().presses}", icon=":material/checklist:", width="content"
    ):
        st.caption(f"Decide for all {pairs_in_words(count)} of this selection, on all of its pages.")
        with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
            for decision, label in ((KEEP, "Keep"), (REMOVE, "Remove"), (None, "Undecided")):
                asked = Asked(decision, count, selection)
                st.button(label, icon=BADGES[decision][1], key=f"bulk-{label}", on_click=_ask, args=(audit, asked))
        draw_bulk_edit(audit, selection)
        _draw_question(audit, selection)


def _ask(audit: Audit, asked: Asked) -> None:
    """Decide for one pair at once; more of them wait for a yes. A callback."""
    st.session_state.pop(ASKED, None)
    if asked.count > 1:
        st.session_state[ASKED] = asked
    else:
        _decide_all(audit, asked)


def _draw_question(audit: Audit, selection: Selection) -> None:
    """Draw the question that waits, unless the page shows other pairs by now."""
    asked: Asked | None = st.session_state.get(ASKED)
    if asked is None or asked.selection != selection:
        st.session_state.pop(ASKED, None)
        return
    word, icon, _ = BADGES[asked.decision]
    with st.container(border=True, horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"Say **{word}** of **{pairs_in_words(asked.count)}**?", width="content")
        yes = st.button(f"Yes, {word}: {pairs_in_words(asked.count)}", type="primary", icon=icon, key="bulk-yes")
        st.button("No", key="bulk-no", on_click=lambda: st.session_state.pop(ASKED, None))
    if yes:
        with st.spinner("Storing…"):
            _decide_all(audit, asked)
        st.rerun()


def _decide_all(audit: Audit, asked: Asked) -> None:
    """Store the decision; where the selection has grown or shrunk since the question, ask again."""
    st.session_state.pop(ASKED, None)
    again = None
    with in_turn() as session:
        ids = pair_ids(audit, asked.selection)
        if len(ids) == asked.count:
            review = open_review(audit)
            outcome = review.decide(ids, asked.decision, audit=audit.name)
            session.remember(audit, review, outcome)
            sentence = f"Stored: {BADGES[asked.decision][0]}, for {pairs_in_words(outcome.pairs)}."
            session.notice = Notice(sentence, event=outcome.event)
            session.presses += 1  # another popover, which is closed
        else:
            again = dataclasses.replace(asked, count=len(ids))
            session.notice = Notice("The selection has changed in the meantime: look again.", good=False)
    if again is not None:
        st.session_state[ASKED] = again
