"""Decisions on many pairs at once: the batches that a browser sends, and find and replace in captions."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Annotated

import pyarrow as pa
import regex
from pydantic import BaseModel, Field

from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.config import InputError
from clipmem_core.review.decisions import (
    RECAPTION,
    REMOVE,
    Edit,
    Outcome,
    Review,
    captions_to_store,
    open_review,
    standing,
)
from clipmem_core.review.log import (
    TAG,
    UNTAG,
    add_decision,
    add_outcome,
    add_tag,
    add_undo,
    stored_outcomes,
    tag_fault,
    writing,
)
from clipmem_core.review.tables import caption_keys, fetch_columns

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
    """
    ids = {pair_id for event in batch.events if event.kind != UNDO for pair_id in event.pairs}
    keys = caption_keys(review.pairs, ids) if review.pairs is not None and ids else {}
    numbers = [event.number for event in batch.events]
    with writing(review.path) as log:
        known = stored_outcomes(log, batch.client, numbers)
        for event in batch.events:
            if event.number not in known:
                known[event.number] = added, why = _add(log, event, keys, batch.audit)
                add_outcome(log, batch.client, event.number, event=added, refused=why)
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
    undone, _ = stored_outcomes(log, client, [number]).get(number, (0, ""))
    if not undone:
        return 0, "what it undoes was not stored"
    added, _ = add_undo(log, undone)
    return (added.event, "") if added else (0, "somebody has decided anew since, or it is undone already")


SECONDS = 5.0  # that a pattern may take on all captions together
LONGEST = 5_000  # characters of a caption that it may grow to


@dataclass(frozen=True)
class Rule:
    """What is looked for and what comes in its place.

    Of a regular expression `replace` may name groups, \\1 or \\g<name>; otherwise both are taken as they are.
    """

    find: str
    replace: str = ""
    regular: bool = False
    match_case: bool = True


@dataclass(frozen=True)
class Change:
    """The captions of one pair as they stand and as they would be, and the pair's entry of the log then."""

    pair_id: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    entry: int

    @property
    def captions(self) -> list[tuple[str, str]]:
        """Those that change, before and after."""
        return [(old, new) for old, new in zip(self.before, self.after, strict=True) if old != new]


@dataclass(frozen=True)
class Changes:
    """What a rule would do. Pairs that are to be removed are not looked at."""

    pairs: tuple[Change, ...]
    emptied: int  # captions that would have nothing left, and stay as they are
    removed: int  # pairs that are to be removed

    @property
    def captions(self) -> int:
        """How many captions change."""
        return sum(len(change.captions) for change in self.pairs)


def preview(audit: Audit, pair_ids: Sequence[str], rule: Rule) -> Changes:
    """Return what a rule changes in the captions of pairs as they stand: the new ones where a pair was recaptioned."""
    replaced = _replacing(rule)
    own, stands = _own_captions(audit, pair_ids), open_review(audit).decisions(list(pair_ids))
    changes, emptied, removed = [], 0, 0
    for pair_id, captions in own.items():
        decision = stands.get(pair_id)
        if decision is not None and decision.decision == REMOVE:
            removed += 1
            continue
        before = decision.captions if decision is not None and decision.decision == RECAPTION else captions
        wanted = tuple(map(replaced, before))
        emptied += sum(not new.strip() for new in wanted)
        after = tuple(new if new.strip() else old for old, new in zip(before, wanted, strict=True))
        if after != before:
            changes.append(Change(pair_id, before, after, decision.entry if decision else 0))
    return Changes(tuple(changes), emptied, removed)


def store_changes(audit: Audit, changes: Changes) -> Outcome:
    """Store changes as one event, which is undone as one; pairs that were decided on since the preview stay.

    It does not count as a judgement of the captions: what people found is estimated without it.
    """
    edits = {change.pair_id: Edit(change.after, change.entry) for change in changes.pairs}
    return open_review(audit).edit(edits, audit=audit.name, apart=True)


def _own_captions(audit: Audit, pair_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    asked = pa.table({"asked": pa.array(list(pair_ids), pa.string())})
    query = f'SELECT "{PAIR_ID}", {CAPTIONS} FROM parquet SEMI JOIN asked ON "{PAIR_ID}" = asked.asked'
    found = fetch_columns(audit.folder / PAIRS, query, asked=asked)
    known = {pair_id: tuple(map(str, own)) for pair_id, own in zip(found[PAIR_ID], found[CAPTIONS], strict=True)}
    return {pair_id: known[pair_id] for pair_id in pair_ids if pair_id in known}


def _replacing(rule: Rule) -> Callable[[str], str]:
    """Return what replaces in a text, and takes no more than `SECONDS` for all of them."""
    if not rule.find:
        raise InputError("there is nothing to find: write what is to be replaced")
    try:
        pattern = regex.compile(
            rule.find if rule.regular else regex.escape(rule.find), 0 if rule.match_case else regex.IGNORECASE
        )
    except regex.error as error:
        raise InputError(f"the pattern cannot be read: {error}") from None
    template = rule.replace if rule.regular else lambda found: rule.replace
    ends = time.monotonic() + SECONDS

    def replaced(text: str) -> str:
        try:
            new = str(pattern.sub(template, text, timeout=max(1e-3, ends - time.monotonic())))
        except TimeoutError:
            raise InputError(f"the pattern takes longer than {SECONDS:g} seconds: write it more simply") from None
        except (regex.error, IndexError) as error:
            raise InputError(f"what comes in its place cannot be read: {error}") from None
        if len(new) > max(LONGEST, len(text)):
            raise InputError(f"a caption would become longer than {LONGEST:,} characters: find less, or put in less")
        return text if new == text else " ".join(new.split())

    return replaced
