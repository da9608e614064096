"""The measured units of an audit → a table of those that stand out most, each with the pair that sets it off."""

from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.audits.units import LAYER, ROW, TOWER, UNIT
from clipmem_core.columns import MEMBER
from clipmem_core.dashboard.address import PAGE, link, write
from clipmem_core.dashboard.choices import ALL, choose_listed, draw_pages, read_page
from clipmem_core.dashboard.plain import cut
from clipmem_core.dashboard.thumbnails import data_uri, start_thumbnails
from clipmem_core.review.cards import cards
from clipmem_core.review.rows import audit_root
from clipmem_core.review.selection import Selection
from clipmem_core.review.unit_ranks import LEADS, ranked_units

UNIT_MEMBER, UNIT_TOWER, UNIT_LAYER, REPEATED = "unit_member", "tower", "layer", "repeated"  # in the address
SIZE, SIDE, ROW_HEIGHT = 12, 64, 68
CAPTION_LIMIT = 85
COLUMNS = {
    "picture": st.column_config.ImageColumn(width=SIDE + 16),
    "open": st.column_config.LinkColumn(display_text="Open", width=60),
    "UnitMem": st.column_config.NumberColumn(format="%.3f", width=75),
    "max": st.column_config.NumberColumn(format="%.3f", width=70, help="Mean activation on the pair."),
    "second": st.column_config.NumberColumn(format="%.3f", width=70, help="On the pair that sets it off next most."),
    "leads": st.column_config.NumberColumn(width=60, help="Units of this member that this pair sets off most."),
    "layer": st.column_config.NumberColumn(width=55),
    "unit": st.column_config.NumberColumn(width=55),
    "caption": st.column_config.TextColumn(width=240),
}


def draw_unit_list(audit: Audit, units: pd.DataFrame, *, column: str) -> None:
    """Draw the units of an encoder, a layer and a member, the most memorizing first, a page of them.

    Args:
        audit: whose units they are.
        units: as `read_units`.
        column: unitmem_mean or unitmem_median.
    """
    st.subheader("Units that stand out most", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        tower = _choose("Encoder", UNIT_TOWER, units[TOWER])
        within = units[units[TOWER] == tower] if tower else units
        layer = _choose("Layer", UNIT_LAYER, within[LAYER])
        member = _choose("Member", UNIT_MEMBER, units[MEMBER])
        once, number = _draw_once(), int(layer or 0)
        ranked = ranked_units(units, column=column, member=member, tower=tower, layer=number, once=once)
        st.space("stretch")
        page, pages = read_page(len(ranked), SIZE)
        draw_pages(page, pages, key="unit-pages")
    if ranked.empty:
        st.caption("No unit of these ever fires.")
        return
    shown = ranked.iloc[(page - 1) * SIZE : page * SIZE].to_dict("records")
    _draw_table(audit, shown, column=column)
    st.caption(
        f"{len(ranked):,} {'pairs, each with its unit' if once else 'units, each with its pair'}. Where max and second "
        "are close, the unit responds to several pairs, and its UnitMem is not about one. Leads: how many units of the "
        "same member the same pair sets off most."
    )


def _choose(label: str, parameter: str, values: pd.Series) -> str:
    """Draw a list of what there is and return the choice, empty for all."""
    options = [ALL, *(str(value) for value in dict.fromkeys(values))]
    return choose_listed(
        label, options, parameter=parameter, key=f"units-{parameter}", width=130, named=_or_all, clears=[PAGE]
    )


def _or_all(name: str) -> str:
    return name or "all"


def _draw_once() -> bool:
    """Draw whether each pair is listed but once, with the unit that it stands out for most."""
    key = f"units-{REPEATED}"
    st.session_state[key] = once = st.query_params.get(REPEATED) != "1"
    st.toggle(
        "Each pair once",
        key=key,
        on_change=lambda: write(**{REPEATED: None if st.session_state[key] else 1, PAGE: None}),
        help="One pair often sets off hundreds of units.",
    )
    return once


def _draw_table(audit: Audit, shown: list[dict[Any, Any]], *, column: str) -> None:
    found = {card.row: card for card in cards(audit, list(dict.fromkeys(int(unit[ROW]) for unit in shown)))}
    pictures = start_thumbnails(audit_root(audit), [card.image for card in found.values()], side=SIDE)
    jpegs = {row: data_uri(picture.result()[0]) for row, picture in zip(found, pictures, strict=True)}
    rows = []
    for unit in shown:
        card = found[int(unit[ROW])]
        caption = cut(" ".join(" · ".join(card.captions).split()), CAPTION_LIMIT)
        there = f"pair?{urlencode(link(audit, Selection(), pair=card.pair_id))}"
        numbers = {"UnitMem": unit[column], "max": unit["max"], "second": unit["second"], "leads": unit[LEADS]}
        place = {"encoder": unit[TOWER], "layer": unit[LAYER], "unit": unit[UNIT], "member": unit[MEMBER]}
        rows.append({"picture": jpegs[card.row], "open": there, "caption": caption} | numbers | place)
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        row_height=ROW_HEIGHT,
        height=len(rows) * ROW_HEIGHT + 40,
        column_config=COLUMNS,
        placeholder="",
        alt="Units of this page: the pair that sets each off, UnitMem, encoder, layer, unit and member",
    )
