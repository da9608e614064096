"""HTTP: security headers, and what the pair component asks of the server without a run of the page's script.

A key press must not wait for a run of Streamlit. Only pages of this origin are answered; the middleware checks hosts.
"""

import functools
import json
import math
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import streamlit as st
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipmem_core.audits.store import MEMBERSHIP, PAIRS, Audit, audits_folder, is_name
from clipmem_core.columns import IMAGE, MISFIT, REVIEW_PLACE
from clipmem_core.config import InputError
from clipmem_core.dashboard.cards import FULL_SIDE, SIDE, WORKERS, large_picture, thumbnail
from clipmem_core.dashboard.plain import number, one_line
from clipmem_core.review.bulk_edit import Batch, store
from clipmem_core.review.cards import cards
from clipmem_core.review.decisions import Codes, decided, open_review
from clipmem_core.review.rows import audit_root, changed_rows, count_pairs, decided_rows, find_rows
from clipmem_core.review.score_breakdown import QUALITY, suggested_captions
from clipmem_core.review.selection import RANDOM, Selection, from_parameters
from clipmem_core.review.tables import caption_keys, fetch_numbered, find_row, kept
from clipmem_core.review.wrong_captions import drawn_at_random, wrong_words
from clipmem_core.scores.registry import words

# Streamlit's own page writes styles inline, its charts compile functions and draw in workers, and what a component of
# ours runs it makes a blob of.
POLICY = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'self'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{kind} {allowed}" for kind, allowed in POLICY.items()),
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Policies:
    """Say with every answer what a browser may do with it: nothing from elsewhere, and no frame of another site."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back with the headers."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, answer)


@asynccontextmanager
async def open_browser(_: Any) -> AsyncIterator[None]:
    """Open the dashboard in a browser when its server starts, as Streamlit does for a script that has no middleware."""
    if not st.get_option("server.headless"):
        webbrowser.open(f"http://localhost:{st.get_option('server.port')}")
    yield


def middleware() -> list[Middleware]:
    """Return what every request passes: only names of `server.allowedHosts` are answered, the page's files too.

    Streamlit by itself looks at the name only where a page opens its websocket.
    """
    named = [f"[{host}]" if ":" in host else host for host in st.get_option("server.allowedHosts")]  # IPv6 in brackets
    return [Middleware(Policies), Middleware(TrustedHostMiddleware, named or ["*"], www_redirect=False)]


PREFIX = "api/review"  # below the address of the app; none of Streamlit's own begins so
MOST_ROWS = 100  # of one answer
LARGEST = 8_000_000  # bytes of a batch
SIDES = {"small": SIDE, "full": FULL_SIDE}  # pixels of a picture, by what is asked for
SAME_ORIGIN = {"Cross-Origin-Resource-Policy": "same-origin"}
CLOSED = SAME_ORIGIN | {"Cache-Control": "no-store"}
CACHED = SAME_ORIGIN | {"Cache-Control": "private, max-age=600"}
JSON = "application/json"
_few_pictures = threading.BoundedSemaphore(WORKERS)
_one_search = threading.Lock()  # a search reads all captions; pictures do not wait for it


class _Refusal(Exception):
    """A request that is not answered: why, and the status that says so."""

    def __init__(self, why: str, status: int) -> None:
        super().__init__(why)
        self.status = status


def routes() -> list[BaseRoute]:
    """Return what the server answers below `PREFIX`."""
    base = st.get_option("server.baseUrlPath").strip("/")
    answers = {"queue": _queue, "changes": _changes, "pairs": _pairs, "picture": _picture, "suggestions": _suggest}
    own = [Route(f"/{name}", _explained(answer), methods=["GET"]) for name, answer in answers.items()]
    own.append(Route("/events", take_events, methods=["POST"]))
    return [Mount(f"/{base}/{PREFIX}" if base else f"/{PREFIX}", routes=own)]


def _explained(answer: Callable[..., Response]) -> Callable[..., Response]:
    """Answer an error in one line; Starlette runs what is no coroutine in a thread.

    A `_Refusal` is about the request and final. An `InputError` is about our files: 503, the client tries again.
    """

    @functools.wraps(answer)
    def answered(*given: Any) -> Response:
        try:
            return answer(*given)
        except _Refusal as refusal:
            return _told({"error": str(refusal)}, refusal.status)
        except InputError as error:
            return _told({"error": one_line(error)}, 503)

    return answered


def _told(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status, CLOSED)


def _audit(name: str) -> Audit:
    audit = Audit(audits_folder() / name) if is_name(name) else None
    if audit is None or not audit.finished:
        raise _Refusal("there is no such audit any more", 404)
    return audit


def _asked(request: Request) -> tuple[Audit, Selection]:
    parameters = dict(request.query_params)
    return _audit(parameters.get("audit", "")), from_parameters(parameters)[0]


def _numbers(request: Request, parameter: str) -> list[int]:
    parts = request.query_params.get(parameter, "").split(",")
    if len(parts) > MOST_ROWS or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise _Refusal(f"a list of at most {MOST_ROWS} numbers is wanted", 400)
    return [int(part) for part in parts]


def _queue(request: Request) -> Response:
    """Answer with the rows in the order in which they are judged, the one to begin with, and all that is decided."""
    audit, selection = _asked(request)
    entry, stands = decided_rows(audit)
    first = find_row(audit, request.query_params.get("pair", ""))
    rows = find_rows(audit, selection, page=1, size=max(1, count_pairs(audit, selection)))
    status = _status(audit, decided(audit))
    return _told({"rows": rows, "first": first, "entry": entry, "decided": stands, "status": status})


def _changes(request: Request) -> Response:
    """Answer with what anybody decided after an entry of the log."""
    audit, _ = _asked(request)
    entry, stands = changed_rows(audit, _numbers(request, "entry")[0])
    return _told({"entry": entry, "decided": stands, "status": _status(audit, decided(audit))})


@functools.lru_cache(16)
def _status(audit: Audit, now: Codes) -> str:
    """Return how many captions were found wrong until now and what is left; what is likely before."""
    return wrong_words(audit)[0]


def _pairs(request: Request) -> Response:
    """Answer with what is shown of some rows. Whether a pair was planted is not: that is for after the judging."""
    audit, selection = _asked(request)
    found = cards(audit, _numbers(request, "rows"), selection)
    keys = caption_keys(audit.folder / PAIRS, [card.pair_id for card in found])
    checked = selection.order == RANDOM
    drawn = drawn_at_random(audit) if selection.order == REVIEW_PLACE else frozenset()
    order = MISFIT if checked or selection.order == REVIEW_PLACE else selection.order
    told = []
    for card in found:
        score, decision = card.match if card.match is not None else card.scores.get(order), card.decision
        at_random = " · random spot check" if checked or card.row in drawn else ""
        told.append(
            {
                "row": card.row,
                "pair_id": card.pair_id,
                "judged": str(keys.get(card.pair_id, 0)),
                "captions": card.captions,
                "label": card.label or "",
                "score": f"{words(order)} {number(score)}{at_random}",
                "decision": decision.decision if decision else None,
                "recaptioned": decision.captions if decision else (),
                "note": decision.note if decision else "",
            }
        )
    return _told(told)


def _picture(request: Request) -> Response:
    """Answer with a row's picture, or with a grey square and in a header why not. A size may be asked for."""
    audit, _ = _asked(request)
    row = _numbers(request, "row")[0]
    found = fetch_numbered(audit.folder / PAIRS, [f'"{IMAGE}"'], [row])
    if row not in found:
        raise InputError(f"audit {audit.name!r} has no row {row}")
    with _few_pictures:
        root, (image,) = audit_root(audit), found[row]
        side = next((side for name, side in SIDES.items() if name in request.query_params), 0)
        jpeg, fault = thumbnail(root, image, side=side) if side else large_picture(root, image)[::2]
    headers = CLOSED | {"X-Fault": quote(one_line(fault))} if fault else CACHED
    return Response(jpeg, media_type="image/jpeg", headers=headers)


