"""Pairs as cards: of a selection, of a change between two audits, and small ones in a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.columns import CLIPMEM, CLIPMEM_SHRUNK, SE
from clipmem_core.dashboard.address import link, read_view
from clipmem_core.dashboard.errors import explained_errors
from clipmem_core.dashboard.numbers import Noise, number, read_noise, read_verdict, signed
from clipmem_core.dashboard.plain import as_html, cut, show_text
from clipmem_core.dashboard.thumbnails import alt_text, data_uri, placeholder, start_thumbnails
from clipmem_core.figures.colours import PLANTED_COLOUR, group_colour
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE
from clipmem_core.review.rows import audit_root, find_rows
from clipmem_core.review.selection import IMAGE_SIDE, MATCH, TEXT_SIDE, Selection
from clipmem_core.scores.table import CARD, Queue, scores_in, words

CAPTION_LIMIT, ALT_LIMIT = 160, 120
FULL_LIMIT = 5000
DECISION_COLOURS = {KEEP: "#2e7d4f", REMOVE: "#b3362b", RECAPTION: "#1f6fb2"}  # below white letters
FOR_OTHER_COLOUR = "#6b6b6b"
LIKE = {IMAGE_SIDE: "More like this picture", TEXT_SIDE: "More like this caption"}
STYLE = """<style>
[class*="st-key-cards-"] [data-testid="stImage"] img { aspect-ratio: 1; object-fit: contain; }
.pair-card { font-size: .875rem; line-height: 1.4; overflow-wrap: anywhere; }
.pair-card .top { display: flex; flex-wrap: wrap; gap: 0 .7rem; font-size: .8rem; min-height: 1.4em; }
.pair-card .badge { color: #fff; border-radius: .3rem; padding: 0 .4rem; margin-left: auto; }
.pair-card .caption { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden;
  min-height: 2.8em; margin: .2rem 0; }
.pair-card .scores { display: grid; grid-template-columns: 1fr auto; gap: 0 .5rem; }
.pair-card .name { opacity: .75; }
.pair-card .value { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.pair-card .order { font-weight: 700; opacity: 1; }
.pair-card details { margin-top: .2rem; font-size: .8rem; }
.pair-card summary { cursor: pointer; opacity: .75; }
.pair-card details p { margin: .3rem 0 0; white-space: pre-line; }
</style>"""


def draw_cards(
    audit: Audit,
    cards: Sequence[PairCard],
    *,
    selection: Selection,
    order: str = "",
    columns: Literal["auto"] | int = "auto",
    key: str = "card",
    draw_tick: Callable[[PairCard], None] | None = None,
) -> None:
    """Draw pairs as a grid of cards.

    Args:
        audit: where the pairs are from.
        cards: the pairs.
        selection: the pairs that "open" walks through.
        order: the score in bold; empty for the selection's.
        columns: at most so many side by side.
        key: what the widgets' keys begin with: another for each grid of a page.
        draw_tick: draws the box that ticks a pair; None for cards without.
    """
    noise = read_noise(audit)
    pictures = start_thumbnails(audit_root(audit), [card.image for card in cards])
    slots = []
    st.html(STYLE)
    with st.grid(columns, min_column_width=185, border=True, gap="small", key=f"cards-{key}") as grid:
        for card, picture in zip(cards, pictures, strict=True):
            with grid.cell(), st.container(gap="xsmall"):
                slots.append(st.empty())
                if not picture.done():  # bytes in the address: a file may be gone before the browser asks for it
                    slots[-1].image(data_uri(placeholder(16)), width="stretch", alt="Picture is being read")
                st.html(card_html(card, noise, order=order or selection.order))
                _draw_links(audit, card, selection, key=f"{key}-{card.row}", draw_tick=draw_tick)
    for card, picture, slot in zip(cards, pictures, slots, strict=True):
        with slot.container(gap="xsmall"):
            draw_picture(card, *picture.result())


def draw_picture(card: PairCard, jpeg: bytes, fault: str, *, told: bool = True) -> None:
    """Draw a picture, or the grey square in its place and, unless it is to be left untold, why it cannot be read."""
    st.image(jpeg, width="stretch", alt=alt_text(cut(" ".join(card.captions[:1]), ALT_LIMIT), fault))
    if fault and told:
        show_text(f"Picture cannot be read: {fault}", limit=CAPTION_LIMIT)


def _draw_links(
    audit: Audit, card: PairCard, selection: Selection, *, key: str, draw_tick: Callable[[PairCard], None] | None
) -> None:
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", gap="xsmall", wrap=False
    ):
        if draw_tick:
            draw_tick(card)
        there = link(audit, selection, pair=card.pair_id, **read_view())
        st.page_link("pages/pair.py", label="Open", icon="", query_params=there)
        side = st.menu_button(
            "Similar", list(LIKE), key=f"{key}-like", type="tertiary", format_func=LIKE.__getitem__, width="content"
        )
    if side:
        like = Selection(order=MATCH, like=card.pair_id, by=side, member=selection.member)
        st.switch_page("pages/browse.py", query_params=link(audit, like, **(read_view() | {"page": None})))


def card_html(card: PairCard, noise: Noise, *, order: str) -> str:
    """Return what a card says below its picture, as HTML in which all that others wrote is escaped."""
    return f'<div class="pair-card">{_top(card)}{_caption(card)}{_scores(card, noise, order)}{_rest(card)}</div>'


def _top(card: PairCard) -> str:
    shown = f"<span>{_dot(group_colour(card.group))} {as_html(card.group)}</span>"
    if card.planted:
        shown += f'<span title="planted">{_dot(PLANTED_COLOUR)} {as_html(card.planted)}</span>'
    said = card.decision
    if said is not None and said.words:
        colour = DECISION_COLOURS.get(said.decision or "", FOR_OTHER_COLOUR)
        shown += f'<span class="badge" style="background:{colour}">{said.words}</span>'
    return f'<div class="top">{shown}</div>'


def _dot(colour: str) -> str:
    return f'<span aria-hidden="true" style="color:{colour}">●</span>'


def _scores(card: PairCard, noise: Noise, order: str) -> str:
    hidden = {MATCH} if noise.error else {MATCH, SE}
    if (
        order not in (CLIPMEM, CLIPMEM_SHRUNK) or card.scores.get(CLIPMEM_SHRUNK) is None
    ):  # luck is at the top of a list
        hidden.add(CLIPMEM_SHRUNK)
    shown = {
        name: number(card.scores.get(name)) for name in dict.fromkeys((*scores_in(CARD), order)) if name not in hidden
    }
    if noise.error:  # the floor is the same for all, and stands above them
        shown[CLIPMEM] += noise.around(card.scores.get(CLIPMEM), card.scores.get(SE))
    if card.match is not None:
        shown = {MATCH: number(card.match)} | shown
    rows = (
        f'<span class="name{mark}">{words(name)}</span><span class="value{mark}">{value}</span>'
        for name, value in shown.items()
        for mark in [" order" if name == order else ""]
    )
    return f'<div class="scores">{"".join(rows)}</div>'


def _rest(card: PairCard) -> str:
    """Return what a card shows once it is opened: all captions in full, the label, the id."""
    captions = [as_html(text, limit=FULL_LIMIT) for text in card.captions]
    label = [f"label: {as_html(card.label, limit=CAPTION_LIMIT)}"] if card.label else []
    lines = [*captions, *label, f"id: {as_html(card.pair_id, limit=CAPTION_LIMIT)}"]
    title = f"{len(captions)} captions" if len(captions) > 1 else "More"
    paragraphs = "".join(f'<p dir="auto">{line}</p>' for line in lines)
    return f"<details><summary>{title}</summary>{paragraphs}</details>"


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
                draw_picture(card, *picture.result())
                st.html(change_html(card, their, change, column, sides))
                with st.container(horizontal=True, gap="xsmall"):
                    for label, audit in sides.links.items():
                        there = link(audit, Selection(), pair=card.pair_id)
                        st.page_link("pages/pair.py", label=label, query_params=there, width="content")


def change_html(one: PairCard, other: PairCard, change: Mapping[Any, Any], column: str, sides: Sides) -> str:
    """Return what a card says of a change, as HTML in which all that others wrote is escaped."""
    values = {sides.names[0]: number(change["one"]), sides.names[1]: number(change["other"])}
    values["difference"] = signed(change["difference"])
    rows = "".join(
        f'<span class="name">{name}</span><span class="value{" order" if name == "difference" else ""}">{value}</span>'
        for name, value in values.items()
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


STRIP_SIZE = 6
STRIP_LIMIT = 60
STRIP_STYLE = """<style>
[class*="st-key-strip-"] [data-testid="stImage"] img { aspect-ratio: 1; object-fit: contain; }
.strip-caption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
</style>"""


def draw_strips(audit: Audit) -> None:
    """Draw the first pairs of either queue, those that are probably wrong on top."""
    st.html(STRIP_STYLE)
    for order, queue in reversed(queues(read_verdict(audit)).items()):
        with explained_errors():
            _draw_strip(audit, Selection(order=order), queue)


def _draw_strip(audit: Audit, selection: Selection, queue: Queue) -> None:
    """Draw the first pairs of a selection; nothing where it holds none."""
    rows = find_rows(audit, selection, page=1, size=STRIP_SIZE)
    if not rows:
        return
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        st.subheader(queue.name, anchor=False, width="content")
        there = link(audit, selection)
        st.page_link("pages/browse.py", label="Browse in this order", icon=":material/grid_view:", query_params=there)
    st.caption(queue.sentence)
    found = cards(audit, rows, selection)
    pictures = start_thumbnails(audit_root(audit), [card.image for card in found])
    with st.grid(STRIP_SIZE, min_column_width=120, gap="small", key=f"strip-{selection.order}") as grid:
        for card, picture in zip(found, pictures, strict=True):
            with grid.cell(), st.container(gap="xsmall"):
                draw_picture(card, *picture.result(), told=False)
                score = f"{words(selection.order)} {number(card.scores[selection.order])}"
                there = link(audit, selection, pair=card.pair_id)
                st.page_link("pages/pair.py", label=score, icon="", query_params=there)
                caption = as_html(" ".join(card.captions[:1]), limit=STRIP_LIMIT)
                st.html(f'<div class="strip-caption" dir="auto">{caption}</div>')
