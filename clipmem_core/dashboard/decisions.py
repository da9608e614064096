"""What was decided on a data set: how far the reviewing is, the list of decisions, and the history with undo."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import streamlit as st

from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.dashboard.address import ALL, PAGE, choose_segment, draw_pages, link, read_page
from clipmem_core.dashboard.cards import DECISION_COLOURS
from clipmem_core.dashboard.deciding import BADGES, Notice, in_turn, undo
from clipmem_core.dashboard.numbers import moment, pairs_in_words
from clipmem_core.dashboard.plain import as_html, cut
from clipmem_core.dashboard.thumbnails import data_uri, start_thumbnails
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.decisions import CHOICES, CODES, FOR_OTHER, decided, decision_words, open_review
from clipmem_core.review.rows import audit_root
from clipmem_core.review.selection import DECIDED, UNDECIDED, Selection
from clipmem_core.review.tables import ROW, fetch_rows

DECISION = "decision"  # in the address
SIZE = 12
SIDE = 64
ROW_HEIGHT = 68
CAPTION_LIMIT = 85  # three lines; the pair's own page has the rest
NOTE_LIMIT = 1000
NOTE_ONLY = "note only"
OTHERS = "for other captions"
WITHOUT_SELECTION = (NOTE_ONLY, OTHERS)  # Browse cannot tell which pairs these are
COLUMNS = {
    "picture": st.column_config.ImageColumn(width=SIDE + 16),
    "open": st.column_config.LinkColumn(display_text="Open", width=60),
    "decision": st.column_config.TextColumn(width=85),
    "caption": st.column_config.TextColumn(width=210),
    "new captions": st.column_config.TextColumn(width=210),
    "note": st.column_config.TextColumn(width=170),
    "pair": st.column_config.TextColumn(width=170),
    "decided (UTC)": st.column_config.TextColumn(width=130),
    "audit": st.column_config.TextColumn(help="The audit that was looked at when it was decided."),
}


def count_decisions(audit: Audit) -> dict[str, int]:
    """Return the number of an audit's pairs of each decision, and of those that are undecided."""
    counts = np.bincount(decided(audit).codes, minlength=len(CODES))
    return {choice or UNDECIDED: int(counts[code]) for choice, code in CODES.items()}


def draw_reviewed(audit: Audit) -> None:
    """Draw how many pairs of the audit have been decided on, and how."""
    counts = count_decisions(audit)
    total, left = sum(counts.values()), counts[UNDECIDED]
    with st.grid(4, min_column_width=130) as grid:
        for choice in (*CHOICES, UNDECIDED):
            icon = BADGES[None if choice == UNDECIDED else choice][1]
            grid.metric(choice.capitalize(), f"{counts[choice]:,}", icon=icon, border=True)
    share = (total - left) / total if total else 0.0
    st.progress(share, text=f"{total - left:,} of {total:,} pairs of this audit are decided ({share:.0%})")


def draw_decisions(audit: Audit) -> None:
    """Draw the decisions on the data set of an audit, those that the address asks for."""
    table = _table(audit)
    if table.empty:
        st.info("Nothing has been decided yet.", icon=":material/checklist:")
        st.page_link(
            "pages/browse.py",
            label="Browse the most memorized pairs and decide",
            icon=":material/grid_view:",
            query_params=link(audit, Selection()),
        )
        st.caption("Exports can be made all the same: the report, and the data set as it is.")
        return
    choice = _draw_filter(table)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        shown = table if choice == ALL else table[_names(table) == choice]
        page, pages = read_page(len(shown), SIZE)
        _draw_way_to_browse(audit, choice)
        draw_pages(page, pages, key="decision-pages")
    if shown.empty:
        st.caption("No pair is decided so.")
        return
    if OTHERS in set(_names(shown)):
        st.caption(
            "“For other captions”: decided in another audit, where the pair has other captions, as where mistakes "
            "are planted. It does not count here, and is not exported."
        )
    _draw_page(audit, shown.iloc[(page - 1) * SIZE : page * SIZE], choice)


