"""What people decide on the pairs of a data set (keep, remove, recaption, a note), and which decisions are in force.

All audits of a data set share one log, to which rows are only added: an undo is an event too, and can be undone. A
decision is on the captions that the audit showed. It does not count in an audit that shows other captions, for example
injected errors.
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

from clipmem_core.audits.store import PAIRS, Audit, check_name
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.config import InputError, data_folder
from clipmem_core.review import log as events
from clipmem_core.review import tables as t
from clipmem_core.review.log import CHOICES, KEEP, RECAPTION, REMOVE
from clipmem_core.studies.arm import Decided
from clipmem_core.studies.store import StudyFolder

__all__ = ["CHOICES", "KEEP", "RECAPTION", "REMOVE"]  # of the log; the rest is here
FOR_OTHER = "for_other_captions"
TABLE_COLUMNS = [PAIR_ID, "decision", CAPTIONS, "note", "time", "audit", FOR_OTHER]
HISTORY_COLUMNS = ["event", "time", "audit", "kind", "decision", "pairs", "first_pair_id", "undone", "undoes"]
UNDECIDED_CODE = 0
CODES = {None: UNDECIDED_CODE, KEEP: 1, REMOVE: 2, RECAPTION: 3}
_CACHED_AUDITS = 4  # audits whose codes stay in memory, 1 byte a pair
Row = tuple[Any, ...]

_DECISIONS = """
    SELECT entry.pair_id, entry.judged, said.decision, coalesce(each.captions, said.captions, '[]'),
        coalesce(noted.note, ''), coalesce(said.time, own.time), coalesce(said.audit, own.audit), entry.id
    FROM entry JOIN event AS own ON own.id = entry.event
    LEFT JOIN event AS said ON said.id = entry.decided LEFT JOIN event AS noted ON noted.id = entry.noted
    LEFT JOIN own_captions AS each ON each.event = entry.decided AND each.pair_id = entry.pair_id
    WHERE entry.id IN ({}) ORDER BY entry.id DESC
"""
_HISTORY = """
    SELECT event.id, time, audit, CASE WHEN undoes IS NULL THEN 'decide' ELSE 'undo' END, decision, pairs, pair_id,
        undoes
    FROM event LEFT JOIN entry ON entry.id = first_entry ORDER BY event.id DESC LIMIT ? OFFSET ?
"""
_ENTRIES = """
    SELECT pair_id, said.decision, entry.id, judged, entry.decided IN (SELECT event FROM apart)
    FROM entry LEFT JOIN event AS said ON said.id = entry.decided
    WHERE entry.id > ? ORDER BY entry.id
"""


class Decision(NamedTuple):
    """What is in force for one pair."""

    pair_id: str
    decision: str | None  # keep | remove | recaption; None: undecided, but there may be a note
    captions: tuple[str, ...]  # the new ones of a recaption
    note: str
    time: str  # of the decision, ISO 8601 in UTC; an undo restores the time as well
    entry: int  # the pair's last entry of the log that counts here; 0: there is none
    for_other: str | None = None  # what was decided on other captions of a pair that is undecided with these
    audit: str = ""

    @property
    def words(self) -> str:
        """The decision in words; empty for an undecided pair."""
        return decision_words(self.decision, self.for_other)


class Edit(NamedTuple):
    """New captions of one pair, at least one that is not blank, and the pair's `entry` when they were made."""

    captions: tuple[str, ...]
    entry: int


@dataclass(frozen=True)
class Outcome:
    """What a decision or an undo did."""

    event: int  # its number in the history; 0: nothing was written
    pairs: int  # that were decided, or restored
    left: int = 0  # of an undo or edits: pairs that were decided on since and stay as they are


