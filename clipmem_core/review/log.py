"""The log of decisions: an append-only SQLite file that several processes may write at once.

`event` has a row for each decision and each undo, `entry` a row for each of its pairs; both only grow. An entry names
two events: `decided`, whose decision and captions are in force for the pair, and `noted`, whose note is. `standing` is
each pair's last entry on each of the captions that were judged, written in the same transaction: a million decisions
are read as fast as a thousand.

An edit gives each pair other captions, in `own_captions`; the event's list is then empty. `apart` lists the events that
do not say whether captions are right: find and replace, and near-duplicates. `told` has the outcome of each numbered
event of a browser, stored with the event, so that a repeated event is stored once.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from clipmem_core.config import InputError
from clipmem_core.io import replacing

KEEP, REMOVE, RECAPTION = "keep", "remove", "recaption"
CHOICES = (KEEP, REMOVE, RECAPTION)
VERSION = 3
APPLICATION = 0x434C4D50  # "CLMP" in the file's header: tells our files from other SQLite files
LOCK_TIMEOUT = 5.0  # seconds to wait for another writer
CACHE_KB = 64_000  # of pages, while writing: a million pairs are read in any order

_ONLY_GROW = "".join(
    f"CREATE TRIGGER {table}_{name} BEFORE {what} ON {table} BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;"
    for table in ("event", "entry", "own_captions", "apart")
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
        undoes INTEGER REFERENCES event,  -- the event that this one takes back; null for a decision
        decision TEXT,                    -- what was decided, or taken back
        captions TEXT NOT NULL,           -- a JSON list
        note TEXT,                        -- null: every pair keeps its note
        first_entry INTEGER NOT NULL,     -- its entries are this one and those that follow,
        pairs INTEGER NOT NULL            -- one for each pair
    );
    CREATE TABLE entry (
        id INTEGER PRIMARY KEY,
        event INTEGER NOT NULL REFERENCES event,
        pair_id TEXT NOT NULL,
        decided INTEGER NOT NULL,         -- the event whose decision and captions are in force; 0: none
        noted INTEGER NOT NULL,           -- the event whose note is in force; 0: none
        previous INTEGER NOT NULL,        -- the pair's entry before this one that counted here; 0: there was none
        judged INTEGER NOT NULL DEFAULT 0 -- the key of the captions that were judged; 0: unknown, it counts for any
    );
    CREATE TABLE standing (
        pair_id TEXT NOT NULL,
        judged INTEGER NOT NULL,
        entry INTEGER NOT NULL,
        decided INTEGER NOT NULL,
        noted INTEGER NOT NULL,
        PRIMARY KEY (pair_id, judged)
    ) WITHOUT ROWID;
    CREATE INDEX standing_decided ON standing (decided);
    CREATE TABLE apart (event INTEGER PRIMARY KEY);
    CREATE TABLE own_captions (
        event INTEGER NOT NULL,
        pair_id TEXT NOT NULL,
        captions TEXT NOT NULL,           -- a JSON list
        PRIMARY KEY (event, pair_id)
    ) WITHOUT ROWID;
    {_ONLY_GROW}
    COMMIT;
"""
# A pair's last entry counts, of those on the captions that it has and of those on unknown captions.
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
_OUTCOMES = """
    CREATE TABLE IF NOT EXISTS told (
        client TEXT NOT NULL,
        number INTEGER NOT NULL,  -- the client's, from 1
        event INTEGER NOT NULL,   -- of the log; 0: it was refused
        refused TEXT NOT NULL,    -- why; empty where it was not
        PRIMARY KEY (client, number)
    ) WITHOUT ROWID
"""
_MOVE_AWAY = "move it away, or restore a copy of it"
_BUSY = "another process is writing: try again"
_ADVICE = {
    sqlite3.SQLITE_BUSY: _BUSY,
    **dict.fromkeys((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR), _MOVE_AWAY),
}


@contextmanager
def reading(path: Path) -> Iterator[Connection]:
    """Give a consistent view of a log; a missing log reads as an empty one and is not made."""
    # SQLite writes files beside a log that it opens to write, which a read-only folder does not allow.
    fixed = not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists()
    with _as_input_error(path), closing(_connect(path, "ro&immutable=1" if fixed else "rw")) as connection:
        _check(path, connection)
        connection.execute("BEGIN")
        yield connection


@contextmanager
def writing(path: Path) -> Iterator[Connection]:
    """Give a log to add to, made if missing; all rows of the block are stored at its end, or none."""
    with _as_input_error(path):
        if not path.exists():
            _make(path)
        with closing(_connect(path, "rw")) as connection:
            _check(path, connection)
            # A decision survives a power failure once the page says it is saved: one fsync for each event.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            connection.execute("BEGIN IMMEDIATE")  # what is read in the block must still hold when it is written
            yield connection
            connection.execute("COMMIT")  # closing without it, after an error, takes everything back


class Added(NamedTuple):
    """An event that was added: its number, and its number of entries."""

    event: int
    pairs: int


