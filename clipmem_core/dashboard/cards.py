"""Thumbnails, and pairs as cards: changes between two audits, and strips of a queue."""

import functools
import html
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
from PIL import Image

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.tables.verdict import queues
from clipmem_core.dashboard.page import draw_link, read_view
from clipmem_core.dashboard.plain import (
    cut,
    explained_errors,
    format_difference,
    format_score,
    in_a_row,
    show_text,
)
from clipmem_core.review.cards import (
    FirstCaption,
    PairCard,
    caption_shown,
    cards,
    data_url,
    first_captions,
    make_jpeg,
    marked,
    marks_note,
    percent,
    shown_score,
)
from clipmem_core.review.filters import find_rows
from clipmem_core.review.views import UNDECIDED, Selection
from clipmem_core.scores.registry import words
from clipmem_core.utils.io import shortage

# pixels: of a card, in review, at full size
SIDE = 320
LARGE_SIDE = 1600
FULL_SIDE = 4000
GREY = (150, 150, 150)
CACHED = 5000  # thumbnails, of about 20 kB each
_few_pictures = threading.BoundedSemaphore(2)  # the largest take half a gigabyte each
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
        with _few_pictures:
            return (_cached_jpeg if side <= SIDE else make_jpeg)(root, image, side), ""
    except (OSError, ValueError, MemoryError) as error:  # our own errors are ValueErrors
        return placeholder(), shortage(error) or str(error)


# Failures are not cached: a folder that comes back shows again.
_cached_jpeg = functools.lru_cache(maxsize=CACHED)(make_jpeg)


@functools.cache
def placeholder() -> bytes:
    """Return a grey square."""
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), GREY).save(file, "JPEG")
    return file.getvalue()


def draw_cells(
    audit: Audit, shown: Sequence[PairCard], columns: Any, *, key: str, **style: Any
) -> Iterator[PairCard]:
    """Draw each picture, or a grey square if it cannot be read, in a cell of a grid; what the
    caller draws next is below it.

    Streamlit deletes the files of a page while the page runs again, so the page holds the picture.
    """
    st.html(STYLE)
    with st.grid(columns, key=f"cards-{key}", **style) as grid:
        for card in shown:
            with grid.cell(), st.container(gap="xsmall"):
                jpeg, fault = thumbnail(audit.record.pictures, card.image)
                caption = cut(card.current[0], ALT_LIMIT)
                alt = "Picture cannot be read" if fault else f"Picture: {caption}"
                st.image(data_url(jpeg), width="stretch", alt=alt)
                yield card


def draw_change_cards(
    one: Audit, other: Audit, column: str, changes: pd.DataFrame, *, key: str
) -> None:
    """Draw a card for each change of a score, with links to the pair in both audits."""
    others = cards(other, changes["row_other"].tolist())
    ones = cards(one, changes["row_one"].tolist())
    cells = draw_cells(one, ones, "auto", min_column_width=165, border=True, key=key)
    links = {"Open pair": one} if one == other else {"In first": one, "In second": other}
    for first, second, change in zip(cells, others, changes.to_dict("records"), strict=True):
        before, after = (cut(card.captions[0], STRIP_LIMIT) for card in (first, second))
        show_text(before)
        if first.captions != second.captions:
            st.caption("Captions differ; in the second:")
            show_text(after)
        scores = f"{format_score(change['one'])} → {format_score(change['other'])}"
        difference = format_difference(change["difference"])
        st.markdown(f"{words(column)} {scores} (**{difference}**)")
        with in_a_row(gap="xsmall"):
            for label, audit in links.items():
                draw_link("pair", label, audit, pair=first.pair_id)


def draw_strip(audit: Audit, order: str) -> None:
    """Draw the first pairs of a queue, if it has any; of the probably wrong ones those without a
    decision, with what is wrong."""
    queue = queues(audit.verdict)[order]
    selection = Selection(order=order)
    score = shown_score(order)
    probable = score != order
    decision = UNDECIDED if probable else ""
    with explained_errors():
        rows = find_rows(audit, replace(selection, decision=decision), size=STRIP_SIZE)
        shown = cards(audit, rows, selection)
        firsts = first_captions(audit, shown, selection)
    if not shown:
        return
    with in_a_row(horizontal_alignment="distribute"):
        draw_title = st.header if probable else st.subheader
        draw_title(queue.name, width="content")
        draw_link("browse", "Browse in this order", audit, selection)
    labels = []
    for card in shown:
        value = card.scores[score]
        label = f"{words(score)} {format_score(value)}"
        if probable:
            share = "" if value is None else f" · {percent(value)}"
            label = f"Pair {card.row + 1:,}{share}"
        labels.append(label)
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
    cells = draw_cells(audit, shown, STRIP_SIZE, min_column_width=115, key=key)
    for card, label in zip(cells, labels, strict=True):
        draw_link("pair", label, audit, selection, **read_view(), pair=card.pair_id)
        caption, marks, notes = caption_shown(card.current, firsts[card.pair_id])
        shortened = cut(caption, CAPTION_LIMIT if marks or notes else STRIP_LIMIT)
        lines = [f'<div class="name"><bdi>{html.escape(note)}</bdi></div>' for note in notes]
        text = f"<bdi>{marked(shortened, marks)}</bdi>{''.join(lines)}"
        st.html(f'<div class="pair-card" dir="auto">{text}</div>')
