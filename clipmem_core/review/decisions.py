"""A person's word on a pair (keep, remove, recaption, a note) → the log of its data set, and the log → what stands.

All audits of a data set share one log. Nothing in it ever changes: an undo is an event too, which can itself be undone.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from clipmem_core.audits.store import CONFIG, Audit, check_name
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.config import InputError, data_folder
from clipmem_core.review.events import (
    Event,
    add_decision,
    add_undo,
    count_rows,
    last_before,
    last_standing,
    undone_events,
)
from clipmem_core.review.log import reading, writing

KEEP, REMOVE, RECAPTION = "keep", "remove", "recaption"
CHOICES = (KEEP, REMOVE, RECAPTION)
TABLE_COLUMNS = [PAIR_ID, "decision", CAPTIONS, "note", "time", "audit"]
HISTORY_COLUMNS = ["event", "time", "audit", "kind", "decision", "pairs", "first_pair_id", "undone", "undoes"]
_AT_ONCE = 500  # ids in one query

_DECISIONS = """
    SELECT entry.pair_id, said.decision, said.captions, noted.note, coalesce(said.time, own.time), entry.id
    FROM entry JOIN event AS own ON own.id = entry.event
    LEFT JOIN event AS said ON said.id = entry.decided LEFT JOIN event AS noted ON noted.id = entry.noted
"""
_COUNTS = """
    SELECT decision, sum(standing_pairs) FROM
        (SELECT decided, count(*) AS standing_pairs FROM standing GROUP BY decided)
        JOIN event ON event.id = decided
    GROUP BY decision
"""
_HISTORY = """
    SELECT event.id, time, audit, CASE WHEN undoes IS NULL THEN 'decide' ELSE 'undo' END, decision, pairs, pair_id,
        undoes
    FROM event JOIN entry ON entry.id = first_entry ORDER BY event.id DESC LIMIT ? OFFSET ?
"""
_ENTRIES = """
    SELECT pair_id, decision, entry.id FROM entry LEFT JOIN event ON event.id = decided
    WHERE entry.id > ? ORDER BY entry.id
