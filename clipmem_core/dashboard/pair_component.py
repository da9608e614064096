"""The pair component: grid, single pair and pointer of a map, mounted from one HTML,
CSS and JavaScript.

`outbox.js` sends decisions to `routes` and stores them in the browser until the server has
answered. The page's script runs only for another page, order or pair.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from clipmem_core.auditing.folder.store import PAIRS, Audit
from clipmem_core.dashboard.deciding import BADGES, Notice, review_session, storing_decisions
from clipmem_core.dashboard.page import link, read_view, write_address
from clipmem_core.dashboard.plain import cut, format_score
from clipmem_core.dashboard.routes import PREFIX
from clipmem_core.review.cards import (
    BY_CAPTION,
    FirstCaption,
    PairCard,
    caption_shown,
    first_captions,
    shown_score,
)
from clipmem_core.review.decisions import KEEP, REMOVE, decided, open_review
from clipmem_core.review.filters import count_decided, find_rows, pair_ids
from clipmem_core.review.queries import ROW, fetch_by_id
from clipmem_core.review.search import features_of_text, prepare
from clipmem_core.review.views import MATCH, UNDECIDED, Selection, to_parameters
from clipmem_core.scores.registry import BY_NAME, ROW_SCORES, words
from clipmem_core.utils.io import read_json

SCRIPTS = ("outbox.js", "pairs.js", "pairs_grid.js", "pairs_single.js")
_FILES = Path(__file__).with_name("component")
HTML, CSS, *JS = (
    (_FILES / name).read_text("utf-8") for name in ("pairs.html", "pairs.css", *SCRIPTS)
)
_FULL_LIMIT = 5000
_UNDER_POINTER = 9  # pairs beside a map, also in pairs.js
_ALL = {"keep": KEEP, "remove": REMOVE, "undecide": None}  # decisions on all pairs of a selection
TABLE = "table"  # the layout of a grid, in the address
REPLACES = "find_and_replace"  # in the session: the dialog opens in the next run
# the last pair that the component of that page moved to, and the number of its mount
_FOLLOWED = "pair_followed"
# Keys of a page: name, act of the component (empty: the layout handles it), meaning
Keys = list[tuple[str, str, str]]
BROWSE_KEYS, REVIEW_KEYS = (
    read_json(_FILES / f"{page}_keys.json") for page in ("browse", "review")
)
_component = st.components.v2.component("clipmem_pairs", html=HTML, css=CSS, js="\n".join(JS))


def draw_key_list(keys: Keys) -> None:
    """Draw the button that lists the keys; the key ? presses it."""
    with st.popover("Keys", key="keys", icon=":material/keyboard:", type="tertiary"):
        st.markdown("\n".join(f"- **{name}** {meaning}" for name, _, meaning in keys))


def draw_pointer(
    audit: Audit, chart: str, selection: Selection, *, follows: bool, kept: str
) -> None:
    """Draw the first pairs, then those under the pointer on a chart, if it `follows` the pointer,
    and store the rows at a click as `kept` in the session: Streamlit reports none if a drag draws
    a shape."""
    key = f"{kept}-pointer"

    def act() -> None:
        match st.session_state[key].get("act"):
            case {"rows": list(rows)}:
                st.session_state[kept] = [int(row) for row in rows]

    data = {
        "layout": "pointer",
        "prefix": PREFIX,
        "audit": audit.name,
        "chart": chart,
        "selection": to_parameters(selection),
        "follows": follows,
        "rows": find_rows(audit, selection, size=_UNDER_POINTER) if follows else [],
    }
    _component(key=key, data=data, on_act_change=act)


def draw_single(
    audit: Audit, selection: Selection, *, title: str, links: Sequence[tuple[str, str]]
) -> None:
    """Draw the pairs of a selection one after another, the pair of the address first, and after the
    last one links (label and address)."""
    data = _single_data(audit, selection) | {"title": title, "links": links}
    data["undecided"] = selection.decision in ("", UNDECIDED)
    _component(key=f"review-{audit.name}", data=data)


def draw_followed(audit: Audit, selection: Selection, pair_id: str) -> None:
    """Draw one pair as `draw_single` does; the page's script runs for each new pair."""
    shown, mount = st.session_state.get(_FOLLOWED, ("", 0))
    if shown != pair_id:  # after a link the component restarts at the pair of the address
        mount += 1
        st.session_state[_FOLLOWED] = (pair_id, mount)
    key = f"pair-{audit.name}-{mount}"

    def follow() -> None:
        match st.session_state[key].get("act"):
            case {"pair": str(moved_to)}:
                st.session_state[_FOLLOWED] = (moved_to, mount)
                write_address(pair=moved_to)

    data = _single_data(audit, selection) | {"title": "", "links": [], "follows": True}
    _component(key=key, data=data, on_act_change=follow)


