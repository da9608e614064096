"""Changes of captions in words."""

from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

CONTEXT = 4  # words on each side of a change


def word_changes(old: Any, new: Any) -> str:
    """Say which words and captions were changed, with the words around them; empty without old or new captions.

    Example:
        >>> word_changes(["a red house", "a dog"], ["a blue house"])
        'a [red → blue] house (caption 1); removed: a dog (caption 2)'
    """
    if not isinstance(old, list) or not new:
        return ""
    changes = []
    for _, start, stop, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        for place, before, after in zip_longest(range(start, stop), old[start:stop], new[first:last]):
            if before is None:
                changes.append(f"added: {after}")
            elif after is None:
                changes.append(f"removed: {before} (caption {place + 1})")
            elif before != after:
                changes.append(f"{_marked_words(before.split(), after.split())} (caption {place + 1})")
    return "; ".join(changes)


def _marked_words(old: list[str], new: list[str]) -> str:
    parts = []
    for tag, start, stop, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        words = old[start:stop]
        if tag != "equal":
            parts.append(f"[{' '.join(words) or '–'} → {' '.join(new[first:last]) or '–'}]")
        elif len(words) > 2 * CONTEXT:
            parts += [*words[:CONTEXT], "…", *words[-CONTEXT:]]
        else:
            parts += words
    return " ".join(parts)