"""


@dataclass(frozen=True)
class Decision:
    """What stands for one pair."""

    pair_id: str
    decision: str | None  # keep | remove | recaption; None: undecided, but a note may stand
    captions: tuple[str, ...]  # the new ones of a recaption
    note: str
    time: str  # when it was decided, ISO 8601 in UTC; an undo brings back the time as well
    entry: int  # the pair's last entry of the log


@dataclass(frozen=True)
class Outcome:
    """What a decision or an undo did."""

    event: int  # its number in the history; 0: nothing was written
    pairs: int  # that were decided, or brought back to what stood before
    overtaken: Decision | None = None  # what somebody else said since the pair was shown
    left: int = 0  # an undo: pairs that were decided on since, which stay as they are
    first: int = field(default=0, compare=False)  # its first entry of the log; those of its other pairs follow


@dataclass(frozen=True)
class Review:
    """The decisions on one data set. Reading makes no file; each call sees what any process wrote before it."""

    path: Path

    def decide(
        self,
        pair_ids: Iterable[str],
        decision: str | None,
        *,
        captions: Sequence[str] = (),
        note: str | None = None,
        audit: str = "",
        seen: int | None = None,
    ) -> Outcome:
        """Decide on pairs, all of them in one event or none.

        Args:
            pair_ids: at least one; an id given twice counts once.
            decision: keep, remove or recaption; None takes the decision back and leaves the note.
            captions: the new captions of a recaption, at least one that is not blank.
            note: replaces the note of every pair; None keeps each pair's own.
            audit: the name of the audit that was looked at.
            seen: the pair's `entry` when it was shown, 0 for none; of many pairs, the log's position then. The last
                that somebody said since is reported as overtaken; the decision is written all the same.

        Raises:
            InputError: the decision, its captions or a text cannot be, or the log cannot be written.
        """
        ids = dict.fromkeys(pair_ids)
        if not ids:
            raise InputError("no pair is chosen: choose at least one")
        event = Event(audit, decision, _checked(decision, captions), note)
        with writing(self.path) as log:
            added = add_decision(log, ids, event)
            before = last_before(log, added)
            found = log.execute(f"{_DECISIONS} WHERE entry.id = ?", (before,)).fetchone()
        overtaken = found and seen is not None and before > seen
        return Outcome(added.event, added.pairs, _decision(*found) if overtaken else None, first=added.first)

    def undo(self, event: int | None = None) -> Outcome | None:
        """Bring back what stood before an event, for those of its pairs that nobody decided on since.

        Args:
            event: a decision or an undo of the history; None for the last decision that stands.

        Returns:
            None where there is nothing to undo. Where every pair was decided on since, nothing is written.

        Raises:
            InputError: the event is not in the log, or the log cannot be written.
        """
        events = self.count_events()
        if event is not None and not 1 <= event <= events:
            raise InputError(f"event {event} is not in the log, which has {events}: choose one of the history")
        if not events:
            return None
        with writing(self.path) as log:
            undoes = last_standing(log) if event is None else int(event)
            if undoes is None:
                return None
            added, left = add_undo(log, undoes)
            undone = added is None and undoes in undone_events(log)
        if undone:
            return None
        if added is None:
            return Outcome(0, 0, left=left)
        return Outcome(added.event, added.pairs, left=left, first=added.first)

    def current(self, pair_id: str) -> Decision | None:
        """Return what stands for a pair, or None where nobody ever decided on it."""
        return self.decisions([pair_id]).get(pair_id)

    def decisions(self, pair_ids: Sequence[str]) -> dict[str, Decision]:
        """Return what stands for each of some pairs, without those that nobody ever decided on."""
        ids, found = list(pair_ids), {}
        with reading(self.path) as log:
            for start in range(0, len(ids), _AT_ONCE):
                part = ids[start : start + _AT_ONCE]
                standing = f"SELECT entry FROM standing WHERE pair_id IN ({', '.join('?' * len(part))})"
                rows = log.execute(f"{_DECISIONS} WHERE entry.id IN ({standing})", part)
                found.update({row[0]: _decision(*row) for row in rows})
        return found

    def table(self) -> pd.DataFrame:
        """Return every pair with a decision or a note, the last decided first, in the columns `TABLE_COLUMNS`."""
        with reading(self.path) as log:
            events = log.execute("SELECT id, decision, captions, note, time, audit FROM event WHERE undoes IS NULL")
            said = {event: (decision, json.loads(captions), *rest) for event, decision, captions, *rest in events}
            pairs = log.execute("SELECT pair_id, decided, noted FROM standing WHERE decided > 0 ORDER BY entry DESC")
            rows = [_row(pair_id, said[decided], said.get(noted)) for pair_id, decided, noted in pairs]
        kept = [row for row in rows if row[1] is not None or row[3]]
        return pd.DataFrame(kept, columns=TABLE_COLUMNS, dtype=object)

    def counts(self) -> dict[str, int]:
        """Return the number of pairs of each decision, in the order of `CHOICES`."""
        with reading(self.path) as log:
            found = dict(log.execute(_COUNTS).fetchall())
        return {choice: found.get(choice, 0) for choice in CHOICES}

    def history(self, *, page: int, size: int) -> pd.DataFrame:
        """Return one page of the events, the newest first; page 1 is the first.

        Returns:
            The columns `HISTORY_COLUMNS`: kind is decide or undo; decision is what was decided, or taken back; undoes
            is the event that an undo took back, missing for a decision; undone tells whether it is taken back now.
        """
        with reading(self.path) as log:
            rows = log.execute(_HISTORY, (int(size), (int(page) - 1) * int(size))).fetchall()
            undone = undone_events(log)
        listed = [(*values, values[0] in undone, undoes) for *values, undoes in rows]
        table = pd.DataFrame(listed, columns=HISTORY_COLUMNS, dtype=object)
        return table.astype({"event": "int64", "pairs": "int64", "undone": "bool", "undoes": "Int64"})

    def count_events(self) -> int:
        """Return the number of events in the history, which is also the last one's number."""
        with reading(self.path) as log:
            return count_rows(log, "event")

    def position(self) -> int:
        """Return the log's last entry, 0 for an empty log; every event moves it."""
        with reading(self.path) as log:
            return count_rows(log, "entry")

    def entries_after(self, entry: int) -> list[tuple[str, str | None, int]]:
        """Return pair id, decision that stands from there on, and number of each entry after one, in order."""
        with reading(self.path) as log:
            return log.execute(_ENTRIES, (int(entry),)).fetchall()


def open_review(audit: Audit) -> Review:
    """Return the decisions on the data set of an audit.

    Raises:
        InputError: the audit's config is missing or broken, or names no data set.
    """
    config = audit.config
    named = config.get("dataset_fingerprint") or config.get("fingerprint")
    if not isinstance(named, str):
        raise InputError(f"{audit.folder / CONFIG} has no dataset_fingerprint: run the audit again")
    return review_of(named)


def review_of(dataset_fingerprint: str) -> Review:
    """Return the decisions on the data set of a fingerprint."""
    return Review(data_folder() / "review" / f"{check_name(dataset_fingerprint)}.sqlite")


def _checked(decision: str | None, captions: Sequence[str]) -> str:
    """Return the captions to store, as JSON; a decision that cannot be is an error."""
    if decision is not None and decision not in CHOICES:
        raise InputError(f"decision {decision!r} is unknown: choose {', '.join(CHOICES)} or none")
    if captions and decision != RECAPTION:
        raise InputError(f"captions belong to a {RECAPTION}, not to {decision or 'no decision'}: leave them out")
    given = [caption.strip() for caption in captions if caption.strip()]
    if decision == RECAPTION and not given:
        raise InputError(f"a {RECAPTION} needs a caption: write at least one that is not blank")
    return json.dumps(given, ensure_ascii=False)


def _decision(
    pair_id: str, decision: str | None, captions: str | None, note: str | None, time: str, entry: int
) -> Decision:
    return Decision(pair_id, decision, tuple(json.loads(captions or "[]")), note or "", time, entry)


def _row(pair_id: str, said: tuple[Any, ...], noted: tuple[Any, ...] | None) -> tuple[Any, ...]:
    decision, captions, _, time, audit = said
    return pair_id, decision, captions, noted[2] if noted else "", time, audit
