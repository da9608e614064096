"""Thumbnails, and pairs as cards: changes between two audits, and strips of a queue."""

import functools
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image

from clipmem_core.audit.store import Audit
from clipmem_core.audit.verdict import queues
from clipmem_core.dashboard.page import BROWSE, PAIR_PAGE, link, read_view
from clipmem_core.dashboard.plain import (
    as_html,
    cut,
    explained_errors,
    format_difference,
    format_score,
    read_verdict,
)
from clipmem_core.io import shortage
from clipmem_core.review.cards import (
    FirstCaption,
    PairCard,
    cards,
    first_captions,
    make_jpeg,
    marked,
    marks_note,
    shown_score,
)
from clipmem_core.review.rows import top_rows
from clipmem_core.review.selection import Selection
from clipmem_core.scores.registry import words

# pixels: of a card, in review, at full size
SIDE = 320
LARGE_SIDE = 900
FULL_SIDE = 4000
GREY = (150, 150, 150)
CACHED = 5000  # thumbnails, of about 20 kB each
WORKERS = 2  # Pillow decodes outside Python's lock; the largest pictures take half a gigabyte each
_POOL = ThreadPoolExecutor(WORKERS, thread_name_prefix="thumbnail")
CAPTION_LIMIT = 160
ALT_LIMIT = 120
STRIP_LIMIT = 60
STRIP_SIZE = 6
STYLE = """<style>
[class*="st-key-cards-"] [data-testid="stImage"] img { aspect-ratio: 1; object-fit: contain; }
.pair-card { font-size: .875rem; line-height: 1.4; overflow-wrap: anywhere; }
.pair-card .top { font-size: .8rem; }
.pair-card .caption { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2;
  overflow: hidden; min-height: 2.8em; margin: .2rem 0; }
.pair-card .scores { display: grid; grid-template-columns: 1fr auto; gap: 0 .5rem; }
.pair-card .name { opacity: .75; }
.pair-card .value { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
</style>"""


def thumbnail(root: Path, image: str, *, side: int = SIDE) -> tuple[bytes, str]:
    """Return a JPEG of at most `side` pixels and an empty string, or a grey square and the
    reason."""
    try:
        return (_cached_jpeg if side <= SIDE else make_jpeg)(root, image, side), ""
    except (OSError, ValueError, MemoryError) as error:  # our own errors are ValueErrors
        return placeholder(side), shortage(error) or str(error)


# Failures are not cached: a folder that comes back shows again.
_cached_jpeg = functools.lru_cache(maxsize=CACHED)(make_jpeg)


def start_thumbnails(
    root: Path, images: Sequence[str], *, side: int = SIDE
) -> list[Future[tuple[bytes, str]]]:
    """Return a future of `thumbnail` for each image, made in parallel."""
    return [_POOL.submit(thumbnail, root, image, side=side) for image in images]


@functools.cache
def placeholder(side: int = SIDE) -> bytes:
    """Return a grey square."""
    side = min(side, LARGE_SIDE)
    file = io.BytesIO()
    Image.new("RGB", (side, side), GREY).save(file, "JPEG")
    return file.getvalue()


def draw_card_picture(card: PairCard, jpeg: bytes, fault: str) -> None:
    """Draw a picture, or a grey square if it cannot be read."""
    caption = cut(" ".join(card.current[:1]), ALT_LIMIT)
    st.image(
        jpeg, width="stretch", alt="Picture cannot be read" if fault else f"Picture: {caption}"
    )


@dataclass(frozen=True)
class TwoAudits:
    """Two audits, their names on cards, and the audits in which a pair can be opened, by the label
    of the link."""

    one: Audit
    other: Audit
    names: tuple[str, str] = ("first", "second")
    links: Mapping[str, Audit] = field(default_factory=dict)


