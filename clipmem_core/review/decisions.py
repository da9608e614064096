"""What people decide on the pairs of a data set (keep, remove, recaption, a note), and what stands of it.

All audits of a data set share one log. Nothing in it ever changes: an undo is an event too, which can itself be undone.
A decision is on the captions that the audit showed: where another shows others, as one with planted mistakes does, it
does not count.
"""

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clipmem_core.audits.store import PAIRS, Audit, check_name
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.config import InputError, data_folder
from clipmem_core.review.log import (
    CHOICES,
    KEEP,
    RECAPTION,
    REMOVE,
    BrokenLogError,
    add_decision,
    add_undo,
    count_rows,
    fetch,
    last_standing,
    reading,
    undone_events,
    writing,
)
from clipmem_core.review.tables import (
    CAPTION_KEY,
    ROW,
    Version,
    caption_keys,
    count_pairs_of,
    fetch_columns,
    version_of,
    without_surrogates,
)
from clipmem_core.studies.arm import Decided
from clipmem_core.studies.store import StudyFolder

__all__ = ["CHOICES", "KEEP", "RECAPTION", "REMOVE"]  # of the log; the rest is here
FOR_OTHER = "for_other_captions"
TABLE_COLUMNS = [PAIR_ID, "decision", CAPTIONS, "note", "time", "audit", FOR_OTHER]
HISTORY_COLUMNS = ["event", "time", "audit", "kind", "decision", "pairs", "first_pair_id", "undone", "undoes"]
UNDECIDED_CODE = 0
CODES = {None: UNDECIDED_CODE, KEEP: 1, REMOVE: 2, RECAPTION: 3}
_AT_ONCE = 500  # ids in one query
_CACHED_AUDITS = 4  # audits whose codes stay in memory, 1 byte a pair
Row = tuple[Any, ...]
_NOTHING: Row = (None, [], "", "", "")  # what an event says, where there is none

# What no decision can be: the event that an entry names is not there.
_SAID = "CASE WHEN coalesce(said.id, 0) = entry.decided THEN said.decision ELSE 'that of no event' END AS decision"
_DECISIONS = f"""
    SELECT entry.pair_id AS pair_id, entry.judged AS judged, {_SAID},
        coalesce(each.captions, said.captions, '[]') AS captions,
        noted.note AS note, coalesce(said.time, own.time) AS time, entry.id AS entry
    FROM entry JOIN event AS own ON own.id = entry.event
    LEFT JOIN event AS said ON said.id = entry.decided LEFT JOIN event AS noted ON noted.id = entry.noted
    LEFT JOIN own_captions AS each ON each.event = entry.decided AND each.pair_id = entry.pair_id
"""
_OWN = """
    SELECT event, pair_id, captions FROM own_captions JOIN standing USING (pair_id) WHERE standing.decided = event
"""
_HISTORY = """
    SELECT event.id AS event, time, audit, CASE WHEN undoes IS NULL THEN 'decide' ELSE 'undo' END AS kind, decision,
        pairs, pair_id, undoes
    FROM event LEFT JOIN entry ON entry.id = first_entry ORDER BY event.id DESC LIMIT ? OFFSET ?
"""
_ENTRIES = f"""
    SELECT pair_id, {_SAID}, entry.id AS entry, judged, entry.decided IN (SELECT event FROM apart) AS apart
    FROM entry LEFT JOIN event AS said ON said.id = entry.decided
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
    entry: int  # the pair's last entry of the log that counts here; 0: there is none
    for_other: str | None = None  # what was decided on other captions of a pair that is undecided with these

    @property
    def words(self) -> str:
        """What to say of the pair; nothing where it is undecided."""
        return decision_words(self.decision, self.for_other)


@dataclass(frozen=True)
class Edit:
    """New captions of one pair, at least one that is not blank, and the pair's `entry` when they were made."""

    captions: tuple[str, ...]
    entry: int


@dataclass(frozen=True)
class Outcome:
    """What a decision or an undo did."""

    event: int  # its number in the history; 0: nothing was written
    pairs: int  # that were decided, or brought back to what stood before
    overtaken: Decision | None = None  # what somebody else said since the pair was shown
    left: int = 0  # an undo, or edits: pairs that were decided on since, which stay as they are
    first: int = field(default=0, compare=False)  # its first entry of the log; those of its other pairs follow


