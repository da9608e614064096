"""The pair component: grid, single pair, list of keys and pointer of a map, mounted from one HTML,
CSS and JavaScript.

`outbox.js` sends decisions to `routes` and stores them in the browser until the server has
answered. The page's script runs only for another page, order or pair.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from clipmem_core.audit.store import Audit
from clipmem_core.columns import CLIPMEM, CLIPMEM_SHRUNK, SE
from clipmem_core.dashboard.deciding import review_session
from clipmem_core.dashboard.page import (
    BROWSE,
    PAIR,
    PAIR_PAGE,
    link,
    peek_selection,
    read_view,
    write,
    write_selection,
)
from clipmem_core.dashboard.plain import Noise, cut, number, read_noise
from clipmem_core.dashboard.routes import PREFIX
from clipmem_core.figures.layout import INJECTED_COLOUR, group_colour
from clipmem_core.review.cards import FirstCaption, PairCard, first_captions, shown_score
from clipmem_core.review.decisions import decided
from clipmem_core.review.rows import count_decided
from clipmem_core.review.selection import (
    CAPTION,
    MATCH,
    PICTURE,
    UNDECIDED,
    Selection,
    to_parameters,
)
from clipmem_core.scores.registry import BY_NAME, CARD, ROW, scores_in, words

SCRIPTS = ("outbox.js", "pairs.js", "pairs_grid.js", "pairs_single.js")
HTML, CSS, *JS = (
    Path(__file__).with_name(name).read_text("utf-8")
    for name in ("pairs.html", "pairs.css", *SCRIPTS)
)
CAPTION_LIMIT = 160
FULL_LIMIT = 5000
LIKE = {PICTURE: "picture", CAPTION: "caption"}  # the buttons "More like"
OPENED = "pair_opened"  # the last row on the page Pair
# the last pair that the component of that page moved to, and the number of its mount
FOLLOWED = "pair_followed"
DESTINATION = "grid_destination"  # target page of a click, with its parameters
DECISION_KEYS = {"K": "Keep", "X": "Remove", "U": "Undo"}
BROWSE_KEYS = {
    "← → ↑ ↓": "Mark another pair",
    "Enter": "Picture at full size; Enter again opens the pair",
    "Space": "Select the marked pair",
    "Shift →": "Select a range; so does Shift and a click",
    "Ctrl A": "Select the page",
    "Esc": "Unselect",
} | DECISION_KEYS
REVIEW_KEYS = {
    "K": "Keep",
    "X": "Remove the caption in focus; if it is the only one, the pair",
    "Shift X": "Remove the pair",
    "↑ ↓": "Another caption",
    "1 2 3": "Use a likelier word or a suggested caption",
    "E": "Edit the captions",
    "U": "Undo",
    "← →": "Previous, next pair",
    "Ctrl Enter": "Save the edited captions",
    "Esc": "Cancel",
}
_component = st.components.v2.component("clipmem_pairs", html=HTML, css=CSS, js="\n".join(JS))


def draw_keys(keys: Mapping[str, str]) -> None:
    """Draw the button that lists the keys; the key ? opens the list too."""
    _component(key="keys-help", data={"layout": "keys", "keys": dict(keys)}, width="content")


def draw_pointer(audit: Audit, chart: str, *, key: str, on_choose: Callable[[int], None]) -> None:
    """Show pictures at the pointer on a chart, and report clicks: Streamlit does not if a drag
    draws a shape."""

    def act() -> None:
        match st.session_state[key].get("act"):
            case {"row": int(row)}:
                on_choose(row)

    data = {"layout": "pointer", "prefix": PREFIX, "audit": audit.name, "chart": chart}
    _component(key=key, data=data, on_act_change=act)


def draw_single(audit: Audit, selection: Selection, *, title: str) -> None:
    """Draw the pairs of a selection one after another, the pair of the address first."""
    undecided = selection.decision in ("", UNDECIDED)
    _component(
        key=f"review-{audit.name}",
        data=_single_data(audit, selection, title=title, undecided=undecided),
    )


def draw_followed(audit: Audit, selection: Selection, pair_id: str) -> None:
    """Draw one pair as `draw_single` does; the page's script runs for each new pair."""
    shown, mount = st.session_state.get(FOLLOWED, ("", 0))
    if shown != pair_id:  # after a link the component restarts at the pair of the address
        mount += 1
        st.session_state[FOLLOWED] = (pair_id, mount)
    key = f"pair-{audit.name}-{mount}"

    def follow() -> None:
        match st.session_state[key].get("act"):
            case {"pair": str(moved_to)}:
                st.session_state[FOLLOWED] = (moved_to, mount)
                write(**{PAIR: moved_to})

    data = _single_data(audit, selection, title="", undecided=selection.decision == UNDECIDED)
    _component(key=key, data=data | {"follows": True}, on_act_change=follow)


def _single_data(
    audit: Audit, selection: Selection, *, title: str, undecided: bool
) -> dict[str, Any]:
    """Decided pairs stay in the selection, so that their places do not change; the component skips
    them."""
    listed = replace(selection, decision="") if selection.decision == UNDECIDED else selection
    data = {"selection": to_parameters(listed), "undecided": undecided, "title": title}
    return _mounted(audit, "single") | data


