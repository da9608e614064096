"""One pair: picture, captions and decision as in review, the parts of its score, and similar
pairs."""

import pandas as pd
import streamlit as st

from clipmem_core.auditing.folder.store import SECOND_TABLE, Audit
from clipmem_core.dashboard.cards import STRIP_SIZE, draw_card_row
from clipmem_core.dashboard.deciding import Notice, draw_notice, storing_decisions
from clipmem_core.dashboard.histogram_filters import read_filters
from clipmem_core.dashboard.page import (
    draw_link,
    is_on_screen,
    open_page,
    peek_selection,
    read_view,
)
from clipmem_core.dashboard.pair_component import REVIEW_KEYS, draw_followed, draw_key_list
from clipmem_core.dashboard.plain import (
    cut,
    draw_figure,
    draw_table,
    explained_errors,
    format_score,
    in_a_row,
    show_text,
)
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.figures import COMPONENT_NAMES, GROUP_COLOURS, IN, OUT, component_figure
from clipmem_core.review.cards import (
    LISTED,
    PROBABILITIES,
    PairCard,
    cards,
    first_captions,
    listed_scores,
    suspicious_captions,
)
from clipmem_core.review.decisions import RECAPTION, open_review
from clipmem_core.review.filters import failed_checks, find_rows
from clipmem_core.review.overview import member_components
from clipmem_core.review.queries import find_row
from clipmem_core.review.search import search
from clipmem_core.review.views import CAPTION, PICTURE, Selection
from clipmem_core.scores.registry import BY_NAME, PAGE_SCORES, SECOND_NOTE, words
from clipmem_core.utils import columns as c

LIMIT = 600  # characters of a caption
SIMILAR = {PICTURE: "Most similar pictures", CAPTION: "Most similar captions"}


def draw_captions(audit: Audit, card: PairCard) -> None:
    """Draw the scores of each caption, in the order of the card."""
    listed = listed_scores(audit, [card.pair_id]).iloc[0].dropna()
    scores = {words(name): listed[column] for name, column in LISTED.items() if column in listed}
    if not scores:
        return
    table = pd.DataFrame(scores).round(3)
    table.insert(1, "audited caption", [cut(caption, LIMIT) for caption in card.captions])
    first = suspicious_captions(audit, [card.pair_id]).get(card.pair_id, 0)
    percent = st.column_config.NumberColumn(format="percent")
    st.dataframe(
        table.sort_index(key=lambda numbers: numbers != first, kind="stable"),
        hide_index=True,
        column_config={words(name): percent for name in PROBABILITIES},
        alt="The scores of each caption",
    )
    st.caption(
        "p wrong = p check (no caption at all) + p pair (all captions belong elsewhere) + p "
        "caption (this one does) + p word (one word is wrong)",
        help=c.meaning(c.P_WRONG),
    )


def store_note(audit: Audit, pair_id: str, before: str, key: str) -> None:
    """Store a note, unless another tab has changed it. A callback."""
    typed = st.session_state[key]
    with storing_decisions() as session:
        review = open_review(audit)
        current = review.current(pair_id)
        if current.note != before:
            session.notice = Notice(
                "Not saved: the note has just changed in another tab. Yours was:", typed, good=False
            )
        elif typed != before:
            captions = current.captions if current.decision == RECAPTION else ()
            outcome = review.decide(
                [pair_id], current.decision, captions=captions, note=typed, audit=audit.name
            )
            session.saved(audit, "Note saved", outcome)


