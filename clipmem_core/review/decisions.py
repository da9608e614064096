"""The decisions on the pairs of a data set (keep, remove, recaption, a note): make, undo and read
them.

All audits of a data set share one append-only log. A decision applies to the captions that were on
screen: in an audit with other captions, for example injected errors, the pair is undecided.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from sqlite3 import Connection
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from clipmem_core.auditing.folder.store import PAIRS, SCORES, Audit, check_name
from clipmem_core.config import data_folder, fingerprint
from clipmem_core.dataset.containers import without_surrogates
from clipmem_core.review.log import (
    Choice,
    Outcome,
    add_decision,
    add_undo,
    last_id,
    open_to_read,
    open_to_write,
)
from clipmem_core.review.queries import CAPTION_KEY, ROW, cached, fetch, fetch_by_id, fetch_pairs
from clipmem_core.review.views import UNDECIDED
from clipmem_core.utils.columns import CAPTIONS, PAIR_ID
from clipmem_core.utils.io import InputError

KEEP = "keep"
REMOVE = "remove"
RECAPTION = "recaption"
CHOICES = (KEEP, REMOVE, RECAPTION)
SEVERAL = "several"  # of an event, whose pairs have different decisions
_TABLE_COLUMNS = [PAIR_ID, "decision", CAPTIONS, "note", "time", "audit"]
_HISTORY_COLUMNS = ["event", "time", "audit", "decision", "pairs", "first_pair_id", "note"]
UNDECIDED_CODE = 0
CODES = {None: UNDECIDED_CODE, KEEP: 1, REMOVE: 2, RECAPTION: 3}  # from 1 as in CHOICES
# pair_id, decision, number, event, caption key and neutral of an entry of the log
Entry = tuple[str, str | None, int, int, int, int]

_DECISIONS = """
    SELECT entry.pair_id, entry.judged, coalesce(choice.decision, decision.decision),
        coalesce(edit.captions, recaption.captions, '[]'), coalesce(own_note.note, note.note, ''),
        coalesce(decision.time, event.time), coalesce(decision.audit, event.audit), entry.id,
        entry.decided
    FROM entry JOIN event ON event.id = entry.event
    LEFT JOIN event AS decision ON decision.id = entry.decided
    LEFT JOIN event AS note ON note.id = entry.noted
    LEFT JOIN event AS recaption ON recaption.id = entry.captioned
    LEFT JOIN own_captions AS choice ON (choice.event, choice.pair_id) = (decided, entry.pair_id)
    LEFT JOIN own_captions AS own_note
        ON (own_note.event, own_note.pair_id) = (noted, entry.pair_id)
    LEFT JOIN own_captions AS edit ON (edit.event, edit.pair_id) = (captioned, entry.pair_id)
    WHERE entry.id IN ({}) ORDER BY entry.id DESC
"""
_HISTORY = """
    SELECT event.id, time, audit, decision, pairs, pair_id, event.note, undoes
    FROM event LEFT JOIN entry ON entry.id = first_entry ORDER BY event.id DESC
"""
_ENTRIES = """
    SELECT entry.pair_id, coalesce(own.decision, event.decision), entry.id, entry.event, judged,
        ifnull(neutral, 0)
    FROM entry LEFT JOIN event ON event.id = decided
    LEFT JOIN own_captions AS own ON (own.event, own.pair_id) = (decided, entry.pair_id)
    WHERE entry.id > ? ORDER BY entry.id
"""
_ENTRY_COLUMNS = ["entry_of", "decision", "entry", "event", "caption_key", "neutral"]
# The decision on each pair after some entries of the log, without those on pairs or captions that
# the audit does not have. Of two that apply, on these captions and on any, the newer one wins.
_CODES_AFTER = f"""
    SELECT coalesce(after.codes, before.codes)::TINYINT AS codes,
        coalesce(after.neutral, before.neutral)::BOOLEAN AS neutral,
        if(before.first = 0, coalesce(after.first, 0), before.first)::BIGINT AS first
    FROM before LEFT JOIN (
        SELECT {ROW} AS "row", arg_max(code, entry) AS codes, arg_max(neutral, entry) AS neutral,
            min(event) FILTER (code != {UNDECIDED_CODE}) AS first
        FROM parquet JOIN (
            SELECT *, coalesce(list_position({[*CHOICES]}, decision::VARCHAR), 0) AS code
            FROM entries
        ) ON pair_id = entry_of
        WHERE caption_key = 0 OR caption_key = {CAPTION_KEY} GROUP BY {ROW}
    ) AS after USING ("row") ORDER BY "row"
