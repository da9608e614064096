"""The page Pair: its facts, its note, its scores and their terms, and similar pairs."""

from zlib import crc32

import pandas as pd
import streamlit as st

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.dashboard.cards import STRIP_SIZE, draw_card_row
from clipmem_core.dashboard.deciding import Notice, locked_session
from clipmem_core.dashboard.page import (
    draw_link,
    is_on_screen,
    peek_selection,
    read_view,
)
from clipmem_core.dashboard.plain import (
    cut,
    draw_figure,
    draw_table,
    explained_errors,
    format_score,
    in_a_row,
    read_uncertainty,
    show_text,
)
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.figures import GROUP_COLOURS, IN, OUT, TERM_NAMES, term_figure
from clipmem_core.review.cards import (
    LISTED,
    PARTS,
    PairCard,
    cards,
    first_captions,
    listed_scores,
    suspicious_captions,
)
from clipmem_core.review.decisions import RECAPTION, open_review
from clipmem_core.review.filters import failed_checks, find_rows, misfit_note
from clipmem_core.review.overview import member_terms
from clipmem_core.review.queries import find_row
from clipmem_core.review.search import search
from clipmem_core.review.views import CAPTION, PICTURE, Selection
from clipmem_core.scores.registry import BY_NAME, PAGE_SCORES, words
from clipmem_core.utils import columns as c
from clipmem_core.utils.glossary import P_WRONG, meaning

_CAPTION_LIMIT = 600
_SIMILAR = {PICTURE: "Most similar pictures", CAPTION: "Most similar captions"}


def find_pair(audit: Audit, selection: Selection) -> PairCard:
    """Return the pair of the address, else the first one of the selection; end the page without
    one."""
    if pair_id := st.query_params.get("pair"):
        row = find_row(audit, pair_id)
    else:
        row = next(iter(find_rows(audit, selection, size=1)), None)
    if row is None:
        st.warning("This pair is not in this audit.")
        draw_way_back(audit, selection)
        st.stop()
    card = cards(audit, [row], selection)[0]
    # Always: after a link from this page the address is still the old one.
    st.query_params["pair"] = card.pair_id
    return card


def draw_way_back(audit: Audit, selection: Selection) -> None:
    """Draw the link to the page of Browse that the pair was opened from."""
    draw_link("browse", "Back to Browse", audit, selection, **read_view())


def draw_facts(audit: Audit, card: PairCard) -> None:
    """Draw facts of a pair, the scores of its captions, and the checks it fails."""
    error = f" · injected error: {card.injected}" if card.injected else ""
    group = c.group_words(card.group)
    show_text(f"group: {group}{error} · file: {card.image}", limit=_CAPTION_LIMIT)
    listed = listed_scores(audit, [card.pair_id]).iloc[0]
    scores = {
        words(name): listed[column]
        for name, column in LISTED.items()
        if isinstance(listed.get(column), list)
    }
    if scores:
        table = pd.DataFrame(scores).round(3)
        captions = [cut(caption, _CAPTION_LIMIT) for caption in card.captions]
        table.insert(1, "audited caption", captions)
        first = suspicious_captions(audit, [card.pair_id]).get(card.pair_id, 0)
        percent = st.column_config.NumberColumn(format="percent")
        st.dataframe(
            table.loc[list(dict.fromkeys([first, *table.index]))],  # in the order of the card
            hide_index=True,
            column_config={words(name): percent for name in PARTS},
            alt="The scores of each caption",
        )
        st.caption(
            "p wrong = p check (no caption at all) + p pair (all captions belong elsewhere) + p "
            "caption (this one does) + p word (one word is wrong)",
            help=meaning(P_WRONG),
        )
    with explained_errors("Checks cannot be shown.", ends=False), in_a_row():
        for name in failed_checks(audit, card.row):
            check = CHECKS[name]
            about = f"{check.help} {check.advice}"
            st.badge(check.label, icon=":material/rule:", color="orange", help=about)


