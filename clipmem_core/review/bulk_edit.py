"""Decisions on many pairs at once: batches of events from a browser, find and replace, and changes
in words."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from sqlite3 import Connection
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field

from clipmem_core.audit.store import PAIRS, Audit
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.io import InputError
from clipmem_core.review import log as events
from clipmem_core.review.decisions import (
    Edit,
    Review,
    captions_to_store,
    current_decision,
    open_review,
)
from clipmem_core.review.queries import caption_keys, fetch_pairs

UNDO = "undo"
UNDECIDE = "undecide"
# in a batch, in an event
MOST_EVENTS = 100
MOST_PAIRS = 100_000

CONTEXT = 4  # words on each side of a change

Number = Annotated[int, Field(strict=True, ge=1, lt=2**53)]  # of an event, counted by the client
Client = Annotated[str, Field(pattern=r"^[0-9a-z]{8,64}$")]  # id of one page of one browser
Key = Annotated[int, Field(ge=0, lt=2**63)]  # a caption key


class Event(BaseModel):
    """A decision on pairs with the captions on screen, for all of them or none, or the undo of an
    earlier event."""

    number: Number
    kind: str  # keep | remove | recaption | undecide | undo
    pair_id: str = ""
    caption_key: Key = 0  # of the captions on screen
    others: Annotated[
        tuple[tuple[str, Key], ...], Field(max_length=MOST_PAIRS)
    ] = ()  # more pairs and caption keys
    captions: tuple[str, ...] = ()  # the new captions of a recaption
    undoes: tuple[Client, Number] | Number | None = (
        None  # an event of a browser, or a number of the log
    )
    expected: tuple[str, ...] | None = (
        None  # decision and captions on screen, see `current_decision`; None: any
    )

    @property
    def pairs(self) -> dict[str, int]:
        """The pairs and their caption keys, each pair once."""
        return {self.pair_id: self.caption_key} | dict(self.others)


class Batch(BaseModel):
    """Events of a client on the pairs of an audit, in the order of their numbers."""

    audit: str
    client: Client
    events: Annotated[list[Event], Field(min_length=1, max_length=MOST_EVENTS)]


def store(review: Review, batch: Batch) -> tuple[int, dict[int, str]]:
    """Store a batch in one transaction, each event once; return the last number, and the reasons of
    refused events."""
    ids = {pair_id for event in batch.events if event.kind != UNDO for pair_id in event.pairs}
    keys = caption_keys(review.pairs, ids) if review.pairs is not None and ids else {}
    numbers = [event.number for event in batch.events]
    with events.writing(review.path) as log:
        outcomes = events.stored_outcomes(log, batch.client, numbers)
        for event in batch.events:
            if event.number not in outcomes:
                outcomes[event.number] = added, reason = _add(log, event, keys, batch.audit)
                events.add_outcome(log, batch.client, event.number, event=added, refused=reason)
    return max(numbers), {number: reason for number in numbers if (reason := outcomes[number][1])}


def _add(log: Connection, event: Event, keys: dict[str, int], audit: str) -> tuple[int, str]:
    """Add an event to the log; return its number there, or 0 and the reason of a refusal."""
    if event.kind == UNDO:
        undone = event.undoes or 0
        if isinstance(undone, tuple):
            client, number = undone
            undone, _ = events.stored_outcomes(log, client, [number]).get(number, (0, ""))
        if not 1 <= undone <= events.count_rows(log, "event"):
            return 0, "the event to undo was not stored"
        added, *_ = events.add_undo(log, undone)
        return added, "" if added else "there is a newer decision, or it is undone already"
    if not all(pair_id in keys for pair_id in event.pairs):
        return 0, "the audit has no such pair"
    if any(keys[pair_id] != key for pair_id, key in event.pairs.items()):
        return 0, "the captions of the pair have changed since it was shown: reload the page"
    decision = None if event.kind == UNDECIDE else event.kind
    try:
        captions = captions_to_store(decision, event.captions)
    except InputError as error:
        return 0, str(error)
    if event.expected is not None:
        current = current_decision(log, event.pair_id, event.caption_key)
        if current != event.expected:
            seen, now = ((each or ("",))[0] or "undecided" for each in (event.expected, current))
            what = (
                "its captions were just changed"
                if now == seen
                else f"just marked {now.capitalize()}"
            )
            return 0, f"{what} in another tab"
    return events.add_decision(log, event.pairs.items(), audit, decision, captions)[0], ""


class Changes(NamedTuple):
    """The preview of find and replace."""

    edits: dict[str, Edit]  # by pair_id
    captions: list[tuple[str, str, str]]  # pair_id, before and after of each caption that changes
    emptied: int  # captions that stay, since they would be empty
    removed: int  # pairs that stay, since they are marked for removal


def preview(
    audit: Audit, pair_ids: Sequence[str], find: str, replacement: str, *, match_case: bool = True
) -> Changes:
    """Find and replace a text in the current captions of pairs, which include new captions; store
    nothing."""
    pattern = re.compile(re.escape(find), 0 if match_case else re.IGNORECASE)
    table = fetch_pairs(audit.folder / PAIRS, [CAPTIONS], pair_ids)
    stored = dict(zip(table[PAIR_ID].to_pylist(), table[CAPTIONS].to_pylist(), strict=True))
    decisions = open_review(audit).decisions(pair_ids)
    edits = dict[str, Edit]()
    captions = list[tuple[str, str, str]]()
    emptied = 0
    removed = 0
    for pair_id in (pair_id for pair_id in pair_ids if pair_id in stored):
        decision = decisions.get(pair_id)
        kind = decision.decision if decision else None
        if kind == events.REMOVE:
            removed += 1
            continue
        texts = (decision.captions if decision else ()) or tuple(stored[pair_id])
        after = []
        for text in texts:
            new, count = pattern.subn(lambda match: replacement, text)
            new = " ".join(new.split()) if count else text
            emptied += not new
            after.append(new or text)
        changed = [
            (pair_id, *both) for both in zip(texts, after, strict=True) if both[0] != both[1]
        ]
        if changed:
            edits[pair_id] = Edit(tuple(after), decision.entry if decision else 0)
            captions += changed
    return Changes(edits, captions, emptied, removed)


def word_changes(old: Any, new: Any) -> str:
    """Say which words and captions were changed, with the words around them; empty without old or
    new captions.

    Example:
        >>> word_changes(["a red house", "a dog"], ["a blue house"])
        'a [red → blue] house (caption 1); removed: a dog (caption 2)'
    """
    if not isinstance(old, list) or not new:
        return ""
    changes = []
    for _, start, stop, first, last in SequenceMatcher(
        None, old, new, autojunk=False
    ).get_opcodes():
        for place, before, after in zip_longest(
            range(start, stop), old[start:stop], new[first:last]
        ):
            if before is None:
                changes.append(f"added: {after}")
            elif after is None:
                changes.append(f"removed: {before} (caption {place + 1})")
            elif before != after:
                changes.append(
                    f"{_marked_words(before.split(), after.split())} (caption {place + 1})"
                )
    return "; ".join(changes)


def _marked_words(old: list[str], new: list[str]) -> str:
    parts = []
    for tag, start, stop, first, last in SequenceMatcher(
        None, old, new, autojunk=False
    ).get_opcodes():
        words = old[start:stop]
        if tag != "equal":
            parts.append(f"[{' '.join(words) or '–'} → {' '.join(new[first:last]) or '–'}]")
        elif len(words) > 2 * CONTEXT:
            parts += [*words[:CONTEXT], "…", *words[-CONTEXT:]]
        else:
            parts += words
    return " ".join(parts)
