"""The decisions on the pairs of a data set (keep, remove, recaption, a note): make, undo and read
them.

All audits of a data set share one append-only log. A decision applies to the captions that were on
screen: in an audit with other captions, for example injected errors, the pair is undecided.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from sqlite3 import Connection
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, Field

from clipmem_core.audit.store import PAIRS, SCORES, Audit, check_name
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.config import data_folder, fingerprint
from clipmem_core.dataset.readers.paths import without_surrogates
from clipmem_core.io import InputError
from clipmem_core.review import queries as t
from clipmem_core.review.log import (
    CHOICES,
    KEEP,
    RECAPTION,
    REMOVE,
    SEVERAL,
    Own,
    add_decision,
    add_outcome,
    add_undo,
    last_id,
    open_to_read,
    open_to_write,
    stored_outcomes,
    undone_events,
)
from clipmem_core.review.selection import UNDECIDED

__all__ = ["CHOICES", "KEEP", "RECAPTION", "REMOVE", "SEVERAL"]
FOR_OTHER = "for_other_captions"
_TABLE_COLUMNS = [PAIR_ID, "decision", CAPTIONS, "note", "time", "audit", FOR_OTHER]
_HISTORY_COLUMNS = ["event", "time", "audit", "kind", "decision", "pairs", "first_pair_id", "note"]
UNDECIDED_CODE = 0
CODES = {None: UNDECIDED_CODE, KEEP: 1, REMOVE: 2, RECAPTION: 3}
# kinds of browser events besides the decisions
UNDO = "undo"
UNDECIDE = "undecide"
SWAP = "swap"
MOST_EVENTS = 100  # in a batch
_MOST_PAIRS = 100_000  # in an event
# pair_id, decision, number, event, caption key and neutral of an entry of the log
Entry = tuple[str, str | None, int, int, int, int]

_DECISIONS = """
    SELECT entry.pair_id, entry.judged, coalesce(choice.decision, decision.decision),
        coalesce(edit.captions, recaption.captions, '[]'), coalesce(own_note.note, note.note, ''),
        coalesce(decision.time, event.time), coalesce(decision.audit, event.audit), entry.id,
        entry.decided
    FROM entry JOIN event ON event.id = entry.event
    LEFT JOIN event AS decision ON decision.id = entry.decided
    LEFT JOIN event AS note ON note.id = entry.noted
    LEFT JOIN event AS recaption ON recaption.id = entry.captioned
    LEFT JOIN own_captions AS choice ON (choice.event, choice.pair_id) = (decided, entry.pair_id)
    LEFT JOIN own_captions AS own_note
        ON (own_note.event, own_note.pair_id) = (noted, entry.pair_id)
    LEFT JOIN own_captions AS edit ON (edit.event, edit.pair_id) = (captioned, entry.pair_id)
    WHERE entry.id IN ({}) ORDER BY entry.id DESC
"""
_HISTORY = """
    SELECT event.id, time, audit, CASE WHEN undoes IS NULL THEN 'decide' ELSE 'undo' END,
        decision, pairs, pair_id, event.note, undoes
    FROM event LEFT JOIN entry ON entry.id = first_entry ORDER BY event.id DESC LIMIT ? OFFSET ?
"""
_ENTRIES = """
    SELECT entry.pair_id, coalesce(own.decision, event.decision), entry.id, entry.event, judged,
        ifnull(neutral, decided IN (SELECT event FROM apart))
    FROM entry LEFT JOIN event ON event.id = decided
    LEFT JOIN own_captions AS own ON (own.event, own.pair_id) = (decided, entry.pair_id)
    WHERE entry.id > ? ORDER BY entry.id
