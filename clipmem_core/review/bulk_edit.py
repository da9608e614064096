"""Decisions on many pairs at once: batches of events from a browser, and find and replace in captions."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Annotated

import regex
from pydantic import BaseModel, Field

from clipmem_core.audit.store import PAIRS, Audit
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.config import InputError
from clipmem_core.review import log as events
from clipmem_core.review.decisions import Edit, Outcome, Review, captions_to_store, current_decision, open_review
from clipmem_core.review.queries import caption_keys, fetch_pairs

UNDO, UNDECIDE = "undo", "undecide"
MOST_EVENTS, MOST_PAIRS = 100, 100_000  # in a batch, in an event
SECONDS = 5.0  # time limit of a pattern for all captions together
LONGEST = 5_000  # characters of a replaced caption

Number = Annotated[int, Field(strict=True, ge=1, lt=2**53)]  # of an event, counted by the client
Client = Annotated[str, Field(pattern=r"^[0-9a-z]{8,64}$")]  # id of one page of one browser
Key = Annotated[int, Field(ge=0, lt=2**63)]  # a caption key


class Event(BaseModel):
    """A decision on pairs with the captions on screen, or the undo of an earlier event.

    It applies to all of its pairs or, if it is refused for one of them, to none.
    """

    number: Number
    kind: str  # keep | remove | recaption | undecide | undo
    pair_id: str = ""
    caption_key: Key = 0  # of the captions on screen
    others: Annotated[tuple[tuple[str, Key], ...], Field(max_length=MOST_PAIRS)] = ()  # more pairs and caption keys
    captions: tuple[str, ...] = ()  # the new captions of a recaption
    undoes: tuple[Client, Number] | None = None
    expected: tuple[str, ...] | None = None  # the current decision on screen, see `current_decision`; None: any

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
    """Store a batch in one transaction; a repeated event is stored once.

    Returns the last number, and the reason of each refused event by its number.
    """
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
        client, number = event.undoes or ("", 0)
        undone, _ = events.stored_outcomes(log, client, [number]).get(number, (0, ""))
        if not undone:
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
            return 0, f"just marked {(current or ('undecided',))[0].capitalize()} in another tab"
    return events.add_decision(log, event.pairs.items(), audit=audit, decision=decision, captions=captions)[0], ""


@dataclass(frozen=True)
class Rule:
    """Find and replace. In the replacement of a regular expression, \\1 and \\g<name> are groups."""

    find: str
    replace: str = ""
    regular: bool = False
    match_case: bool = True


@dataclass(frozen=True)
class Change:
    """The captions of one pair before and after a rule, and the pair's entry of the log at the preview."""

    pair_id: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    entry: int

    @property
    def captions(self) -> list[tuple[str, str]]:
        """The captions that change, before and after."""
        return [(old, new) for old, new in zip(self.before, self.after, strict=True) if old != new]


@dataclass(frozen=True)
class Changes:
    """The preview of a rule."""

    pairs: tuple[Change, ...]
    emptied: int  # captions that stay, since they would be empty
    removed: int  # pairs that stay, since they are marked for removal

    @property
    def captions(self) -> int:
        """How many captions change."""
        return sum(len(change.captions) for change in self.pairs)


def preview(audit: Audit, pair_ids: Sequence[str], rule: Rule) -> Changes:
    """Apply a rule to the current captions of pairs, which include new captions, without storing anything."""
    replaced = _replacing(rule)
    table = fetch_pairs(audit.folder / PAIRS, [CAPTIONS], pair_ids)
    stored = dict(zip(table[PAIR_ID].to_pylist(), table[CAPTIONS].to_pylist(), strict=True))
    decisions = open_review(audit).decisions(pair_ids)
    changes, emptied, removed = [], 0, 0
    for pair_id in (pair_id for pair_id in pair_ids if pair_id in stored):
        decision = decisions.get(pair_id)
        kind = decision.decision if decision else None
        if kind == events.REMOVE:
            removed += 1
            continue
        before = decision.captions if decision and kind == events.RECAPTION else tuple(stored[pair_id])
        texts = tuple(map(replaced, before))
        emptied += sum(not new.strip() for new in texts)
        after = tuple(new if new.strip() else old for old, new in zip(before, texts, strict=True))
        if after != before:
            changes.append(Change(pair_id, before, after, decision.entry if decision else 0))
    return Changes(tuple(changes), emptied, removed)


def store_changes(audit: Audit, changes: Changes) -> Outcome:
    """Store a preview as one neutral event; pairs with a decision since the preview are skipped."""
    edits = {change.pair_id: Edit(change.after, change.entry) for change in changes.pairs}
    return open_review(audit).edit(edits, audit=audit.name, neutral=True)


def _replacing(rule: Rule) -> Callable[[str], str]:
    """Return a function that applies a rule to a text and takes at most `SECONDS` for all texts together."""
    if not rule.find:
        raise InputError("there is nothing to find: write what is to be replaced")
    try:
        pattern = regex.compile(
            rule.find if rule.regular else regex.escape(rule.find), 0 if rule.match_case else regex.IGNORECASE
        )
    except regex.error as error:
        raise InputError(f"the pattern cannot be read: {error}") from None
    template = rule.replace if rule.regular else lambda match: rule.replace
    deadline = time.monotonic() + SECONDS

    def replaced(text: str) -> str:
        try:
            new = str(pattern.sub(template, text, timeout=max(1e-3, deadline - time.monotonic())))
        except TimeoutError:
            raise InputError(f"the pattern takes longer than {SECONDS:g} seconds: write it more simply") from None
        except (regex.error, IndexError) as error:
            raise InputError(f"the replacement cannot be read: {error}") from None
        if len(new) > max(LONGEST, len(text)):
            raise InputError(f"a caption would become longer than {LONGEST:,} characters: shorten the replacement")
        return text if new == text else " ".join(new.split())

    return replaced
