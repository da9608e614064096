"""Find and replace in the captions of many pairs, and changes of captions in words."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any, NamedTuple

from clipmem_core.audit.store import PAIRS, Audit
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.review.decisions import REMOVE, Choice, Decision, open_review
from clipmem_core.review.queries import fetch_pairs

_CONTEXT = 4  # words on each side of a change


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
    table = fetch_pairs(audit.folder / PAIRS, [CAPTIONS], pair_ids)
    original = dict(zip(table[PAIR_ID].to_pylist(), table[CAPTIONS].to_pylist(), strict=True))
    decisions = open_review(audit).decisions(pair_ids)
    edits: dict[str, Choice] = {}
    captions: list[tuple[str, str, str]] = []
    emptied = 0
    removed = 0
    for pair_id in pair_ids:
        current = decisions.get(pair_id, Decision(pair_id))
        if current.decision == REMOVE:
            removed += 1
            continue
        before = current.captions or tuple(original[pair_id])
        after = []
        for text in before:
            new, count = pattern.subn(lambda match: replacement, text)
            new = " ".join(new.split()) if count else text
            emptied += not new
            after.append(new or text)
        if tuple(after) != before:
            edits[pair_id] = Choice(None, tuple(after), entry=current.entry)
            pairs = zip(before, after, strict=True)
            captions += [(pair_id, old, new) for old, new in pairs if old != new]
    return Replacement(edits, captions, emptied, removed)


def word_changes(old: Any, new: Any) -> str:
    """Say which words and captions were changed, with the words around them; empty without old or
    new captions.

    Example:
        >>> word_changes(["a red house", "a dog"], ["a blue house"])
        'a [red → blue] house (caption 1); removed: a dog (caption 2)'
    """
    if not isinstance(old, list) or not new:
        return ""
    changes = []
    for _, before, after, start in _differences(old, new):
        for number, (text, changed) in enumerate(zip_longest(before, after), start + 1):
            if text is None:
                changes.append(f"added: {changed}")
            elif changed is None:
                changes.append(f"removed: {text} (caption {number})")
            elif text != changed:
                words = _marked_words(text.split(), changed.split())
                changes.append(f"{words} (caption {number})")
    return "; ".join(changes)


def _marked_words(old: list[str], new: list[str]) -> str:
    parts = []
    for is_equal, words, replaced, _ in _differences(old, new):
        if not is_equal:
            parts.append(f"[{' '.join(words) or '–'} → {' '.join(replaced) or '–'}]")
        elif len(words) > 2 * _CONTEXT:
            parts += [*words[:_CONTEXT], "…", *words[-_CONTEXT:]]
        else:
            parts += words
    return " ".join(parts)


def _differences(
    old: list[str], new: list[str]
) -> Iterator[tuple[bool, list[str], list[str], int]]:
    """Yield whether parts of two lists are equal, both parts, and the start of the old one."""
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for tag, start, stop, first, last in matcher.get_opcodes():
        yield tag == "equal", old[start:stop], new[first:last], start
