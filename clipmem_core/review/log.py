"""The log of decisions: an append-only SQLite file that several processes may write at once.

Tables:
    event         a row for each decision and each undo
    entry         a row for each pair of an event; `decided`, `captioned` and `noted` are the events
                  with the pair's current decision, new captions and note; `judged` is the caption
                  key, the hash of the captions on screen
    standing      the current entry of each pair and caption key
    own_captions  the decision, new captions and note of a single pair, in an event whose pairs
                  differ; a null decision changes only captions or note
    told          the outcome of each numbered event of a browser: a repeated event is stored once
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from clipmem_core.utils.io import InputError, replacing

VERSION = 6
APPLICATION = 0x434C4D50  # "CLMP" in the file's header: marks our files
LOCK_TIMEOUT = 5.0  # seconds to wait for another writer
_CACHE_KB = 64_000  # of pages, while writing: a million pairs are read in any order

_APPEND_ONLY = "".join(
    f"CREATE TRIGGER {table}_{name} BEFORE {what} ON {table} BEGIN SELECT RAISE(ABORT, 'the log "
    "only grows'); END;"
    for table in ("event", "entry", "own_captions")
    for name, what in (("kept", "DELETE"), ("unchanged", "UPDATE"))
)
_TABLES = f"""
    PRAGMA journal_mode = WAL;
    BEGIN;
    PRAGMA application_id = {APPLICATION};
    PRAGMA user_version = {VERSION};
    CREATE TABLE event (
        id INTEGER PRIMARY KEY,
        time TEXT NOT NULL,
        audit TEXT NOT NULL,
        undoes INTEGER REFERENCES event,  -- the event that this one undoes; null for a decision
        decision TEXT,                    -- the decision, or the decision undone
        captions TEXT NOT NULL,           -- a JSON list
        note TEXT,                        -- null: the notes stay
        first_entry INTEGER NOT NULL,     -- the first of its consecutive entries
        pairs INTEGER NOT NULL            -- number of its pairs and entries
    );
    CREATE TABLE entry (
        id INTEGER PRIMARY KEY,
        event INTEGER NOT NULL REFERENCES event,
        pair_id TEXT NOT NULL,
        decided INTEGER NOT NULL,         -- the event with the current decision; 0: none
        captioned INTEGER NOT NULL,       -- the event with the current new captions; 0: none
        noted INTEGER NOT NULL,           -- the event with the current note; 0: none
        previous INTEGER NOT NULL,        -- the pair's current entry before this one; 0: none
        judged INTEGER NOT NULL DEFAULT 0 -- caption key; 0: unknown, applies to any captions
    );
    CREATE TABLE standing (
        pair_id TEXT NOT NULL,
        judged INTEGER NOT NULL,
        entry INTEGER NOT NULL,
        decided INTEGER NOT NULL,
        captioned INTEGER NOT NULL,
        noted INTEGER NOT NULL,
        PRIMARY KEY (pair_id, judged)
    ) WITHOUT ROWID;
    CREATE INDEX standing_decided ON standing (decided);
    CREATE TABLE own_captions (
        event INTEGER NOT NULL,
        pair_id TEXT NOT NULL,
        captions TEXT NOT NULL,           -- a JSON list; empty: they stay
        decision TEXT,                    -- null: the decision stays
        note TEXT,                        -- null: the note stays
        neutral INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (event, pair_id)
    ) WITHOUT ROWID;
    {_APPEND_ONLY}
    COMMIT;
"""
# The current entry of a pair is the later of two: on its captions, and on unknown captions (key 0).
# "Undecided" takes a recaption back, and leaves what find and replace changed (an event without
# the pair's decision).
_DECIDE = """
    INSERT INTO entry (event, pair_id, decided, captioned, noted, previous, judged)
    SELECT :event, :pair_id, iif(:decides, :event, ifnull(current.decided, 0)),
        CASE WHEN :captions != '[]' THEN :event
            WHEN :decision IS NOT NULL OR edit.event OR NOT :decides
            THEN ifnull(current.captioned, 0) ELSE 0 END,
        iif(:note IS NULL, ifnull(current.noted, 0), :event), ifnull(current.entry, 0), :judged
    FROM (SELECT 1) LEFT JOIN
    (
        SELECT * FROM standing WHERE pair_id = :pair_id AND judged IN (0, :judged)
        ORDER BY entry DESC LIMIT 1
    ) AS current
    LEFT JOIN own_captions AS edit ON edit.event = current.captioned AND edit.pair_id = :pair_id
        AND edit.decision IS NULL
