"""The log of decisions → its events, the newest first, each with the button that takes it back."""

from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.address import link
from clipmem_core.dashboard.cards import DECISION_COLOURS
from clipmem_core.dashboard.choices import draw_pages, read_page
from clipmem_core.dashboard.deciding import BADGES, Notice, at_desk, undo
from clipmem_core.dashboard.decision_list import moment, rows_of
from clipmem_core.dashboard.plain import as_html
from clipmem_core.review.decisions import Review, open_review
from clipmem_core.review.selection import Selection

PAGE = "history"  # in the address
SIZE = 10
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
    page, pages = read_page(count, SIZE, parameter=PAGE)
    events = review.history(page=page, size=SIZE)
    st.caption("Nothing is ever lost: an undo is an event too. It leaves alone what was decided anew since.")
    st.html(STYLE)
    known = rows_of(audit, events["first_pair_id"].tolist())
    for event in events.to_dict("records"):
        _draw_event(audit, event, has_pair=event["first_pair_id"] in known)
    draw_pages(page, pages, key="history-pages", parameter=PAGE)


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
    with at_desk() as desk:
        desk.notice = _redone(open_review(audit), event)


def _redone(review: Review, event: int) -> Notice:
    outcome = review.undo(event)
    if outcome is None or outcome.pairs == 0:
        return Notice("Nothing was done again: somebody has decided anew since.", good=False)
    left = f" {_pairs(outcome.left)}, decided anew since, stayed." if outcome.left else ""
    return Notice(f"Done again, for {_pairs(outcome.pairs)}.{left}")


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


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count:,} pairs"
