"""The log of decisions: an append-only SQLite file that loses nothing when several processes write at once.

Every call opens a connection of its own and closes it, so that any thread of any process may make it. The log is the
tables `event` and `entry`, which take new rows only. `standing` is each pair's last entry on each of the captions that
were judged, written in the same transaction, so that a million decisions are read as fast as a thousand.

An event is a decision on some pairs, or the undoing of one; it has an entry for each pair. What stands for a pair is
named by two events: the one that decided and the one whose note holds. So a decision on a million pairs stores its
captions and note once, and an undo finds by a comparison of numbers who was decided on since.

A recaption gives all its pairs the event's captions; where each gets others, as by find and replace, its list is empty
and `own_captions` has those of each pair. `apart` names the events that say nothing of whether captions are right, as
find and replace, or one of some look-alikes that is kept: what people found counts without them.

Where clients number what they tell, `told` keeps what became of each number, in the transaction that stored it, so that
what is told twice is stored once. A log has that table from the first such client on.

Tags, which a person puts on pairs whatever their captions are, and saved views are rows that are only added too: the
last one stands. A log has their tables from the first tag or view on.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from clipmem_core.atomic import replacing
from clipmem_core.config import InputError

KEEP, REMOVE, RECAPTION = "keep", "remove", "recaption"
CHOICES = (KEEP, REMOVE, RECAPTION)
VERSION = 3
APPLICATION = 0x434C4D50  # "CLMP" in the file's header: tells our files from other SQLite files
LOCK_TIMEOUT = 5.0  # seconds to wait for another writer
CACHE_KB = 64_000  # of pages, while writing: a million pairs are looked up in any order
SHOWN = 80  # characters of a value, or of what SQLite says, in a message
_SIDE_FILES = ("-wal", "-shm")

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
        previous INTEGER NOT NULL,        -- the pair's entry before this one that counted here; 0: there was none
        judged INTEGER NOT NULL DEFAULT 0 -- the key of the captions that were judged; 0: not known, it counts for any
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
_TOLD_TABLE = """
    CREATE TABLE IF NOT EXISTS told (
        client TEXT NOT NULL,
        number INTEGER NOT NULL,  -- the client's own, from 1
        event INTEGER NOT NULL,   -- what it became; 0: it was refused
        refused TEXT NOT NULL,    -- why; empty where it was not
        PRIMARY KEY (client, number)
    ) WITHOUT ROWID
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
    """Give one moment's view of a log; a log that is not there reads as an empty one and is not made."""
    # SQLite keeps files beside a log that it opens to write, which a read-only folder does not allow.
    fixed = not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists()
    mode = "ro&immutable=1" if fixed else "rw"
    with _as_input_error(path), closing(_connect(path, mode) if path.exists() else _empty()) as connection:
        _check(path, connection)
        connection.execute("BEGIN")
        yield connection


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a log to add to, made where there is none: all of the block's rows are there at its end, or none."""
    with _as_input_error(path):
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


def fetch(log: sqlite3.Connection, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a query and return its rows, whose values have been looked at."""
    cursor = log.execute(query, values)
    rows = cursor.fetchall()
    for place, (name, *_) in enumerate(cursor.description):
        column, fits = map(itemgetter(place), rows), _FITS.get(name, int)
        wrong = set(map(type, column)) - {fits} if isinstance(fits, type) else {v for v in set(column) if not fits(v)}
        if wrong:
            raise BrokenLogError(f"its column {name!r} holds {repr(wrong.pop())[:SHOWN]}")
    return rows


class Added(NamedTuple):
    """Where an event stands in the log: its number, its first entry, and how many entries it has.

    `before` is the last entry that its pairs had before it, 0 where they had none.
    """

    event: int
    first: int
    pairs: int
    before: int


def add_decision(
    log: sqlite3.Connection,
    pairs: Iterable[tuple[str, int]],
    *,
    audit: str,
    decision: str | None,
    captions: str,
    note: str | None,
    own: Mapping[str, str] | None = None,
    apart: bool = False,
) -> Added:
    """Add a decision on pairs, each named once with the key of its captions, 0 where that is not known.

    `captions` is a JSON list; `own` has such a list for each pair that gets others. Where `note` is None, every pair
    keeps its own. `apart` says that it tells nothing of whether the captions are right.
    """
    number, first = count_rows(log, "event") + 1, count_rows(log, "entry") + 1
    noted = None if note is None else number
    log.executemany(_DECIDE, ((number, pair_id, noted, judged) for pair_id, judged in pairs))
    log.executemany("INSERT INTO own_captions VALUES (?, ?, ?)", ((number, *each) for each in (own or {}).items()))
    if apart:
        log.execute("INSERT INTO apart VALUES (?)", (number,))
    return _add_event(log, first, (audit, None, decision, captions, note))


def add_undo(log: sqlite3.Connection, undoes: int) -> tuple[Added | None, int]:
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
    if count_rows(log, "entry") < first:
        return None, pairs
    added = _add_event(log, first, (audit, undoes, decision, "[]", None))
    return added, pairs - added.pairs


def stored_outcomes(log: sqlite3.Connection, client: str, numbers: Iterable[int]) -> dict[int, tuple[int, str]]:
    """Return what became of those of a client's numbers that were told: the event, 0 for none, and why it is none."""
    log.execute(_TOLD_TABLE)
    wanted = json.dumps(list(numbers))
    query = "SELECT number, event, refused FROM told WHERE client = ? AND number IN (SELECT value FROM json_each(?))"
    return {number: (event, refused) for number, event, refused in fetch(log, query, (client, wanted))}


def add_outcome(log: sqlite3.Connection, client: str, number: int, *, event: int, refused: str) -> None:
    """Keep what became of a client's number."""
    log.execute("INSERT INTO told VALUES (?, ?, ?, ?)", (client, number, event, refused))


def _add_event(log: sqlite3.Connection, first: int, said: tuple[Any, ...]) -> Added:
    """Add the event of entries that are there already, and let them stand."""
    number, pairs = count_rows(log, "event") + 1, count_rows(log, "entry") + 1 - first
    time = datetime.now(UTC).isoformat(timespec="seconds")
    log.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (number, time, *said, first, pairs))
    log.execute(_STAND, (first,))
    ((before,),) = fetch(log, "SELECT coalesce(max(previous), 0) AS previous FROM entry WHERE id >= ?", (first,))
    return Added(number, first, pairs, before)


