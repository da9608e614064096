"""One pair: picture, captions and decision as in review, the terms of its score, and similar
pairs."""

import pandas as pd
import streamlit as st

from clipmem_core import columns as c
from clipmem_core.audit.store import Audit
from clipmem_core.dashboard import plain
from clipmem_core.dashboard.cards import STRIP_SIZE, STYLE, draw_card_row
from clipmem_core.dashboard.deciding import draw_note, draw_notice
from clipmem_core.dashboard.filters import read_filters
from clipmem_core.dashboard.page import (
    BROWSE,
    PAIR,
    TIGHT_STYLE,
    is_on_screen,
    link,
    open_page,
    peek_selection,
    read_view,
)
from clipmem_core.dashboard.pair_component import OPENED, REVIEW_KEYS, draw_followed, draw_keys
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.figures.audit_scores import IN, OUT, TERM_NAMES, encoder_figure, term_figure
from clipmem_core.figures.layout import group_colour
from clipmem_core.glossary import P_WRONG, meaning
from clipmem_core.review.cards import (
    LISTED,
    PairCard,
    cards,
    explain_captions,
    first_captions,
    listed_scores,
)
from clipmem_core.review.queries import find_row
from clipmem_core.review.rows import failed_checks, find_rows, misfit_note
from clipmem_core.review.score_breakdown import member_terms
from clipmem_core.review.search import search
from clipmem_core.review.selection import CAPTION, PICTURE, Selection
from clipmem_core.scores.registry import BY_NAME, scores_in, words
from clipmem_core.scores.registry import PAIR as SHOWN_HERE

CAPTION_LIMIT = 600
FIXED = {"displayModeBar": False}
P_WRONG_PARTS = (
    "p wrong = p pair (all captions belong elsewhere) + p caption (this one does) + "
    "p word (one word is wrong)"
)
TITLES = {PICTURE: "Most similar pictures", CAPTION: "Most similar captions"}


def find_pair(audit: Audit, selection: Selection) -> PairCard:
    """Return the pair of the address, else the first one of the selection; end the page without
    one."""
    pair_id = st.query_params.get(PAIR)
    row = (
        find_row(audit, pair_id)
        if pair_id
        else next(iter(find_rows(audit, selection, size=1)), None)
    )
    if row is None:
        if pair_id:
            st.warning("This audit has no such pair.", icon=":material/search_off:")
            plain.show_text(f"requested: {pair_id}", limit=300)
        else:
            st.info("No pair fits this selection.", icon=":material/info:")
        draw_way_back(audit, selection)
        st.stop()
    card = cards(audit, [row], selection)[0]
    st.query_params[PAIR] = (
        card.pair_id
    )  # always: after a link from this page the address is still the old one
    st.session_state[OPENED] = card.row
    return card


def draw_way_back(audit: Audit, selection: Selection) -> None:
    """Draw the link to the page of Browse that the pair was opened from."""
    parameters = link(audit, selection, **read_view())
    st.page_link(
        BROWSE, label="Back to browse", icon=":material/grid_view:", query_params=parameters
    )


def draw_facts(audit: Audit, card: PairCard) -> None:
    """Draw facts of a pair, the scores of its captions, their unlikely words, and the checks it
    fails."""
    facts = [
        f"group: {card.group}",
        *([f"injected error: {card.injected}"] if card.injected else []),
    ]
    plain.show_text(f"{' · '.join(facts)}\nfile: {card.image}", limit=CAPTION_LIMIT)
    listed = listed_scores(audit, [card.pair_id]).iloc[0]
    scores = {
        words(name): listed[column]
        for name, column in LISTED.items()
        if isinstance(listed.get(column), list)
    }
    if scores:
        captions = [plain.cut(caption, CAPTION_LIMIT) for caption in card.captions]
        columns = {name: st.column_config.NumberColumn(format="%.2f", width=76) for name in scores}
        table = pd.DataFrame({"audited caption": captions} | scores)
        st.dataframe(
            table, hide_index=True, column_config=columns, alt="The scores of each caption"
        )
        st.caption(P_WRONG_PARTS, help=meaning(P_WRONG))
    if unlikely := explain_captions(audit, [card.pair_id])[1].get(card.pair_id):
        marks = [
            (str(number + 1), mark["word"], mark["hint"])
            for number in unlikely
            for mark in unlikely[number]
        ]
        table = pd.DataFrame(marks, columns=["caption", "word", "probability"])
        st.dataframe(
            table, hide_index=True, alt="Unlikely words of each caption, and likelier words"
        )
    with plain.one_line_errors("Checks"), st.container(horizontal=True):
        for check in (CHECKS[name] for name in failed_checks(audit, card.row)):
            st.badge(
                check.label,
                icon=":material/rule:",
                color="orange",
                help=f"{check.help} {check.advice}",
            )


