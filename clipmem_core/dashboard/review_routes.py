"""What the pages of pairs ask of the server without a run of their script: the queue, pairs, pictures, and decisions.

A key press must not wait for a run of Streamlit's. The page keeps what was pressed, sends it here in batches, and is
told what was stored. All of it answers to the page's own origin alone; which hosts are answered is the middleware's.
"""

import functools
import json
import math
import threading
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import streamlit as st
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from clipmem_core.audits.store import MEMBERSHIP, PAIRS, Audit, audits_folder, is_name
from clipmem_core.columns import IMAGE, MISFIT, REVIEW_PLACE
from clipmem_core.config import InputError
from clipmem_core.dashboard.errors import one_line
from clipmem_core.dashboard.numbers import number
from clipmem_core.dashboard.thumbnails import FULL_SIDE, SIDE, WORKERS, large_picture, thumbnail
from clipmem_core.review.batches import Told, store
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.decisions import Codes, decided, open_review
from clipmem_core.review.review_queue import changed_rows, decided_rows, queue_rows
from clipmem_core.review.rows import audit_root
from clipmem_core.review.score_breakdown import QUALITY, suggested_captions
from clipmem_core.review.selection import RANDOM, Selection, from_parameters
from clipmem_core.review.tables import caption_keys, fetch_numbered, find_row, kept
from clipmem_core.review.wrong_captions import drawn_at_random, wrong_words
from clipmem_core.scores.registry import words