def _table(audit: Audit) -> pd.DataFrame:
    review = open_review(audit)
    with st.spinner("Reading the decisions…"):
        inode = review.path.stat().st_ino if review.path.exists() else 0
        return _kept_table(review.path, inode, review.position(), audit)


@functools.lru_cache(maxsize=2)
def _kept_table(path: Path, inode: int, position: int, audit: Audit) -> pd.DataFrame:
    """Read all decisions once for every state of the log: a million take seconds."""
    return open_review(audit).table()


def _names(table: pd.DataFrame) -> pd.Series:
    return table["decision"].fillna(table[FOR_OTHER].map({choice: OTHERS for choice in CHOICES})).fillna(NOTE_ONLY)


def _draw_filter(table: pd.DataFrame) -> str:
    """Draw the decisions to choose from, each with its number, and return the chosen one."""
    counts = _names(table).value_counts()
    names = {ALL: f"All {len(table):,}"}
    for name in (*CHOICES, *(name for name in WITHOUT_SELECTION if name in counts)):
        names[name] = f"{name.capitalize()} {counts.get(name, 0):,}"
    key = f"decision-list-{DECISION}"
    return choose_segment("Decision", names, parameter=DECISION, key=key, hidden=True, clears=[PAGE])


def _draw_way_to_browse(audit: Audit, choice: str) -> None:
    """Draw the link to the same pairs in Browse, where it can show them."""
    there = link(audit, _selection(choice))
    if choice not in WITHOUT_SELECTION:
        st.page_link("pages/browse.py", label="Browse these", icon=":material/grid_view:", query_params=there)


def _selection(choice: str) -> Selection:
    return Selection(decision={ALL: DECIDED, NOTE_ONLY: UNDECIDED, OTHERS: UNDECIDED}.get(choice, choice))


def _draw_page(audit: Audit, part: pd.DataFrame, choice: str) -> None:
    rows = rows_of(audit, part[PAIR_ID].tolist())
    found = {card.pair_id: card for card in cards(audit, list(rows.values()))}
    pictures = start_thumbnails(audit_root(audit), [card.image for card in found.values()], side=SIDE)
    jpegs = {pair_id: picture.result()[0] for pair_id, picture in zip(found, pictures, strict=True)}
    table = pd.DataFrame([_row(audit, said, found, jpegs, _selection(choice)) for said in part.to_dict("records")])
    if len(found) < len(part):
        st.caption("Pairs without a picture are in another audit of this data set, and not in this one.")
    st.dataframe(
        table,
        hide_index=True,
        row_height=ROW_HEIGHT,
        height=len(table) * ROW_HEIGHT + 40,
        column_config=COLUMNS,
        placeholder="",
        alt="The decisions of this page: pair, captions, note, time",
    )


def _row(
    audit: Audit, said: dict[Any, Any], found: dict[str, PairCard], jpegs: dict[str, bytes], selection: Selection
) -> dict[str, Any]:
    pair_id = said[PAIR_ID]
    card = found.get(pair_id)
    return {
        "picture": data_uri(jpegs[pair_id]) if card else None,
        "open": f"pair?{urlencode(link(audit, selection, pair=pair_id))}" if card else None,
        "decision": decision_words(said["decision"], said[FOR_OTHER]) or NOTE_ONLY,
        "caption": _joined(card.captions if card else ()),
        "new captions": _joined(said[CAPTIONS]),
        "note": cut(" ".join(said["note"].split()), NOTE_LIMIT),
        "pair": pair_id,
        "decided (UTC)": moment(said["time"]),
        "audit": said["audit"],
    }


def _joined(captions: Sequence[str]) -> str:
    return cut(" ".join(" · ".join(captions).split()), CAPTION_LIMIT)


