"""The pairs that a member finds most like one, and captions that members without it suggest."""

from collections.abc import Sequence

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.address import PAIR, link, peek_selection, read_view
from clipmem_core.dashboard.cards import draw_picture
from clipmem_core.dashboard.deciding import Notice, as_lines, captions_key, current_captions, review_session
from clipmem_core.dashboard.errors import one_line_errors
from clipmem_core.dashboard.numbers import number
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.thumbnails import thumbnail
from clipmem_core.review import score_breakdown
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.rows import audit_root
from clipmem_core.review.search import nearest
from clipmem_core.review.selection import IMAGE_SIDE, TEXT_SIDE

THIS_PAGE = "pages/pair.py"
NEAREST = 6
SHORT_LIMIT = 60
STYLE = (
    '<style>[class*="st-key-nearest-"] [data-testid="stImage"] img { aspect-ratio: 1; object-fit: contain; }</style>'
)
TITLES = {IMAGE_SIDE: "Nearest pictures", TEXT_SIDE: "Nearest captions"}


@st.fragment
def draw_choices(audit: Audit, card: PairCard) -> None:
    """Draw captions of other pairs to take in the place of the pair's worst, by members that never saw the pair."""
    st.subheader("Suggested by models that never saw it", anchor=False, help=score_breakdown.QUALITY)
    with one_line_errors("Suggestions"):
        with st.spinner("Looking through the captions…"):
            found = score_breakdown.suggested_captions(audit, card.row)
        if not found.members:
            st.caption("No suggestion: every model saw this pair.")
            return
        fit = found.own[found.worst]
        choices = [choice for choice in found.choices if not choice.cosine <= fit]
        if not choices:
            st.caption("No suggestion: none is likely enough to be right.")
            return
        replaced = "the caption" if len(found.own) == 1 else f"caption {found.worst + 1}, which fits worst"
        st.caption(f"Each can replace {replaced}; its cosine with the picture is {number(fit)}.")
        for choice in choices:
            _draw_choice(audit, card, choice, found.worst)


def _draw_choice(audit: Audit, card: PairCard, choice: score_breakdown.Suggestion, place: int) -> None:
    """Draw one suggestion with the button that puts it into the captions box."""
    captions = list(current_captions(card))
    captions[min(place, len(captions) - 1)] = choice.caption
    (other,) = cards(audit, [choice.row])
    with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False):
        st.markdown(f"**{number(choice.cosine)}**", width=56)
        with st.container(gap=None):
            show_text(choice.caption)
        pressed = st.button(
            "Use",
            icon=":material/edit:",
            key=f"use-{card.row}-{choice.row}",
            on_click=_prefill,
            args=(captions_key(audit, card), as_lines(tuple(captions))),
            help="Puts this caption into the captions box; Change caption saves it.",
        )
        _draw_link(audit, other)
    if pressed:
        st.rerun()


def _prefill(key: str, text: str) -> None:
    st.session_state[key] = text
    review_session().notice = Notice("The caption is in the box: Change caption (E) saves it.")


@st.fragment
def draw_nearest(audit: Audit, card: PairCard) -> None:
    """Draw the pairs whose pictures, and those whose captions, a member finds most like this one's."""
    st.subheader("Similar pairs", anchor=False)
    st.html(STYLE)
    st.caption("The numbers are cosines in the space of one member's encoders.")
    member = st.selectbox("Model", audit.record.members, key="nearest_member", width=260)
    for by, title in TITLES.items():
        st.markdown(f"**{title}**")
        with one_line_errors(title):
            with st.spinner("Looking…"):
                found = nearest(audit, card.row, by=by, member=member or "", k=NEAREST)
                others = cards(audit, [row for row, _ in found])
            _draw_others(audit, others, [cosine for _, cosine in found], by=by)


def _draw_others(audit: Audit, others: Sequence[PairCard], cosines: Sequence[float], *, by: str) -> None:
    """Draw pairs side by side, small: picture, cosine, caption, link."""
    root = audit_root(audit)
    with st.grid(NEAREST, min_column_width=115, gap="small", key=f"nearest-{by}") as grid:
        for other, cosine in zip(others, cosines, strict=True):
            picture, fault = thumbnail(root, other.image)
            with grid.cell(), st.container(gap="xsmall"):
                draw_picture(other, picture, fault, told=False)
                with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
                    st.markdown(f"**{number(cosine)}**", width="content")
                    _draw_link(audit, other)
                show_text(" ".join(other.captions[:1]), limit=SHORT_LIMIT)


def _draw_link(audit: Audit, other: PairCard) -> None:
    parameters = link(audit, peek_selection(), **{**read_view(), PAIR: other.pair_id})
    st.page_link(THIS_PAGE, label="Open", query_params=parameters)