PREFIX = "api/review"  # below the address of the app; none of Streamlit's own begins so
AT_ONCE = 100  # pairs of one answer, and events of one batch
MANY = 1000  # further pairs of one event
LARGEST = 8_000_000  # bytes of a batch
SIDES = {"small": SIDE, "full": FULL_SIDE}  # pixels of a picture, by what is asked for
KEY = r"^\d{1,19}$"  # of captions
CLIENT = r"^[0-9a-z]{8,64}$"
CLOSED = {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"}
KEPT = {"Cache-Control": "private, max-age=600", "Cross-Origin-Resource-Policy": "same-origin"}
JSON = "application/json"
_few_pictures = threading.BoundedSemaphore(WORKERS)
_one_search = threading.Lock()  # a search goes through all captions: the next one waits, and pictures go on


Number = Annotated[int, Field(strict=True, ge=1, lt=2**53)]  # a client's own, of its events


class _Event(BaseModel):
    """One event as a browser sends it; a key has more digits than its numbers."""

    number: Number
    kind: str
    pair_id: str = ""
    judged: str = Field("0", pattern=KEY)
    captions: tuple[str, ...] = ()
    undoes: tuple[Annotated[str, Field(pattern=CLIENT)], Number] = ("", 0)
    others: tuple[tuple[str, Annotated[str, Field(pattern=KEY)]], ...] = Field((), max_length=MANY)
    tag: str = ""
    seen: tuple[str, ...] | None = None


class _Batch(BaseModel):
    audit: str
    client: str = Field(pattern=CLIENT)
    events: list[_Event] = Field(min_length=1, max_length=AT_ONCE)


class _Refusal(Exception):
    """A request that is not answered: why, and the status that says so."""

    def __init__(self, why: str, status: int) -> None:
        super().__init__(why)
        self.status = status


def routes() -> list[BaseRoute]:
    """Return what the server answers below `PREFIX`."""
    base = st.get_option("server.baseUrlPath").strip("/")
    path = f"/{base}/{PREFIX}" if base else f"/{PREFIX}"
    answers: dict[str, Callable[[Request], Response]] = {
        "queue": answer_queue,
        "changes": answer_changes,
        "pairs": answer_pairs,
        "picture": answer_picture,
        "suggestions": answer_suggestions,
    }
    own = [Route(f"/{name}", explained(answer), methods=["GET"]) for name, answer in answers.items()]
    own.append(Route("/events", take_events, methods=["POST"]))
    return [Mount(path, routes=own)]


def explained(answer: Callable[..., Response]) -> Callable[..., Response]:
    """Answer what goes wrong in one line; Starlette runs what is no coroutine in a thread.

    A `_Refusal` is about the request and final. An `InputError` is about our files: 503, the client tries again.
    """

    @functools.wraps(answer)
    def answered(*given: Any) -> Response:
        try:
            return answer(*given)
        except _Refusal as refusal:
            return _told(str(refusal), refusal.status)
        except InputError as error:
            return _told(one_line(error), 503)

    return answered


def _told(why: str, status: int) -> Response:
    return JSONResponse({"error": why}, status, CLOSED)


def _audit(name: str) -> Audit:
    audit = Audit(audits_folder() / name) if is_name(name) else None
    if audit is None or not audit.finished:
        raise _Refusal("there is no such audit any more", 404)
    return audit


def _asked(request: Request) -> tuple[Audit, Selection]:
    parameters = dict(request.query_params)
    return _audit(parameters.get("audit", "")), from_parameters(parameters)[0]


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if len(parts) > AT_ONCE or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise _Refusal(f"a list of at most {AT_ONCE} numbers is wanted", 400)
    return [int(part) for part in parts]


def _row(request: Request) -> int:
    return _numbers(request.query_params.get("row", ""))[0]


def answer_queue(request: Request) -> Response:
    """Answer with the rows in the order in which they are judged, the one to begin with, and all that is decided."""
    audit, selection = _asked(request)
    entry, stands = decided_rows(audit)
    first = find_row(audit, request.query_params.get("pair", ""))
    told = {"rows": queue_rows(audit, selection), "first": first, "status": _status(audit, decided(audit))}
    return JSONResponse({"entry": entry, "decided": stands, **told}, headers=CLOSED)


def answer_changes(request: Request) -> Response:
    """Answer with what anybody decided after an entry of the log."""
    audit, _ = _asked(request)
    entry, stands = changed_rows(audit, _numbers(request.query_params.get("entry", ""))[0])
    told = {"entry": entry, "decided": stands, "status": _status(audit, decided(audit))}
    return JSONResponse(told, headers=CLOSED)


@functools.lru_cache(16)
def _status(audit: Audit, now: Codes) -> str:
    """Return how many captions were found wrong until now and what is left; what is likely before."""
    return wrong_words(audit)[0]


def answer_pairs(request: Request) -> Response:
    """Answer with what is shown of some rows. Whether a pair was planted is not: that is for after the judging."""
    audit, selection = _asked(request)
    found = cards(audit, _numbers(request.query_params.get("rows", "")), selection)
    keys = caption_keys(audit.folder / PAIRS, [card.pair_id for card in found])
    checked = selection.order == RANDOM
    drawn = drawn_at_random(audit) if selection.order == REVIEW_PLACE else frozenset()
    order = MISFIT if checked or selection.order == REVIEW_PLACE else selection.order
    told = [_pair(card, str(keys.get(card.pair_id, 0)), order, checked or card.row in drawn) for card in found]
    return JSONResponse(told, headers=CLOSED)


def _pair(card: PairCard, judged: str, order: str, at_random: bool) -> dict[str, Any]:
    score = card.match if card.match is not None else card.scores.get(order)
    said = card.decision
    return {
        "row": card.row,
        "pair_id": card.pair_id,
        "judged": judged,
        "captions": card.captions,
        "label": card.label or "",
        "score": f"{words(order)} {number(score)}{' · random spot check' if at_random else ''}",
        "decision": said.decision if said else None,
        "recaptioned": said.captions if said else (),
        "note": said.note if said else "",
    }


def answer_picture(request: Request) -> Response:
    """Answer with a row's picture, or with a grey square and in a header why not. A size may be asked for."""
    audit, _ = _asked(request)
    row = _row(request)
    found = fetch_numbered(audit.folder / PAIRS, [f'"{IMAGE}"'], [row])
    if row not in found:
        raise InputError(f"audit {audit.name!r} has no row {row}")
    with _few_pictures:
        root, (image,) = audit_root(audit), found[row]
        side = next((side for name, side in SIDES.items() if name in request.query_params), 0)
        jpeg, fault = thumbnail(root, image, side=side) if side else large_picture(root, image)[::2]
    headers = CLOSED | {"X-Fault": quote(one_line(fault))} if fault else KEPT
    return Response(jpeg, media_type="image/jpeg", headers=headers)


def answer_suggestions(request: Request) -> Response:
    """Answer with captions of other pairs that members which never saw a row's pair suggest for it.

    An audit need not have what that takes, so a search that cannot be made is an answer too.
    """
    audit, _ = _asked(request)
    row = _row(request)
    with _one_search:
        try:
            found = _suggestions(audit, row)
        except InputError as error:
            found = {"fault": one_line(error), "choices": []}
    return JSONResponse(found, headers=CLOSED)


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
        return _told("decisions are taken from this dashboard's own pages alone", 403)
    if request.headers.get("content-type", "").split(";")[0].strip() != JSON:
        return _told(f"decisions are sent as {JSON}", 415)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST:
            return _told(f"a batch has at most {LARGEST:,} bytes", 413)
    return await run_in_threadpool(explained(_store), body)


def _store(body: bytes) -> Response:
    try:
        batch = _Batch.model_validate(json.loads(body))
    except (ValueError, RecursionError) as error:  # pydantic's errors are ValueErrors
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise _Refusal(f"this is no batch of decisions: {one_line(what)}", 400) from None
    audit = _audit(batch.audit)
    events = [
        Told(
            **event.model_dump(exclude={"judged", "others"}),
            judged=int(event.judged),
            others=tuple((pair_id, int(judged)) for pair_id, judged in event.others),
        )
        for event in batch.events
    ]
    receipt = store(open_review(audit), batch.client, events, audit=audit.name)
    return JSONResponse({"stored": receipt.stored, "refused": receipt.refused}, headers=CLOSED)
