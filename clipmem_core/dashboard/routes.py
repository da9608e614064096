"""HTTP: security headers, and the requests of the pair component, which run no page script.

A key press must not wait for a run of Streamlit. Only pages of this origin get answers; the
middleware checks hosts.
"""

import functools
import re
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import streamlit as st
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from clipmem_core.api.frames import AuditFrames
from clipmem_core.auditing.folder.store import PAIRS, Audit, is_name
from clipmem_core.dashboard.cards import FULL_SIDE, LARGE_SIDE, SIDE, thumbnail
from clipmem_core.dashboard.plain import format_score, in_one_line
from clipmem_core.errors.certificate import NEXT
from clipmem_core.review.cards import (
    LIKELY,
    REPLACES,
    cards,
    explain_captions,
    percent,
    shown_score,
    suspicious_captions,
)
from clipmem_core.review.decisions import UNDECIDED_CODE, Codes, decided, open_review
from clipmem_core.review.filters import changed_rows, count_pairs, find_rows
from clipmem_core.review.key_presses import KeyPresses, store_key_presses
from clipmem_core.review.progress_and_repair import find_swaps, review_order, wrong_lines
from clipmem_core.review.queries import fetch_numbered, find_row
from clipmem_core.review.search import run
from clipmem_core.review.views import RANDOM, RANDOM_CHECK, Selection, from_parameters
from clipmem_core.scores.registry import words
from clipmem_core.utils.columns import CAPTION, CAPTIONS, IMAGE, P_WRONG, PAIR_ID, REVIEW_PLACE
from clipmem_core.utils.io import InputError

# Streamlit's page writes styles inline, its charts compile functions and draw in workers, and it
# makes a blob of a component's script.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PREFIX = "api/review"  # below the address of the app; no path of Streamlit begins like this
_MOST_ROWS = 100  # of one answer
_NOT_CACHED = {"Cache-Control": "no-store"}
_CACHED = {"Cache-Control": "private, max-age=600"}


async def add_headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Answer with headers that forbid content from other hosts, and frames of other sites."""
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


def refuse_websockets(app: ASGIApp) -> ASGIApp:
    """Refuse the websocket to pages of other origins; Streamlit accepts all ports of this host."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        is_refused = scope["type"] == "websocket" and not _is_own(scope)
        await (WebSocketClose() if is_refused else app)(scope, receive, send)

    return guarded


def _is_own(scope: Scope) -> bool:
    """Tell whether a request comes from a page of this scheme, host and port."""
    headers = Headers(scope=scope)
    host = headers.get("host")
    # A proxy that ends TLS asks by http for a page of https; no page of http asks by https.
    schemes = ("http", "https") if scope["scheme"] in ("http", "ws") else ("https",)
    return bool(host) and headers.get("origin") in [f"{scheme}://{host}" for scheme in schemes]


def middleware() -> list[Middleware]:
    """Return the middleware that adds headers, and refuses other origins and hosts not in
    `server.allowedHosts`.

    Streamlit itself checks the host only when a page opens its websocket.
    """
    # IPv6 in brackets
    hosts = [f"[{host}]" if ":" in host else host for host in st.get_option("server.allowedHosts")]
    return [
        Middleware(BaseHTTPMiddleware, dispatch=add_headers),
        Middleware(TrustedHostMiddleware, hosts or ["*"], www_redirect=False),
        Middleware(refuse_websockets),
    ]


