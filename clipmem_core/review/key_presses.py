"""Stores the key presses and clicks of Review and Browse as decisions.

The browser numbers its events and sends them in batches. It repeats a batch until the server has
answered, so each event is stored once by its number. An event names the captions that were on
screen. It is refused with a reason if the pair has other captions by now, or another decision than
the browser expects.
"""

from sqlite3 import Connection
from typing import Annotated

from pydantic import BaseModel, Field

from clipmem_core.review.decisions import RECAPTION, Review, checked
from clipmem_core.review.log import (
    Choice,
    add_decision,
    add_outcome,
    add_undo,
    last_id,
    open_to_write,
    stored_outcomes,
)
from clipmem_core.review.queries import fetch_by_id
from clipmem_core.utils.columns import CAPTIONS
from clipmem_core.utils.io import InputError

# kinds besides the decisions
UNDO = "undo"
UNDECIDE = "undecide"
SWAP = "swap"
MOST_EVENTS = 100  # in a batch
_MOST_PAIRS = 100_000  # in an event
Number = Annotated[int, Field(strict=True, ge=1, lt=2**53)]  # of an event, counted by the client
Client = Annotated[str, Field(pattern=r"^[0-9a-z]{8,64}$")]  # id of one page of one browser
Key = Annotated[int, Field(ge=0, lt=2**63)]  # a caption key
PairKeys = Annotated[tuple[tuple[str, Key], ...], Field(max_length=_MOST_PAIRS)]


class KeyPress(BaseModel):
    """A decision on pairs with the captions on screen, for all of them or none, the swap of the
    captions of two undecided pairs, or the undo of an earlier event."""

    number: Number
    kind: str  # keep | remove | recaption | undecide | swap | undo
    pair_id: str = ""
    caption_key: Key = 0  # of the captions on screen
    others: PairKeys = ()  # more pairs and caption keys
    captions: tuple[str, ...] = ()  # the new captions of a recaption
    # an event of a browser, or a number of the log
    undoes: tuple[Client, Number] | Number | None = None
    # decision ("" if undecided) and new captions on screen, empty without both; None: any
    expected: tuple[str, ...] | None = None

    @property
    def pairs(self) -> dict[str, int]:
        """The pairs and their caption keys, each pair once."""
        return {self.pair_id: self.caption_key} | dict(self.others)


class KeyPresses(BaseModel):
    """A batch of events of a client on the pairs of an audit, in the order of their numbers."""

    audit: str
    client: Client
    events: Annotated[list[KeyPress], Field(min_length=1, max_length=MOST_EVENTS)]


def store_key_presses(review: Review, batch: KeyPresses) -> tuple[int, dict[int, str]]:
    """Store a batch in one transaction, each event once; return the last number, and the reasons of
    refused events."""
    ids = {pair_id for event in batch.events for pair_id in event.pairs}
    keys = review.with_keys(ids)
    numbers = [event.number for event in batch.events]
    with open_to_write(review.path) as log:
        outcomes = stored_outcomes(log, batch.client, numbers)
        for event in batch.events:
            if event.number not in outcomes:
                try:
                    outcome = _store_key_press(review, log, event, keys, batch.audit), ""
                except InputError as error:
                    outcome = 0, str(error)
                outcomes[event.number] = outcome
                add_outcome(log, batch.client, event.number, outcome)
    return max(numbers), {number: reason for number in numbers if (reason := outcomes[number][1])}


def _store_key_press(
    review: Review, log: Connection, event: KeyPress, keys: dict[str, int], audit: str
) -> int:
    """Add an event to the log and return its number there; an input error is a refusal."""
    if event.kind == UNDO:
        undone = event.undoes or 0
        if isinstance(undone, tuple):
            client, number = undone
            undone, _ = stored_outcomes(log, client, [number]).get(number, (0, ""))
        if not 1 <= undone <= last_id(log, "event"):
            raise InputError("the event to undo was not stored")
        added = add_undo(log, undone).event
        if not added:
            raise InputError("there is a newer decision, or it is undone already")
        return added
    if not all(keys[pair_id] for pair_id in event.pairs):
        raise InputError("the audit has no such pair")
    if any(keys[pair_id] != key for pair_id, key in event.pairs.items()):
        raise InputError(
            "the captions of the pair have changed since it was shown: reload the page"
        )
    expected = () if event.kind == SWAP else event.expected
    if expected is not None:
        for pair_id, now in review.decisions_in(log, event.pairs).items():
            state = (now.decision or "", *now.captions)
            if state != (expected or ("",)):
                raise InputError(
                    f"{pair_id} was just changed in another tab: it is "
                    f"{now.decision or 'undecided'} now"
                )
    if event.kind == SWAP:
        if len(event.pairs) != 2:
            raise InputError("a swap has two pairs")
        captions = fetch_by_id(review.pairs, CAPTIONS, event.pairs)
        own = {
            pair_id: checked(Choice(RECAPTION, tuple(captions[other])))
            for pair_id, other in zip(event.pairs, reversed(event.pairs), strict=True)
        }
        return add_decision(log, event.pairs, audit, Choice(RECAPTION), own).event
    choice = checked(Choice(None if event.kind == UNDECIDE else event.kind, event.captions))
    return add_decision(log, event.pairs, audit, choice).event