def add_decision(
    log: Connection,
    pairs: Iterable[tuple[str, int]],
    *,
    audit: str,
    decision: str | None,
    captions: str = "[]",
    note: str | None = None,
    own: Mapping[str, str] | None = None,
    apart: bool = False,
) -> Added:
    """Add a decision on pairs, each named once with the key of its captions, 0 where that is unknown.

    `captions` is a JSON list; `own` has such a list for each pair that gets other captions. If `note` is None, every
    pair keeps its note. `apart`: the decision does not say whether the captions are right.
    """
    number, first = count_rows(log, "event") + 1, count_rows(log, "entry") + 1
    noted = None if note is None else number
    log.executemany(_DECIDE, ((number, pair_id, noted, judged) for pair_id, judged in pairs))
    log.executemany("INSERT INTO own_captions VALUES (?, ?, ?)", ((number, *each) for each in (own or {}).items()))
    if apart:
        log.execute("INSERT INTO apart VALUES (?)", (number,))
    return _add_event(log, first, (audit, None, decision, captions, note))


def add_undo(log: Connection, undoes: int) -> tuple[Added | None, int]:
    """Restore what was in force before an event, for those of its pairs that were not decided on since.

    Returns:
        The added event, None if it would have no pair; and the number of pairs that stay as they are.
    """
    query = "SELECT audit, decision, first_entry, pairs FROM event WHERE id = ?"
    audit, decision, start, pairs = log.execute(query, (undoes,)).fetchone()
    number, first = count_rows(log, "event") + 1, count_rows(log, "entry") + 1
    log.execute(_UNDO, (number, start, start + pairs - 1))
    if count_rows(log, "entry") < first:
        return None, pairs
    added = _add_event(log, first, (audit, undoes, decision, "[]", None))
    return added, pairs - added.pairs


def _add_event(log: Connection, first: int, values: tuple[Any, ...]) -> Added:
    """Add the event of entries that are there already."""
    number, pairs = count_rows(log, "event") + 1, count_rows(log, "entry") + 1 - first
    time = datetime.now(UTC).isoformat(timespec="seconds")
    log.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (number, time, *values, first, pairs))
    log.execute(_STAND, (first,))
    return Added(number, pairs)


def stored_outcomes(log: Connection, client: str, numbers: Iterable[int]) -> dict[int, tuple[int, str]]:
    """Return the outcome of each of a client's numbers that came before: the event, 0 for none, and why it is none."""
    log.execute(_OUTCOMES)
    query = "SELECT number, event, refused FROM told WHERE client = ? AND number IN (SELECT value FROM json_each(?))"
    rows = log.execute(query, (client, json.dumps(list(numbers))))
    return {number: (event, refused) for number, event, refused in rows}


def add_outcome(log: Connection, client: str, number: int, *, event: int, refused: str) -> None:
    """Store the outcome of a client's number."""
    log.execute("INSERT INTO told VALUES (?, ?, ?, ?)", (client, number, event, refused))


def count_rows(log: Connection, table: str) -> int:
    """Return the number of rows of a table that only grows, which is its last row's number."""
    return log.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0]


def undone_events(log: Connection) -> set[int]:
    """Return the events that are taken back by an undo that is not itself taken back."""
    undone: set[int] = set()
    for event, undoes in log.execute("SELECT id, undoes FROM event WHERE undoes IS NOT NULL ORDER BY id DESC"):
        if event not in undone:  # an undo comes after what it takes back
            undone.add(undoes)
    return undone


def _connect(path: Path, mode: str) -> Connection:
    if path.exists():
        address = f"{path.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT, isolation_level=None)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(_TABLES)
    return connection


def _make(path: Path) -> None:
    """Make an empty log, once, however many processes ask for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f".{path.name}.lock", timeout=LOCK_TIMEOUT):
        if path.exists():
            return
        for suffix in ("-wal", "-shm"):  # of a deleted file: they would be read into the new one
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        with replacing(path) as temporary:
            temporary.unlink(missing_ok=True)  # left by a process that was killed here
            with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
                connection.executescript(_TABLES)


def _check(path: Path, connection: Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION:
        raise InputError(f"{path} is not a log of decisions: {_MOVE_AWAY}")
    if version != VERSION:
        raise InputError(
            f"{path} is of version {version} and this CLIPMem reads version {VERSION}: move it away, or use the "
            "CLIPMem that wrote it"
        )


@contextmanager
def _as_input_error(path: Path) -> Iterator[None]:
    """Turn an error of the file or of a text into one line that names it."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # the primary code
        advice = _ADVICE.get(code, "check that the disk has room and that you may write there")
        message = "".join(letter if letter.isprintable() else " " for letter in str(error))
        raise InputError(f"{path} cannot be used ({message}): {advice}") from None
    except Timeout:
        raise InputError(f"{path} cannot be used (it is locked): {_BUSY}") from None
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise InputError(f"a text has half a character, {half!r}, which no file can hold: delete it") from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be made or read ({error.strerror or error}): choose another data folder"
        ) from None
