"""Decisions and tags that a browser tells in batches: stored in its order, each once however often it is sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from sqlite3 import Connection

from clipmem_core.config import InputError
from clipmem_core.review.decisions import Review, captions_to_store, standing
from clipmem_core.review.log import add_decision, add_told, add_undo, told_before, writing
from clipmem_core.review.tables import caption_keys
from clipmem_core.review.tags import TAG, UNTAG, add_tag, tag_fault

UNDO, UNDECIDE = "undo", "undecide"


@dataclass(frozen=True)
class Told:
    """A decision on pairs, on the captions that were on screen, or the undoing of one that was told before; or a tag.

    It is on all of its pairs or, where one of them speaks against it, on none.
    """

    number: int  # the client's own, from 1
    kind: str  # keep | remove | recaption | undecide | undo | tag | untag
    pair_id: str = ""
    judged: int = 0  # the key of the captions that were on screen
    captions: tuple[str, ...] = ()  # the new ones of a recaption
    undoes: tuple[str, int] = ("", 0)  # client and number of what an undo takes back
    others: tuple[tuple[str, int], ...] = ()  # further pairs, each with the key of its captions
    tag: str = ""  # the word to put on the pairs, or to take off
    seen: tuple[str, ...] | None = None  # what the client saw decided, see `standing`; None takes whatever stands

    @property
    def pairs(self) -> dict[str, int]:
        """Return the pairs and the keys of their captions, each pair once."""
        return {self.pair_id: self.judged} | dict(self.others)


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
        pair of the audit, without the captions that it needs, or where another one stands than the client saw; an undo
        of what does not stand any more.

    Raises:
        InputError: the log cannot be written; nothing of the batch is stored then.
    """
    ids = {pair_id for told in batch if told.kind != UNDO for pair_id in told.pairs}
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
    """Return the event that was added, or 0 and why there is none; a tag is none."""
    if told.kind == UNDO:
        return _undo(log, *told.undoes)
    if why := _fault(told, keys) or _overtaken(log, told):
        return 0, why
    if told.kind in (TAG, UNTAG):
        add_tag(log, told.pairs, told.tag, on=told.kind == TAG)
        return 0, ""
    decision = _decision(told)
    texts = captions_to_store(decision, told.captions)
    return add_decision(log, told.pairs.items(), audit=audit, decision=decision, captions=texts, note=None).event, ""


def _decision(told: Told) -> str | None:
    return None if told.kind == UNDECIDE else told.kind


def _fault(told: Told, keys: dict[str, int]) -> str:
    """Return why a decision or a tag cannot be stored; empty where it can."""
    if not all(pair_id in keys for pair_id in told.pairs):
        return "the audit has no such pair"
    if told.kind in (TAG, UNTAG):
        return tag_fault(told.tag)
    if any(keys[pair_id] != judged for pair_id, judged in told.pairs.items()):
        return "the pair has other captions than those that were judged: look at it again"
    try:
        captions_to_store(_decision(told), told.captions)
    except InputError as error:
        return str(error)
    return ""


def _overtaken(log: Connection, told: Told) -> str:
    """Return what was decided on the pair since the client saw it; empty where nothing was."""
    if told.seen is None or (stands := standing(log, told.pair_id, told.judged)) == told.seen:
        return ""
    return f"just marked {(stands or ('undecided',))[0].capitalize()} in another tab"


def _undo(log: Connection, client: str, number: int) -> tuple[int, str]:
    event, _ = told_before(log, client, [number]).get(number, (0, ""))
    if not event:
        return 0, "what it undoes was not stored"
    added, _ = add_undo(log, event)
    return (added.event, "") if added else (0, "somebody has decided anew since, or it is undone already")
