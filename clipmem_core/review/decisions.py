"""The decisions on the pairs of a data set (keep, remove, recaption, a note): make, undo and read
them.

All audits of a data set share one append-only log. A decision applies to the captions that were on
screen: in an audit with other captions, for example injected errors, the pair is undecided.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from clipmem_core.audit.store import PAIRS, SCORES, Audit, check_name
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.config import data_folder
from clipmem_core.io import InputError
from clipmem_core.review import log as events
from clipmem_core.review import queries as t
from clipmem_core.review.log import CHOICES, KEEP, RECAPTION, REMOVE
from clipmem_core.studies.arm import Decided

__all__ = ["CHOICES", "KEEP", "RECAPTION", "REMOVE"]
FOR_OTHER = "for_other_captions"
_TABLE_COLUMNS = [PAIR_ID, "decision", CAPTIONS, "note", "time", "audit", FOR_OTHER]
HISTORY_COLUMNS = [
    "event",
    "time",
    "audit",
    "kind",
    "decision",
    "pairs",
    "first_pair_id",
    "undone",
    "undoes",
]
UNDECIDED_CODE = 0
CODES = {None: UNDECIDED_CODE, KEEP: 1, REMOVE: 2, RECAPTION: 3}
_CACHED_AUDITS = 4  # audits whose codes stay in memory, 2 bytes a pair

_DECISIONS = """
    SELECT entry.pair_id, entry.judged, decision.decision,
        coalesce(edit.captions, recaption.captions, '[]'), coalesce(note.note, ''),
        coalesce(decision.time, event.time), coalesce(decision.audit, event.audit), entry.id
    FROM entry JOIN event ON event.id = entry.event
    LEFT JOIN event AS decision ON decision.id = entry.decided
    LEFT JOIN event AS note ON note.id = entry.noted
    LEFT JOIN event AS recaption ON recaption.id = entry.captioned
    LEFT JOIN own_captions AS edit ON edit.event = entry.captioned AND edit.pair_id = entry.pair_id
    WHERE entry.id IN ({}) ORDER BY entry.id DESC
"""
_HISTORY = """
    SELECT event.id, time, audit, CASE WHEN undoes IS NULL THEN 'decide' ELSE 'undo' END,
        decision, pairs, pair_id, undoes
    FROM event LEFT JOIN entry ON entry.id = first_entry ORDER BY event.id DESC LIMIT ? OFFSET ?
"""
_ENTRIES = """
    SELECT pair_id, event.decision, entry.id, judged, entry.decided IN (SELECT event FROM apart)
    FROM entry LEFT JOIN event ON event.id = entry.decided
    WHERE entry.id > ? ORDER BY entry.id
