"""Pairs whose score differs between two audits → cards: the picture, both scores, the captions, and ways onward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.address import link
from clipmem_core.dashboard.cards import STYLE
from clipmem_core.dashboard.numbers import number
from clipmem_core.dashboard.plain import as_html, cut, show_text
from clipmem_core.dashboard.thumbnails import alt_text, start_thumbnails
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.rows import audit_root
from clipmem_core.review.selection import Selection
from clipmem_core.scores.table import words

CAPTION_LIMIT = 160


@dataclass(frozen=True)
class Sides:
    """Two audits, what cards call them, and the audits in which a pair can be opened, by the words of the link."""

    one: Audit
    other: Audit
    names: tuple[str, str] = ("first", "second")
    in_other: str = "in the second"
    links: Mapping[str, Audit] = field(default_factory=dict)


def draw_change_cards(sides: Sides, column: str, changes: Sequence[Mapping[Any, Any]], *, key: str) -> None:
    """Draw a card for each change.

    Args:
        sides: the two audits.
        column: the score's name.
        changes: row_one, row_other, one, other and difference of each.
        key: what the widgets' keys begin with.
    """
    found = cards(sides.one, [change["row_one"] for change in changes])
    theirs = cards(sides.other, [change["row_other"] for change in changes])
    pictures = start_thumbnails(audit_root(sides.one), [card.image for card in found])
    st.html(STYLE)
    with st.grid("auto", min_column_width=165, border=True, gap="small", key=f"cards-{key}") as grid:
        for card, their, change, picture in zip(found, theirs, changes, pictures, strict=True):
            with grid.cell(), st.container(gap="xsmall"):
                _draw_picture(card, *picture.result())
                st.html(change_html(card, their, change, column, sides))
                _draw_links(sides, card.pair_id)


def _draw_picture(card: PairCard, jpeg: bytes, fault: str) -> None:
    caption = cut(" ".join(card.captions[:1]), 120)
    st.image(jpeg, width="stretch", alt=alt_text(caption, fault))
    if fault:
        show_text(f"Picture cannot be read: {fault}", limit=CAPTION_LIMIT)


def _draw_links(sides: Sides, pair_id: str) -> None:
    if not sides.links:
        return
    with st.container(horizontal=True, gap="xsmall"):
        for label, audit in sides.links.items():
            there = link(audit, Selection(), pair=pair_id)
            st.page_link("pages/pair.py", label=label, query_params=there, width="content")


def change_html(one: PairCard, other: PairCard, change: Mapping[Any, Any], column: str, sides: Sides) -> str:
    """Return what a card says of a change, as HTML in which all that others wrote is escaped."""
    difference = change["difference"]
    sign = "+" if difference > 0 else ""
    values = [(sides.names[0], number(change["one"])), (sides.names[1], number(change["other"]))]
    values.append(("difference", f"{sign}{number(difference)}"))
    rows = "".join(
        f'<span class="name">{name}</span><span class="value{" order" if name == "difference" else ""}">{value}</span>'
        for name, value in values
    )
    lines = [_caption(one)]
    if one.captions != other.captions:
        lines += [f'<div class="top"><b>captions differ; {sides.in_other}:</b></div>{_caption(other)}']
    if one.group != other.group:
        lines.append(f'<div class="top"><span>{as_html(one.group)} → {as_html(other.group)}</span></div>')
    lines += [f'<div class="top">{words(column)}</div>', f'<div class="scores">{rows}</div>']
    return f'<div class="pair-card">{"".join(lines)}</div>'


def _caption(card: PairCard) -> str:
    first = as_html(card.captions[0], limit=CAPTION_LIMIT) if card.captions else ""
    return f'<div class="caption" dir="auto">{first}</div>'