"""


@dataclass(frozen=True)
class Decided:
    """Decisions on pairs: ids to remove, and ids with new captions."""

    removed: frozenset[str] = frozenset()
    recaptioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.removed or self.recaptioned)

    @property
    def fingerprint(self) -> str:
        """A key that changes with any decision."""
        values = {"removed": sorted(self.removed), "recaptioned": dict(self.recaptioned)}
        return fingerprint(values)[:6]


class Decision(NamedTuple):
    """The current decision on one pair."""

    pair_id: str
    decision: str | None = None  # keep | remove | recaption; None: undecided, maybe with a note
    captions: tuple[str, ...] = ()  # the new ones, also of an undecided pair
    note: str = ""
    time: str = ""  # of the decision, ISO 8601 in UTC
    audit: str = ""
    entry: int = 0  # of the log; 0: no entry applies to the captions of this audit
    event: int = 0  # of the decision
    for_other_captions: str | None = None  # the decision on other captions of an undecided pair

    @property
    def words(self) -> str:
        """The decision in words; empty for an undecided pair."""
        return decision_words(self.decision, self.for_other_captions)


class Choice(NamedTuple):
    """What to decide on one pair."""

    decision: str | None  # None: the decision stays
    captions: tuple[str, ...] = ()  # the new ones; empty: those of the pair stay
    note: str | None = None  # None: the note stays
    entry: int | None = None  # the pair's when the choice was made; a newer one stays
    neutral: bool = False  # judges no caption


@dataclass(frozen=True)
class Outcome:
    """The result of a decision or an undo."""

    event: int  # its number in the history; 0: nothing was written
    pairs: int  # number of pairs decided or restored
    skipped: int = 0  # pairs with a newer decision, which stay as they are


@dataclass(frozen=True)
class Review:
    """The decisions on one data set. Reading creates no file; each call sees the earlier writes of
    all processes.

    `pairs` has the pair_id and captions of each pair, as a file or a table. A decision on a pair
    that is not in it applies to any captions.
    """

    path: Path
    pairs: Path | pa.Table | None = None

    def decide(
        self,
        pair_ids: Iterable[str],
        decision: str | None,
        *,
        captions: Sequence[str] = (),
        note: str | None = None,
        audit: str = "",
        neutral: bool = False,
    ) -> Outcome:
        """Decide on pairs in one event; None makes them undecided, or leaves the notes; `neutral`
        judges no caption."""
        ids = dict.fromkeys(pair_ids)
        if not ids:
            raise InputError("no pair is chosen: choose at least one")
        texts = captions_to_store(decision, captions)
        pairs = self.with_keys(ids)
        with open_to_write(self.path) as log:
            added = add_decision(log, pairs, audit, decision, texts, note=note, neutral=neutral)
            return Outcome(*added)

    def decide_each(
        self, choices: Mapping[str, Choice], *, audit: str = "", note: str | None = None
    ) -> Outcome:
        """Decide on each pair by a choice of its own, all in one event; History shows its note."""
        keys = self.with_keys(choices)
        own = {}
        with open_to_write(self.path) as log:
            current = self._decisions(log, choices)
            for pair_id, (decision, captions, note, entry, neutral) in choices.items():
                if entry in (None, current.get(pair_id, Decision(pair_id)).entry):
                    texts = captions_to_store(decision, captions)
                    own[pair_id] = Own(decision, texts, note, neutral)
            skipped = len(choices) - len(own)
            if not own:
                return Outcome(0, 0, skipped)
            # History shows an event of new captions alone as a recaption.
            kinds = {each.decision or RECAPTION for each in own.values()}
            kind = kinds.pop() if len(kinds) == 1 else SEVERAL
            pairs = {pair_id: keys[pair_id] for pair_id in own}
            return Outcome(*add_decision(log, pairs, audit, kind, note=note, own=own), skipped)

    def undo(self, event: int) -> Outcome | None:
        """Restore the decisions before an event of pairs without a newer one; None: it is undone
        already."""
        with open_to_write(self.path) as log:
            outcome = Outcome(*add_undo(log, event))
            return None if not outcome.event and event in undone_events(log) else outcome

    def current(self, pair_id: str) -> Decision | None:
        """Return the current decision on a pair, None if the log does not have the pair."""
        return self.decisions([pair_id]).get(pair_id)

    def decisions(self, pair_ids: Iterable[str] | None = None) -> dict[str, Decision]:
        """Return the current decisions on those of some pairs that the log has, or on all pairs,
        the newest first."""
        with open_to_read(self.path) as log:
            return self._decisions(log, pair_ids)

    def table(self) -> pd.DataFrame:
        """Return the pairs with a decision, new captions or a note, the newest first.

        for_other_captions is the decision on other captions of an undecided pair.
        """
        decisions = self.decisions().values()
        rows = [each for each in decisions if each.words or each.captions or each.note]
        table = pd.DataFrame(rows, columns=Decision._fields, dtype=object)[_TABLE_COLUMNS]
        return table.assign(**{CAPTIONS: table[CAPTIONS].map(list)})

    def _decisions(
        self, log: Connection, pair_ids: Iterable[str] | None = None
    ) -> dict[str, Decision]:
        """Return the current decisions on some pairs or all, the newest first."""
        entries = "SELECT entry FROM standing"
        values = []
        if pair_ids is not None:
            entries += " WHERE pair_id IN (SELECT value FROM json_each(?))"
            values = [json.dumps([without_surrogates(pair_id) for pair_id in pair_ids])]
        rows = log.execute(_DECISIONS.format(entries), values).fetchall()
        keys = self.with_keys({pair_id for pair_id, key, *_ in rows if key})
        current: dict[str, Decision] = {}
        other: dict[str, Decision] = {}
        for pair_id, key, decision, captions, *facts in rows:
            applies = not key or keys[pair_id] in (0, key)
            made = Decision(pair_id, decision, tuple(json.loads(captions)), *facts)
            (current if applies else other).setdefault(pair_id, made)
        for pair_id, made in other.items():
            shown = current.get(pair_id, Decision(pair_id))
            if shown.decision is None and made.decision:
                shown = shown._replace(
                    for_other_captions=made.decision, time=made.time, audit=made.audit
                )
            current[pair_id] = shown
        return {pair_id: current[pair_id] for pair_id, *_ in rows}

    def with_keys(self, pair_ids: Iterable[str]) -> dict[str, int]:
        """Return the caption keys of some pairs, 0 for a pair that is not in `pairs`."""
        ids = dict.fromkeys(pair_ids, 0)
        return ids | t.fetch_by_id(self.pairs, t.CAPTION_KEY, ids)

    def counts(self) -> dict[str, int]:
        """Return the number of pairs of each decision, in the order of `CHOICES`."""
        counts = Counter(each.decision for each in self.decisions().values())
        return {choice: counts[choice] for choice in CHOICES}

    def history(self, *, page: int, size: int) -> pd.DataFrame:
        """Return a page of the events, the newest first; `undoes`: the event an undo reverts,
        `undone`: reverted."""
        with open_to_read(self.path) as log:
            rows = log.execute(_HISTORY, (int(size), (int(page) - 1) * int(size))).fetchall()
            undone = undone_events(log)
        table = pd.DataFrame(rows, columns=[*_HISTORY_COLUMNS, "undoes"], dtype=object)
        table["undone"] = table["event"].isin(undone)
        return table.astype({"event": "int64", "pairs": "int64", "undoes": "Int64"})

    def count_events(self) -> int:
        """Return the number of events, which is also the number of the last one."""
        with open_to_read(self.path) as log:
            return last_id(log, "event")

    def position(self) -> int:
        """Return the number of entries of the log, which grows with every event."""
        with open_to_read(self.path) as log:
            return last_id(log, "entry")

    def entries_after(self, entry: int) -> list[Entry]:
        """Return the entries after `entry`, in order."""
        with open_to_read(self.path) as log:
            return log.execute(_ENTRIES, (int(entry),)).fetchall()


def open_review(audit: Audit) -> Review:
    """Return the decisions on the data set of an audit."""
    return _review_of(audit.record.dataset_fingerprint, audit.folder / PAIRS)


def _review_of(dataset_fingerprint: str, pairs: Path | pa.Table | None) -> Review:
    return Review(data_folder() / "review" / f"{check_name(dataset_fingerprint)}.sqlite", pairs)


def decision_words(decision: str | None, for_other: str | None) -> str:
    """Return a decision in words; empty for an undecided pair."""
    return decision or (f"{for_other} for other captions" if for_other else "")


def captions_to_store(decision: str | None, captions: Sequence[str]) -> str:
    """Check a decision and its new captions; return these as a JSON list."""
    if decision is not None and decision not in CHOICES:
        raise InputError(f"decision {decision!r} is unknown: choose {', '.join(CHOICES)} or none")
    if not captions and decision != RECAPTION:
        return "[]"
    if any("\0" in caption or without_surrogates(caption) != caption for caption in captions):
        raise InputError(
            "a caption has a NUL character or half a character, which not every file can hold: "
            "delete it"
        )
    texts = [caption.strip() for caption in captions if caption.strip()]
    if not texts:
        raise InputError(f"a {RECAPTION} needs a caption: write at least one that is not blank")
    return json.dumps(texts, ensure_ascii=False)


Number = Annotated[int, Field(strict=True, ge=1, lt=2**53)]  # of an event, counted by the client
Client = Annotated[str, Field(pattern=r"^[0-9a-z]{8,64}$")]  # id of one page of one browser
Key = Annotated[int, Field(ge=0, lt=2**63)]  # a caption key
PairKeys = Annotated[tuple[tuple[str, Key], ...], Field(max_length=_MOST_PAIRS)]


class BrowserEvent(BaseModel):
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
    # decision and captions on screen, see `current_decision`; None: any
    expected: tuple[str, ...] | None = None

    @property
    def pairs(self) -> dict[str, int]:
        """The pairs and their caption keys, each pair once."""
        return {self.pair_id: self.caption_key} | dict(self.others)


class BrowserEvents(BaseModel):
    """A batch of events of a client on the pairs of an audit, in the order of their numbers."""

    audit: str
    client: Client
    events: Annotated[list[BrowserEvent], Field(min_length=1, max_length=MOST_EVENTS)]


def store_events(review: Review, batch: BrowserEvents) -> tuple[int, dict[int, str]]:
    """Store a batch in one transaction, each event once; return the last number, and the reasons of
    refused events."""
    ids = {pair_id for event in batch.events if event.kind != UNDO for pair_id in event.pairs}
    keys = review.with_keys(ids)
    swapped = {pair_id for event in batch.events if event.kind == SWAP for pair_id in event.pairs}
    captions = t.fetch_by_id(review.pairs, CAPTIONS, swapped)
    numbers = [event.number for event in batch.events]
    with open_to_write(review.path) as log:
        outcomes = stored_outcomes(log, batch.client, numbers)
        for event in batch.events:
            if event.number not in outcomes:
                outcome = _add_event(log, event, keys, captions, batch.audit)
                outcomes[event.number] = outcome
                add_outcome(log, batch.client, event.number, outcome)
    return max(numbers), {number: reason for number in numbers if (reason := outcomes[number][1])}


def _add_event(
    log: Connection,
    event: BrowserEvent,
    keys: dict[str, int],
    captions: dict[str, Sequence[str]],
    audit: str,
) -> tuple[int, str]:
    """Add an event to the log; return its number there, or 0 and the reason of a refusal."""
    if event.kind == UNDO:
        undone = event.undoes or 0
        if isinstance(undone, tuple):
            client, number = undone
            undone, _ = stored_outcomes(log, client, [number]).get(number, (0, ""))
        if not 1 <= undone <= last_id(log, "event"):
            return 0, "the event to undo was not stored"
        added, *_ = add_undo(log, undone)
        return added, "" if added else "there is a newer decision, or it is undone already"
    if not all(keys[pair_id] for pair_id in event.pairs):
        return 0, "the audit has no such pair"
    if any(keys[pair_id] != key for pair_id, key in event.pairs.items()):
        return 0, "the captions of the pair have changed since it was shown: reload the page"
    decision = None if event.kind == UNDECIDE else event.kind
    expected = event.expected
    own = {}
    texts = "[]"
    try:
        if event.kind == SWAP:
            if len(event.pairs) != 2:
                return 0, "a swap has two pairs"
            decision = RECAPTION
            expected = ()
            for pair_id, source in zip(event.pairs, reversed(event.pairs), strict=True):
                own[pair_id] = Own(decision, captions_to_store(decision, list(captions[source])))
        else:
            texts = captions_to_store(decision, event.captions)
    except InputError as error:
        return 0, str(error)
    for pair_id, key in event.pairs.items() if expected is not None else ():
        current = current_decision(log, pair_id, key)
        if current != expected:
            seen, now = ((each or ("",))[0] or "undecided" for each in (expected, current))
            if now == seen:
                return 0, "its captions were just changed in another tab"
            name = "" if pair_id == event.pair_id else f"{pair_id} was "
            return 0, f"{name}just marked {now.capitalize()} in another tab"
    return add_decision(log, event.pairs, audit, decision, texts, own=own)[0], ""


def current_decision(log: Connection, pair_id: str, caption_key: int) -> tuple[str, ...]:
    """Return the decision on a pair with these captions ("" if undecided) and its new captions;
    empty without both."""
    last = "SELECT max(entry) FROM standing WHERE pair_id = ? AND judged IN (0, ?)"
    row = log.execute(_DECISIONS.format(last), (pair_id, caption_key)).fetchone()
    decision, captions = (row[2], json.loads(row[3])) if row else (None, [])
    return (decision or "", *captions) if decision or captions else ()


@dataclass(frozen=True, eq=False)
class Codes:
    """The decision on each pair of an audit, up to an entry of a log; read-only."""

    log: tuple[str, int]  # path and inode
    entry: int
    codes: np.ndarray  # int8 [n_pairs], values of `CODES`
    neutral: np.ndarray  # bool [n_pairs], the decision does not say whether the captions are right
    first: np.ndarray  # int64 [n_pairs], the event of the first decision; 0: none yet


_codes_lock = threading.Lock()


@t.cached(4, SCORES, PAIRS)
def _latest_codes(audit: Audit) -> dict[tuple[str, int], Codes]:
    """Return the cache of an audit's latest codes, by log."""
    return {}