def draw_scores(audit: Audit, card: PairCard) -> None:
    """Draw the pair's scores, and the uncertainty of clipmem."""
    noise = plain.read_noise(audit)
    around = noise.around(card.scores.get(c.CLIPMEM), card.scores.get(c.SE))
    st.metric(
        "clipmem",
        f"{plain.number(card.scores.get(c.CLIPMEM))}{around}",
        help=BY_NAME[c.CLIPMEM].help,
    )
    st.caption(noise.explain())
    with st.grid(2, min_column_width=130) as grid:
        for name, score in scores_in(SHOWN_HERE).items():
            text = f"{score.help} {misfit_note(audit) if name == c.MISFIT else ''}"
            grid.metric(score.label, plain.number(card.scores.get(name)), help=text.strip() or None)


def draw_terms(audit: Audit, card: PairCard) -> None:
    """Draw each term of the score with and without the pair in training: by member, and the
    means."""
    st.subheader("Where the score comes from", anchor=False)
    means = card.scores
    left, right = st.columns([3, 2], gap="medium")
    with left, plain.one_line_errors("Single members"):
        members = member_terms(audit, card.row)
        labels = (
            ("f", "g")
            if audit.record.protocol == "paper"
            else ("trained on it", "not trained on it")
        )
        names = {side: f"{side}: {name}" for side, name in zip((IN, OUT), labels, strict=True)}
        figure = term_figure(members, colour=group_colour(card.group), names=names)
        st.plotly_chart(
            figure, config=FIXED, alt="Terms of the score, a dot for each member", key="terms"
        )
    with right:
        table = pd.DataFrame(
            {side: [means.get(f"{term}_{side}") for term in TERM_NAMES] for side in (IN, OUT)}
        )
        table = table.astype(float).set_axis(list(TERM_NAMES.values()))
        table["in − out"] = table[IN] - table[OUT]
        columns = {
            str(name): st.column_config.NumberColumn(format="%.3f", width=64) for name in table
        }
        st.dataframe(
            table,
            column_config=columns,
            alt="Each term of the score: both means and their difference",
        )
        st.caption(
            "alignment = positive − negative text − negative image; its in − out is clipmem."
        )
        sides = (("image", means.get(c.CLIPMEM_IMAGE)), ("text", means.get(c.CLIPMEM_TEXT)))
        if parts := {name: value for name, value in sides if value is not None}:
            alt = "The part of each encoder in this pair's clipmem"
            st.plotly_chart(encoder_figure(parts), config=FIXED, alt=alt, key="encoders")


def draw_nearest(audit: Audit, card: PairCard) -> None:
    """Draw the pairs with the most similar captions and pictures."""
    st.subheader("Similar pairs", anchor=False)
    st.html(STYLE)
    for by, title in TITLES.items():
        st.markdown(f"**{title}**")
        with plain.one_line_errors(title):
            with st.spinner("Searching…"):
                rows = search(audit, like=card.pair_id, by=by, k=STRIP_SIZE).rows.tolist()
                others = cards(audit, rows, Selection(like=card.pair_id, by=by))
            labels = [f"cosine {plain.number(other.match)}" for other in others]
            selection = peek_selection()
            firsts = first_captions(audit, others, selection)
            draw_card_row(audit, others, labels, selection, firsts, key=by)


@st.fragment
def draw_details(audit: Audit, card: PairCard) -> None:
    """Draw terms and similar pairs once they are scrolled to: charts would delay the picture."""
    if is_on_screen(f"details-{card.row}"):
        draw_terms(audit, card)
        draw_nearest(audit, card)


audit = open_page("Pair")
with plain.explained_errors():
    selection = read_filters(audit)
    card = find_pair(audit, selection)
    st.html(TIGHT_STYLE)
    with st.container(horizontal=True, vertical_alignment="center"):
        draw_way_back(audit, selection)
        draw_keys(REVIEW_KEYS)
    draw_followed(audit, selection, card.pair_id)
    draw_notice(audit, key="pair")
    left, right = st.columns([3, 2], gap="medium")
    with left:
        draw_facts(audit, card)
        draw_note(audit, card)
    with right:
        draw_scores(audit, card)
    draw_details(audit, card)
