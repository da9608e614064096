"""Decisions and tags that a browser sends in batches: stored in its order, each once however often it is sent."""

from sqlite3 import Connection
from typing import Annotated

from pydantic import BaseModel, Field

from clipmem_core.config import InputError
from clipmem_core.review.decisions import Review, captions_to_store, standing
from clipmem_core.review.log import add_decision, add_told, add_undo, told_before, writing
from clipmem_core.review.tables import caption_keys
from clipmem_core.review.tags import TAG, UNTAG, add_tag, tag_fault

UNDO, UNDECIDE = "undo", "undecide"
MOST_EVENTS, MOST_PAIRS = 100, 100_000  # of a batch, of an event

Number = Annotated[int, Field(strict=True, ge=1, lt=2**53)]  # a client's own, of its events
Client = Annotated[str, Field(pattern=r"^[0-9a-z]{8,64}$")]  # one page of one browser
Key = Annotated[int, Field(ge=0, lt=2**63)]  # of captions


class Event(BaseModel):
    """A decision on pairs with the captions that were on screen, the undo of an earlier event, or a tag.

    It is on all of its pairs or, where it is refused for one of them, on none.
    """

    number: Number
    kind: str  # keep | remove | recaption | undecide | undo | tag | untag
    pair_id: str = ""
    judged: Key = 0  # the key of the captions that were on screen
    others: Annotated[tuple[tuple[str, Key], ...], Field(max_length=MOST_PAIRS)] = ()  # further pairs and their keys
    captions: tuple[str, ...] = ()  # the new ones of a recaption
    undoes: tuple[Client, Number] | None = None
    tag: str = ""
    seen: tuple[str, ...] | None = None  # the decision that the client knew of, see `standing`; None replaces any

    @property
    def pairs(self) -> dict[str, int]:
        """Return the pairs and the keys of their captions, each pair once."""
        return {self.pair_id: self.judged} | dict(self.others)

    @property
    def decision(self) -> str | None:
        """Return the decision, None for undecided."""
        return None if self.kind == UNDECIDE else self.kind


class Batch(BaseModel):
    """Events of a client on the pairs of an audit, by rising number."""

    audit: str
    client: Client
    events: Annotated[list[Event], Field(min_length=1, max_length=MOST_EVENTS)]


def store(review: Review, batch: Batch) -> tuple[int, dict[int, str]]:
    """Store a batch in one transaction; an event that came before is not stored again.

    Returns:
        The last number, and by number why an event is refused, now or when it came first: a decision on captions that
        the pair does not have, on no pair of the audit, without the captions that it needs, or where another decision
        stands than the client saw; an undo of an event that does not stand.

    Raises:
        InputError: the log cannot be written; nothing of the batch is stored then.
    """
    ids = {pair_id for event in batch.events if event.kind != UNDO for pair_id in event.pairs}
    keys = caption_keys(review.pairs, ids) if review.pairs is not None and ids else {}
    numbers = [event.number for event in batch.events]
    with writing(review.path) as log:
        known = told_before(log, batch.client, numbers)
        for event in batch.events:
            if event.number not in known:
                known[event.number] = added, why = _add(log, event, keys, batch.audit)
                add_told(log, batch.client, event.number, event=added, refused=why)
    return max(numbers), {number: why for number in numbers if (why := known[number][1])}


def _add(log: Connection, event: Event, keys: dict[str, int], audit: str) -> tuple[int, str]:
    """Return the number in the log of the event that was added; 0 for a tag, and where it is refused, with why."""
    if event.kind == UNDO:
        return _undo(log, event)
    if not all(pair_id in keys for pair_id in event.pairs):
        return 0, "the audit has no such pair"
    if event.kind in (TAG, UNTAG):
        if not (why := tag_fault(event.tag)):
            add_tag(log, event.pairs, event.tag, on=event.kind == TAG)
        return 0, why
    if any(keys[pair_id] != judged for pair_id, judged in event.pairs.items()):
        return 0, "the pair has other captions than those that were judged: look at it again"
    try:
        captions = captions_to_store(event.decision, event.captions)
    except InputError as error:
        return 0, str(error)
    if event.seen is not None and (stands := standing(log, event.pair_id, event.judged)) != event.seen:
        return 0, f"just marked {(stands or ('undecided',))[0].capitalize()} in another tab"
    pairs = event.pairs.items()
    return add_decision(log, pairs, audit=audit, decision=event.decision, captions=captions, note=None).event, ""


def _undo(log: Connection, event: Event) -> tuple[int, str]:
    client, number = event.undoes or ("", 0)
    undone, _ = told_before(log, client, [number]).get(number, (0, ""))
    if not undone:
        return 0, "what it undoes was not stored"
    added, _ = add_undo(log, undone)
    return (added.event, "") if added else (0, "somebody has decided anew since, or it is undone already")
