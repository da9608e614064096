"""Pairs as pictures side by side, or as rows: a component of our own, with keys, choosing and decisions.

`grid.js` shows the pairs. What is decided goes the way of the page Review: `review_outbox.js` keeps it until the server
says that it is stored, and `review_routes` takes it. The page's script is run for another page, order or pair alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.columns import CLIPMEM, CLIPMEM_SHRUNK, SE
from clipmem_core.dashboard.address import link, peek_selection, read_view, write_page, write_selection
from clipmem_core.dashboard.filters import GRID, TABLE, changed
from clipmem_core.dashboard.numbers import Noise, number, read_noise
from clipmem_core.dashboard.plain import cut
from clipmem_core.dashboard.review_routes import PREFIX
from clipmem_core.figures.colours import PLANTED_COLOUR, group_colour
from clipmem_core.review.cards import PairCard
from clipmem_core.review.decisions import decided, open_review
from clipmem_core.review.rows import count_decided
from clipmem_core.review.selection import IMAGE_SIDE, MATCH, TEXT_SIDE, UNDECIDED, Selection, to_parameters
from clipmem_core.review.tables import CAPTION_KEY, fetch_numbered
from clipmem_core.review.tags import known_tags, tags_of
from clipmem_core.scores.registry import BY_NAME, CARD, ROW, scores_in, words

PARTS = ("grid.html", "grid.css", "dialogs.css", "review_outbox.js", "dialogs.js", "grid.js")
HTML, GRID_CSS, DIALOGS_CSS, *JS = (Path(__file__).with_name(name).read_text("utf-8") for name in PARTS)
CAPTION_LIMIT, FULL_LIMIT = 160, 5000
TAGS_OFFERED = 50
USUAL_SIDE = 170  # of a picture
LIKE = {IMAGE_SIDE: "More like this picture", TEXT_SIDE: "More like this caption"}
OPENED = "pair_opened"  # the row that the page of a pair showed last
WAY = "grid_way"  # the page that a click leads to, with its parameters
BROWSE, PAIR_PAGE = "pages/browse.py", "pages/pair.py"
TO_THE_TOP = """<script>document.querySelector('[data-testid="stMain"]')?.scrollTo(0, 0)</script>"""
_component = st.components.v2.component("clipmem_grid", html=HTML, css=GRID_CSS + DIALOGS_CSS, js="\n".join(JS))


def draw_grid(
    audit: Audit,
    cards: Sequence[PairCard],
    *,
    selection: Selection,
    key: str,
    order: str = "",
    layout: str = GRID,
    page: int = 1,
    pages: int = 1,
    main: bool = False,
    side: int = USUAL_SIDE,
) -> None:
    """Draw pairs that can be opened, chosen and decided.

    Args:
        audit: where the pairs are from.
        cards: the pairs.
        selection: the pairs that the page of one walks through.
        key: of the component: another for each grid of a page.
        order: the score in bold; empty for the selection's.
        layout: grid or table.
        page: which of the selection's pages it is.
        pages: how many there are.
        main: whether the page is about these pairs: then keys are taken wherever they are pressed.
        side: of a picture, in pixels, until somebody moves the slider.
    """
    follow_way()
    order = order or selection.order
    review, ids = open_review(audit), [card.pair_id for card in cards]
    judged = fetch_numbered(audit.folder / PAIRS, [CAPTION_KEY], [card.row for card in cards])
    tags = tags_of(review.path, ids)
    noise = read_noise(audit)
    shown = shown_scores(cards, noise, order, layout)
    done, total = count_decided(audit, selection) if main else (0, len(cards))
    _component(
        key=key,
        on_act_change=lambda: _act(audit, selection, key),
        data={
            "prefix": PREFIX,
            "audit": audit.name,
            "dataset": audit.record.dataset_fingerprint,
            "address": urlencode(link(audit, selection, **read_view())),
            "view": urlencode({"key": key} | _conditions(selection)),
            "cards": [
                _told(card, str(judged[card.row][0]), tags.get(card.pair_id, []), shown, noise) for card in cards
            ],
            "layout": layout,
            "order": order,
            "scores": [[name, words(name)] for name in shown],
            "page": page,
            "pages": pages,
            "total": total,
            "decided": done,
            "entry": decided(audit).entry,
            "opened": st.session_state.pop(OPENED, None) if main else None,
            "tags": list(known_tags(review.path))[:TAGS_OFFERED],
            "main": main,
            "side": side,
            "undecided": selection.decision == UNDECIDED,
            "like": LIKE,
        },
    )


def follow_way() -> None:
    """Go to the page that a click led to; a callback cannot."""
    if way := st.session_state.pop(WAY, None):
        page, parameters = way
        st.switch_page(page, query_params=parameters)


def shown_scores(cards: Sequence[PairCard], noise: Noise, order: str, layout: str) -> list[str]:
    """Return the scores that are shown of each pair, the one that orders first.

    What to expect of other members stands beside clipmem where that orders: luck is at the top of a list. The error is
    a column of its own in a table alone.
    """
    hidden = {MATCH} if noise.error and layout == TABLE else {MATCH, SE}
    if layout != TABLE and order not in (CLIPMEM, CLIPMEM_SHRUNK):
        hidden.add(CLIPMEM_SHRUNK)
    names = (order, *scores_in(ROW if layout == TABLE else CARD))
    match = [MATCH] if any(card.match is not None for card in cards) else []
    return [*match, *(name for name in dict.fromkeys(names) if name not in hidden and name in BY_NAME)]


def _told(card: PairCard, judged: str, tags: list[str], shown: Sequence[str], noise: Noise) -> dict[str, Any]:
    said = card.decision
    facts = [(card.group, group_colour(card.group), "group")]
    facts += [(card.planted, PLANTED_COLOUR, "planted")] if card.planted else []
    label = [f"label: {cut(card.label, CAPTION_LIMIT)}"] if card.label else []
    return {
        "row": card.row,
        "pair_id": card.pair_id,
        "judged": judged,
        "captions": [cut(caption, FULL_LIMIT) for caption in card.captions],
        "decision": said.decision if said else None,
        "other": said.words if said and not said.decision else "",
        "tags": tags,
        "facts": facts,
        "more": [*label, f"id: {cut(card.pair_id, CAPTION_LIMIT)}"],
        "scores": [_score(card, name, noise) for name in shown],
    }


def _score(card: PairCard, name: str, noise: Noise) -> str:
    value = card.match if name == MATCH else card.scores.get(name)
    around = noise.around(value, card.scores.get(SE)) if name == CLIPMEM and noise.error else ""
    return f"{number(value)}{around}"


def _conditions(selection: Selection) -> dict[str, str]:
    """Return what tells which pairs there are: their order does not."""
    return {name: value for name, value in to_parameters(selection).items() if name not in ("order", "ascending")}


def _act(audit: Audit, selection: Selection, key: str) -> None:
    """Do what a click asks for that is not of the grid itself. A callback: what it is told is of a browser."""
    told = st.session_state[key].get("act")
    match told:
        case {"open": str(pair_id)}:
            st.session_state[WAY] = PAIR_PAGE, link(audit, selection, pair=pair_id, **read_view())
        case {"like": str(pair_id), "by": str(by)} if by in LIKE:
            like = Selection(order=MATCH, like=pair_id, by=by, member=selection.member)
            st.session_state[WAY] = BROWSE, link(audit, like, **(read_view() | {"page": None}))
        case {"page": int(page)} if page > 0:
            write_page(page)
        case {"order": str(order)} if order in (MATCH, *BY_NAME):
            write_selection(changed(peek_selection(), order=order, ascending=False))