def decided(audit: Audit) -> Codes:
    """Return the decisions on the pairs of an audit; each call reads only the new entries of the
    log."""
    review = open_review(audit)
    with _codes_lock:
        latest = _latest_codes(audit)
        log = str(review.path), review.path.stat().st_ino if review.path.exists() else 0
        position = review.position()
        codes = latest.get(log)
        if codes is None or position < codes.entry:  # the log was replaced
            count = t.count_pairs_of(audit)
            kinds = (np.int8, bool, np.int64)
            codes = Codes(log, 0, *(np.zeros(count, kind) for kind in kinds))
        if position > codes.entry:
            codes = _apply_entries(audit, codes, review.entries_after(codes.entry))
        latest[log] = codes
    return codes


def count_decisions(audit: Audit) -> dict[str, int]:
    """Return the number of an audit's pairs of each decision, and of the undecided."""
    counts = np.bincount(decided(audit).codes, minlength=len(CODES))
    return {choice or UNDECIDED: int(counts[code]) for choice, code in CODES.items()}


def _apply_entries(audit: Audit, before: Codes, entries: list[Entry]) -> Codes:
    """Apply entries of the log in order, except those on pairs or captions that this audit does not
    have."""
    rows = [(pair_id, CODES[decision], *facts) for pair_id, decision, *facts in entries]
    names = ["entry_pair_id", "code", "entry", "event", "caption_key", "neutral"]
    table = pd.DataFrame(rows, columns=names)
    newest = f"""
        SELECT entry_pair_id, caption_key, max(entry) AS newest, arg_max(code, entry) AS code,
            arg_max(neutral, entry) AS neutral,
            coalesce(min(event) FILTER (code != {UNDECIDED_CODE}), 0) AS first
        FROM entries GROUP BY entry_pair_id, caption_key
    """
    query = f"""
        SELECT {t.ROW}, code, neutral, first FROM parquet
        JOIN ({newest}) ON "{PAIR_ID}" = entry_pair_id
        WHERE caption_key = 0 OR caption_key = {t.CAPTION_KEY} ORDER BY newest
    """
    changed = t.fetch_columns(audit.folder / PAIRS, query, entries=table)
    codes = before.codes.copy()
    neutral = before.neutral.copy()
    first = before.first.copy()
    # the newest wins
    codes[changed[t.ROW]] = changed["code"]
    neutral[changed[t.ROW]] = changed["neutral"]
    is_new = first[changed[t.ROW]] == 0
    first[changed[t.ROW][is_new]] = changed["first"][is_new]
    return replace(before, entry=entries[-1][2], codes=codes, neutral=neutral, first=first)


def decided_of(dataset_fingerprint: str, pairs: Path | pa.Table | None = None) -> Decided:
    """Return the pairs of a data set to be removed, and the new captions of others."""
    removed = set()
    recaptioned = {}
    for pair_id, made in _review_of(dataset_fingerprint, pairs).decisions().items():
        if made.decision == REMOVE:
            removed.add(pair_id)
        elif made.captions:
            recaptioned[pair_id] = made.captions
    return Decided(frozenset(removed), recaptioned)


def decided_for(audit: Audit) -> Decided:
    """Return the decisions on the pairs of an audit."""
    return decided_of(audit.record.dataset_fingerprint, audit.folder / PAIRS)


def count_changed(audit: Audit) -> tuple[int, int]:
    """Return how many pairs of an audit are removed, and how many others have new captions."""
    made = decided_for(audit)
    path = audit.folder / PAIRS
    removed, captioned = (
        t.fetch_pairs(path, [t.ROW], ids).num_rows for ids in (made.removed, made.recaptioned)
    )
    return removed, captioned
