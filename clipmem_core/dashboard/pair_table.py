"""One page of pairs as a table with small pictures, whose rows can be ticked and opened."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.columns import GROUP, PLANTED, SE
from clipmem_core.dashboard.address import link, read_view
from clipmem_core.dashboard.numbers import read_noise
from clipmem_core.dashboard.plain import cut
from clipmem_core.dashboard.thumbnails import data_uri, start_thumbnails
from clipmem_core.dashboard.ticks import tick
from clipmem_core.review.cards import PairCard
from clipmem_core.review.rows import audit_root
from clipmem_core.review.selection import MATCH, Selection
from clipmem_core.scores.table import ROW, scores_in, words

SIDE = 64
ROW_HEIGHT = 68
CAPTION_LIMIT = 85  # three lines; the pair's own page has the rest


def draw_table(audit: Audit, cards: Sequence[PairCard], *, selection: Selection, ticked: Sequence[str]) -> None:
    """Draw pairs as a table; selecting rows ticks their pairs.

    Args:
        audit: where the pairs are from.
        cards: the pairs of one page.
        selection: the pairs that a link into a pair walks through.
        ticked: the ids of the pairs that are ticked.
    """
    table = pair_table(audit, cards, selection)
    ids = [card.pair_id for card in cards]
    key = f"table-{hash((tuple(ids), tuple(ticked)))}"
    rows = [place for place, pair_id in enumerate(ids) if pair_id in set(ticked)]
    st.dataframe(
        table,
        key=key,
        hide_index=True,
        row_height=ROW_HEIGHT,
        height=min(len(table), 12) * ROW_HEIGHT + 40,
        column_config=_columns(table),
        on_select=lambda: _take(key, ids),
        selection_mode="multi-row",
        selection_default={"selection": {"rows": rows}},
        alt="The pairs of this page with their scores",
    )


def pair_table(audit: Audit, cards: Sequence[PairCard], selection: Selection) -> pd.DataFrame:
    """Return one row a pair: picture, link, captions, decision, the scores shown, group and planted kind."""
    pictures = start_thumbnails(audit_root(audit), [card.image for card in cards], side=SIDE)
    hidden = (MATCH,) if read_noise(audit).error else (MATCH, SE)
    scores = [name for name in dict.fromkeys((selection.order, *scores_in(ROW))) if name not in hidden]
    view = read_view()
    columns: dict[str, list[Any]] = {
        "picture": [data_uri(picture.result()[0]) for picture in pictures],
        "pair": [f"pair?{urlencode(link(audit, selection, pair=card.pair_id, **view))}" for card in cards],
        "caption": [cut(" ".join(" · ".join(card.captions).split()), CAPTION_LIMIT) for card in cards],
        "decision": [card.decision.words if card.decision else "" for card in cards],
    }
    if any(card.match is not None for card in cards):
        columns[MATCH] = [card.match for card in cards]
    columns |= {name: [card.scores.get(name) for card in cards] for name in scores}
    columns |= {
        GROUP: [card.group for card in cards],
        PLANTED: [card.planted or "" for card in cards],
    }
    return pd.DataFrame(columns)


def _columns(table: pd.DataFrame) -> dict[str, Any]:
    named: dict[str, Any] = {name: words(name) for name in map(str, table.columns)}
    numbers = [name for name in named if name in {MATCH, *scores_in(ROW)} or pd.api.types.is_numeric_dtype(table[name])]
    return named | {
        "picture": st.column_config.ImageColumn("picture", width=SIDE + 16),
        "pair": st.column_config.LinkColumn("pair", display_text="Open", width=60),
        "decision": st.column_config.TextColumn("decision", width=78),
        "caption": st.column_config.TextColumn("caption", width=230),
        **{name: st.column_config.NumberColumn(named[name], format="%.3f", width=_width(name)) for name in numbers},
    }


def _width(column: str) -> int:
    """Return pixels in which a number and its column's name can be read."""
    return max(72, 28 + 6 * len(column))


def _take(key: str, ids: Sequence[str]) -> None:
    rows = set(st.session_state[key]["selection"]["rows"])
    tick([pair_id for place, pair_id in enumerate(ids) if place not in rows], on=False)
    tick([pair_id for place, pair_id in enumerate(ids) if place in rows], on=True)
