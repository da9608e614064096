"""What people decide, in whatever process → one append-only SQLite file that loses nothing when several write at once.

Every call opens a connection of its own and closes it, so that any thread of any process may make it. The log is the
tables `event` and `entry`, which take new rows only. `standing` is each pair's last entry, written in the same
transaction, so that a million decisions are read as fast as a thousand.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock

from clipmem_core.atomic import replacing
from clipmem_core.config import InputError

VERSION = 1
APPLICATION = 0x434C4D50  # "CLMP" in the file's header: tells our files from other SQLite files
PATIENCE = 60.0  # seconds to wait for another writer; one that decides a million pairs takes some
CACHE_KB = 64_000  # of pages, while writing: a million pairs are looked up in any order
_SIDE_FILES = ("-wal", "-shm")

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
        note TEXT,                        -- null: every pair keeps its own
        first_entry INTEGER NOT NULL,     -- its entries are this one and those that follow,
        pairs INTEGER NOT NULL            -- one for each pair
    );
    CREATE TABLE entry (
        id INTEGER PRIMARY KEY,
        event INTEGER NOT NULL REFERENCES event,
        pair_id TEXT NOT NULL,
        decided INTEGER NOT NULL,         -- the event whose decision and captions stand from here on; 0: none do
        noted INTEGER NOT NULL,           -- the event whose note stands from here on; 0: none does
        previous INTEGER NOT NULL         -- the pair's entry before this one; 0: there was none
    );
    CREATE TABLE standing (
        pair_id TEXT PRIMARY KEY,
        entry INTEGER NOT NULL,
        decided INTEGER NOT NULL,
        noted INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX standing_decided ON standing (decided);
    CREATE TRIGGER event_kept BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
    CREATE TRIGGER event_unchanged BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
    CREATE TRIGGER entry_kept BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
    CREATE TRIGGER entry_unchanged BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
    COMMIT;
"""
_MOVE_AWAY = "move it away, or put a copy of it back"
_ADVICE = {
    sqlite3.SQLITE_BUSY: "another process is writing: try again",
    sqlite3.SQLITE_CORRUPT: _MOVE_AWAY,
    sqlite3.SQLITE_NOTADB: _MOVE_AWAY,
    sqlite3.SQLITE_ERROR: _MOVE_AWAY,  # a table or column is not there
}


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Give one moment's view of a log; a log that is not there reads as an empty one and is not made.

    Raises:
        InputError: the file is broken, not a log of ours, or of a newer version; or a text has half a character.
    """
    with _explained(path), closing(_connect(path, _mode(path)) if path.exists() else _empty()) as connection:
        _check(path, connection)
        connection.execute("BEGIN")
        yield connection


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a log to add to, made where there is none: all of the block's rows are there at its end, or none.

    Raises:
        InputError: as in `reading`; or the file cannot be written, or another process held it too long.
    """
    with _explained(path):
        if not path.exists():
            _make(path)
        with closing(_connect(path, "rw")) as connection:
            _check(path, connection)
            # A decision is there for good when the page says so, even if the power fails: one fsync for each event.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            connection.execute("BEGIN IMMEDIATE")  # not later: what is read first must still stand when it is written
            yield connection
            connection.execute("COMMIT")  # closing without it, after an error, takes everything back


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=PATIENCE, isolation_level=None)


def _mode(path: Path) -> str:
    """Return how to open a log to read it: SQLite keeps files beside it, which a read-only folder does not allow."""
    fixed = not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists()
    return "ro&immutable=1" if fixed else "rw"


def _empty() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(_TABLES)
    return connection


def _make(path: Path) -> None:
    """Make an empty log, once, however many processes want to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f".{path.name}.lock"):
        if path.exists():
            return
        for suffix in _SIDE_FILES:  # of a file that was deleted without them: they would be read into the new one
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        with replacing(path) as temporary:
            temporary.unlink(missing_ok=True)  # left by a process that was killed here
            with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
                connection.executescript(_TABLES)


def _check(path: Path, connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION:
        raise InputError(f"{path} is not a log of decisions: {_MOVE_AWAY}")
    if version != VERSION:
        raise InputError(f"{path} is of version {version} and this CLIPMem reads version {VERSION}: update CLIPMem")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what can go wrong with a file or a text into one line that names it."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # the primary code
        advice = _ADVICE.get(code, "see that the disk has room and that you may write there")
        raise InputError(f"{path} cannot be used ({error}): {advice}") from None
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise InputError(f"a text has half a character, {half!r}, which no file can hold: take it out") from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be made or read ({error.strerror or error}): choose another data folder"
        ) from None
