"""Which pairs a person looks at and in which order, and the parameters of an address that reopens the same view."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clipmem_core.columns import CLIPMEM, MISFIT
from clipmem_core.pairs.checks import CHECKS
from clipmem_core.scores.registry import BY_NAME

MATCH = "match"  # the order of a search: cosine with what was asked for
RANDOM = "random"  # the order of a random check
UNDECIDED = "undecided"
DECIDED = "decided"
NONE = "none"  # planted: the pairs that are not
ANY = "any"  # planted: the pairs that are, whatever the kind
IMAGE_SIDE, TEXT_SIDE = "image", "text"
MAP_X, MAP_Y = "map_x", "map_y"
MAX_CORNERS = 60  # of an outline in an address


@dataclass(frozen=True)
class Range:
    """The values of a score between two ends, both included; None is open."""

    column: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Outline:
    """A closed shape drawn on a map: its corners, in the units of the columns `x` and `y`."""

    x: str
    y: str
    corners: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Selection:
    """Which pairs, in which order. An empty string or tuple means: no such condition."""

    order: str = CLIPMEM  # a score column, `match` or `random`
    ascending: bool = False
    group: str = ""
    label: str = ""
    planted: str = ""  # a kind, `any` or `none`
    decision: str = ""  # keep | remove | recaption | decided | undecided
    check: str = ""  # a check that the pair's captions or picture fail, of pairs.checks
    tag: str = ""  # a word that somebody put on it
    words: str = ""  # each must stand in a caption, in any order, whatever the case
    ranges: tuple[Range, ...] = ()
    outline: Outline | None = None
    map: str = ""  # the map of embeddings that an outline over map_x and map_y was drawn on
    meaning: str = ""  # search: the pairs closest to this text
    like: str = ""  # search: the pairs closest to the pair of this id
    by: str = IMAGE_SIDE  # search: among the embeddings of pictures (image) or of captions (text)
    member: str = ""  # search: whose encoders; empty takes the mean over all members

    @property
    def searched(self) -> bool:
        """Tell whether it is a search, whose results can be ordered by `match`."""
        return bool(self.meaning or self.like)


_TEXTS = ("group", "label", "planted", "decision", "check", "tag", "words", "map", "meaning", "like", "by", "member")


def to_parameters(selection: Selection) -> dict[str, str]:
    """Return the parameters of an address, without those that say nothing.

    Example:
        >>> to_parameters(Selection(order="misfit", ranges=(Range("clipmem", 0.5),)))
        {'order': 'misfit', 'range': 'clipmem:0.5:'}
    """
    usual = Selection(order=MATCH if selection.searched else "")
    given = {name: getattr(selection, name) for name in ("order", *_TEXTS)}
    parameters = {name: value for name, value in given.items() if value != getattr(usual, name)}
    if selection.ascending:
        parameters["ascending"] = "1"
    if selection.ranges:
        parameters["range"] = ",".join(f"{r.column}:{_number(r.low)}:{_number(r.high)}" for r in selection.ranges)
    if selection.outline:
        corners = (number for corner in thinned(selection.outline.corners) for number in corner)
        parameters["outline"] = ":".join([selection.outline.x, selection.outline.y, *(f"{n:.4g}" for n in corners)])
    return parameters


def from_parameters(parameters: Mapping[str, str]) -> tuple[Selection, list[str]]:
    """Read a selection from an address. One without an order lists likely wrong captions first, a search the closest.

    Returns:
        The selection, and the names of the parameters that say nothing that can be understood; those are left out.

    Example:
        >>> from_parameters({"order": "misfit", "range": "clipmem:0.5:", "group": "scored"})[0].ranges
        (Range(column='clipmem', low=0.5, high=None),)
        >>> from_parameters({"order": "beauty"})[1]
        ['order']
    """
    texts: dict[str, Any] = {name: parameters[name] for name in _TEXTS if parameters.get(name)}
    wrong = ["by"] if texts.get("by", IMAGE_SIDE) not in (IMAGE_SIDE, TEXT_SIDE) else []
    wrong += ["check"] if texts.get("check", "") not in ("", *CHECKS) else []
    selection = Selection(**{name: value for name, value in texts.items() if name not in wrong})
    usual = MATCH if selection.searched else MISFIT
    order, ranges = parameters.get("order") or usual, _ranges(parameters.get("range", ""))
    outline = _outline(parameters.get("outline", ""))
    if order not in (*BY_NAME, RANDOM, usual):
        wrong, order = [*wrong, "order"], usual
    wrong += ["range"] if ranges is None else []
    wrong += ["outline"] if outline is None and parameters.get("outline") else []
    turned = parameters.get("ascending") == "1"
    found = dataclasses.replace(selection, order=order, ascending=turned, ranges=ranges or (), outline=outline)
    return found, wrong


def thinned(corners: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Return at most `MAX_CORNERS` of a shape's corners, evenly taken: a lasso has one for each move of the hand."""
    if len(corners) <= MAX_CORNERS:
        return corners
    return tuple(corners[place * len(corners) // MAX_CORNERS] for place in range(MAX_CORNERS))


def box(x: str, y: str, x_ends: Iterable[float], y_ends: Iterable[float]) -> Outline:
    """Return the outline of a rectangle from any two ends of each side."""
    left, right = sorted(x_ends)
    low, high = sorted(y_ends)
    return Outline(x, y, ((left, low), (right, low), (right, high), (left, high)))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _ranges(text: str) -> tuple[Range, ...] | None:
    """Return the ranges of `column:low:high,…`, or None where that is not what it is."""
    if not text:
        return ()
    found = []
    for column, *ends in (part.split(":") for part in text.split(",")):
        numbers = [_float(end) for end in ends]
        if column not in BY_NAME or len(ends) != 2 or [n is None for n in numbers] != [not end for end in ends]:
            return None
        found.append(Range(column, *numbers))
    return tuple(found)


def _outline(text: str) -> Outline | None:
    x, _, rest = text.partition(":")
    y, _, rest = rest.partition(":")
    numbers = [_float(part) for part in rest.split(":")]
    columns = {x, y} <= set(BY_NAME) or (x, y) == (MAP_X, MAP_Y)
    if not columns or None in numbers or len(numbers) % 2 or not 6 <= len(numbers) <= 2 * MAX_CORNERS:
        return None
    flat = [number for number in numbers if number is not None]
    return Outline(x, y, tuple(zip(flat[::2], flat[1::2], strict=True)))


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