"""


class Decision(NamedTuple):
    """The current decision on one pair."""

    pair_id: str
    decision: str | None  # keep | remove | recaption; None: undecided, maybe with a note
    captions: tuple[
        str, ...
    ]  # the new captions, also of an undecided pair; empty: those of the data set
    note: str
    time: str  # of the decision, ISO 8601 in UTC
    entry: int  # of the log; 0: no entry applies to the captions of this audit
    for_other: str | None = None  # the decision on other captions of an undecided pair
    audit: str = ""

    @property
    def words(self) -> str:
        """The decision in words; empty for an undecided pair."""
        return decision_words(self.decision, self.for_other)


class Edit(NamedTuple):
    """New captions of one pair, and the pair's `entry` when they were written."""

    captions: tuple[str, ...]
    entry: int


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
        keys = self._keys(ids)
        with events.writing(self.path) as log:
            pairs = ((pair_id, keys.get(pair_id, 0)) for pair_id in ids)
            return Outcome(
                *events.add_decision(log, pairs, audit, decision, texts, note=note, neutral=neutral)
            )

    def edit(self, edits: Mapping[str, Edit], *, audit: str = "") -> Outcome:
        """Replace captions of pairs in one event, without a decision; pairs with a newer decision
        are skipped."""
        if not edits:
            raise InputError("no caption is to be changed: choose what to change")
        texts = {
            pair_id: captions_to_store(RECAPTION, edit.captions) for pair_id, edit in edits.items()
        }
        keys = self._keys(edits)
        with events.writing(self.path) as log:
            entries = {decision.pair_id: decision.entry for decision in self._decisions(log, edits)}
            texts = {
                each: text
                for each, text in texts.items()
                if entries.get(each, 0) == edits[each].entry
            }
            skipped = len(edits) - len(texts)
            if not texts:
                return Outcome(0, 0, skipped)
            pairs = ((pair_id, keys.get(pair_id, 0)) for pair_id in texts)
            added = events.add_decision(log, pairs, audit, RECAPTION, captions_by_pair=texts)
            return Outcome(*added, skipped)

    def undo(self, event: int) -> Outcome | None:
        """Restore the decisions before an event of pairs without a newer one; None: it is undone
        already."""
        count = self.count_events()
        if not 1 <= event <= count:
            raise InputError(
                f"event {event} is not in the log, which has {count}: choose one of the history"
            )
        with events.writing(self.path) as log:
            outcome = Outcome(*events.add_undo(log, event))
            return None if not outcome.event and event in events.undone_events(log) else outcome

    def current(self, pair_id: str) -> Decision | None:
        """Return the current decision on a pair, None if the log does not have the pair."""
        return self.decisions([pair_id]).get(pair_id)

    def decisions(self, pair_ids: Iterable[str]) -> dict[str, Decision]:
        """Return the current decisions on those of some pairs that the log has."""
        with events.reading(self.path) as log:
            return {decision.pair_id: decision for decision in self._decisions(log, pair_ids)}

    def table(self) -> pd.DataFrame:
        """Return the pairs with a decision, new captions or a note, the newest first.

        for_other_captions is the decision on other captions of an undecided pair.
        """
        with events.reading(self.path) as log:
            rows = [
                each for each in self._decisions(log) if each.words or each.captions or each.note
            ]
        table = pd.DataFrame(rows, columns=Decision._fields, dtype=object)
        table = table.rename(columns={"for_other": FOR_OTHER})[_TABLE_COLUMNS]
        return table.assign(**{CAPTIONS: table[CAPTIONS].map(list)})

    def _decisions(
        self, log: Connection, pair_ids: Iterable[str] | None = None
    ) -> Iterator[Decision]:
        """Yield the current decisions on some pairs or all, the newest first."""
        entries = "SELECT entry FROM standing"
        values = []
        if pair_ids is not None:
            entries += " WHERE pair_id IN (SELECT value FROM json_each(?))"
            values = [json.dumps([t.without_surrogates(pair_id) for pair_id in pair_ids])]
        rows = log.execute(_DECISIONS.format(entries), values).fetchall()
        with_key = {pair_id for pair_id, key, *_ in rows if key}
        keys = self._keys(with_key) if with_key else {}
        same: dict[str, tuple[Any, ...]] = {}
        other: dict[str, tuple[Any, ...]] = {}
        for pair_id, key, *values in rows:
            applies = not key or keys.get(pair_id, key) == key
            (same if applies else other).setdefault(pair_id, tuple(values))
        for pair_id in dict.fromkeys(row[0] for row in rows):
            decision, captions, note, time, audit, entry = same.get(
                pair_id, (None, "[]", "", "", "", 0)
            )
            for_other = None
            if decision is None and pair_id in other and other[pair_id][0]:
                for_other, _, _, time, audit, _ = other[pair_id]
            texts = tuple(json.loads(captions)) if captions != "[]" else ()
            yield Decision(pair_id, decision, texts, note, time, entry, for_other, audit)

    def _keys(self, pair_ids: Iterable[str]) -> dict[str, int]:
        return {} if self.pairs is None else t.caption_keys(self.pairs, pair_ids)

    def counts(self) -> dict[str, int]:
        """Return the number of pairs of each decision, in the order of `CHOICES`."""
        with events.reading(self.path) as log:
            counts = Counter(each.decision for each in self._decisions(log))
        return {choice: counts[choice] for choice in CHOICES}

    def history(self, *, page: int, size: int) -> pd.DataFrame:
        """Return a page of the events, the newest first; `undoes`: the event an undo reverts,
        `undone`: reverted."""
        with events.reading(self.path) as log:
            rows = log.execute(_HISTORY, (int(size), (int(page) - 1) * int(size))).fetchall()
            undone = events.undone_events(log)
        listed = [(*values, values[0] in undone, undoes) for *values, undoes in rows]
        table = pd.DataFrame(listed, columns=HISTORY_COLUMNS, dtype=object)
        return table.astype(
            {"event": "int64", "pairs": "int64", "undone": "bool", "undoes": "Int64"}
        )

    def count_events(self) -> int:
        """Return the number of events, which is also the number of the last one."""
        with events.reading(self.path) as log:
            return events.count_rows(log, "event")

    def position(self) -> int:
        """Return the number of entries of the log, which grows with every event."""
        with events.reading(self.path) as log:
            return events.count_rows(log, "entry")

    def entries_after(self, entry: int) -> list[tuple[str, str | None, int, int, int]]:
        """Return pair_id, decision, number, caption key and neutral of each entry after `entry`, in
        order."""
        with events.reading(self.path) as log:
            return log.execute(_ENTRIES, (int(entry),)).fetchall()


def current_decision(log: Connection, pair_id: str, caption_key: int) -> tuple[str, ...]:
    """Return the decision on a pair with these captions ("" if undecided) and its new captions;
    empty without both."""
    last = "SELECT max(entry) FROM standing WHERE pair_id = ? AND judged IN (0, ?)"
    row = log.execute(_DECISIONS.format(last), (pair_id, caption_key)).fetchone()
    decision, captions = (row[2], json.loads(row[3])) if row else (None, [])
    return (decision or "", *captions) if decision or captions else ()