@dataclass(frozen=True)
class Review:
    """The decisions on one data set. Reading makes no file; each call sees what any process wrote before it.

    `pairs` are those whose captions are judged, pair_id and captions: an audit's file or a table. A decision on others,
    or where there is no such table, is one on captions that are not known and counts for any.
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
        seen: int | None = None,
        apart: bool = False,
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
            apart: whether it tells nothing of whether the captions are right, as of look-alikes.
        """
        ids = dict.fromkeys(pair_ids)
        if not ids:
            raise InputError("no pair is chosen: choose at least one")
        texts, keys = captions_to_store(decision, captions), self._keys(ids)
        judged = ((pair_id, keys.get(pair_id, 0)) for pair_id in ids)
        with writing(self.path) as log:
            added = add_decision(log, judged, audit=audit, decision=decision, captions=texts, note=note, apart=apart)
            found = fetch(log, f"{_DECISIONS} WHERE entry.id = ?", (added.before,))
        overtaken = found and seen is not None and added.before > seen
        return Outcome(added.event, added.pairs, _decision(found[0]) if overtaken else None, first=added.first)

    def edit(self, edits: Mapping[str, Edit], *, audit: str = "", apart: bool = False) -> Outcome:
        """Recaption pairs, each with captions of its own, in one event; those decided on since stay as they are."""
        if not edits:
            raise InputError("no caption is to be changed: choose what to change")
        texts = {pair_id: captions_to_store(RECAPTION, edit.captions) for pair_id, edit in edits.items()}
        keys = self._keys(edits)
        with writing(self.path) as log:
            stands = self._standing(log, list(edits))
            entries = {pair_id: stands[pair_id].entry if pair_id in stands else 0 for pair_id in edits}
            own = {pair_id: texts[pair_id] for pair_id, edit in edits.items() if entries[pair_id] == edit.entry}
            left = len(edits) - len(own)
            if not own:
                return Outcome(0, 0, left=left)
            judged = ((pair_id, keys.get(pair_id, 0)) for pair_id in own)
            said: dict[str, Any] = {"decision": RECAPTION, "captions": "[]", "note": None}
            added = add_decision(log, judged, audit=audit, own=own, apart=apart, **said)
        return Outcome(added.event, added.pairs, left=left, first=added.first)

    def undo(self, event: int | None = None) -> Outcome | None:
        """Bring back what stood before an event, for those of its pairs that nobody decided on since.

        Returns:
            None where there is nothing to undo. Where every pair was decided on since, nothing is written.
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
            if added is None:
                return None if undoes in undone_events(log) else Outcome(0, 0, left=left)
        return Outcome(added.event, added.pairs, left=left, first=added.first)

    def current(self, pair_id: str) -> Decision | None:
        """Return what stands for a pair, or None where nobody ever decided on it."""
        return self.decisions([pair_id]).get(pair_id)

    def decisions(self, pair_ids: Sequence[str]) -> dict[str, Decision]:
        """Return what stands for each of some pairs, without those that nobody ever decided on."""
        with reading(self.path) as log:
            return self._standing(log, list(pair_ids))

    def _standing(self, log: Connection, ids: list[str]) -> dict[str, Decision]:
        rows: list[Row] = []
        for start in range(0, len(ids), _AT_ONCE):
            part = ids[start : start + _AT_ONCE]
            standing = f"SELECT entry FROM standing WHERE pair_id IN ({', '.join('?' * len(part))})"
            rows += fetch(log, f"{_DECISIONS} WHERE entry.id IN ({standing}) ORDER BY entry.id DESC", part)
        here, other = self._sorted(rows)
        return {
            pair_id: _decision(here.get(pair_id), other.get(pair_id))
            for pair_id in dict.fromkeys(row[0] for row in rows)
        }

    def table(self) -> pd.DataFrame:
        """Return every pair with a decision or a note, the last decided first, in the columns `TABLE_COLUMNS`.

        A pair that has only been decided on with other captions is undecided; `for_other_captions` says what that was.
        """
        with reading(self.path) as log:
            events = fetch(log, "SELECT id, decision, captions, note, time, audit FROM event WHERE undoes IS NULL")
            rows = fetch(log, "SELECT pair_id, judged, decided, noted, entry FROM standing ORDER BY entry DESC")
            own = {(event, pair_id): json.loads(captions) for event, pair_id, captions in fetch(log, _OWN)}
            said = {event: (decision, json.loads(captions), *rest) for event, decision, captions, *rest in events}
            for decided in {row[2] for row in rows}.difference(said, [0]):
                raise BrokenLogError(f"its event {decided} is not there")
        here, other = self._sorted(rows)
        found = (
            _row(pair_id, here.get(pair_id), other.get(pair_id), said, own)
            for pair_id in dict.fromkeys(row[0] for row in rows)
        )
        kept = [row for row in found if row is not None]
        return pd.DataFrame(kept, columns=TABLE_COLUMNS, dtype=object)

    def _sorted(self, rows: Sequence[Row]) -> tuple[dict[str, Row], dict[str, Row]]:
        """Return of rows that begin with pair id and key, the last first, each pair's last that counts, and other."""
        judged = {pair_id for pair_id, key, *_ in rows if key}
        keys = self._keys(judged) if judged else {}
        here: dict[str, Row] = {}
        other: dict[str, Row] = {}
        for row in rows:
            counts = not row[1] or keys.get(row[0], row[1]) == row[1]
            (here if counts else other).setdefault(row[0], row)
        return here, other

    def _keys(self, pair_ids: Iterable[str]) -> dict[str, int]:
        return {} if self.pairs is None else caption_keys(self.pairs, pair_ids)

    def counts(self) -> dict[str, int]:
        """Return the number of pairs of each decision, in the order of `CHOICES`."""
        found = self.table()["decision"].value_counts()
        return {choice: int(found.get(choice, 0)) for choice in CHOICES}

    def history(self, *, page: int, size: int) -> pd.DataFrame:
        """Return one page of the events, the newest first; page 1 is the first.

        Returns:
            The columns `HISTORY_COLUMNS`: kind is decide or undo; decision is what was decided, or taken back; undoes
            is the event that an undo took back, missing for a decision; undone tells whether it is taken back now.
        """
        with reading(self.path) as log:
            rows = fetch(log, _HISTORY, (int(size), (int(page) - 1) * int(size)))
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

    def entries_after(self, entry: int) -> list[tuple[str, str | None, int, int, int]]:
        """Return pair id, decision that stands from there on, number, key and apart of each entry after one, in order.

        The key is of the captions that were judged, 0 counts for any; apart is 1 as `decide` was told, else 0.
        """
        with reading(self.path) as log:
            return fetch(log, _ENTRIES, (int(entry),))


