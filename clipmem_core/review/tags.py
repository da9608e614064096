"""A person's own words on pairs, and the views they saved: in the log of decisions, for all audits of a data set.

Like the decisions they are rows that are only added: of a pair and a word the last row stands, and of a view's name. A
log has these tables from the first word or view on. A word is on a pair, whatever its captions are.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection

from clipmem_core.config import InputError
from clipmem_core.review.log import reading, writing

TAG, UNTAG = "tag", "untag"
LONGEST = 60  # characters of a word and of a view's name
_AT_ONCE = 500  # ids in one query
_TABLES = {
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
    _make(log)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [(now, pair_id, tag.strip(), int(on)) for pair_id in pair_ids]
    log.executemany("INSERT INTO tagging (time, pair_id, tag, stands) VALUES (?, ?, ?, ?)", rows)


def tags_of(path: Path, pair_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the words on each of some pairs, the first given first, without the pairs that have none."""
    found: dict[str, list[str]] = {}
    with reading(path) as log:
        if not _has(log, "tagging"):
            return {}
        for start in range(0, len(pair_ids), _AT_ONCE):
            part = pair_ids[start : start + _AT_ONCE]
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
        return _last(log) if _has(log, "tagging") else 0


def _last(log: Connection) -> int:
    return int(log.execute("SELECT coalesce(max(id), 0) FROM tagging").fetchone()[0])


def save_view(path: Path, name: str, parameters: Mapping[str, str] | None) -> None:
    """Save the parameters of an address under a name, in place of what had it; None takes the view away.

    Raises:
        InputError: the name cannot be one, or the log cannot be written.
    """
    if fault := tag_fault(name):
        raise InputError(fault.replace("a tag", "a view's name"))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with writing(path) as log:
        _make(log)
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


def _make(log: Connection) -> None:
    for statement in (*_TABLES.values(), _INDEX):
        log.execute(statement)


def _has(log: Connection, table: str) -> bool:
    return bool(log.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone())