@dataclass(frozen=True)
class Review:
    """The decisions on one data set. Reading makes no file; each call sees what any process wrote before it.

    `pairs` are the pairs whose captions are judged, pair_id and captions: an audit's file or a table. Without it, and
    for pairs that are not in it, a decision is on unknown captions and counts for any.
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
        apart: bool = False,
    ) -> Outcome:
        """Decide on pairs, all of them in one event or none.

        `decision` None takes the decision back and leaves the note; `note` None keeps each pair's note. `apart`: it
        does not say whether captions are right.
        """
        ids = dict.fromkeys(pair_ids)
        if not ids:
            raise InputError("no pair is chosen: choose at least one")
        texts, keys = captions_to_store(decision, captions), self._keys(ids)
        judged = ((pair_id, keys.get(pair_id, 0)) for pair_id in ids)
        with events.writing(self.path) as log:
            added = events.add_decision(
                log, judged, audit=audit, decision=decision, captions=texts, note=note, apart=apart
            )
        return Outcome(added.event, added.pairs)

    def edit(self, edits: Mapping[str, Edit], *, audit: str = "", apart: bool = False) -> Outcome:
        """Recaption pairs, each with its new captions, in one event; those decided on since stay as they are."""
        if not edits:
            raise InputError("no caption is to be changed: choose what to change")
        texts = {pair_id: captions_to_store(RECAPTION, edit.captions) for pair_id, edit in edits.items()}
        keys = self._keys(edits)
        with events.writing(self.path) as log:
            entries = {decision.pair_id: decision.entry for decision in self._decisions(log, edits)}
            own = {pair_id: texts[pair_id] for pair_id, edit in edits.items() if entries.get(pair_id, 0) == edit.entry}
            left = len(edits) - len(own)
            if not own:
                return Outcome(0, 0, left=left)
            judged = ((pair_id, keys.get(pair_id, 0)) for pair_id in own)
            added = events.add_decision(log, judged, audit=audit, decision=RECAPTION, own=own, apart=apart)
        return Outcome(added.event, added.pairs, left=left)

    def undo(self, event: int | None = None) -> Outcome | None:
        """Restore what was in force before an event, by default the last, for its pairs without a newer decision.

        None if there is nothing to undo; if every pair was decided on since, nothing is written.
        """
        count = self.count_events()
        if event is not None and not 1 <= event <= count:
            raise InputError(f"event {event} is not in the log, which has {count}: choose one of the history")
        if not count:
            return None
        with events.writing(self.path) as log:
            last = "SELECT coalesce(max(decided), 0) FROM standing"
            undoes = log.execute(last).fetchone()[0] if event is None else int(event)
            if not undoes:
                return None
            added, left = events.add_undo(log, undoes)
            if added is None:
                return None if undoes in events.undone_events(log) else Outcome(0, 0, left=left)
        return Outcome(added.event, added.pairs, left=left)

    def current(self, pair_id: str) -> Decision | None:
        """Return what is in force for a pair, None if nobody ever decided on it."""
        return self.decisions([pair_id]).get(pair_id)

    def decisions(self, pair_ids: Iterable[str]) -> dict[str, Decision]:
        """Return what is in force for each of some pairs, without those that nobody ever decided on."""
        with events.reading(self.path) as log:
            return {decision.pair_id: decision for decision in self._decisions(log, pair_ids)}

    def table(self) -> pd.DataFrame:
        """Return every pair with a decision or a note, the last decided first, in the columns `TABLE_COLUMNS`.

        A pair that has only been decided on with other captions is undecided; `for_other_captions` says what that was.
        """
        with events.reading(self.path) as log:
            found = [each for each in self._decisions(log) if each.decision or each.note or each.for_other]
        fields = [PAIR_ID, "decision", CAPTIONS, "note", "time", "entry", FOR_OTHER, "audit"]
        table = pd.DataFrame(found, columns=fields, dtype=object)[TABLE_COLUMNS]
        return table.assign(**{CAPTIONS: table[CAPTIONS].map(list)})

    def _decisions(self, log: Connection, pair_ids: Iterable[str] | None = None) -> Iterator[Decision]:
        """Yield what is in force for some pairs or all, the last decided first."""
        entries, values = "SELECT entry FROM standing", []
        if pair_ids is not None:
            entries += " WHERE pair_id IN (SELECT value FROM json_each(?))"
            values = [json.dumps([t.without_surrogates(pair_id) for pair_id in pair_ids])]
        rows = log.execute(_DECISIONS.format(entries), values).fetchall()
        judged = {pair_id for pair_id, key, *_ in rows if key}
        keys = self._keys(judged) if judged else {}
        here: dict[str, Row] = {}
        other: dict[str, Row] = {}
        for row in rows:
            counts = not row[1] or keys.get(row[0], row[1]) == row[1]
            (here if counts else other).setdefault(row[0], row)
        for pair_id in dict.fromkeys(row[0] for row in rows):
            yield _decision(pair_id, here.get(pair_id), other.get(pair_id))

    def _keys(self, pair_ids: Iterable[str]) -> dict[str, int]:
        return {} if self.pairs is None else t.caption_keys(self.pairs, pair_ids)

    def counts(self) -> dict[str, int]:
        """Return the number of pairs of each decision, in the order of `CHOICES`."""
        with events.reading(self.path) as log:
            found = Counter(each.decision for each in self._decisions(log))
        return {choice: found[choice] for choice in CHOICES}

    def history(self, *, page: int, size: int) -> pd.DataFrame:
        """Return one page of the events, the newest first, in the columns `HISTORY_COLUMNS`; page 1 is the first.

        kind is decide or undo; decision is what was decided or taken back; undoes is the event that an undo took back,
        missing for a decision; undone is true while the event is taken back.
        """
        with events.reading(self.path) as log:
            rows = log.execute(_HISTORY, (int(size), (int(page) - 1) * int(size))).fetchall()
            undone = events.undone_events(log)
        listed = [(*values, values[0] in undone, undoes) for *values, undoes in rows]
        table = pd.DataFrame(listed, columns=HISTORY_COLUMNS, dtype=object)
        return table.astype({"event": "int64", "pairs": "int64", "undone": "bool", "undoes": "Int64"})

    def count_events(self) -> int:
        """Return the number of events in the history, which is also the last one's number."""
        with events.reading(self.path) as log:
            return events.count_rows(log, "event")

    def position(self) -> int:
        """Return the log's last entry, 0 for an empty log; every event moves it."""
        with events.reading(self.path) as log:
            return events.count_rows(log, "entry")

    def entries_after(self, entry: int) -> list[tuple[str, str | None, int, int, int]]:
        """Return pair id, decision, number, key of the judged captions and apart of each entry after one, in order."""
        with events.reading(self.path) as log:
            return log.execute(_ENTRIES, (int(entry),)).fetchall()