def standing(log: Connection, pair_id: str, judged: int) -> tuple[str, ...]:
    """Return the decision that stands for a pair with captions of a key, and after a recaption the new captions.

    Returns:
        Empty where the pair is undecided.
    """
    last = "SELECT max(entry) FROM standing WHERE pair_id = ? AND judged IN (0, ?)"
    for _, _, decision, captions, *_ in fetch(log, f"{_DECISIONS} WHERE entry.id = ({last})", (pair_id, judged)):
        return (decision, *json.loads(captions)) if decision else ()
    return ()


def open_review(audit: Audit) -> Review:
    """Return the decisions on the data set of an audit."""
    return review_of(audit.record.dataset_fingerprint, audit.folder / PAIRS)


def review_of(dataset_fingerprint: str, pairs: Path | pa.Table | None = None) -> Review:
    """Return the decisions on the data set of a fingerprint, on its pairs with the captions of a file or a table."""
    return Review(data_folder() / "review" / f"{check_name(dataset_fingerprint)}.sqlite", pairs)


def decision_words(decision: str | None, for_other: str | None) -> str:
    """Return what to say of a pair that was decided so; nothing where it is undecided.

    Example:
        >>> decision_words("keep", None), decision_words(None, "remove")
        ('keep', 'remove for other captions')
    """
    return decision or (f"{for_other} for other captions" if for_other else "")


def captions_to_store(decision: str | None, captions: Sequence[str]) -> str:
    """Return the captions of a decision as they are stored, a JSON list."""
    if decision is not None and decision not in CHOICES:
        raise InputError(f"decision {decision!r} is unknown: choose {', '.join(CHOICES)} or none")
    if captions and decision != RECAPTION:
        raise InputError(f"captions belong to a {RECAPTION}, not to {decision or 'no decision'}: leave them out")
    if any("\0" in caption or without_surrogates(caption) != caption for caption in captions):
        raise InputError("a caption has a NUL character or half a character, which not every file can hold: delete it")
    given = [caption.strip() for caption in captions if caption.strip()]
    if decision == RECAPTION and not given:
        raise InputError(f"a {RECAPTION} needs a caption: write at least one that is not blank")
    return json.dumps(given, ensure_ascii=False)


def _decision(here: Row | None, other: Row | None = None) -> Decision:
    """Return what a row of `_DECISIONS` says; where that is nothing, what the pair's row on other captions does."""
    pair_id, _, decision, captions, note, time, entry = here or ((other or ())[0], 0, None, "[]", None, "", 0)
    for_other = other[2] if other is not None and decision is None else None
    return Decision(pair_id, decision, tuple(json.loads(captions)), note or "", time, entry, for_other)