def _mounted(audit: Audit, layout: str) -> dict[str, Any]:
    events = [
        (event, undone)
        for (name, event), undone in review_session().events.items()
        if name == audit.name
    ]
    mounted = {"layout": layout, "prefix": PREFIX, "audit": audit.name, "events": events}
    return mounted | {"dataset": audit.record.dataset_fingerprint}


def draw_grid(
    audit: Audit,
    cards: Sequence[PairCard],
    *,
    selection: Selection,
    key: str,
    side: int = 170,
    table: bool = False,
    page: tuple[int, int] | None = None,
) -> None:
    """Draw pairs that can be opened, selected and decided; `side` is that of a picture, in
    pixels."""
    follow_destination()
    order = shown_score(selection.order)
    main = page is not None
    current, pages = page or (1, 1)
    firsts = first_captions(audit, cards, selection)
    noise = read_noise(audit)
    shown = shown_scores(cards, noise, order, table=table)
    decided_count, total = count_decided(audit, selection) if main else (0, len(cards))
    conditions = {
        name: value
        for name, value in to_parameters(selection).items()
        if name not in ("order", "ascending")
    }
    data = {
        "address": urlencode(link(audit, selection, **read_view())),
        "view": urlencode({"key": key} | conditions),  # the same pairs in another order
        "cards": [_card_data(card, shown, noise, firsts[card.pair_id]) for card in cards],
        "table": table,
        "order": order,
        "scores": [[name, words(name)] for name in shown],
        "page": current,
        "pages": pages,
        "total": total,
        "decided": decided_count,
        "entry": decided(audit).entry,
        "opened": st.session_state.pop(OPENED, None) if main else None,
        "main": main,
        "side": side,
        "undecided": selection.decision == UNDECIDED,
        "like": LIKE,
    }
    _component(
        key=key,
        data=_mounted(audit, "grid") | data,
        on_act_change=lambda: _act(audit, selection, key),
    )


def follow_destination() -> None:
    """Switch to the target page of a click; a callback cannot."""
    if destination := st.session_state.pop(DESTINATION, None):
        page, parameters = destination
        st.switch_page(page, query_params=parameters)


def shown_scores(cards: Sequence[PairCard], noise: Noise, order: str, *, table: bool) -> list[str]:
    """Return the scores to show of each pair, first the one that sorts.

    A list sorted by clipmem also shows the shrunk clipmem, since noise puts pairs at its top. Only
    a table has a column for the error.
    """
    hidden = {MATCH} if noise.error and table else {MATCH, SE}
    if not table and order not in (CLIPMEM, CLIPMEM_SHRUNK):
        hidden.add(CLIPMEM_SHRUNK)
    names = dict.fromkeys((order, *scores_in(ROW if table else CARD)))
    match = [MATCH] if any(card.match is not None for card in cards) else []
    return [*match, *(name for name in names if name not in hidden and name in BY_NAME)]


def _card_data(
    card: PairCard, shown: Sequence[str], noise: Noise, first: FirstCaption
) -> dict[str, Any]:
    start, marks, reason = first
    decision = card.decision
    values = card.scores | {MATCH: card.match}
    around = noise.around(card.scores.get(CLIPMEM), card.scores.get(SE)) if noise.error else ""
    label = [f"label: {cut(card.label, CAPTION_LIMIT)}"] if card.label else []
    return {
        "row": card.row,
        "pair_id": card.pair_id,
        "caption_key": str(card.caption_key),  # it has more digits than a browser's numbers
        "changed": card.current != card.captions,
        "captions": [
            cut(caption, FULL_LIMIT) for caption in (*card.current[start:], *card.current[:start])
        ],
        "marks": marks,
        "decision": decision.decision if decision else None,
        "other": decision.words if decision and not decision.decision else "",
        "facts": [
            (card.group, group_colour(card.group), "group"),
            *([(card.injected, INJECTED_COLOUR, "injected error")] if card.injected else []),
        ],
        "more": [*([reason] if reason else []), *label, f"id: {cut(card.pair_id, CAPTION_LIMIT)}"],
        "scores": [
            f"{number(values.get(name))}{around if name == CLIPMEM else ''}" for name in shown
        ],
    }


def _act(audit: Audit, selection: Selection, key: str) -> None:
    """Handle a click that needs the page's script. A callback; a browser may send anything."""
    current = peek_selection()
    match st.session_state[key].get("act"):
        case {"open": str(pair_id)}:
            st.session_state[DESTINATION] = (
                PAIR_PAGE,
                link(audit, selection, pair=pair_id, **read_view()),
            )
        case {"like": str(pair_id), "by": str(by)} if by in LIKE:
            like = Selection(order=MATCH, like=pair_id, by=by)
            st.session_state[DESTINATION] = (
                BROWSE,
                link(audit, like, **(read_view() | {"page": None})),
            )
        case {"page": int(page)} if page > 0:
            write(page=page)
        case {"order": str(order)} if order in BY_NAME or order == MATCH and current.searched:
            write_selection(replace(current, order=order, ascending=False))
        # any other value only runs the page's script again