"""
_UNDO = """
    INSERT INTO entry (event, pair_id, decided, captioned, noted, previous, judged)
    SELECT ?, entry.pair_id, ifnull(before.decided, 0), ifnull(before.captioned, 0),
        ifnull(before.noted, 0), standing.entry, entry.judged
    FROM entry JOIN standing USING (pair_id, judged, decided, captioned)
    LEFT JOIN entry AS before ON before.id = entry.previous
    WHERE entry.id BETWEEN ? AND ? AND NOT EXISTS
    (
        SELECT 1 FROM standing AS later
        WHERE later.pair_id = entry.pair_id AND later.entry > standing.entry
            AND (later.decided, later.captioned) != (entry.decided, entry.captioned)
            AND 0 IN (later.judged, entry.judged)
    )
    ORDER BY entry.id
"""
_UPDATE_CURRENT = """
    INSERT OR REPLACE INTO standing (pair_id, judged, entry, decided, captioned, noted)
    SELECT pair_id, judged, id, decided, captioned, noted FROM entry
    WHERE id >= ? ORDER BY pair_id, judged
"""
_OUTCOMES = """
    CREATE TABLE IF NOT EXISTS told (
        client TEXT NOT NULL,
        number INTEGER NOT NULL,  -- of the event in the client, from 1
        event INTEGER NOT NULL,   -- its number in the log; 0: refused
        refused TEXT NOT NULL,    -- the reason; empty if it was stored
        PRIMARY KEY (client, number)
    ) WITHOUT ROWID
"""


@contextmanager
def open_to_read(path: Path) -> Iterator[Connection]:
    """Open a log to read; a missing log reads as an empty one and is not created."""
    # SQLite creates files next to a log that it opens to write, which fails in a read-only folder.
    read_only = not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists()
    with _opened(path, "ro&immutable=1" if read_only else "rw") as connection:
        connection.execute("BEGIN")
        yield connection


@contextmanager
def open_to_write(path: Path) -> Iterator[Connection]:
    """Open a log to append to and create a missing one; the block is one transaction."""
    with _opened(path, "rw", create=True) as connection:
        # an acknowledged decision survives a power failure
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        # no other process writes between our reads and writes
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")  # after an error, closing the connection rolls back


class Choice(NamedTuple):
    """What to decide on one pair."""

    decision: str | None  # None: the pair becomes undecided; in an event of several: it stays
    captions: tuple[str, ...] = ()  # the new ones; empty: those of the pair stay
    note: str | None = None  # None: the note stays
    entry: int | None = None  # the pair's when the choice was made; a newer one stays
    neutral: bool = False  # does not say whether the captions are right


@dataclass(frozen=True)
class Outcome:
    """The result of a decision or an undo."""

    event: int  # its number in the history; 0: nothing was written
    pairs: int  # number of pairs decided or restored
    skipped: int = 0  # pairs with a newer decision, which stay as they are


def add_decision(
    log: Connection,
    pairs: Mapping[str, int],
    audit: str,
    choice: Choice,
    own: Mapping[str, Choice] | None = None,
) -> Outcome:
    """Add a decision on pairs and their caption keys (0: unknown).

    With `own`, each pair has its own decision, captions and note, and `choice` is that of the event
    in the history.
    """
    number = last_id(log, "event") + 1
    first = last_id(log, "entry") + 1

    def rows() -> Iterator[dict[str, Any]]:
        for pair_id, key in pairs.items():
            values = own[pair_id] if own else choice
            yield values._asdict() | {
                "captions": _as_json(values.captions),
                "event": number,
                "pair_id": pair_id,
                "judged": key,
                "decides": not own or values.decision is not None,
            }

    log.executemany(_DECIDE, rows())
    if own:
        columns = ":event, :pair_id, :captions, :decision, :note, :neutral"
        log.executemany(f"INSERT INTO own_captions VALUES ({columns})", rows())
    return _add_event(log, first, audit, None, choice)


def add_undo(log: Connection, undoes: int) -> Outcome:
    """Undo an event for pairs without a newer decision."""
    query = "SELECT audit, decision, first_entry, pairs FROM event WHERE id = ?"
    audit, decision, start, pairs = log.execute(query, (undoes,)).fetchone()
    number = last_id(log, "event") + 1
    first = last_id(log, "entry") + 1
    log.execute(_UNDO, (number, start, start + pairs - 1))
    if last_id(log, "entry") < first:
        return Outcome(0, 0, pairs)
    done = _add_event(log, first, audit, undoes, Choice(decision))
    return replace(done, skipped=pairs - done.pairs)


def _add_event(
    log: Connection, first: int, audit: str, undoes: int | None, choice: Choice
) -> Outcome:
    """Add the event of the entries from `first` on."""
    pairs = last_id(log, "entry") + 1 - first
    time = datetime.now(UTC).isoformat(timespec="seconds")
    captions = _as_json(choice.captions)
    values = (time, audit, undoes, choice.decision, captions, choice.note, first, pairs)
    log.execute("INSERT INTO event VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    log.execute(_UPDATE_CURRENT, (first,))
    return Outcome(last_id(log, "event"), pairs)


def _as_json(captions: Sequence[str]) -> str:
    return json.dumps(captions, ensure_ascii=False)


def stored_outcomes(
    log: Connection, client: str, numbers: Iterable[int]
) -> dict[int, tuple[int, str]]:
    """Return the stored outcomes of a client's numbers: the event (0: refused) and the reason of a
    refusal."""
    log.execute(_OUTCOMES)
    query = (
        "SELECT number, event, refused FROM told WHERE client = ? AND number IN (SELECT "
        "value FROM json_each(?))"
    )
    rows = log.execute(query, (client, json.dumps(list(numbers))))
    return {number: (event, refused) for number, event, refused in rows}


def add_outcome(log: Connection, client: str, number: int, outcome: tuple[int, str]) -> None:
    """Store the outcome of a client's number, as of `stored_outcomes`."""
    log.execute("INSERT INTO told VALUES (?, ?, ?, ?)", (client, number, *outcome))


