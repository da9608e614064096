"""A finished audit → its most striking pairs as cards with pictures, page by page."""

from pathlib import Path

import streamlit as st

from clipmem_core.columns import CLIPMEM, GROUPS, INDEPENDENT, MISFIT
from clipmem_core.dashboard.overview import Overview
from clipmem_core.dashboard.plain import cut, show_chips, show_text
from clipmem_core.dashboard.thumbnails import thumbnail
from clipmem_core.dashboard.trouble import explained_errors
from clipmem_core.figures.colours import PLANTED_COLOUR, group_colour
from clipmem_core.review.rows import PairCard, count_scored, top_pairs

TITLES = {CLIPMEM: "Most memorized pairs", MISFIT: "Probably the wrong caption"}
EXPLANATIONS = {
    CLIPMEM: "Highest clipmem first: members that saw the pair align it far better than members that did not.",
    MISFIT: "Highest misfit first: learned late, and never understood by members that did not see the pair.",
}
PAGE_SIZES = [12, 24, 48, 96]
ALL = "all"
CAPTION_LIMIT = 160
FULL_LIMIT = 5000
CAPTIONS_SHOWN = 2


@st.fragment
def draw_gallery(overview: Overview) -> None:
    """Draw the gallery with its order, its group filter and its pages; only it runs again when these change."""
    st.subheader("Pairs", anchor=False)
    present = set(overview.groups["group"])
    with explained_errors():
        order, group, size = _draw_choices([name for name in GROUPS if name in present])
        count = count_scored(overview.audit, by=order, group=group)
        if count == 0:
            st.info(f"No pair of this choice has a {order} score.", icon=":material/info:")
            return
        st.caption(_explain(order, group))
        slot = st.container()
        page = _draw_pages(count, size, key=f"page-{order}-{group}-{size}")
        cards = top_pairs(overview.audit, by=order, group=group, page=page, size=size)
        root = Path(str(overview.config.get("root", ".")))
        with slot, st.grid("auto", min_column_width=185, border=True, gap="small") as grid:
            for card in cards:
                with grid.cell(), st.container(gap="xsmall"):
                    _draw_card(card, root, order)


def _draw_choices(groups: list[str]) -> tuple[str, str | None, int]:
    """Draw the widgets above the cards; order and group are kept in the address."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        order = st.segmented_control(
            "Order",
            list(TITLES),
            default=CLIPMEM,
            required=True,
            format_func=TITLES.__getitem__,
            key="order",
            bind="query-params",
        )
        group = st.selectbox("Group", [ALL, *groups], width=180, key="group", bind="query-params")
        size = st.selectbox("Pairs on a page", PAGE_SIZES, index=1, width=140, key="size")
    return order or CLIPMEM, None if group in (None, ALL) else group, size or PAGE_SIZES[1]


def _explain(order: str, group: str | None) -> str:
    if order == CLIPMEM and group == INDEPENDENT:
        return "Lowest clipmem first: these pairs were learned by g, which is subtracted, so memorization is negative."
    return EXPLANATIONS[order]


def _draw_pages(count: int, size: int, *, key: str) -> int:
    pages = -(-count // size)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(f"{count:,} pairs", width="content")
        return st.pagination(pages, key=key) if pages > 1 else 1


def _draw_card(card: PairCard, root: Path, order: str) -> None:
    picture, fault = thumbnail(root, card.image)
    caption = card.captions[0] if card.captions else ""
    st.image(picture, width="stretch", alt="Picture cannot be read" if fault else f"Picture: {cut(caption, 120)}")
    if fault:
        show_text(f"Picture cannot be read: {fault}", limit=160)
    planted = [(f"planted: {card.planted}", PLANTED_COLOUR)] if card.planted else []
    show_chips([(card.group, group_colour(card.group)), *planted])
    st.markdown(_numbers(card, order))
    for text in card.captions[:CAPTIONS_SHOWN]:
        show_text(text, limit=CAPTION_LIMIT)
    _draw_rest(card)


def _draw_rest(card: PairCard) -> None:
    """Draw what there is no room for: further and long captions in full, the label, the id."""
    long = any(cut(text, CAPTION_LIMIT) != text for text in card.captions[:CAPTIONS_SHOWN])
    with st.expander("More", icon=":material/notes:"):
        for text in card.captions if long else card.captions[CAPTIONS_SHOWN:]:
            show_text(text, limit=FULL_LIMIT)
        if card.label:
            show_text(f"label: {card.label}", limit=CAPTION_LIMIT)
        show_text(f"id: {card.pair_id}", limit=CAPTION_LIMIT)


def _numbers(card: PairCard, order: str) -> str:
    """Return the card's scores, the one that orders them in bold, as Markdown made of our own words and numbers."""
    spread = "" if card.se is None else f" ± {card.se:.2f}"
    shown = {CLIPMEM: f"clipmem {_number(card.clipmem)}{spread}", MISFIT: f"misfit {_number(card.misfit)}"}
    first, second = (f"**{shown.pop(order)}**", *shown.values())
    return f"{first}  \n{second} · similarity out {_number(card.similarity_out)}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")