def _single_data(audit: Audit, selection: Selection) -> dict[str, Any]:
    """Decided pairs stay in the selection, so that their places do not change; the component skips
    them."""
    undecided = selection.decision == UNDECIDED
    listed = replace(selection, decision="") if undecided else selection
    data = {"selection": to_parameters(listed), "undecided": undecided}
    prepare(features_of_text, audit.record.config, "picture")
    return _mounted(audit, "single", REVIEW_KEYS) | data


def _mounted(audit: Audit, layout: str, keys: Keys) -> dict[str, Any]:
    events = review_session().events.items()
    return {
        "layout": layout,
        "prefix": PREFIX,
        "audit": audit.name,
        "dataset": audit.record.dataset_fingerprint,
        "events": [(event, undone) for (name, event), undone in events if name == audit.name],
        "acts": {name: act for name, act, _ in keys if act},
    }


def draw_grid(
    audit: Audit,
    cards: Sequence[PairCard],
    *,
    selection: Selection,
    key: str,
    side: int = 170,
    layout: str = "",
    page: tuple[int, int] | None = None,
) -> None:
    """Draw pairs that can be opened, selected and decided; `side` is that of a picture, in
    pixels."""
    order = shown_score(selection.order)
    main = page is not None
    current, pages = page or (1, 1)
    firsts = first_captions(audit, cards, selection)
    shown = _shown_scores(cards, selection.order, layout)
    decided_count, total = count_decided(audit, selection) if main else (0, len(cards))
    conditions = to_parameters(replace(selection, order="", ascending=False))
    data = {
        "address": urlencode(link(audit, selection, **read_view())),
        "view": urlencode({"key": key} | conditions),  # the same pairs in another order
        "cards": [_card_data(card, shown, firsts[card.pair_id]) for card in cards],
        "table": layout == TABLE,
        "order": order,
        "scores": [[name, words(name)] for name in shown],
        "page": current,
        "pages": pages,
        "total": total,
        "decided": decided_count,
        "entry": decided(audit).entry,
        "main": main,
        "side": side,
        "undecided": selection.decision == UNDECIDED,
    }
    _component(
        key=key,
        data=_mounted(audit, "grid", BROWSE_KEYS) | data,
        on_act_change=lambda: _act(audit, selection, key),
    )


def _shown_scores(cards: Sequence[PairCard], order: str, layout: str) -> list[str]:
    """Return the scores to show of each pair, first the one that sorts.

    Pictures have only that one, and none in an order by suspicion: reasons have its probabilities.
    """
    score = shown_score(order)
    match = [MATCH] if any(card.match is not None for card in cards) else []
    names = [score] if order not in BY_CAPTION else []
    if layout == TABLE:
        names = [score, *ROW_SCORES]
    return [*match, *dict.fromkeys(name for name in names if name in BY_NAME)]


def _card_data(card: PairCard, shown: Sequence[str], first: FirstCaption) -> dict[str, Any]:
    start, marks, _ = first
    decision = card.decision
    scores = {name: format_score(card.scores.get(name)) for name in shown}
    if MATCH in scores:
        scores[MATCH] = format_score(card.match)
    captions = [cut(caption, _FULL_LIMIT) for caption in card.current]
    caption, caption_marks, notes = caption_shown(captions, first)
    return {
        "row": card.row,
        "pair_id": card.pair_id,
        "caption_key": str(card.caption_key),  # it has more digits than a browser's numbers
        "changed": card.current != card.captions,
        "captions": captions,
        "first": start,
        "caption": caption,
        "caption_marks": caption_marks,
        "whole": captions == list(card.current),
        "marks": marks,
        "decision": decision.decision,
        "notes": notes + [card.injected] * bool(card.injected),
        "scores": list(scores.values()),
    }


def _act(audit: Audit, selection: Selection, key: str) -> None:
    """Decide on all pairs of a selection, or open the dialog that replaces words. A callback; a
    browser may send anything."""
    match st.session_state[key].get("act"):
        case {"all": "replace", "ids": list(ids)}:
            found = fetch_by_id(audit.folder / PAIRS, ROW, map(str, ids))
            st.session_state[REPLACES] = list(found) or True
        case {"all": str(act), "total": int(total)} if act in _ALL:
            with storing_decisions() as session:
                listed = pair_ids(audit, selection)
                if len(listed) != total:
                    session.notice = Notice("Not saved: the selection has changed.", good=False)
                    return
                outcome = open_review(audit).decide(listed, _ALL[act], audit=audit.name)
                session.saved(audit, f"Saved as {BADGES[_ALL[act]][0]}", outcome)
        # any other value only runs the page's script again