"""


@dataclass(frozen=True)
class Decided:
    """Decisions on pairs: ids to remove, and ids with new captions."""

    removed: frozenset[str] = frozenset()
    recaptioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.removed or self.recaptioned)

    @property
    def fingerprint(self) -> str:
        """A key that changes with any decision."""
        values = {"removed": sorted(self.removed), "recaptioned": dict(self.recaptioned)}
        return fingerprint(values)[:6]


class Decision(NamedTuple):
    """The current decision on one pair."""

    pair_id: str
    decision: str | None = None  # keep | remove | recaption; None: undecided, maybe with a note
    captions: tuple[str, ...] = ()  # the new ones, also of an undecided pair
    note: str = ""
    time: str = ""  # of the decision, ISO 8601 in UTC
    audit: str = ""
    entry: int = 0  # of the log; 0: no entry applies to the captions of this audit
    event: int = 0  # of the decision


@dataclass(frozen=True)
class Review:
    """The decisions on one data set. Reading creates no file; each call sees the earlier writes of
    all processes.

    `pairs` has the pair_id and captions of each pair, as a file or a table. A decision on a pair
    that is not in it applies to any captions.
    """

    path: Path
    pairs: Path | pa.Table

    def decide(
        self,
        pair_ids: Iterable[str],
        decision: str | None,
        *,
        captions: Sequence[str] = (),
        note: str | None = None,
        audit: str = "",
    ) -> Outcome:
        """Decide on pairs in one event; None makes them undecided, or leaves the notes."""
        ids = dict.fromkeys(pair_ids)
        if not ids:
            raise InputError("no pair is chosen: choose at least one")
        choice = checked(Choice(decision, tuple(captions), note))
        pairs = self.with_keys(ids)
        with open_to_write(self.path) as log:
            return add_decision(log, pairs, audit, choice)

    def decide_each(
        self, choices: Mapping[str, Choice], *, audit: str = "", note: str | None = None
    ) -> Outcome:
        """Store one choice for each pair, all in one event; History shows the event's note."""
        keys = self.with_keys(choices)
        with open_to_write(self.path) as log:
            current = self.decisions_in(log, keys)
            own = {
                pair_id: checked(choice)
                for pair_id, choice in choices.items()
                if choice.entry in (None, current[pair_id].entry)
            }
            skipped = len(choices) - len(own)
            if not own:
                return Outcome(0, 0, skipped)
            # History shows an event of new captions alone as a recaption.
            kinds = {each.decision or RECAPTION for each in own.values()}
            shown = Choice(kinds.pop() if len(kinds) == 1 else SEVERAL, note=note)
            pairs = {pair_id: keys[pair_id] for pair_id in own}
            return replace(add_decision(log, pairs, audit, shown, own), skipped=skipped)

    def undo(self, event: int) -> Outcome:
        """Restore the decisions before an event of the pairs without a newer one."""
        with open_to_write(self.path) as log:
            return add_undo(log, event)

    def current(self, pair_id: str) -> Decision:
        """Return the current decision on a pair."""
        return self.decisions([pair_id])[pair_id]

    def decisions(self, pair_ids: Iterable[str] | None = None) -> dict[str, Decision]:
        """Return the current decisions on some pairs, or on all pairs of the log, the newest
        first."""
        with open_to_read(self.path) as log:
            return self.decisions_in(log, None if pair_ids is None else self.with_keys(pair_ids))

    def changes(self) -> Decided:
        """Return the pairs to be removed, and the new captions of others."""
        decisions = self.decisions().values()
        removed = frozenset(each.pair_id for each in decisions if each.decision == REMOVE)
        recaptioned = {
            each.pair_id: each.captions
            for each in decisions
            if each.captions and each.pair_id not in removed
        }
        return Decided(removed, recaptioned)

    def table(self) -> pd.DataFrame:
        """Return the pairs with a decision, new captions or a note, the newest first."""
        decisions = self.decisions().values()
        rows = [each for each in decisions if each.decision or each.captions or each.note]
        table = pd.DataFrame(rows, columns=Decision._fields, dtype=object)[_TABLE_COLUMNS]
        return table.assign(**{CAPTIONS: table[CAPTIONS].map(list)})

    def decisions_in(self, log: Connection, keys: Mapping[str, int] | None) -> dict[str, Decision]:
        """Return the current decisions on pairs with these caption keys, or on all pairs of the
        log, the newest first."""
        entries = "SELECT entry FROM standing"
        values = []
        if keys is not None:
            entries += " WHERE pair_id IN (SELECT value FROM json_each(?))"
            values = [json.dumps([without_surrogates(pair_id) for pair_id in keys])]
        rows = log.execute(_DECISIONS.format(entries), values).fetchall()
        if keys is None:
            keys = self.with_keys(pair_id for pair_id, *_ in rows)
        current: dict[str, Decision] = {}
        for pair_id, key, decision, captions, *facts in rows:
            if not key or keys[pair_id] in (0, key):
                made = Decision(pair_id, decision, tuple(json.loads(captions)), *facts)
                current.setdefault(pair_id, made)
        return {pair_id: current.get(pair_id, Decision(pair_id)) for pair_id in keys}

    def with_keys(self, pair_ids: Iterable[str]) -> dict[str, int]:
        """Return the caption keys of some pairs, 0 for a pair that is not in `pairs`."""
        ids = dict.fromkeys(pair_ids, 0)
        return ids | fetch_by_id(self.pairs, CAPTION_KEY, ids)

    def history(self) -> pd.DataFrame:
        """Return the events, the newest first; `undoes`: the event an undo reverts, `undone`:
        reverted."""
        with open_to_read(self.path) as log:
            rows = log.execute(_HISTORY).fetchall()
        undone: set[int | None] = set()
        for event, *_, undoes in rows:
            if event not in undone:  # an undo that is not undone itself
                undone.add(undoes)
        table = pd.DataFrame(rows, columns=[*_HISTORY_COLUMNS, "undoes"], dtype=object)
        table["undone"] = table["event"].isin(undone)
        return table.astype({"event": "int64", "pairs": "int64", "undoes": "Int64"})

    def position(self) -> int:
        """Return the number of entries of the log, which grows with every event."""
        with open_to_read(self.path) as log:
            return last_id(log, "entry")

    def entries_after(self, entry: int) -> list[Entry]:
        """Return the entries after `entry`, in order."""
        with open_to_read(self.path) as log:
            return log.execute(_ENTRIES, (int(entry),)).fetchall()


