"""A decision on some pairs, or the undoing of one → rows of the log: an event, an entry for each pair, what stands now.

What stands for a pair is named by two events: the one that decided and the one whose note holds. So a decision on a
million pairs stores its captions and note once, and an undo finds by a comparison of numbers who was decided on since.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from sqlite3 import Connection

from clipmem_core.review.log import BrokenLogError, fetch

# What counts for a pair is its last entry of those on the captions that it has, and of those that say of none.
_DECIDE = """
    INSERT INTO entry (event, pair_id, decided, noted, previous, judged)
    SELECT ?1, ?2, ?1, coalesce(?3, iif(ifnull(old.entry > own.entry, own.entry IS NULL), old.noted, own.noted), 0),
        max(ifnull(old.entry, 0), ifnull(own.entry, 0)), ?4
    FROM (SELECT 1) LEFT JOIN standing AS own ON own.pair_id = ?2 AND own.judged = ?4
    LEFT JOIN standing AS old ON old.pair_id = ?2 AND old.judged = 0
"""
_UNDO = """
    INSERT INTO entry (event, pair_id, decided, noted, previous, judged)
    SELECT ?, entry.pair_id, coalesce(before.decided, 0), coalesce(before.noted, 0), standing.entry, entry.judged
    FROM entry JOIN standing USING (pair_id, judged, decided)
    LEFT JOIN entry AS before ON before.id = entry.previous
    WHERE entry.id BETWEEN ? AND ? AND NOT EXISTS (
        SELECT 1 FROM standing AS later WHERE later.pair_id = entry.pair_id AND later.entry > standing.entry
        AND later.decided != entry.decided AND 0 IN (later.judged, entry.judged)
    )
    ORDER BY entry.id
"""
_STAND = """
    INSERT OR REPLACE INTO standing (pair_id, judged, entry, decided, noted)
    SELECT pair_id, judged, id, decided, noted FROM entry WHERE id >= ? ORDER BY pair_id, judged
"""


@dataclass(frozen=True)
class Event:
    """What one event says, whatever its pairs."""

    audit: str
    decision: str | None  # what is decided, or taken back
    captions: str = "[]"  # a JSON list
    note: str | None = None  # None: every pair keeps its own
    undoes: int | None = None  # the event that is taken back; None for a decision


@dataclass(frozen=True)
class Added:
    """Where an event stands in the log: its number, its first entry, and how many entries it has.

    `before` is the last entry that its pairs had before it, 0 where they had none.
    """

    event: int
    first: int
    pairs: int
    before: int = 0


def add_decision(log: Connection, pairs: Iterable[tuple[str, int]], event: Event) -> Added:
    """Add a decision on pairs, each named once with the key of its captions, 0 where that is not known."""
    number, first = count_rows(log, "event") + 1, count_rows(log, "entry") + 1
    noted = None if event.note is None else number
    log.executemany(_DECIDE, ((number, pair_id, noted, judged) for pair_id, judged in pairs))
    return _add_event(log, Added(number, first, count_rows(log, "entry") + 1 - first), event)


def add_undo(log: Connection, undoes: int) -> tuple[Added | None, int]:
    """Bring back what stood before an event, for those of its pairs where what it brought still stands.

    Returns:
        The event added, None where it would have no pair; and the number of pairs that are left as they are.
    """
    found = fetch(log, "SELECT audit, decision, first_entry, pairs FROM event WHERE id = ?", (undoes,))
    if not found:
        raise BrokenLogError(f"its event {undoes} is not there")
    audit, decision, start, pairs = found[0]
    number, first = count_rows(log, "event") + 1, count_rows(log, "entry") + 1
    log.execute(_UNDO, (number, start, start + pairs - 1))
    restored = count_rows(log, "entry") + 1 - first
    if not restored:
        return None, pairs
    return _add_event(log, Added(number, first, restored), Event(audit, decision, undoes=undoes)), pairs - restored


def _add_event(log: Connection, added: Added, event: Event) -> Added:
    """Add the event of entries that are there already, and let them stand."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    said = (event.audit, event.undoes, event.decision, event.captions, event.note)
    values = (added.event, time, *said, added.first, added.pairs)
    log.execute(f"INSERT INTO event VALUES ({', '.join('?' * len(values))})", values)
    log.execute(_STAND, (added.first,))
    ((before,),) = fetch(log, "SELECT coalesce(max(previous), 0) AS previous FROM entry WHERE id >= ?", (added.first,))
    return replace(added, before=before)


def count_rows(log: Connection, table: str) -> int:
    """Return the number of rows of a table that only grows, which is its last row's number."""
    return log.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0]


def last_standing(log: Connection) -> int | None:
    """Return the last decision that stands for any pair: the last one that is not undone."""
    return fetch(log, "SELECT coalesce(max(decided), 0) FROM standing")[0][0] or None


def undone_events(log: Connection) -> set[int]:
    """Return the events that are taken back: by an undo that is not itself taken back."""
    undone: set[int] = set()
    for event, undoes in fetch(log, "SELECT id, undoes FROM event WHERE undoes IS NOT NULL ORDER BY id DESC"):
        if event not in undone:  # an undo comes after what it takes back, so its own fate is known by now
            undone.add(undoes)
    return undone