def _suggest(request: Request) -> Response:
    """Answer with captions of other pairs that members which never saw a row's pair suggest for it.

    An audit need not have what that takes, so a search that cannot be made is an answer too.
    """
    audit, _ = _asked(request)
    row = _numbers(request, "row")[0]
    with _one_search:
        try:
            return _told(_suggestions(audit, row))
        except InputError as error:
            return _told({"fault": one_line(error), "choices": []})


@kept(512, PAIRS, MEMBERSHIP)
def _suggestions(audit: Audit, row: int) -> dict[str, Any]:
    found = suggested_captions(audit, row)
    return {
        "members": len(found.members),
        "own": [value if math.isfinite(value) else None for value in found.own],
        "choices": [{"caption": each.caption, "cosine": each.cosine} for each in found.choices],
        "quality": QUALITY,
    }


async def take_events(request: Request) -> Response:
    """Store a batch of events, each once however often it is sent, and answer up to which number all are stored."""
    origin, host = request.headers.get("origin", ""), request.headers.get("host", "")
    if urlsplit(origin).netloc != host or not host:
        return _told({"error": "decisions are taken from this dashboard's own pages alone"}, 403)
    if request.headers.get("content-type", "").split(";")[0].strip() != JSON:
        return _told({"error": f"decisions are sent as {JSON}"}, 415)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST:
            return _told({"error": f"a batch has at most {LARGEST:,} bytes"}, 413)
    return await run_in_threadpool(_explained(_store), body)


def _store(body: bytes) -> Response:
    try:
        batch = Batch.model_validate(json.loads(body))
    except (ValueError, RecursionError) as error:  # pydantic's errors are ValueErrors
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise _Refusal(f"this is no batch of decisions: {one_line(what)}", 400) from None
    stored, refused = store(open_review(_audit(batch.audit)), batch)
    return _told({"stored": stored, "refused": refused})