def count_rows(log: sqlite3.Connection, table: str) -> int:
    """Return the number of rows of a table that only grows, which is its last row's number."""
    return log.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0]


def last_standing(log: sqlite3.Connection) -> int | None:
    """Return the last decision that stands for any pair: the last one that is not undone."""
    return fetch(log, "SELECT coalesce(max(decided), 0) FROM standing")[0][0] or None


def undone_events(log: sqlite3.Connection) -> set[int]:
    """Return the events that are taken back: by an undo that is not itself taken back."""
    undone: set[int] = set()
    for event, undoes in fetch(log, "SELECT id, undoes FROM event WHERE undoes IS NOT NULL ORDER BY id DESC"):
        if event not in undone:  # an undo comes after what it takes back, so its own fate is known by now
            undone.add(undoes)
    return undone


class BrokenLogError(ValueError):
    """A log holds what we never write; `reading` and `writing` name the file."""


def _is_time(value: Any) -> bool:
    try:
        return bool(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False


def _is_list_of_texts(value: Any) -> bool:
    """Tell whether it is a JSON list of texts."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return False
    return isinstance(parsed, list) and all(isinstance(text, str) for text in parsed)


_FITS: dict[str, type | Callable[[Any], bool]] = {  # by column, the type or a test; all others hold whole numbers
    "pair_id": str,
    "audit": str,
    "kind": str,
    "refused": str,
    "time": _is_time,
    "decision": (None, *CHOICES).__contains__,
    "captions": _is_list_of_texts,
    "note": lambda value: value is None or isinstance(value, str),
    "undoes": lambda value: value is None or isinstance(value, int),
}


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT, isolation_level=None)


def _empty() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(_TABLES)
    return connection


def _make(path: Path) -> None:
    """Make an empty log, once, however many processes want to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f".{path.name}.lock", timeout=LOCK_TIMEOUT):
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
        raise InputError(
            f"{path} is of version {version} and this CLIPMem reads version {VERSION}: move it away, or use the "
            "CLIPMem that wrote it"
        )