@st.fragment
def draw_details(audit: Audit, card: PairCard) -> None:
    """Draw the parts of the score and similar pairs once they are scrolled to: charts would delay
    the picture."""
    if not is_on_screen(f"details-{card.row}"):
        return
    st.subheader("Where the score comes from")
    left, right = st.columns([3, 2], gap="medium")
    with left, explained_errors("Single members cannot be shown.", ends=False):
        names = {IN: "in: trained on it", OUT: "out: not trained on it"}
        if audit.record.protocol == "paper":
            names = {IN: "in: f", OUT: "out: g"}
        colour = GROUP_COLOURS[card.group]
        figure = component_figure(member_components(audit, card.row), colour=colour, names=names)
        draw_figure(figure, key="components", alt="Parts of the score, a dot for each member")
    with right:
        means = {
            end: [card.scores.get(f"{component}_{end}") for component in COMPONENT_NAMES]
            for end in (IN, OUT)
        }
        table = pd.DataFrame({"part": COMPONENT_NAMES.values()} | means).astype(
            {IN: float, OUT: float}
        )
        table["in − out"] = table[IN] - table[OUT]
        draw_table(table, alt="Each part of the score: both means and their difference")
        st.caption(
            "alignment = positive − negative text − negative image; its in − out is clipmem."
        )
        with st.grid(2, min_column_width=130) as grid:
            for name in (c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT):
                grid.metric(words(name), format_score(card.scores.get(name)))
    st.subheader("Similar pairs")
    for by, title in SIMILAR.items():
        st.markdown(f"**{title}**")
        with explained_errors(f"{title} cannot be shown.", ends=False):
            with st.spinner("Searching…"):
                rows = search(audit, like=card.pair_id, by=by, k=STRIP_SIZE).rows.tolist()
                others = cards(audit, rows, Selection(like=card.pair_id, by=by))
            labels = [f"cosine {format_score(other.match)}" for other in others]
            selection = peek_selection()
            firsts = first_captions(audit, others, selection)
            draw_card_row(audit, others, labels, selection, firsts, key=by)


with open_page("Pair") as audit:
    selection = read_filters()
    with in_a_row():
        draw_link("browse", "Back to Browse", audit, selection, **read_view())
        draw_key_list(REVIEW_KEYS)
    if pair_id := st.query_params.get("pair"):
        row = find_row(audit, pair_id)
    else:
        row = next(iter(find_rows(audit, selection, size=1)), None)
    if row is None:
        st.warning("This pair is not in this audit.")
        st.stop()
    card = cards(audit, [row], selection)[0]
    # Always: after a link from this page the address is still the old one.
    st.query_params["pair"] = card.pair_id
    draw_followed(audit, selection, card.pair_id)
    draw_notice(audit)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        error = f" · injected error: {card.injected}" if card.injected else ""
        show_text(f"group: {c.group_words(card.group)}{error} · file: {card.image}", limit=LIMIT)
        draw_captions(audit, card)
        with explained_errors("Checks cannot be shown.", ends=False), in_a_row():
            for name in failed_checks(audit, card.row):
                check = CHECKS[name]
                about = f"{check.help} {check.advice}"
                st.badge(check.label, color="orange", help=about)
        note = card.decision.note
        key = f"note-{audit.name}-{card.row}-{note}"  # another note needs another box
        with st.form(f"{key}-form", border=False):
            st.text_area("Note", note, key=key, height=80, max_chars=2000)
            st.form_submit_button(
                "Save note", on_click=store_note, args=(audit, card.pair_id, note, key)
            )
    with right:
        clipmem = card.scores[c.CLIPMEM]
        se = card.scores[c.SE]
        noise = audit.verdict["held_out_sd"]
        st.metric("clipmem", format_score(clipmem), help=BY_NAME[c.CLIPMEM].help)
        note = f"Noise {noise:.2f}: SD of clipmem over held-out pairs, which no model saw."
        if audit.verdict["se_kind"] == "moderated" and clipmem is not None and se is not None:
            low, high = (format_score(clipmem + sign * 1.96 * se) for sign in (-1, 1))
            note = f"95 % interval, from errors of similar pairs: {low} to {high}."
        st.caption(note)
        with st.grid(2, min_column_width=130) as grid:
            for name, score in PAGE_SCORES.items():
                about = score.help
                if name == c.MISFIT and SECOND_TABLE in audit.files:
                    about = f"{about} {SECOND_NOTE}"
                grid.metric(words(name), format_score(card.scores.get(name)), help=about)
    draw_details(audit, card)
