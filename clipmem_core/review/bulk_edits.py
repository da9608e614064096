"""Decisions on many pairs at once, from a table and by find and replace; and a summary of the words
that a new caption changes."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import pandas as pd

from clipmem_core.auditing.folder.store import PAIRS, Audit
from clipmem_core.review.cards import OWN_CAPTIONS
from clipmem_core.review.decisions import CHOICES, REMOVE, checked, open_review
from clipmem_core.review.log import Choice
from clipmem_core.review.queries import fetch_by_id
from clipmem_core.utils.columns import CAPTIONS, PAIR_ID
from clipmem_core.utils.io import FORMULA, InputError

DECISION = "decision"
_CONTEXT = 4  # words before and after a change


@dataclass(frozen=True)
class StoredTable:
    """The result of a table of decisions."""

    stored: int
    refused: pd.DataFrame  # row (from 1), pair_id, reason
    event: int  # its number in the history; 0: nothing was stored


def store_table(audit: Audit, table: pd.DataFrame) -> StoredTable:
    """Store the decisions of a table in one event: pair_id, decision, and optionally captions, note
    and own_captions.

    Captions are a list, a JSON list, or a single caption. A row without a decision changes captions
    or note only. A row is refused if its own_captions are not the captions that the pair has in
    this audit: the decision was on other captions.
    """
    if not {PAIR_ID, DECISION} <= set(table):
        raise InputError(
            f"the decisions have the columns {', '.join(map(str, table))}: name pair_id and "
            "decision, and captions for a recaption"
        )
    review = open_review(audit)
    rows = table.reindex(columns=[PAIR_ID, OWN_CAPTIONS, DECISION, CAPTIONS, "note"])
    rows[PAIR_ID] = rows[PAIR_ID].astype(str)
    names = [*rows[PAIR_ID], *map(_text, rows[PAIR_ID])]
    captions_of = fetch_by_id(audit.folder / PAIRS, CAPTIONS, names)
    choices: dict[str, Choice] = {}
    refused = []
    for row, (pair_id, own, decision, captions, note) in enumerate(
        rows.to_numpy().tolist(), start=1
    ):
        name = pair_id if pair_id in captions_of else _text(pair_id)
        decided_on = _captions(own)
        try:
            if name not in captions_of:
                raise InputError("the audit has no such pair")
            if decided_on and sorted(decided_on) != sorted(captions_of[name]):
                raise InputError("the pair has other captions than own_captions in this audit")
            if name in choices:
                raise InputError("the pair is in an earlier row")
            choice = Choice(_text(decision) or None, _captions(captions), _text(note) or None)
            if not any(choice):
                raise InputError(f"it has no decision: choose {', '.join(CHOICES)}")
            choices[name] = checked(choice)
        except InputError as error:
            refused.append((row, pair_id, str(error)))
    outcome = review.decide_each(choices, audit=audit.name)
    reasons = pd.DataFrame(refused, columns=["row", PAIR_ID, "reason"])
    return StoredTable(outcome.pairs, reasons, outcome.event)


def _text(cell: Any) -> str:
    """Return a cell as text, without the quote that our CSV puts before a formula."""
    if not isinstance(cell, str):
        return ""
    return cell[1:] if cell.startswith(tuple(f"'{start}" for start in FORMULA)) else cell


def _captions(cell: Any) -> tuple[str, ...]:
    if isinstance(cell, str):
        try:
            listed = json.loads(cell)
        except ValueError:
            listed = cell
        cell = listed if isinstance(listed, list) else [cell]
    texts = cell if pd.api.types.is_list_like(cell) else ()
    return tuple(text for text in map(str, texts) if text.strip())


class Replacement(NamedTuple):
    """The preview of find and replace."""

    edits: dict[str, Choice]  # by pair_id
    captions: list[tuple[str, str, str]]  # pair_id, before and after of each caption that changes
    emptied: int  # captions that stay, since they would be empty
    removed: int  # pairs that stay, since they are marked for removal


def preview_replacement(
    audit: Audit, pair_ids: Sequence[str], find: str, replacement: str, *, match_case: bool = True
) -> Replacement:
    """Find and replace a text in the current captions of pairs; store nothing."""
    pattern = re.compile(re.escape(find), 0 if match_case else re.IGNORECASE)
    original = fetch_by_id(audit.folder / PAIRS, CAPTIONS, pair_ids)
    decisions = open_review(audit).decisions(pair_ids)
    edits = {}
    captions = []
    emptied = 0
    removed = 0
    for pair_id in pair_ids:
        current = decisions[pair_id]
        if current.decision == REMOVE:
            removed += 1
            continue
        before = current.captions or tuple(original[pair_id])
        after = []
        for text in before:
            new = " ".join(pattern.sub(lambda match: replacement, text).split())
            emptied += not new
            after.append(new if new and pattern.search(text) else text)
        if tuple(after) != before:
            edits[pair_id] = Choice(None, tuple(after), entry=current.entry)
            pairs = zip(before, after, strict=True)
            captions += [(pair_id, old, new) for old, new in pairs if old != new]
    return Replacement(edits, captions, emptied, removed)


def word_changes(old: Any, new: Any) -> str:
    """Say which words of captions were changed, with the words around them; a slash ends a caption.
    Empty without old or new captions.

    Example:
        >>> word_changes(["a red house", "a dog"], ["a blue house"])
        'a [red → blue] house [/ a dog → –]'
    """
    if not isinstance(old, list) or not new:
        return ""
    before, after = (" / ".join(captions).split() for captions in (old, new))
    parts = []
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for tag, start, stop, first, last in matcher.get_opcodes():
        words = before[start:stop]
        if tag != "equal":
            parts.append(f"[{' '.join(words) or '–'} → {' '.join(after[first:last]) or '–'}]")
        elif len(words) > 2 * _CONTEXT:
            parts += [*words[:_CONTEXT], "…", *words[-_CONTEXT:]]
        else:
            parts += words
    return " ".join(parts)
