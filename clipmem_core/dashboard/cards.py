"""Thumbnails, and pairs as cards: changes between two audits, and strips of a queue."""

import functools
import html
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image

from clipmem_core.audit.store import Audit
from clipmem_core.audit.verdict import queues
from clipmem_core.columns import group_words
from clipmem_core.dashboard.page import BROWSE, PAIR_PAGE, draw_link, read_view
from clipmem_core.dashboard.plain import (
    cut,
    explained_errors,
    format_difference,
    format_score,
    in_a_row,
    read_verdict,
    show_text,
)
from clipmem_core.io import shortage
from clipmem_core.review.cards import (
    FirstCaption,
    PairCard,
    cards,
    data_url,
    first_captions,
    from_sentence,
    make_jpeg,
    marked,
    marks_note,
    percent,
    shown_score,
)
from clipmem_core.review.rows import top_rows
from clipmem_core.review.selection import Selection
from clipmem_core.scores.registry import words

# pixels: of a card, in review, at full size
SIDE = 320
LARGE_SIDE = 1600
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
.pair-card .name { opacity: .75; }
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
    audit: Audit, shown: Sequence[PairCard], *, side: int = SIDE
) -> list[Future[tuple[bytes, str]]]:
    """Return a future of `thumbnail` for each card, made in parallel."""
    root = audit.record.pictures
    return [_POOL.submit(thumbnail, root, card.image, side=side) for card in shown]


@functools.cache
def placeholder(side: int = SIDE) -> bytes:
    """Return a grey square."""
    side = min(side, LARGE_SIDE)
    file = io.BytesIO()
    Image.new("RGB", (side, side), GREY).save(file, "JPEG")
    return file.getvalue()


def draw_card_picture(card: PairCard, jpeg: bytes, fault: str) -> None:
    """Draw a picture, or a grey square if it cannot be read.

    Streamlit deletes the files of a page while the page runs again, so the page holds the picture.
    """
    caption = cut(" ".join(card.current[:1]), ALT_LIMIT)
    alt = "Picture cannot be read" if fault else f"Picture: {caption}"
    st.image(data_url(jpeg), width="stretch", alt=alt)


def draw_change_cards(
    one: Audit,
    other: Audit,
    column: str,
    changes: Sequence[Mapping[Any, Any]],
    *,
    key: str,
    links: Mapping[str, Audit],
) -> None:
    """Draw a card for each change; `links` are the audits that the pair can be opened in, by
    label."""
    ones = cards(one, [change["row_one"] for change in changes])
    others = cards(other, [change["row_other"] for change in changes])
    pictures = start_thumbnails(one, ones)
    st.html(STYLE)
    with st.grid("auto", min_column_width=165, border=True, key=f"cards-{key}") as grid:
        for first, second, change, picture in zip(ones, others, changes, pictures, strict=True):
            with grid.cell(), st.container(gap="xsmall"):
                draw_card_picture(first, *picture.result())
                before, after = (
                    cut(" ".join(card.captions[:1]), STRIP_LIMIT) for card in (first, second)
                )
                show_text(before)
                if first.captions != second.captions:
                    st.caption("Captions differ; in the second:")
                    show_text(after)
                if first.group != second.group:
                    show_text(f"{group_words(first.group)} → {group_words(second.group)}")
                scores = f"{format_score(change['one'])} → {format_score(change['other'])}"
                difference = format_difference(change["difference"])
                st.markdown(f"{words(column)} {scores} (**{difference}**)")
                with in_a_row(gap="xsmall"):
                    for label, audit in links.items():
                        draw_link(PAIR_PAGE, label, None, audit, Selection(), pair=first.pair_id)


def draw_strip(audit: Audit, order: str) -> None:
    """Draw the first pairs of a queue, if it has any; of the wrong captions, with what is wrong."""
    queue = queues(read_verdict(audit))[order]
    selection = Selection(order=order)
    with explained_errors():
        shown = cards(audit, top_rows(audit, order, size=STRIP_SIZE), selection)
        firsts = first_captions(audit, shown, selection)
    if not shown:
        return
    score = shown_score(order)
    with in_a_row(horizontal_alignment="distribute"):
        draw_title = st.subheader if score == order else st.header
        draw_title(queue.name, anchor=False, width="content")
        draw_link(BROWSE, "Browse in this order", ":material/grid_view:", audit, selection)
    labels = []
    for card in shown:
        value = card.scores[score]
        if score == order:
            labels.append(f"{words(score)} {format_score(value)}")
        else:  # a probability
            share = "" if value is None else f" · {percent(value)}"
            labels.append(f"Pair {card.row + 1:,}{share}")
    draw_card_row(audit, shown, labels, selection, firsts, key=order)
    st.caption(f"{queue.sentence} {marks_note(firsts)}")


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
    pictures = start_thumbnails(audit, shown)
    st.html(STYLE)
    with st.grid(STRIP_SIZE, min_column_width=115, key=f"cards-{key}") as grid:
        for card, label, picture in zip(shown, labels, pictures, strict=True):
            with grid.cell(), st.container(gap="xsmall"):
                draw_card_picture(card, *picture.result())
                parameters = read_view() | {"pair": card.pair_id}
                draw_link(PAIR_PAGE, label, "", audit, selection, **parameters)
                first, marks, reason = firsts[card.pair_id]
                limit = CAPTION_LIMIT if marks or reason else STRIP_LIMIT
                caption, marks = from_sentence("".join(card.current[first : first + 1]), marks)
                caption = cut(caption, limit)
                better = [
                    f"{mark['word']} → {mark['better'][0][0]}" for mark in marks if mark["better"]
                ]
                notes = [
                    f'<div class="name"><bdi>{html.escape(note)}</bdi></div>'
                    for note in (reason, *better)
                    if note
                ]
                text = f"<bdi>{marked(caption, marks)}</bdi>{''.join(notes)}"
                st.html(f'<div class="pair-card" dir="auto">{text}</div>')
