"""The pair component: grid, single pair and pointer of a map, mounted from one HTML,
CSS and JavaScript.

`outbox.js` sends decisions to `routes` and stores them in the browser until the server has
answered. The page's script runs only for another page, order or pair.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from clipmem_core.auditing.folder.store import PAIRS, Audit
from clipmem_core.dashboard.cards import caption_shown
from clipmem_core.dashboard.component.routes import PREFIX, prepare_judge
from clipmem_core.dashboard.deciding import BADGES, Notice, locked_session, review_session
from clipmem_core.dashboard.page import (
    link,
    peek_selection,
    read_view,
    write_address,
    write_selection,
)
from clipmem_core.dashboard.plain import (
    Uncertainty,
    cut,
    format_score,
    read_uncertainty,
)
from clipmem_core.review.cards import (
    BY_CAPTION,
    FirstCaption,
    PairCard,
    first_captions,
    shown_score,
)
from clipmem_core.review.decisions import KEEP, REMOVE, decided, open_review
from clipmem_core.review.filters import count_decided, find_rows, pair_ids
from clipmem_core.review.queries import ROW, fetch_by_id
from clipmem_core.review.views import (
    CAPTION,
    MATCH,
    PICTURE,
    UNDECIDED,
    Selection,
    to_parameters,
)
from clipmem_core.scores.registry import BY_NAME, ROW_SCORES, words
from clipmem_core.utils.columns import CLIPMEM, SE

SCRIPTS = ("outbox.js", "pairs.js", "pairs_grid.js", "pairs_single.js")
HTML, CSS, *JS = (
    Path(__file__).with_name(name).read_text("utf-8")
    for name in ("pairs.html", "pairs.css", *SCRIPTS)
)
_FULL_LIMIT = 5000
_UNDER_POINTER = 9  # pairs beside a map, also in pairs.js
_LIKE = {PICTURE: "Like picture", CAPTION: "Like caption"}  # buttons
_ALL = {"keep": KEEP, "remove": REMOVE, "undecide": None}  # decisions on all pairs of a selection
TABLE = "table"  # the layout of a grid, in the address
REPLACES = "find_and_replace"  # in the session: the dialog opens in the next run
# the last pair that the component of that page moved to, and the number of its mount
_FOLLOWED = "pair_followed"
_DESTINATION = "grid_destination"  # target page of a click, with its parameters
# Keys of a page: name, act of the component (empty: the layout handles it), meaning
Keys = tuple[tuple[str, str, str], ...]
BROWSE_KEYS: Keys = (
    ("← → ↑ ↓", "", "Mark another pair"),
    ("Enter", "", "Open the marked pair"),
    ("Space", "", "Select the marked pair"),
    ("Shift →", "", "Select a range; so does Shift and a click"),
    ("Ctrl A", "page", "Select the page"),
    ("Esc", "none", "Unselect"),
    ("K", "keep", "Keep"),
    (
        "X",
        "drop",
        "Remove the highlighted sentence or the caption shown. If it is the only one, the pair "
        "goes.",
    ),
    ("Shift X", "remove", "Remove the pair or the selected pairs"),
    ("U", "undo", "Undo"),
)
REVIEW_KEYS: Keys = (
    ("K", "keep", "Keep"),
    (
        "X",
        "drop",
        "Remove the highlighted caption or sentence. If it is the only one, or all captions are "
        "wrong, the pair goes.",
    ),
    ("Shift X", "remove", "Remove the pair"),
    ("↑ ↓", "", "Another caption"),
    ("1 2 3", "", "Use a suggestion: captions of another pair, a likelier word"),
    ("E", "edit", "Edit the captions"),
    ("Z", "zoom", "Magnify the picture; so do a click and the mouse wheel"),
    ("U", "undo", "Undo"),
    ("←", "previous", "Previous pair"),
    ("→", "next", "Next pair"),
    ("Ctrl Enter", "", "Save the edited captions"),
    ("Esc", "", "Cancel"),
)
_component = st.components.v2.component("clipmem_pairs", html=HTML, css=CSS, js="\n".join(JS))


def draw_key_list(keys: Keys) -> None:
    """Draw the button that lists the keys; the key ? presses it."""
    with st.popover("Keys", key="keys", icon=":material/keyboard:", type="tertiary"):
        st.markdown("\n".join(f"- **{name}** {meaning}" for name, _, meaning in keys))


def draw_pointer(
    audit: Audit,
    chart: str,
    selection: Selection,
    *,
    follows: bool,
    key: str,
    on_choose: Callable[[list[int]], None],
) -> None:
    """Draw the first pairs, then those under the pointer on a chart, if it `follows` the pointer,
    and report clicks: Streamlit does not if a drag draws a shape."""

    def act() -> None:
        match st.session_state[key].get("act"):
            case {"rows": list(rows)}:
                on_choose([int(row) for row in rows])

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
    prepare_judge(audit)
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
    follow_destination()
    order = shown_score(selection.order)
    main = page is not None
    current, pages = page or (1, 1)
    firsts = first_captions(audit, cards, selection)
    uncertainty = read_uncertainty(audit)
    shown = _shown_scores(cards, uncertainty, selection.order, layout)
    decided_count, total = count_decided(audit, selection) if main else (0, len(cards))
    conditions = to_parameters(replace(selection, order="", ascending=False))
    data = {
        "address": urlencode(link(audit, selection, **read_view())),
        "view": urlencode({"key": key} | conditions),  # the same pairs in another order
        "cards": [_card_data(card, shown, uncertainty, firsts[card.pair_id]) for card in cards],
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
        "like": _LIKE,
    }
    _component(
        key=key,
        data=_mounted(audit, "grid", BROWSE_KEYS) | data,
        on_act_change=lambda: _act(audit, selection, key),
    )


def follow_destination() -> None:
    """Switch to the target page of a click; a callback cannot."""
    if destination := st.session_state.pop(_DESTINATION, None):
        page, parameters = destination
        st.switch_page(page, query_params=parameters)


def _shown_scores(
    cards: Sequence[PairCard], uncertainty: Uncertainty, order: str, layout: str
) -> list[str]:
    """Return the scores to show of each pair, first the one that sorts.

    Pictures have only that one, and none in an order by suspicion: reasons have its probabilities.
    Only a table has a column for the error.
    """
    score = shown_score(order)
    match = [MATCH] if any(card.match is not None for card in cards) else []
    names = [score] if order not in BY_CAPTION else []
    if layout == TABLE:
        hidden = "" if uncertainty.pooled else SE
        names = [name for name in dict.fromkeys([score, *ROW_SCORES]) if name != hidden]
    return [*match, *(name for name in names if name in BY_NAME)]


def _card_data(
    card: PairCard, shown: Sequence[str], uncertainty: Uncertainty, first: FirstCaption
) -> dict[str, Any]:
    start, marks, _ = first
    decision = card.decision
    scores = {name: format_score(card.scores.get(name)) for name in shown}
    if MATCH in scores:
        scores[MATCH] = format_score(card.match)
    if CLIPMEM in scores and uncertainty.pooled:
        scores[CLIPMEM] += uncertainty.around(card.scores)
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
        "other": "" if decision.decision else decision.words,
        "notes": notes + [card.injected] * bool(card.injected),
        "scores": list(scores.values()),
    }


def _decide_all(audit: Audit, selection: Selection, decision: str | None, total: int) -> None:
    """Decide for all pairs of a selection, if they are as many as on the page."""
    with locked_session() as session:
        ids = pair_ids(audit, selection)
        if len(ids) != total:
            session.notice = Notice("Not saved: the selection has changed meanwhile.", good=False)
            return
        outcome = open_review(audit).decide(ids, decision, audit=audit.name)
        session.saved(audit, f"Saved as {BADGES[decision][0]}", outcome)


def _act(audit: Audit, selection: Selection, key: str) -> None:
    """Handle a click that needs the page's script. A callback; a browser may send anything."""
    current = peek_selection()
    match st.session_state[key].get("act"):
        case {"open": str(pair_id)}:
            parameters = link(audit, selection, pair=pair_id, **read_view())
            st.session_state[_DESTINATION] = "pages/pair.py", parameters
        case {"like": str(pair_id), "by": str(by)} if by in _LIKE:
            like = Selection(order=MATCH, like=pair_id, by=by)
            parameters = link(audit, like, **(read_view() | {"page": None}))
            st.session_state[_DESTINATION] = "pages/browse.py", parameters
        case {"all": "replace", "ids": list(ids)}:
            known = fetch_by_id(audit.folder / PAIRS, ROW, map(str, ids))
            st.session_state[REPLACES] = list(known) or True
        case {"all": str(act), "total": int(total)} if act in _ALL:
            _decide_all(audit, selection, _ALL[act], total)
        case {"page": int(page)} if page > 0:
            write_address(page=page)
        case {"order": str(order)} if order in BY_NAME or order == MATCH and current.searched:
            ascending = current.order == order and not current.ascending
            write_selection(replace(current, order=order, ascending=ascending))
        # any other value only runs the page's script again
