"""Decisions → a log as it was written before it knew which captions had been judged: version 1."""

import sqlite3
from contextlib import closing
from pathlib import Path

VERSION_1 = """
    PRAGMA journal_mode = WAL;
    PRAGMA application_id = 1129074000;
    PRAGMA user_version = 1;
    CREATE TABLE event (
        id INTEGER PRIMARY KEY, time TEXT NOT NULL, audit TEXT NOT NULL, undoes INTEGER REFERENCES event,
        decision TEXT, captions TEXT NOT NULL, note TEXT, first_entry INTEGER NOT NULL, pairs INTEGER NOT NULL
    );
    CREATE TABLE entry (
        id INTEGER PRIMARY KEY, event INTEGER NOT NULL REFERENCES event, pair_id TEXT NOT NULL,
        decided INTEGER NOT NULL, noted INTEGER NOT NULL, previous INTEGER NOT NULL
    );
    CREATE TABLE standing (
        pair_id TEXT PRIMARY KEY, entry INTEGER NOT NULL, decided INTEGER NOT NULL, noted INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX standing_decided ON standing (decided);
    CREATE TRIGGER event_kept BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
    CREATE TRIGGER event_unchanged BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
    CREATE TRIGGER entry_kept BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
    CREATE TRIGGER entry_unchanged BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
"""


def write_old_log(path: Path, decisions: dict[str, str]) -> None:
    """Write one decision a pair, an event each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as log:
        log.executescript(VERSION_1)
        for at, (pair_id, decision) in enumerate(decisions.items(), 1):
            said = (at, "2025-01-31T12:34:56+00:00", "old", None, decision, "[]", f"note {at}", at, 1)
            log.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", said)
            log.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, 0)", (at, at, pair_id, at, at))
            log.execute("INSERT INTO standing VALUES (?, ?, ?, ?)", (pair_id, at, at, at))