def standing(log: Connection, pair_id: str, judged: int) -> tuple[str, ...]:
    """Return the decision in force for a pair with captions of a key, and the new captions; empty for an undecided."""
    last = "SELECT max(entry) FROM standing WHERE pair_id = ? AND judged IN (0, ?)"
    row = log.execute(_DECISIONS.format(last), (pair_id, judged)).fetchone()
    return (row[2], *json.loads(row[3])) if row and row[2] else ()


def open_review(audit: Audit) -> Review:
    """Return the decisions on the data set of an audit."""
    return review_of(audit.record.dataset_fingerprint, audit.folder / PAIRS)


def review_of(dataset_fingerprint: str, pairs: Path | pa.Table | None = None) -> Review:
    """Return the decisions on the data set of a fingerprint, on its pairs with the captions of a file or a table."""
    return Review(data_folder() / "review" / f"{check_name(dataset_fingerprint)}.sqlite", pairs)


def decision_words(decision: str | None, for_other: str | None) -> str:
    """Return a decision in words; empty for an undecided pair."""
    return decision or (f"{for_other} for other captions" if for_other else "")


def captions_to_store(decision: str | None, captions: Sequence[str]) -> str:
    """Return the captions of a decision as they are stored, a JSON list."""
    if decision is not None and decision not in CHOICES:
        raise InputError(f"decision {decision!r} is unknown: choose {', '.join(CHOICES)} or none")
    if captions and decision != RECAPTION:
        raise InputError(f"captions belong to a {RECAPTION}, not to {decision or 'no decision'}: leave them out")
    if any("\0" in caption or t.without_surrogates(caption) != caption for caption in captions):
        raise InputError("a caption has a NUL character or half a character, which not every file can hold: delete it")
    given = [caption.strip() for caption in captions if caption.strip()]
    if decision == RECAPTION and not given:
        raise InputError(f"a {RECAPTION} needs a caption: write at least one that is not blank")
    return json.dumps(given, ensure_ascii=False)