def open_review(audit: Audit) -> Review:
    """Return the decisions on the data set of an audit."""
    return _review_of(audit.record.dataset_fingerprint, audit.folder / PAIRS)


def _review_of(dataset_fingerprint: str, pairs: Path | pa.Table | None) -> Review:
    return Review(data_folder() / "review" / f"{check_name(dataset_fingerprint)}.sqlite", pairs)


def decision_words(decision: str | None, for_other: str | None) -> str:
    """Return a decision in words; empty for an undecided pair."""
    return decision or (f"{for_other} for other captions" if for_other else "")


def captions_to_store(decision: str | None, captions: Sequence[str]) -> str:
    """Check a decision and its captions; return the captions as a JSON list."""
    if decision is not None and decision not in CHOICES:
        raise InputError(f"decision {decision!r} is unknown: choose {', '.join(CHOICES)} or none")
    if captions and decision != RECAPTION:
        raise InputError(
            f"captions belong to a {RECAPTION}, not to {decision or 'no decision'}: leave them out"
        )
    if any("\0" in caption or t.without_surrogates(caption) != caption for caption in captions):
        raise InputError(
            "a caption has a NUL character or half a character, which not every file can hold: "
            "delete it"
        )
    texts = [caption.strip() for caption in captions if caption.strip()]
    if decision == RECAPTION and not texts:
        raise InputError(f"a {RECAPTION} needs a caption: write at least one that is not blank")
    return json.dumps(texts, ensure_ascii=False)


@dataclass(frozen=True, eq=False)
class Codes:
    """The decision on each pair of an audit, up to an entry of a log; read-only."""

    version: list[t.Stamp]  # of the audit's tables
    log: tuple[str, int]  # path and inode
    entry: int
    codes: np.ndarray  # int8 [n_pairs], values of `CODES`
    neutral: np.ndarray  # bool [n_pairs], the decision does not say whether the captions are right


_codes_cache: dict[Audit, Codes] = {}
_codes_lock = threading.Lock()


def decided(audit: Audit) -> Codes:
    """Return the decisions on the pairs of an audit; each call reads only the new entries of the
    log."""
    review = open_review(audit)
    version = [t.stamp(audit.folder / name) for name in (SCORES, PAIRS)]
    with _codes_lock:
        log = str(review.path), review.path.stat().st_ino if review.path.exists() else 0
        position = review.position()
        cached = _codes_cache.pop(audit, None)
        if (
            cached is None
            or (cached.version, cached.log) != (version, log)
            or position < cached.entry
        ):
            count = t.count_pairs_of(audit)
            cached = Codes(version, log, 0, np.zeros(count, np.int8), np.zeros(count, bool))
        if position > cached.entry:
            cached = _apply_entries(audit, cached, review.entries_after(cached.entry))
        _codes_cache[audit] = cached
        if len(_codes_cache) > _CACHED_AUDITS:
            del _codes_cache[next(iter(_codes_cache))]
    return cached


def _apply_entries(
    audit: Audit, before: Codes, entries: list[tuple[str, str | None, int, int, int]]
) -> Codes:
    """Apply entries of the log in order, except those on pairs or captions that this audit does not
    have."""
    ids, decisions, numbers, keys, neutral = zip(*entries, strict=True)
    codes = pa.array([CODES[decision] for decision in decisions], pa.int8())
    columns = [pa.array(ids), codes, pa.array(numbers), pa.array(keys), pa.array(neutral)]
    table = pa.table(columns, ["entry_pair_id", "code", "entry", "caption_key", "neutral"])
    newest = """
        SELECT entry_pair_id, caption_key, max(entry) AS newest, arg_max(code, entry) AS code,
            arg_max(neutral, entry) AS neutral
        FROM entries GROUP BY entry_pair_id, caption_key
    """
    query = f"""
        SELECT {t.ROW}, code, neutral FROM parquet JOIN ({newest}) ON "{PAIR_ID}" = entry_pair_id
        WHERE caption_key = 0 OR caption_key = {t.CAPTION_KEY} ORDER BY newest
    """
    changed = t.fetch_columns(audit.folder / PAIRS, query, entries=table)
    all_codes = before.codes.copy()
    all_neutral = before.neutral.copy()
    # the newest wins
    all_codes[changed[t.ROW]] = changed["code"]
    all_neutral[changed[t.ROW]] = changed["neutral"]
    return replace(before, entry=numbers[-1], codes=all_codes, neutral=all_neutral)


def decided_of(dataset_fingerprint: str, pairs: Path | pa.Table | None = None) -> Decided:
    """Return the pairs of a data set to be removed, and the new captions of others."""
    table = _review_of(dataset_fingerprint, pairs).table()
    removes = table["decision"] == REMOVE
    others = table[~removes & (table[CAPTIONS].map(len) > 0)]
    captions = {
        str(id_): tuple(texts) for id_, texts in zip(others[PAIR_ID], others[CAPTIONS], strict=True)
    }
    return Decided(frozenset(table.loc[removes, PAIR_ID].astype(str)), captions)


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
