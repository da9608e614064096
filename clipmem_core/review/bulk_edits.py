"""Decisions on many pairs at once: from a table, from another audit for pairs with the same picture
and captions, and by find and replace; and a summary of the words that a new caption changes."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import pandas as pd

from clipmem_core.auditing.folder.store import PAIRS, Audit
from clipmem_core.review.decisions import (
    CHOICES,
    REMOVE,
    Choice,
    Outcome,
    captions_to_store,
    decided,
    open_review,
)
from clipmem_core.review.queries import CAPTION_KEY, fetch, fetch_by_id
from clipmem_core.utils.columns import CAPTIONS, PAIR_ID
from clipmem_core.utils.io import FORMULA, InputError

DECISION = "decision"
_CONTEXT = 4  # words before and after a change
# Pairs of two audits with the same picture and captions: with the same id, or the only ones
_SAME_PAIRS = f"""
    SELECT there.pair_id AS there, here.pair_id AS here FROM there JOIN
        (SELECT pair_id, sha256, {CAPTION_KEY} AS key FROM parquet) AS here USING (sha256, key)
    QUALIFY there.pair_id = here.pair_id OR count(*) OVER (PARTITION BY sha256, key) = 1
"""


@dataclass(frozen=True)
class StoredTable:
    """The result of a table of decisions."""

    stored: int
    refused: pd.DataFrame  # row (from 1), pair_id, reason
    event: int  # its number in the history; 0: nothing was stored


def store_table(audit: Audit, table: pd.DataFrame) -> StoredTable:
    """Store the decisions of a table in one event: pair_id, decision, and optionally captions and
    note.

    Captions are a list, a JSON list, or a single caption. A row without a decision changes captions
    or note only.
    """
    if not {PAIR_ID, DECISION} <= set(table):
        raise InputError(
            f"the decisions have the columns {', '.join(map(str, table))}: name pair_id and "
            "decision, and captions for a recaption"
        )
    review = open_review(audit)
    rows = table.reindex(columns=[PAIR_ID, DECISION, CAPTIONS, "note"])
    rows[PAIR_ID] = rows[PAIR_ID].astype(str)
    keys = review.with_keys([*rows[PAIR_ID], *map(_text, rows[PAIR_ID])])
    choices: dict[str, Choice] = {}
    refused = []
    for row, (pair_id, *cells) in enumerate(rows.to_numpy().tolist(), start=1):
        name = pair_id if keys[pair_id] else _text(pair_id)
        try:
            if not keys[name]:
                raise InputError("the audit has no such pair")
            if name in choices:
                raise InputError("the pair is in an earlier row")
            choices[name] = _read_choice(*cells)
        except InputError as error:
            refused.append((row, pair_id, str(error)))
    outcome = review.decide_each(choices, audit=audit.name)
    reasons = pd.DataFrame(refused, columns=["row", PAIR_ID, "reason"])
    return StoredTable(outcome.pairs, reasons, outcome.event)


def _read_choice(decision: Any, captions: Any, note: Any) -> Choice:
    choice = Choice(_text(decision) or None, _captions(captions), _text(note) or None)
    if not any(choice):
        raise InputError(f"it has no decision: choose {', '.join(CHOICES)}")
    captions_to_store(choice.decision, choice.captions)
    return choice


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


def transferable(audit: Audit, other: Audit) -> tuple[dict[str, Choice], int]:
    """Return the decisions of another audit that apply to undecided pairs of an audit, and the
    number of all its decisions.

    A decision applies to the pair with the same picture, captions and id. It also applies to a pair
    with another id if no second pair of either audit has this picture and these captions.
    """
    made = {
        pair_id: each
        for pair_id, each in open_review(other).decisions().items()
        if each.decision or each.captions or each.note
    }
    content = f"SELECT pair_id, sha256, {CAPTION_KEY} AS key FROM parquet"
    there = fetch(other.folder / PAIRS, content)
    same = fetch(audit.folder / PAIRS, _SAME_PAIRS, there=there).to_pylist()
    neutral = dict(zip(there[PAIR_ID].to_pylist(), decided(other).neutral.tolist(), strict=True))
    current = open_review(audit).decisions(pair["here"] for pair in same)
    choices = {}
    for pair in same:
        now = current[pair["here"]]
        applied = made.get(pair["there"])
        if applied and not (now.decision or now.captions or now.note):
            _, decision, captions, note, *_ = applied
            is_neutral = neutral[pair["there"]]
            choices[pair["here"]] = Choice(decision, captions, note or None, now.entry, is_neutral)
    return choices, len(made.keys() & neutral)


def find_offer(audit: Audit) -> tuple[Audit, int, int] | None:
    """Return the audit of another data set with the most decisions that apply here, how many do,
    and how many it has; None without any."""
    offers = []
    data_set = audit.record.dataset_fingerprint
    for other in Audit.every():
        try:
            if other.record.dataset_fingerprint != data_set and open_review(other).position():
                choices, total = transferable(audit, other)
                offers.append((other, len(choices), total))
        except InputError:  # its own pages report the broken file
            continue
    return max((each for each in offers if each[1]), key=lambda each: each[1], default=None)


def take_over(audit: Audit, other: Audit) -> Outcome:
    """Store the decisions of another audit that apply here, in one event."""
    return open_review(audit).decide_each(transferable(audit, other)[0], audit=audit.name)


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
