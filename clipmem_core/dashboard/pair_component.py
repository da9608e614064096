"""The pair component: grid, single pair, list of keys and pointer of a map, mounted from one HTML, CSS and JavaScript.

`outbox.js` stores decisions through `routes` and keeps them until the server has answered. The page's script runs only
for another page, order or pair.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.columns import CLIPMEM, CLIPMEM_SHRUNK, SE
from clipmem_core.dashboard.page import link, peek_selection, read_view, write_page, write_selection
from clipmem_core.dashboard.plain import Noise, cut, number, read_noise
from clipmem_core.dashboard.routes import PREFIX
from clipmem_core.figures.layout import PLANTED_COLOUR, group_colour
from clipmem_core.review.cards import PairCard
from clipmem_core.review.decisions import decided
from clipmem_core.review.rows import count_decided
from clipmem_core.review.selection import IMAGE_SIDE, MATCH, TEXT_SIDE, UNDECIDED, Selection, to_parameters
from clipmem_core.review.tables import CAPTION_KEY, fetch_numbered
from clipmem_core.scores.registry import BY_NAME, CARD, ROW, scores_in, words

SCRIPTS = ("outbox.js", "pairs.js", "pairs_grid.js", "pairs_single.js")
HTML, CSS, *JS = (Path(__file__).with_name(name).read_text("utf-8") for name in ("pairs.html", "pairs.css", *SCRIPTS))
CAPTION_LIMIT, FULL_LIMIT = 160, 5000
USUAL_SIDE = 170  # of a picture
LIKE = {IMAGE_SIDE: "More like this picture", TEXT_SIDE: "More like this caption"}
OPENED = "pair_opened"  # the row that the page of a pair showed last
DESTINATION = "grid_destination"  # the page that a click leads to, with its parameters
BROWSE, PAIR_PAGE = "pages/browse.py", "pages/pair.py"
DECISION_KEYS = {"K": "Keep", "X": "Remove", "U": "Undo"}
BROWSE_KEYS = {
    "← → ↑ ↓": "Mark another pair",
    "Enter": "Picture at full size; Enter again opens the pair",
    "Space": "Select the marked pair",
    "Shift →": "Select a range; so does Shift and a click",
    "Ctrl A": "Select the page",
    "Esc": "Unselect",
} | DECISION_KEYS
REVIEW_KEYS = DECISION_KEYS | {
    "E": "Change caption",
    "1 2 3": "Take a suggested caption",
    "← →": "Previous, next pair",
    "Ctrl Enter": "Save the caption that is being changed",
    "Esc": "Cancel",
}
PAIR_KEYS = DECISION_KEYS | {
    "E": "Save the captions in the box",
    "N": "Next undecided pair",
    "← →": "Previous, next pair",
    "Ctrl Enter": "Save, in the box",
}
_component = st.components.v2.component("clipmem_pairs", html=HTML, css=CSS, js="\n".join(JS))


def draw_keys(keys: Mapping[str, str], *, picture: Mapping[str, str] | None = None) -> None:
    """Draw the button that lists the keys; the key ? does too."""
    data = {"layout": "keys", "keys": dict(keys), "picture": picture}
    _component(key="keys-help", data=data, width="content")


def draw_pointer(audit: Audit, chart: str, *, key: str, take: Callable[[int], None]) -> None:
    """Show pictures at the pointer on a chart; Streamlit does not report clicks on one whose drag draws a shape."""

    def act() -> None:
        match st.session_state[key].get("act"):
            case {"row": int(row)}:
                take(row)

    data = {"layout": "pointer", "prefix": PREFIX, "audit": audit.name, "chart": chart}
    _component(key=key, data=data, on_act_change=act)


def draw_single(audit: Audit, selection: Selection, *, title: str, undecided: bool) -> None:
    """Draw the pairs of a selection one after another."""
    data = _mounted(audit, "single") | {"selection": to_parameters(selection), "undecided": undecided, "title": title}
    _component(key=f"review-{audit.name}", data=data)


def _mounted(audit: Audit, layout: str) -> dict[str, Any]:
    dataset = audit.record.dataset_fingerprint
    return {"layout": layout, "prefix": PREFIX, "audit": audit.name, "dataset": dataset}


def draw_grid(
    audit: Audit,
    cards: Sequence[PairCard],
    *,
    selection: Selection,
    key: str,
    side: int = USUAL_SIDE,
    table: bool = False,
    page: tuple[int, int] | None = None,
) -> None:
    """Draw pairs that can be opened, selected and decided."""
    follow_way()
    order, main = selection.order, page is not None
    at, pages = page or (1, 1)
    rows = [card.row for card in cards]
    judged = fetch_numbered(audit.folder / PAIRS, [CAPTION_KEY], rows)
    noise = read_noise(audit)
    shown = shown_scores(cards, noise, order, table=table)
    done, total = count_decided(audit, selection) if main else (0, len(cards))
    conditions = {name: value for name, value in to_parameters(selection).items() if name not in ("order", "ascending")}
    data = _mounted(audit, "grid") | {
        "address": urlencode(link(audit, selection, **read_view())),
        "view": urlencode({"key": key} | conditions),  # the same pairs in another order
        "cards": [_told(card, judged[card.row][0], shown, noise) for card in cards],
        "table": table,
        "order": order,
        "scores": [[name, words(name)] for name in shown],
        "page": at,
        "pages": pages,
        "total": total,
        "decided": done,
        "entry": decided(audit).entry,
        "opened": st.session_state.pop(OPENED, None) if main else None,
        "tags": [],
        "main": main,
        "side": side,
        "undecided": selection.decision == UNDECIDED,
        "like": LIKE,
    }
    _component(key=key, data=data, on_act_change=lambda: _act(audit, selection, key))


def follow_way() -> None:
    """Go to the page that a click led to; a callback cannot."""
    if destination := st.session_state.pop(DESTINATION, None):
        page, parameters = destination
        st.switch_page(page, query_params=parameters)


def shown_scores(cards: Sequence[PairCard], noise: Noise, order: str, *, table: bool) -> list[str]:
    """Return the scores that are shown of each pair, the one that orders first.

    What to expect of other members stands beside clipmem where that orders: luck is at the top of a list. The error is
    a column of its own in a table alone.
    """
    hidden = {MATCH} if noise.error and table else {MATCH, SE}
    if not table and order not in (CLIPMEM, CLIPMEM_SHRUNK):
        hidden.add(CLIPMEM_SHRUNK)
    names = (order, *scores_in(ROW if table else CARD))
    match = [MATCH] if any(card.match is not None for card in cards) else []
    return [*match, *(name for name in dict.fromkeys(names) if name not in hidden and name in BY_NAME)]


def _told(card: PairCard, judged: int, shown: Sequence[str], noise: Noise) -> dict[str, Any]:
    decision, values = card.decision, card.scores | {MATCH: card.match}
    around = noise.around(card.scores.get(CLIPMEM), card.scores.get(SE)) if noise.error else ""
    label = [f"label: {cut(card.label, CAPTION_LIMIT)}"] if card.label else []
    return {
        "row": card.row,
        "pair_id": card.pair_id,
        "judged": str(judged),  # it has more digits than a browser's numbers
        "captions": [cut(caption, FULL_LIMIT) for caption in card.captions],
        "decision": decision.decision if decision else None,
        "other": decision.words if decision and not decision.decision else "",
        "tags": [],
        "facts": [
            (card.group, group_colour(card.group), "group"),
            *([(card.planted, PLANTED_COLOUR, "planted")] if card.planted else []),
        ],
        "more": [*label, f"id: {cut(card.pair_id, CAPTION_LIMIT)}"],
        "scores": [f"{number(values.get(name))}{around if name == CLIPMEM else ''}" for name in shown],
    }


def _act(audit: Audit, selection: Selection, key: str) -> None:
    """Do what a click asks for that the grid cannot do itself. A callback; a browser may send anything."""
    now = peek_selection()
    match st.session_state[key].get("act"):
        case {"open": str(pair_id)}:
            st.session_state[DESTINATION] = PAIR_PAGE, link(audit, selection, pair=pair_id, **read_view())
        case {"like": str(pair_id), "by": str(by)} if by in LIKE:
            like = Selection(order=MATCH, like=pair_id, by=by, member=selection.member)
            st.session_state[DESTINATION] = BROWSE, link(audit, like, **(read_view() | {"page": None}))
        case {"page": int(page)} if page > 0:
            write_page(page)
        case {"order": str(order)} if order in BY_NAME or order == MATCH and now.searched:
            write_selection(replace(now, order=order, ascending=False))
