"""Thumbnails, and pairs as cards: changes between two audits, and strips of a queue."""

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.dashboard.page import link
from clipmem_core.dashboard.plain import as_html, cut, explained_errors, number, read_verdict, show_text, signed
from clipmem_core.pairs.pictures import decode, decode_measured
from clipmem_core.pairs.references import read_bytes
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE
from clipmem_core.review.rows import audit_root, find_rows
from clipmem_core.review.selection import Selection
from clipmem_core.scores.registry import Queue, words
from clipmem_core.shortage import shortage

SIDE = 320
FULL_SIDE = 4000  # of a picture at full size
GREY = (150, 150, 150)
CACHED = 5000  # thumbnails, of about 20 kB each
WORKERS = 2  # Pillow decodes outside Python's lock; the largest pictures take half a gigabyte each


def thumbnail(root: Path, image: str, *, side: int = SIDE) -> tuple[bytes, str]:
    """Return a thumbnail and an empty string, or the placeholder and the reason; `image` is relative to `root`."""
    try:
        return (_small_jpeg if side <= SIDE else _jpeg_of)(root, image, side), ""
    except (OSError, ValueError, MemoryError) as error:  # InputError and PictureError are ValueErrors
        return placeholder(side), shortage(error) or str(error)


def _jpeg_of(root: Path, image: str, side: int) -> bytes:
    picture = decode(read_bytes(root, image), size=side)
    picture.thumbnail((side, side))
    return _jpeg(picture)


# Failures are not cached: a folder that comes back shows again.
_small_jpeg = functools.lru_cache(maxsize=CACHED)(_jpeg_of)


def start_thumbnails(root: Path, images: Sequence[str], *, side: int = SIDE) -> list[Future[tuple[bytes, str]]]:
    """Return a future of `thumbnail` for each image; they are made side by side."""
    return [_workers().submit(thumbnail, root, image, side=side) for image in images]


def data_uri(jpeg: bytes) -> str:
    """Return JPEG bytes as an address that holds them."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


@functools.cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(WORKERS, thread_name_prefix="thumbnail")


def alt_text(caption: str, fault: str) -> str:
    """Return what is said of a picture to those who cannot see it; with a fault, nobody can."""
    return "Picture cannot be read" if fault else f"Picture: {caption}"


@functools.cache
def placeholder(side: int = SIDE) -> bytes:
    """Return a grey square."""
    return _jpeg(Image.new("RGB", (side, side), GREY))


def _jpeg(picture: Image.Image, quality: int = 85) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


LARGE_SIDES = (900, 900)  # pixels, at most: more than the page has room for
LARGE_DECODED = 300  # `decode` keeps three times that


def large_picture(root: Path, image: str) -> tuple[bytes, tuple[int, int] | None, str]:
    """Return the picture as a JPEG, its width and height in the file, and an empty string.

    Where it cannot be read these are the placeholder, None and the reason.
    """
    try:
        return *_made(root, image), ""
    except (OSError, ValueError, MemoryError) as error:  # InputError and PictureError are ValueErrors
        return placeholder(), None, shortage(error) or str(error)


@functools.lru_cache(maxsize=64)
def _made(root: Path, image: str) -> tuple[bytes, tuple[int, int]]:
    """Failures are not kept: a folder that comes back shows again."""
    picture, size = decode_measured(read_bytes(root, image), size=LARGE_DECODED)
    picture.thumbnail(LARGE_SIDES)
    return _jpeg(picture, quality=90), size


CAPTION_LIMIT, ALT_LIMIT = 160, 120
DECISION_COLOURS = {KEEP: "#2e7d4f", REMOVE: "#b3362b", RECAPTION: "#1f6fb2"}  # below white letters
STYLE = """<style>
[class*="st-key-cards-"] [data-testid="stImage"] img { aspect-ratio: 1; object-fit: contain; }
.pair-card { font-size: .875rem; line-height: 1.4; overflow-wrap: anywhere; }
.pair-card .top { display: flex; flex-wrap: wrap; gap: 0 .7rem; font-size: .8rem; min-height: 1.4em; }
.pair-card .caption { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden;
  min-height: 2.8em; margin: .2rem 0; }
.pair-card .scores { display: grid; grid-template-columns: 1fr auto; gap: 0 .5rem; }
.pair-card .name { opacity: .75; }
.pair-card .value { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.pair-card .order { font-weight: 700; opacity: 1; }
</style>"""


def draw_card_picture(card: PairCard, jpeg: bytes, fault: str, *, told: bool = True) -> None:
    """Draw a picture, or the grey square in its place and, unless it is to be left untold, why it cannot be read."""
    st.image(jpeg, width="stretch", alt=alt_text(cut(" ".join(card.captions[:1]), ALT_LIMIT), fault))
    if fault and told:
        show_text(f"Picture cannot be read: {fault}", limit=CAPTION_LIMIT)


@dataclass(frozen=True)
class Sides:
    """Two audits, what cards call them, and the audits in which a pair can be opened, by the words of the link."""

    one: Audit
    other: Audit
    names: tuple[str, str] = ("first", "second")
    in_other: str = "in the second"
    links: Mapping[str, Audit] = field(default_factory=dict)


def draw_change_cards(sides: Sides, column: str, changes: Sequence[Mapping[Any, Any]], *, key: str) -> None:
    """Draw a card for each change."""
    found = cards(sides.one, [change["row_one"] for change in changes])
    theirs = cards(sides.other, [change["row_other"] for change in changes])
    pictures = start_thumbnails(audit_root(sides.one), [card.image for card in found])
    st.html(STYLE)
    with st.grid("auto", min_column_width=165, border=True, gap="small", key=f"cards-{key}") as grid:
        for card, their, change, picture in zip(found, theirs, changes, pictures, strict=True):
            with grid.cell(), st.container(gap="xsmall"):
                draw_card_picture(card, *picture.result())
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
    """Draw the first pairs of either queue, those that are probably wrong on top; nothing of a queue without pairs."""
    st.html(STRIP_STYLE)
    for order, queue in reversed(queues(read_verdict(audit)).items()):
        selection = Selection(order=order)
        with explained_errors():
            if rows := find_rows(audit, selection, page=1, size=STRIP_SIZE):
                _draw_strip(audit, cards(audit, rows, selection), selection, queue)


def _draw_strip(audit: Audit, found: Sequence[PairCard], selection: Selection, queue: Queue) -> None:
    order = selection.order
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        st.subheader(queue.name, anchor=False, width="content")
        there = link(audit, selection)
        st.page_link("pages/browse.py", label="Browse in this order", icon=":material/grid_view:", query_params=there)
    st.caption(queue.sentence)
    pictures = start_thumbnails(audit_root(audit), [card.image for card in found])
    with st.grid(STRIP_SIZE, min_column_width=120, gap="small", key=f"strip-{order}") as grid:
        for card, picture in zip(found, pictures, strict=True):
            with grid.cell(), st.container(gap="xsmall"):
                draw_card_picture(card, *picture.result(), told=False)
                there = link(audit, selection, pair=card.pair_id)
                score = f"{words(order)} {number(card.scores[order])}"
                st.page_link("pages/pair.py", label=score, icon="", query_params=there)
                caption = as_html(" ".join(card.captions[:1]), limit=STRIP_LIMIT)
                st.html(f'<div class="strip-caption" dir="auto">{caption}</div>')
