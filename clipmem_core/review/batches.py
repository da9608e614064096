"""Decisions that a browser tells in batches: stored in its order, each once however often it is sent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from sqlite3 import Connection

from clipmem_core.config import InputError
from clipmem_core.review.decisions import Review, captions_to_store
from clipmem_core.review.log import add_decision, add_told, add_undo, told_before, writing
from clipmem_core.review.tables import caption_keys

UNDO = "undo"


@dataclass(frozen=True)
class Told:
    """A decision on a pair, on the captions that were on screen, or the undoing of one that was told before."""

    number: int  # the client's own, from 1
    kind: str  # keep | remove | recaption | undo
    pair_id: str = ""
    judged: int = 0  # the key of the captions that were on screen
    captions: tuple[str, ...] = ()  # the new ones of a recaption
    undoes: tuple[str, int] = ("", 0)  # client and number of what an undo takes back


@dataclass(frozen=True)
class Receipt:
    """What became of a batch: all up to the number `stored` is answered, and some of it was refused, with why."""

    stored: int
    refused: dict[int, str]


def store(review: Review, client: str, batch: Sequence[Told], *, audit: str) -> Receipt:
    """Store what a client tells, in its order and in one transaction; what it told before is not stored again.

    Args:
        review: the decisions on the data set.
        client: names one page of one browser.
        batch: at least one, by rising number.
        audit: the name of the audit that was looked at.

    Returns:
        What was refused, now or when it was told first: a decision on captions that the pair does not have, on no
        pair of the audit, without the captions that it needs; an undo of what does not stand any more.

    Raises:
        InputError: the log cannot be written; nothing of the batch is stored then.
    """
    ids = {told.pair_id for told in batch if told.kind != UNDO}
    keys = caption_keys(review.pairs, ids) if review.pairs is not None and ids else {}
    refused: dict[int, str] = {}
    with writing(review.path) as log:
        known = told_before(log, client, [told.number for told in batch])
        for told in batch:
            if told.number not in known:
                known[told.number] = event, why = _add(log, told, keys, audit)
                add_told(log, client, told.number, event=event, refused=why)
            if why := known[told.number][1]:
                refused[told.number] = why
    return Receipt(max(told.number for told in batch), refused)


def _add(log: Connection, told: Told, keys: dict[str, int], audit: str) -> tuple[int, str]:
    """Return the event that was added, or 0 and why there is none."""
    if told.kind == UNDO:
        return _undo(log, *told.undoes)
    if why := _fault(told, keys):
        return 0, why
    texts = captions_to_store(told.kind, told.captions)
    pair = [(told.pair_id, told.judged)]
    return add_decision(log, pair, audit=audit, decision=told.kind, captions=texts, note=None).event, ""


def _fault(told: Told, keys: dict[str, int]) -> str:
    """Return why a decision cannot be stored; empty where it can."""
    if told.pair_id not in keys:
        return "the audit has no such pair"
    if keys[told.pair_id] != told.judged:
        return "the pair has other captions than those that were judged: look at it again"
    try:
        captions_to_store(told.kind, told.captions)
    except InputError as error:
        return str(error)
    return "" if _are_sound(told.captions) else "a caption has half a character, which no file can hold: take it out"


def _are_sound(captions: Iterable[str]) -> bool:
    try:
        "".join(captions).encode()
    except UnicodeEncodeError:
        return False
    return True


def _undo(log: Connection, client: str, number: int) -> tuple[int, str]:
    event, _ = told_before(log, client, [number]).get(number, (0, ""))
    if not event:
        return 0, "what it undoes was not stored"
    added, _ = add_undo(log, event)
    return (added.event, "") if added else (0, "somebody has decided anew since, or it is undone already")