def rows_of(audit: Audit, pair_ids: Sequence[str]) -> dict[str, int]:
    """Return the row of each of some pairs that the audit has, in the order given."""
    ids = list(dict.fromkeys(pair_ids))
    if not ids:
        return {}
    query = f'SELECT "{PAIR_ID}", {ROW} FROM parquet WHERE "{PAIR_ID}" IN ({", ".join("?" * len(ids))})'
    found = dict(fetch_rows(audit.folder / PAIRS, query, ids))
    return {pair_id: found[pair_id] for pair_id in ids if pair_id in found}


HISTORY_PAGE = "history"  # in the address
HISTORY_SIZE = 10
ID_LIMIT = 60
STYLE = """<style>
.event { font-size: .875rem; line-height: 1.5; overflow-wrap: anywhere; }
.event .badge { color: #fff; border-radius: .3rem; padding: 0 .4rem; background: #6b6b6b; }
.event .about { opacity: .75; font-size: .8rem; }
.event.undone { opacity: .75; }
.event.undone .what { text-decoration: line-through; }
</style>"""


def draw_history(audit: Audit) -> None:
    """Draw the page of the history that the address asks for."""
    review = open_review(audit)
    count = review.count_events()
    if count == 0:
        st.info("Nothing has been decided yet, so there is nothing to take back.", icon=":material/history:")
        return
    page, pages = read_page(count, HISTORY_SIZE, parameter=HISTORY_PAGE)
    events = review.history(page=page, size=HISTORY_SIZE)
    st.caption("Nothing is ever lost: an undo is an event too. It leaves alone what was decided anew since.")
    st.html(STYLE)
    known = rows_of(audit, events["first_pair_id"].tolist())
    for event in events.to_dict("records"):
        _draw_event(audit, event, has_pair=event["first_pair_id"] in known)
    draw_pages(page, pages, key="history-pages", parameter=HISTORY_PAGE)


def _draw_event(audit: Audit, event: dict[Any, Any], *, has_pair: bool) -> None:
    number = int(event["event"])
    with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False, border=True):
        st.html(event_html(event))
        if has_pair:
            there = link(audit, Selection(), pair=event["first_pair_id"])
            st.page_link("pages/pair.py", label="Open", query_params=there, width="content")
        if event["undone"]:
            return
        if event["kind"] == "decide":
            st.button("Undo", icon=":material/undo:", key=f"undo-{number}", on_click=undo, args=(audit, number))
        else:
            st.button("Redo", icon=":material/redo:", key=f"redo-{number}", on_click=_redo, args=(audit, number))


def _redo(audit: Audit, event: int) -> None:
    """Take an undo back. A callback."""
    with in_turn() as session:
        outcome = open_review(audit).undo(event)
        if outcome is None or outcome.pairs == 0:
            session.notice = Notice("Nothing was done again: somebody has decided anew since.", good=False)
            return
        left = f" {pairs_in_words(outcome.left)}, decided anew since, stayed." if outcome.left else ""
        session.notice = Notice(f"Done again, for {pairs_in_words(outcome.pairs)}.{left}")


def event_html(event: dict[Any, Any]) -> str:
    """Return what an event of the history says, as HTML in which all that others wrote is escaped."""
    word = BADGES.get(event["decision"], ("?",))[0]
    colour = DECISION_COLOURS.get(event["decision"], "")
    style = f' style="background:{colour}"' if colour else ""
    badge = f'<span class="badge"{style}>{word}</span>'
    undoes = "" if pd.isna(event["undoes"]) else f"undo of {int(event['undoes'])}: "
    pair = as_html(event["first_pair_id"], limit=ID_LIMIT)
    others = f" and {event['pairs'] - 1:,} more" if event["pairs"] > 1 else ""
    undone = " · undone" if event["undone"] else ""
    audit = f" · audit {as_html(event['audit'], limit=ID_LIMIT)}" if event["audit"] else ""
    about = f"{int(event['event'])} · {as_html(moment(event['time']))} UTC{audit}{undone}"
    what = f'<span class="what">{undoes}{badge} {pair}{others}</span>'
    return f'<div class="event{" undone" if event["undone"] else ""}">{what}<div class="about">{about}</div></div>'