def last_id(log: Connection, table: str) -> int:
    """Return the id of the last row of an append-only table, which is the number of its rows."""
    return log.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0]


@contextmanager
def _opened(path: Path, mode: str, *, create: bool = False) -> Iterator[Connection]:
    """Connect to a log, or to an empty one in memory; an error of the file or of a text becomes an
    input error."""
    try:
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.parent / f".{path.name}.lock", timeout=LOCK_TIMEOUT):
                if not path.exists():  # no other process has created it
                    for suffix in ("-wal", "-shm"):  # of a deleted log: SQLite would apply them
                        Path(f"{path}{suffix}").unlink(missing_ok=True)
                    with replacing(path) as temporary:
                        temporary.unlink(missing_ok=True)  # of a killed process
                        with closing(sqlite3.connect(temporary)) as connection:
                            connection.executescript(_TABLES)
        if path.exists():
            address = f"{path.absolute().as_uri()}?mode={mode}"
            connection = sqlite3.connect(
                address, uri=True, timeout=LOCK_TIMEOUT, isolation_level=None
            )
        else:
            connection = sqlite3.connect(":memory:", isolation_level=None)
            connection.executescript(_TABLES)
        with closing(connection):
            names = ("application_id", "user_version")
            found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
            if found != [APPLICATION, VERSION]:
                raise InputError(
                    f"{path} is not a log of decisions of version {VERSION}: move it away, or "
                    "restore a copy of it"
                )
            yield connection
    except UnicodeEncodeError:
        raise InputError("a text has half a character, which cannot be stored: delete it") from None
    except (sqlite3.Error, Timeout, OSError) as error:
        is_busy = isinstance(error, Timeout) or "locked" in str(error)
        advice = (
            "another process is writing: try again"
            if is_busy
            else "check that the disk has room and that you may write there, or move it away"
        )
        fault = " ".join(str(error).split())
        raise InputError(f"{path} cannot be used ({fault}): {advice}") from None