def draw_note(audit: Audit, card: PairCard) -> None:
    """Draw the box of a pair's note, which is independent of its decision."""
    stored = card.decision.note
    key = f"note-{audit.name}-{card.row}-{crc32(stored.encode())}"  # another note needs another box
    with st.form(f"{key}-form", border=False):
        st.text_area("Note", stored, key=key, height=80, max_chars=2000)
        st.form_submit_button(
            "Save note",
            icon=":material/edit_note:",
            on_click=_store_note,
            args=(audit, card.pair_id, stored, key),
        )


def _store_note(audit: Audit, pair_id: str, before: str, key: str) -> None:
    """Store a note, unless another tab has changed it. A callback."""
    typed = st.session_state[key]
    with locked_session() as session:
        review = open_review(audit)
        current = review.current(pair_id)
        if current.note != before:
            session.notice = Notice(
                "Not saved: the note has just changed in another tab. Yours was:", typed, good=False
            )
        elif typed != before:
            decision = current.decision
            captions = current.captions if decision == RECAPTION else ()
            outcome = review.decide(
                [pair_id], decision, captions=captions, note=typed, audit=audit.name
            )
            session.saved(audit, "Note saved", outcome)


def draw_scores(audit: Audit, card: PairCard) -> None:
    """Draw the pair's scores, and the uncertainty of clipmem."""
    uncertainty = read_uncertainty(audit)
    clipmem = f"{format_score(card.scores.get(c.CLIPMEM))}{uncertainty.around(card.scores)}"
    st.metric("clipmem", clipmem, help=BY_NAME[c.CLIPMEM].help)
    st.caption(uncertainty.explain())
    with st.grid(2, min_column_width=130) as grid:
        for name, score in PAGE_SCORES.items():
            note = misfit_note(audit) if name == c.MISFIT else ""
            about = f"{score.help} {note}".strip()
            grid.metric(words(name), format_score(card.scores.get(name)), help=about or None)


@st.fragment
def draw_details(audit: Audit, card: PairCard) -> None:
    """Draw terms and similar pairs once they are scrolled to: charts would delay the picture."""
    if is_on_screen(f"details-{card.row}"):
        draw_terms(audit, card)
        draw_nearest(audit, card)


def draw_terms(audit: Audit, card: PairCard) -> None:
    """Draw each term of the score with and without the pair in training: by member, and the
    means."""
    st.subheader("Where the score comes from")
    means = card.scores
    left, right = st.columns([3, 2], gap="medium")
    with left, explained_errors("Single members cannot be shown.", ends=False):
        names = {IN: "in: trained on it", OUT: "out: not trained on it"}
        if audit.record.protocol == "paper":
            names = {IN: "in: f", OUT: "out: g"}
        figure = term_figure(
            member_terms(audit, card.row), colour=GROUP_COLOURS[card.group], names=names
        )
        draw_figure(figure, key="terms", alt="Terms of the score, a dot for each member")
    with right:
        columns = {side: [means.get(f"{term}_{side}") for term in TERM_NAMES] for side in (IN, OUT)}
        table = pd.DataFrame(columns, dtype=float)
        table.insert(0, "term", list(TERM_NAMES.values()))
        table["in − out"] = table[IN] - table[OUT]
        draw_table(table, alt="Each term of the score: both means and their difference")
        st.caption(
            "alignment = positive − negative text − negative image; its in − out is clipmem."
        )
        with st.grid(2, min_column_width=130) as grid:
            for name in (c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT):
                grid.metric(words(name), format_score(means.get(name)))


def draw_nearest(audit: Audit, card: PairCard) -> None:
    """Draw the pairs with the most similar captions and pictures."""
    st.subheader("Similar pairs")
    selection = peek_selection()
    for by, title in _SIMILAR.items():
        st.markdown(f"**{title}**")
        with explained_errors(f"{title} cannot be shown.", ends=False):
            with st.spinner("Searching…"):
                rows = search(audit, like=card.pair_id, by=by, k=STRIP_SIZE).rows.tolist()
                others = cards(audit, rows, Selection(like=card.pair_id, by=by))
            labels = [f"cosine {format_score(other.match)}" for other in others]
            firsts = first_captions(audit, others, selection)
            draw_card_row(audit, others, labels, selection, firsts, key=by)
