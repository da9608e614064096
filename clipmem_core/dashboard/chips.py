"""A selection's conditions in words, each with what is left without it, and the changes to a selection."""

import dataclasses
from typing import Any

from clipmem_core.columns import CLIPMEM, INDEPENDENT
from clipmem_core.dashboard.plain import cut
from clipmem_core.review.selection import IMAGE_SIDE, MAP_X, MATCH, Range, Selection
from clipmem_core.scores.table import QUEUE, scores_in, words

LIMIT = 60
SIDES = {IMAGE_SIDE: "pictures", "text": "captions"}
NAMES = {"group": "group", "label": "label", "planted": "planted", "decision": "decision", "words": "words"}


def changed(selection: Selection, **changes: Any) -> Selection:  # noqa: ANN401  the fields of a selection
    """Return a selection with other conditions, in an order that makes sense with them.

    A search that begins is ordered by match, and one that ends no longer is.

    Example:
        >>> changed(Selection(), meaning="a frog").order
        'match'
    """
    new = dataclasses.replace(selection, **changes)
    if new.searched and not selection.searched and "order" not in changes:
        return dataclasses.replace(new, order=MATCH, ascending=False)
    if new.order == MATCH and not new.searched:
        return dataclasses.replace(new, order=CLIPMEM, ascending=False)
    return new


def learned_by_g(selection: Selection) -> bool:
    """Tell whether it is in the order of −clipmem: independent pairs alone, which g learned, and g is subtracted."""
    return selection.order == CLIPMEM and selection.group == INDEPENDENT


def queue_of(selection: Selection) -> str | None:
    """Return the score of the queue that a selection is in the order of, or None."""
    first = selection == with_queue(selection, selection.order) and selection.order in scores_in(QUEUE)
    return selection.order if first else None


def with_queue(selection: Selection, order: str) -> Selection:
    """Return a selection in the order of a queue, no search, all else kept."""
    return dataclasses.replace(selection, order=order, ascending=False, meaning="", like="")


def conditions(selection: Selection) -> list[tuple[str, Selection]]:
    """Return every condition in words, cut to a chip's length, with the selection that is left without it."""
    found = [
        (f"{word}: {getattr(selection, field)}", changed(selection, **{field: ""}))
        for field, word in NAMES.items()
        if getattr(selection, field)
    ]
    found += [(_between(r), _without(selection, r)) for r in dict.fromkeys(selection.ranges)]
    if selection.outline:
        found.append((_outlined(selection), changed(selection, outline=None, map="")))
    side = SIDES[selection.side]
    if selection.meaning:
        found.append((f"{side} close to: {selection.meaning}", changed(selection, meaning="")))
    if selection.like:
        found.append((f"{side} like that of: {selection.like}", changed(selection, like="")))
    if selection.searched and selection.member:
        found.append((f"encoders of {selection.member}", changed(selection, member="")))
    return [(cut(" ".join(text.split()), LIMIT), rest) for text, rest in found]


def cleared(selection: Selection) -> Selection:
    """Return a selection without conditions, in the same order where it can be."""
    order = CLIPMEM if selection.order == MATCH else selection.order
    return Selection(order=order, ascending=selection.ascending and order == selection.order)


def with_range(selection: Selection, wanted: Range) -> Selection:
    """Return a selection with a range in place of those of the same score; the ends may come in any order."""
    low, high = wanted.low, wanted.high
    if low is not None and high is not None and low > high:
        wanted = Range(wanted.column, high, low)
    others = tuple(r for r in selection.ranges if r.column != wanted.column)
    return changed(selection, ranges=(*others, wanted))


def _without(selection: Selection, unwanted: Range) -> Selection:
    return changed(selection, ranges=tuple(r for r in selection.ranges if r != unwanted))


def _between(wanted: Range) -> str:
    name = words(wanted.column)
    low, high = (None if end is None else f"{end:.4g}".replace("-", "−") for end in (wanted.low, wanted.high))
    if low is None:
        return f"{name}: any" if high is None else f"{name} ≤ {high}"
    return f"{name} ≥ {low}" if high is None else f"{name} {low} to {high}"


def _outlined(selection: Selection) -> str:
    outline = selection.outline
    if outline is None or outline.x == MAP_X:
        return f"outlined on the map of embeddings {selection.map}"
    return f"outlined on {words(outline.x)} and {words(outline.y)}"