def _row(
    pair_id: str, here: Row | None, other: Row | None, said: dict[int, Row], own: dict[tuple[int, str], list[str]]
) -> Row | None:
    """Return a pair's row of the table, None where nothing stands."""
    decided, noted = here[2:4] if here else (0, 0)
    decision, captions, _, time, audit = said.get(decided, _NOTHING)
    captions = own.get((decided, pair_id), captions)
    note = said[noted][2] if decided and noted in said else ""
    away = said.get(other[2], _NOTHING) if other is not None and decision is None else _NOTHING
    if away[0] is not None:
        time, audit = away[3:]
    elif decision is None and not note:
        return None
    return pair_id, decision, captions, note or "", time, audit, away[0]


@dataclass(frozen=True, eq=False)
class Codes:
    """What was decided of each pair, one of `CODES`: int8 [n_pairs], not to be written to; bool [n_pairs] where that
    tells nothing of whether its captions are right.

    It is what the `log`, a path and what tells a new file there from an old one, said up to its `entry`.
    """

    version: Version
    log: tuple[str, int]
    entry: int
    codes: np.ndarray
    apart: np.ndarray

    @property
    def moment(self) -> tuple[str, int, int]:
        """What changes whenever somebody decides; whatever was made from the codes is kept under that."""
        return *self.log, self.entry


_codes_cache: dict[Audit, Codes] = {}
_codes_lock = threading.Lock()


def decided(audit: Audit) -> Codes:
    """Return what has been decided of the pairs of an audit until now; the log is read on from where it was read to."""
    review, version = open_review(audit), version_of(audit)
    with _codes_lock:
        inode = review.path.stat().st_ino if review.path.exists() else 0
        log, position = (str(review.path), inode), review.position()
        known = _codes_cache.pop(audit, None)
        if known is None or (known.version, known.log) != (version, log) or position < known.entry:
            count = count_pairs_of(audit)
            known = Codes(version, log, 0, np.zeros(count, np.int8), np.zeros(count, bool))
        if position > known.entry:
            known = _apply_entries(audit, known, review.entries_after(known.entry))
        _codes_cache[audit] = known
        if len(_codes_cache) > _CACHED_AUDITS:
            del _codes_cache[next(iter(_codes_cache))]
    return known


def _apply_entries(audit: Audit, known: Codes, entries: list[tuple[str, str | None, int, int, int]]) -> Codes:
    """Apply entries of the log in their order, but those on other pairs or captions: they are other audits'."""
    ids, decisions, numbers, judged, apart = zip(*entries, strict=True)
    said = pa.array([CODES[decision] for decision in decisions], pa.int8())
    given = [pa.array(ids), said, pa.array(numbers), pa.array(judged), pa.array(apart)]
    asked = pa.table(given, ["asked_id", "code", "entry", "judged", "apart"])
    last = """
        SELECT asked_id, judged, max(entry) AS newest, arg_max(code, entry) AS code, arg_max(apart, entry) AS apart
        FROM asked GROUP BY asked_id, judged
    """
    query = f"""
        SELECT {ROW}, code, apart FROM parquet JOIN ({last}) ON "{PAIR_ID}" = asked_id
        WHERE judged = 0 OR judged = {CAPTION_KEY} ORDER BY newest
    """
    found = fetch_columns(audit.folder / PAIRS, query, asked=asked)
    codes, kept_apart = known.codes.copy(), known.apart.copy()
    codes[found[ROW]], kept_apart[found[ROW]] = found["code"], found["apart"]  # of two of a pair the later one stays
    for values in (codes, kept_apart):
        values.flags.writeable = False
    return replace(known, entry=numbers[-1], codes=codes, apart=kept_apart)


def decided_of(dataset_fingerprint: str, pairs: Path | pa.Table | None = None) -> Decided:
    """Return what a person decided on a data set up to now; pairs to keep are not in it."""
    table = review_of(dataset_fingerprint, pairs).table()
    removed, recaptioned = (table[table["decision"] == decision] for decision in (REMOVE, RECAPTION))
    captions = {str(id_): tuple(own) for id_, own in zip(recaptioned[PAIR_ID], recaptioned[CAPTIONS], strict=True)}
    return Decided(frozenset(removed[PAIR_ID].astype(str)), captions)


def decided_for(study: StudyFolder) -> Decided:
    """Return what a person decided on the data set of a study up to now.

    All audits with the same pairs share these decisions: one that was made with another `--captions`, or with
    `--drop-lookalikes` where the study was made without, has its own.
    """
    pairs = study.audit(study.asked["reference"]).folder / PAIRS
    return decided_of(study.dataset_fingerprint, pairs if pairs.is_file() else None)