def draw_change_cards(
    sides: TwoAudits, column: str, changes: Sequence[Mapping[Any, Any]], *, key: str
) -> None:
    """Draw a card for each change."""
    ones = cards(sides.one, [change["row_one"] for change in changes])
    others = cards(sides.other, [change["row_other"] for change in changes])
    pictures = start_thumbnails(sides.one.record.pictures, [card.image for card in ones])
    st.html(STYLE)
    with st.grid("auto", min_column_width=165, border=True, key=f"cards-{key}") as grid:
        for one, other, change, picture in zip(ones, others, changes, pictures, strict=True):
            with grid.cell(), st.container(gap="xsmall"):
                draw_card_picture(one, *picture.result())
                st.html(change_html(one, other, change, column, sides))
                with st.container(horizontal=True, gap="xsmall"):
                    for label, audit in sides.links.items():
                        parameters = link(audit, Selection(), pair=one.pair_id)
                        st.page_link(PAIR_PAGE, label=label, query_params=parameters)


def change_html(
    one: PairCard, other: PairCard, change: Mapping[Any, Any], column: str, sides: TwoAudits
) -> str:
    """Return the text of a change's card as HTML; foreign text is escaped."""
    texts = [as_html(" ".join(card.captions[:1]), limit=CAPTION_LIMIT) for card in (one, other)]
    first, second = (f'<div class="caption" dir="auto">{text}</div>' for text in texts)
    lines = [first]
    if one.captions != other.captions:
        lines += [f'<div class="top"><b>captions differ; in the second:</b></div>{second}']
    if one.group != other.group:
        lines.append(f'<div class="top">{as_html(one.group)} → {as_html(other.group)}</div>')
    names = (*sides.names, "difference")
    values = (
        format_score(change["one"]),
        format_score(change["other"]),
        f"<b>{format_difference(change['difference'])}</b>",
    )
    rows = "".join(
        f'<span class="name">{name}</span><span class="value">{value}</span>'
        for name, value in zip(names, values, strict=True)
    )
    lines.append(f'<div class="top">{words(column)}</div><div class="scores">{rows}</div>')
    return f'<div class="pair-card">{"".join(lines)}</div>'


def draw_strips(audit: Audit) -> None:
    """Draw the first pairs of each queue that has pairs; of the wrong captions, with what is
    wrong."""
    st.html(STYLE)
    for order, queue in reversed(queues(read_verdict(audit)).items()):
        selection = Selection(order=order)
        with explained_errors():
            rows = top_rows(audit, order, size=STRIP_SIZE)
            shown = cards(audit, rows, selection)
            firsts = first_captions(audit, shown, selection)
        if not rows:
            continue
        with st.container(
            horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"
        ):
            st.subheader(queue.name, anchor=False, width="content")
            parameters = link(audit, selection)
            st.page_link(
                BROWSE,
                label="Browse in this order",
                icon=":material/grid_view:",
                query_params=parameters,
            )
        st.caption(f"{queue.sentence} {marks_note(firsts)}")
        score = shown_score(order)
        labels = [f"{words(score)} {format_score(card.scores[score])}" for card in shown]
        draw_card_row(audit, shown, labels, selection, firsts, key=order)


def draw_card_row(
    audit: Audit,
    shown: Sequence[PairCard],
    labels: Sequence[str],
    selection: Selection,
    firsts: Mapping[str, FirstCaption],
    *,
    key: str,
) -> None:
    """Draw pictures side by side, each with a labelled link to its pair and a caption, its unlikely
    words marked."""
    pictures = start_thumbnails(audit.record.pictures, [card.image for card in shown])
    with st.grid(STRIP_SIZE, min_column_width=115, key=f"cards-{key}") as grid:
        for card, label, picture in zip(shown, labels, pictures, strict=True):
            with grid.cell(), st.container(gap="xsmall"):
                draw_card_picture(card, *picture.result())
                parameters = link(audit, selection, **(read_view() | {"pair": card.pair_id}))
                st.page_link(PAIR_PAGE, label=label, icon="", query_params=parameters)
                first, marks, reason = firsts[card.pair_id]
                limit = CAPTION_LIMIT if marks or reason else STRIP_LIMIT
                caption = cut("".join(card.current[first : first + 1]), limit)
                better = [
                    f"{mark['word']} → {mark['better'][0][0]}" for mark in marks if mark["better"]
                ]
                notes = [
                    f'<div class="name">{as_html(note)}</div>' for note in (reason, *better) if note
                ]
                text = f"<bdi>{marked(caption, marks)}</bdi>{''.join(notes)}"
                st.html(f'<div class="pair-card" dir="auto">{text}</div>')
