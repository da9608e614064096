"""An audit's captions → the rows in which some words occur. The text is folded once and kept in memory."""

import functools
from pathlib import Path

import duckdb
import numpy as np

from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.columns import CAPTIONS
from clipmem_core.review.tables import ROW, Stamp, explained, load, open_database, sound, stamp

KEPT = 2  # audits in memory: some 150 bytes a pair


def rows_with(audit: Audit, words: str) -> np.ndarray:
    """Return the rows where every word occurs in a caption, whatever the case and the composition of accents.

    Args:
        audit: a finished audit.
        words: separated by space; each may also be a part of a longer word.

    Returns:
        Rows, ascending.
    """
    path = audit.folder / PAIRS
    asked = [sound(word) for word in dict.fromkeys(words.split())]
    where = " AND ".join(f"contains(text, {_folded('?')})" for _ in asked) or "true"
    with explained(path), _texts(path, stamp(path)).cursor() as cursor:
        found = cursor.execute(f"SELECT place FROM captions WHERE {where}", asked).fetchnumpy()
        return np.asarray(found["place"])


@functools.lru_cache(maxsize=KEPT)
def _texts(path: Path, stamp: Stamp) -> duckdb.DuckDBPyConnection:
    """Return a database with one text a pair: its captions, one below the other, so that no word reaches over."""
    database = open_database()
    text = _folded(f"array_to_string({CAPTIONS}, chr(10))")
    load(database, path, f"SELECT {ROW}::INTEGER AS place, {text} AS text FROM parquet", into="captions")
    return database


def _folded(text: str) -> str:
    """Return SQL for a text in which case is of no matter; up and down again, so that both forms of a sigma meet."""
    return f"lower(upper(nfc_normalize({text})))"