@contextmanager
def _as_input_error(path: Path) -> Iterator[None]:
    """Turn what can go wrong with a file or a text into one line that names it."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # the primary code
        advice = _ADVICE.get(code, "see that the disk has room and that you may write there")
        said = "".join(letter if letter.isprintable() else " " for letter in str(error))
        raise InputError(f"{path} cannot be used ({said}): {advice}") from None
    except BrokenLogError as error:
        raise InputError(f"{path} cannot be used ({error}): {_MOVE_AWAY}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} cannot be used (a name in it is no text): {_MOVE_AWAY}") from None
    except Timeout:
        raise InputError(f"{path} cannot be used (it is locked): {_ADVICE[sqlite3.SQLITE_BUSY]}") from None
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise InputError(f"a text has half a character, {half!r}, which no file can hold: take it out") from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be made or read ({error.strerror or error}): choose another data folder"
        ) from None


TAG, UNTAG = "tag", "untag"
LONGEST = 60  # characters of a word and of a view's name
_IDS_AT_ONCE = 500  # ids in one query
_TAG_TABLES = {
    "tagging": """
        CREATE TABLE IF NOT EXISTS tagging (
            id INTEGER PRIMARY KEY, time TEXT NOT NULL, pair_id TEXT NOT NULL, tag TEXT NOT NULL,
            stands INTEGER NOT NULL  -- 1: the pair has it from here on; 0: no more
        )
    """,
    "view": """
        CREATE TABLE IF NOT EXISTS view (
            id INTEGER PRIMARY KEY, time TEXT NOT NULL, name TEXT NOT NULL,
            parameters TEXT NOT NULL  -- a JSON object of the address's; empty: the view is gone
        )
    """,
}
_INDEX = "CREATE INDEX IF NOT EXISTS tagging_of ON tagging (pair_id, tag, id)"
_STANDING = "SELECT pair_id, tag FROM (SELECT pair_id, tag, stands, max(id) FROM tagging {} GROUP BY pair_id, tag)"


def tag_fault(tag: str) -> str:
    """Return why a word cannot be put on a pair; empty where it can.

    Example:
        >>> tag_fault("check the label"), tag_fault(" ")
        ('', 'a tag needs a word: write one')
    """
    if not tag.strip():
        return "a tag needs a word: write one"
    if len(tag) > LONGEST or not tag.isprintable():
        return f"a tag is one line of at most {LONGEST} characters: choose a shorter one"
    return ""


def add_tag(log: Connection, pair_ids: Iterable[str], tag: str, *, on: bool) -> None:
    """Put a word on pairs, or take it off, in a log that is being written."""
    _make_tag_tables(log)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [(now, pair_id, tag.strip(), int(on)) for pair_id in pair_ids]
    log.executemany("INSERT INTO tagging (time, pair_id, tag, stands) VALUES (?, ?, ?, ?)", rows)


def tags_of(path: Path, pair_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the words on each of some pairs, the first given first, without the pairs that have none."""
    found: dict[str, list[str]] = {}
    with reading(path) as log:
        if not _has(log, "tagging"):
            return {}
        for start in range(0, len(pair_ids), _IDS_AT_ONCE):
            part = pair_ids[start : start + _IDS_AT_ONCE]
            where = f"WHERE pair_id IN ({', '.join('?' * len(part))})"
            for pair_id, tag in log.execute(f"{_STANDING.format(where)} WHERE stands", part):
                found.setdefault(str(pair_id), []).append(str(tag))
    return found


def known_tags(path: Path) -> dict[str, int]:
    """Return every word that is on a pair with the number of its pairs, the most used first."""
    with reading(path) as log:
        if not _has(log, "tagging"):
            return {}
        query = f"SELECT tag, count(*) FROM ({_STANDING.format('')} WHERE stands) GROUP BY tag ORDER BY 2 DESC, 1"
        return {str(tag): int(count) for tag, count in log.execute(query)}


def tagged_pairs(path: Path, tag: str) -> list[str]:
    """Return the ids of the pairs that have a word."""
    with reading(path) as log:
        if not _has(log, "tagging"):
            return []
        query = f"{_STANDING.format('WHERE tag = ?')} WHERE stands"
        return [str(pair_id) for pair_id, _ in log.execute(query, (tag,))]


def tags_position(path: Path) -> int:
    """Return what changes whenever a word is put on a pair or taken off."""
    with reading(path) as log:
        return count_rows(log, "tagging") if _has(log, "tagging") else 0


def save_view(path: Path, name: str, parameters: Mapping[str, str] | None) -> None:
    """Save the parameters of an address under a name, in place of what had it; None takes the view away."""
    if fault := tag_fault(name):
        raise InputError(fault.replace("a tag", "a view's name"))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with writing(path) as log:
        _make_tag_tables(log)
        row = (now, name.strip(), json.dumps(dict(parameters)) if parameters is not None else "")
        log.execute("INSERT INTO view (time, name, parameters) VALUES (?, ?, ?)", row)


def saved_views(path: Path) -> dict[str, dict[str, str]]:
    """Return the saved views, name → parameters of an address, by name."""
    with reading(path) as log:
        if not _has(log, "view"):
            return {}
        query = "SELECT name, parameters FROM (SELECT name, parameters, max(id) FROM view GROUP BY name) ORDER BY name"
        rows = [(str(name), str(parameters)) for name, parameters in log.execute(query)]
    return {name: _parameters(text) for name, text in rows if text}


def _parameters(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _make_tag_tables(log: Connection) -> None:
    for statement in (*_TAG_TABLES.values(), _INDEX):
        log.execute(statement)


def _has(log: Connection, table: str) -> bool:
    return bool(log.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone())