def open_review(audit: Audit) -> Review:
    """Return the decisions on the data set of an audit."""
    return review_of(audit.record.dataset_fingerprint, audit.folder / PAIRS)


def review_of(dataset_fingerprint: str, pairs: Path | pa.Table) -> Review:
    """Return the decisions on a data set."""
    return Review(data_folder() / "review" / f"{check_name(dataset_fingerprint)}.sqlite", pairs)


def checked(choice: Choice) -> Choice:
    """Return a choice with its captions as they are stored; refuse one that is not valid."""
    decision = choice.decision
    if decision is not None and decision not in CHOICES:
        raise InputError(f"decision {decision!r} is unknown: choose {', '.join(CHOICES)} or none")
    captions = choice.captions
    if any("\0" in caption or without_surrogates(caption) != caption for caption in captions):
        raise InputError(
            "a caption has a NUL character or half a character, which not every file can hold: "
            "delete it"
        )
    texts = tuple(caption.strip() for caption in captions if caption.strip())
    if not texts and (captions or decision == RECAPTION):
        raise InputError(f"a {RECAPTION} needs a caption: write at least one that is not blank")
    return choice._replace(captions=texts)


@dataclass(frozen=True, eq=False)
class Codes:
    """The decision on each pair of an audit, up to an entry of a log; read-only."""

    entry: int
    codes: np.ndarray  # int8 [n_pairs], values of `CODES`
    neutral: np.ndarray  # bool [n_pairs], the decision does not say whether the captions are right
    first: np.ndarray  # int64 [n_pairs], the event of the first decision; 0: none yet


@cached(4, SCORES, PAIRS)
def _latest_codes(audit: Audit) -> dict[int, Codes]:
    """Return the cache of an audit's latest codes, by the inode of their log."""
    return {}


def decided(audit: Audit) -> Codes:
    """Return the decisions on the pairs of an audit; each call reads only the new entries of the
    log."""
    review = open_review(audit)
    latest = _latest_codes(audit)
    log = review.path.stat().st_ino if review.path.exists() else 0
    position = review.position()
    codes = latest.get(log)
    if codes is None or position < codes.entry:  # the log was replaced
        count = audit.record.pairs
        codes = Codes(0, *(np.zeros(count, kind) for kind in (np.int8, bool, np.int64)))
    if position > codes.entry:
        entries = pd.DataFrame(review.entries_after(codes.entry), columns=_ENTRY_COLUMNS)
        before = pd.DataFrame(vars(codes)).reset_index(names="row")
        path = audit.folder / PAIRS
        after = fetch(path, _CODES_AFTER, entries=entries, before=before).to_pandas()
        last = int(entries["entry"].iloc[-1])
        codes = Codes(last, *(after[name].to_numpy() for name in after))
    latest[log] = codes
    return codes


def count_decisions(audit: Audit) -> dict[str, int]:
    """Return the number of an audit's pairs of each decision, and of the undecided."""
    counts = np.bincount(decided(audit).codes, minlength=len(CODES))
    return {choice or UNDECIDED: int(counts[code]) for choice, code in CODES.items()}


def count_changed(audit: Audit) -> int:
    """Return how many pairs of an audit are removed or have new captions."""
    made = open_review(audit).changes()
    ids = [*made.removed, *made.recaptioned]
    return fetch_pairs(audit.folder / PAIRS, [ROW], ids).num_rows
