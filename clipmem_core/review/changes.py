"""Captions of a pair before and after a change, side by side and in words."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

CONTEXT = 4  # words on each side of a change


def aligned(old: Sequence[str], new: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """Return the captions before and after a change side by side; None for an added or a removed one.

    Example:
        >>> aligned(["a", "b", "c"], ["a", "d"])
        [('a', 'a'), ('b', 'd'), ('c', None)]
    """
    pairs = list[tuple[str | None, str | None]]()
    for _, start, stop, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        pairs += zip_longest(old[start:stop], new[first:last])
    return pairs


def word_changes(old: Any, new: Any) -> str:
    """Say which words and captions were changed, with the words around them; empty without old or new captions.

    Example:
        >>> word_changes(["a red house", "a dog"], ["a blue house"])
        'a [red → blue] house (caption 1); removed: a dog (caption 2)'
    """
    if not isinstance(old, list) or not new:
        return ""
    changes, place = list[str](), 0
    for before, after in aligned(old, new):
        place += before is not None
        if before is None:
            changes.append(f"added: {after}")
        elif after is None:
            changes.append(f"removed: {before} (caption {place})")
        elif before != after:
            changes.append(f"{_marked_words(before.split(), after.split())} (caption {place})")
    return "; ".join(changes)


def _marked_words(old: list[str], new: list[str]) -> str:
    parts = []
    for tag, start, stop, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            parts.append(f"[{' '.join(old[start:stop]) or '–'} → {' '.join(new[first:last]) or '–'}]")
            continue
        before = old[start : start + CONTEXT] if start else []
        after = old[max(stop - CONTEXT, start + len(before)) : stop] if stop < len(old) else []
        omitted = ["…"] if len(before) + len(after) < stop - start else []
        parts += [*before, *omitted, *after]
    return " ".join(parts)