def routes() -> list[BaseRoute]:
    """Return the routes below `PREFIX`; Starlette runs functions that are no coroutines in a
    thread."""
    answers = [
        Route("/queue", _queue),
        Route("/changes", _changes),
        Route("/pairs", _pairs),
        Route("/picture", _picture),
        Route("/judge", _judge),
        Route("/events", _take_events, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: lambda _, error: _json({"error": error.detail}, error.status_code),
        InputError: lambda _, error: _json({"error": in_one_line(error)}, 503),  # tried again
    }
    app = Starlette(routes=answers, exception_handlers=handlers)
    base = st.get_option("server.baseUrlPath").strip("/")
    return [Mount(f"/{base}/{PREFIX}" if base else f"/{PREFIX}", app)]


def _json(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status, _NOT_CACHED)


def _audit(name: str) -> Audit:
    audit = Audit(Audit.parent() / name) if is_name(name) else None
    if audit is None or not audit.finished:
        raise HTTPException(404, "this audit does not exist any more")
    return audit


def _parse(request: Request) -> tuple[Audit, Selection]:
    parameters = dict(request.query_params)
    return _audit(parameters.get("audit", "")), from_parameters(parameters)[0]


def _numbers(request: Request, parameter: str) -> list[int]:
    text = request.query_params.get(parameter, "")
    if not re.fullmatch(rf"[0-9]{{1,9}}(,[0-9]{{1,9}}){{0,{_MOST_ROWS - 1}}}", text):
        raise HTTPException(400, f"{parameter} must be a list of at most {_MOST_ROWS} numbers")
    return [int(part) for part in text.split(",")]


def _queue(request: Request) -> Response:
    """Answer with the rows in review order, the first one, and all decisions."""
    audit, selection = _parse(request)
    state = _state(audit)
    first = find_row(audit, request.query_params.get("pair", ""))
    rows = find_rows(audit, selection, size=max(1, count_pairs(audit, selection)))
    if selection == RANDOM_CHECK and rows:  # the check that has the first undecided pair
        start = int(np.argmax(decided(audit).codes[rows] == UNDECIDED_CODE)) // NEXT * NEXT
        rows = rows[start : start + NEXT]
    return _json(state | {"rows": rows, "first": first})


def _changes(request: Request) -> Response:
    """Answer with all decisions after an entry of the log."""
    return _json(_state(_parse(request)[0], _numbers(request, "entry")[0]))


def _state(audit: Audit, after: int | None = None) -> dict[str, Any]:
    """Return the last entry of the log, the decisions after an entry or all, and the sentence on
    wrong captions."""
    entry, decisions = changed_rows(audit, after)
    return {"entry": entry, "decided": decisions, "status": _status(audit, decided(audit))}


@functools.lru_cache(16)
def _status(audit: Audit, codes: Codes) -> str:
    """Return the sentences on wrong captions, once for each state of the log."""
    return " ".join(wrong_lines(audit))


def _pairs(request: Request) -> Response:
    """Answer with the review's fields of some rows, without injected errors, which the reviewer
    must not see."""
    audit, selection = _parse(request)
    shown = cards(audit, _numbers(request, "rows"), selection)
    ids = [card.pair_id for card in shown]
    first = suspicious_captions(audit, ids)
    explained = explain_captions(audit, ids)
    swaps = find_swaps(audit, [card.row for card in shown])
    review = review_order(audit)
    by_order = {RANDOM: review.drawn, REVIEW_PLACE: review.order[review.at_random]}
    at_random = by_order.get(selection.order, ())
    order = shown_score(selection.order)
    answer = []
    for card in shown:
        score = card.match if card.match is not None else card.scores.get(order)
        note = " · random spot check" if card.row in at_random else ""
        about = explained[card.pair_id]
        answer.append(
            {
                "row": card.row,
                "pair_id": card.pair_id,
                "caption_key": str(card.caption_key),
                "captions": card.captions,
                "first": first.get(card.pair_id, 0),
                "words": about.marks,
                "reasons": about.reasons,
                "wrong": about.wrong,
                "all_wrong": about.whole,
                "swap": swaps.get(card.row),
                "label": card.label or "",
                "score": f"{words(order)} {format_score(score)}{note}",
                "decision": card.decision.decision,
                "recaptioned": card.decision.captions,
                "note": card.decision.note,
            }
        )
    return _json(answer)


def _picture(request: Request) -> Response:
    """Answer with a row's picture in the requested size, or with a grey square and the reason in a
    header."""
    audit, _ = _parse(request)
    row = _numbers(request, "row")[0]
    images = fetch_numbered(audit.folder / PAIRS, [IMAGE], [row])
    if row not in images:
        raise HTTPException(404, f"audit {audit.name!r} has no row {row}")
    sides = {"small": SIDE, "full": FULL_SIDE}
    side = next((sides[name] for name in sides if name in request.query_params), LARGE_SIDE)
    jpeg, fault = thumbnail(audit.record.pictures, images[row][0], side=side)
    headers = _NOT_CACHED | {"X-Fault": quote(in_one_line(fault))} if fault else _CACHED
    return Response(jpeg, media_type="image/jpeg", headers=headers)


def _judge(request: Request) -> Response:
    """Answer with the probability that a new caption is wrong and whether it is probably right, and
    with that of the caption in its place."""
    audit, _ = _parse(request)
    row = _numbers(request, "row")[0]
    texts = (request.query_params.get(name, "") for name in ("caption", "before"))
    caption, before = map(in_one_line, texts)
    found = fetch_numbered(audit.folder / PAIRS, [PAIR_ID, CAPTIONS], [row])
    if not caption or row not in found:
        return _json({"text": ""})
    pair_id, captions = found[row]
    replaced = next((text for text in captions if in_one_line(text) == before), before)
    asked = {PAIR_ID: pair_id, CAPTION: [caption, replaced or caption], REPLACES: replaced}
    try:
        table = run(AuditFrames.judge, AuditFrames(audit.folder), pd.DataFrame(asked))
    except InputError as error:
        return _json({"text": in_one_line(error)})
    new, now = table[P_WRONG].iloc[-2:]
    parts = [f"{percent(new)} as typed"] if caption != before else []
    parts += [f"{percent(now)} now"] if before else []
    text = f"Probability that it is wrong: {', '.join(parts)}"
    return _json({"text": text, "wrong": percent(new), "right": not new > LIKELY})


async def _take_events(request: Request) -> Response:
    """Store a batch of events, each once even if it is sent twice, and answer with the last stored
    number."""
    if not _is_own(request.scope):
        raise HTTPException(403, "only pages of this dashboard may send decisions")
    return await run_in_threadpool(_store, await request.body())


def _store(body: bytes) -> Response:
    try:
        batch = KeyPresses.model_validate_json(body)
    except ValidationError as error:
        reason = in_one_line(error.errors()[0]["msg"])
        raise HTTPException(400, f"this is no batch of decisions: {reason}") from None
    stored, refused = store_key_presses(open_review(_audit(batch.audit)), batch)
    return _json({"stored": stored, "refused": refused})