def _decision(pair_id: str, here: Row | None, other: Row | None = None) -> Decision:
    """Return a pair's decision from its row of `_DECISIONS`; if that has none, with the row on other captions."""
    _, _, decision, captions, note, time, audit, entry = here or (pair_id, 0, None, "[]", "", "", "", 0)
    for_other = other[2] if other is not None and decision is None else None
    if other is not None and for_other:
        time, audit = other[5:7]
    return Decision(
        pair_id, decision, tuple(json.loads(captions)) if captions != "[]" else (), note, time, entry, for_other, audit
    )


@dataclass(frozen=True, eq=False)
class Codes:
    """The decision on each pair of an audit, one of `CODES`: int8 [n_pairs]; and whether it says nothing of its
    captions: bool [n_pairs]. As of an entry of a `log`: its path and inode. Not to be written to."""

    version: t.Version
    log: tuple[str, int]
    entry: int
    codes: np.ndarray
    apart: np.ndarray


_codes_cache: dict[Audit, Codes] = {}
_codes_lock = threading.Lock()


def decided(audit: Audit) -> Codes:
    """Return the decisions on the pairs of an audit; only entries that were added since the last call are read."""
    review, version = open_review(audit), t.version_of(audit)
    with _codes_lock:
        log = str(review.path), review.path.stat().st_ino if review.path.exists() else 0
        position, known = review.position(), _codes_cache.pop(audit, None)
        if known is None or (known.version, known.log) != (version, log) or position < known.entry:
            count = t.count_pairs_of(audit)
            known = Codes(version, log, 0, np.zeros(count, np.int8), np.zeros(count, bool))
        if position > known.entry:
            known = _apply_entries(audit, known, review.entries_after(known.entry))
        _codes_cache[audit] = known
        if len(_codes_cache) > _CACHED_AUDITS:
            del _codes_cache[next(iter(_codes_cache))]
    return known


def _apply_entries(audit: Audit, known: Codes, entries: list[tuple[str, str | None, int, int, int]]) -> Codes:
    """Apply entries of the log in their order, without those on pairs or captions that only other audits have."""
    ids, decisions, numbers, judged, apart = zip(*entries, strict=True)
    said = pa.array([CODES[decision] for decision in decisions], pa.int8())
    values = [pa.array(ids), said, pa.array(numbers), pa.array(judged), pa.array(apart)]
    asked = pa.table(values, ["asked_id", "code", "entry", "judged", "apart"])
    last = """
        SELECT asked_id, judged, max(entry) AS newest, arg_max(code, entry) AS code, arg_max(apart, entry) AS apart
        FROM asked GROUP BY asked_id, judged
    """
    query = f"""
        SELECT {t.ROW}, code, apart FROM parquet JOIN ({last}) ON "{PAIR_ID}" = asked_id
        WHERE judged = 0 OR judged = {t.CAPTION_KEY} ORDER BY newest
    """
    found = t.fetch_columns(audit.folder / PAIRS, query, asked=asked)
    codes, all_apart = known.codes.copy(), known.apart.copy()
    codes[found[t.ROW]], all_apart[found[t.ROW]] = found["code"], found["apart"]  # of two of a pair the later one
    return replace(known, entry=numbers[-1], codes=codes, apart=all_apart)


def decided_of(dataset_fingerprint: str, pairs: Path | pa.Table | None = None) -> Decided:
    """Return the pairs of a data set to be removed, and the new captions of those to be recaptioned."""
    table = review_of(dataset_fingerprint, pairs).table()
    removed, recaptioned = (table[table["decision"] == decision] for decision in (REMOVE, RECAPTION))
    captions = {str(id_): tuple(own) for id_, own in zip(recaptioned[PAIR_ID], recaptioned[CAPTIONS], strict=True)}
    return Decided(frozenset(removed[PAIR_ID].astype(str)), captions)


def decided_for(study: StudyFolder) -> Decided:
    """Return what people decided on the data set of a study.

    All audits with the same pairs share these decisions. An audit with another `--captions`, or with
    `--drop-lookalikes` where the study was made without it, has its own.
    """
    pairs = study.audit(study.request["reference"]).folder / PAIRS
    return decided_of(study.dataset_fingerprint, pairs if pairs.is_file() else None)
