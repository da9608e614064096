"""A comparison of two audits → a dot for every pair to choose one from, and the pairs that changed most, as cards."""

from typing import Any

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.address import link
from clipmem_core.dashboard.cards import STYLE
from clipmem_core.dashboard.choices import draw_pages, read_page
from clipmem_core.dashboard.numbers import number, words
from clipmem_core.dashboard.plain import as_html, cut, show_text
from clipmem_core.dashboard.thumbnails import alt_text, start_thumbnails
from clipmem_core.figures.compare import comparison_figure
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.compare import Comparison
from clipmem_core.review.rows import audit_root
from clipmem_core.review.selection import Selection

SIZE = 12
CAPTION_LIMIT = 160
CONFIG = {"displaylogo": False, "scrollZoom": True, "modeBarButtonsToRemove": ["toImage", "select2d", "lasso2d"]}


def draw_points(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Draw one audit's score against the other's, and the pair that was clicked on."""
    if comparison.points.empty:
        st.info("No pair has this score in both audits: choose another score.", icon=":material/info:")
        return
    drawn, scored = len(comparison.points), comparison.n_scored
    few = "" if drawn == scored else f"{drawn:,} of {scored:,} pairs are drawn, chosen at random. "
    st.caption(f"{few}Colours are the groups in the first audit. Click a dot to see its pair.")
    event: Any = st.plotly_chart(
        comparison_figure(comparison.points, column=comparison.column, names=(one.name, other.name)),
        key=f"comparison-{one.name}-{other.name}-{comparison.column}",
        on_select="rerun",
        selection_mode="points",
        config=CONFIG,
        alt=f"{words(comparison.column)} of each pair in the first audit against that in the second",
    )
    chosen = _clicked(event)
    row = comparison.points[comparison.points["row_one"] == chosen]
    if chosen is not None and len(row):
        _draw_cards(one, other, comparison.column, row.to_dict("records"), key="clicked")


def _clicked(event: Any) -> int | None:  # noqa: ANN401  what Streamlit gives back
    """Return the row, in the first audit, of the dot that was clicked on last; None where there is none."""
    points = (event.get("selection") or {}).get("points") or []
    data = points[-1].get("customdata") if points else None
    return int(data[0]) if data else None


def draw_changed(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Draw the pairs whose score changed most, a page of them."""
    changed = comparison.changed
    if changed.empty:
        return
    page, pages = read_page(len(changed), SIZE)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        st.subheader("Changed most", anchor=False, width="content")
        draw_pages(page, pages, key="changed-pages")
    shown = changed.iloc[(page - 1) * SIZE : page * SIZE]
    _draw_cards(one, other, comparison.column, shown.to_dict("records"), key="changed")


def _draw_cards(one: Audit, other: Audit, column: str, changes: list[dict[Any, Any]], *, key: str) -> None:
    """Draw a card for each change: the first audit's picture, both scores, the captions, and the way to both pages."""
    found = cards(one, [change["row_one"] for change in changes])
    theirs = cards(other, [change["row_other"] for change in changes])
    pictures = start_thumbnails(audit_root(one), [card.image for card in found])
    st.html(STYLE)
    with st.grid("auto", min_column_width=165, border=True, gap="small", key=f"cards-{key}") as grid:
        for card, their, change, picture in zip(found, theirs, changes, pictures, strict=True):
            with grid.cell(), st.container(gap="xsmall"):
                _draw_picture(card, *picture.result())
                st.html(change_html(card, their, change, column))
                _draw_links(one, other, card.pair_id)


def _draw_picture(card: PairCard, jpeg: bytes, fault: str) -> None:
    caption = cut(" ".join(card.captions[:1]), 120)
    st.image(jpeg, width="stretch", alt=alt_text(caption, fault))
    if fault:
        show_text(f"Picture cannot be read: {fault}", limit=CAPTION_LIMIT)


def _draw_links(one: Audit, other: Audit, pair_id: str) -> None:
    with st.container(horizontal=True, gap="xsmall"):
        for label, audit in (("In first", one), ("In second", other)):
            there = link(audit, Selection(), pair=pair_id)
            st.page_link("pages/pair.py", label=label, query_params=there, width="content")


def change_html(one: PairCard, other: PairCard, change: dict[Any, Any], column: str) -> str:
    """Return what a card says of a change, as HTML in which all that others wrote is escaped."""
    difference = change["difference"]
    sign = "+" if difference > 0 else ""
    values = [("first", number(change["one"])), ("second", number(change["other"]))]
    values.append(("difference", f"{sign}{number(difference)}"))
    rows = "".join(
        f'<span class="name">{name}</span><span class="value{" order" if name == "difference" else ""}">{value}</span>'
        for name, value in values
    )
    lines = [_caption(one)]
    if one.captions != other.captions:
        lines += [f'<div class="top"><b>captions differ; in the second:</b></div>{_caption(other)}']
    if one.group != other.group:
        lines.append(f'<div class="top"><span>{as_html(one.group)} → {as_html(other.group)}</span></div>')
    lines += [f'<div class="top">{words(column)}</div>', f'<div class="scores">{rows}</div>']
    return f'<div class="pair-card">{"".join(lines)}</div>'


def _caption(card: PairCard) -> str:
    first = as_html(card.captions[0], limit=CAPTION_LIMIT) if card.captions else ""
    return f'<div class="caption" dir="auto">{first}</div>'
