"""Which pairs are listed and in which order, and the parameters of an address that opens the same list."""

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
    words: str = ""  # each must be in a caption, in any order and case
    ranges: tuple[Range, ...] = ()
    outline: Outline | None = None
    map: str = ""  # the map of embeddings that an outline over map_x and map_y was drawn on
    meaning: str = ""  # search: the pairs closest to this text
    like: str = ""  # search: the pairs closest to the pair of this id
    by: str = IMAGE_SIDE  # search: among the embeddings of pictures (image) or of captions (text)
    member: str = ""  # search: whose encoders; empty takes the mean over all members

    @property
    def searched(self) -> bool:
        """Whether it is a search, whose results can be ordered by `match`."""
        return bool(self.meaning or self.like)


_TEXTS = ("group", "label", "planted", "decision", "check", "words", "map", "meaning", "like", "by", "member")


def to_parameters(selection: Selection) -> dict[str, str]:
    """Return the parameters of an address, without defaults."""
    default = Selection(order=MATCH if selection.searched else "")
    values = {name: getattr(selection, name) for name in ("order", *_TEXTS)}
    parameters = {name: value for name, value in values.items() if value != getattr(default, name)}
    if selection.ascending:
        parameters["ascending"] = "1"
    if selection.ranges:
        ends = (["" if end is None else f"{end:.6g}" for end in (r.low, r.high)] for r in selection.ranges)
        parameters["range"] = ",".join(":".join([r.column, *e]) for r, e in zip(selection.ranges, ends, strict=True))
    if selection.outline:
        corners = (number for corner in thinned(selection.outline.corners) for number in corner)
        parameters["outline"] = ":".join([selection.outline.x, selection.outline.y, *(f"{n:.4g}" for n in corners)])
    return parameters


def from_parameters(parameters: Mapping[str, str]) -> tuple[Selection, list[str]]:
    """Read a selection from an address. Without an order, misfit comes first, or the best match of a search.

    Returns:
        The selection, and the names of the parameters that cannot be read; those are left out.
    """
    texts: dict[str, Any] = {name: parameters[name] for name in _TEXTS if parameters.get(name)}
    wrong = ["by"] if texts.get("by", IMAGE_SIDE) not in (IMAGE_SIDE, TEXT_SIDE) else []
    wrong += ["check"] if texts.get("check", "") not in ("", *CHECKS) else []
    selection = Selection(**{name: value for name, value in texts.items() if name not in wrong})
    default = MATCH if selection.searched else MISFIT
    order, ranges = parameters.get("order") or default, _ranges(parameters.get("range", ""))
    outline = _outline(parameters.get("outline", ""))
    if order not in (*BY_NAME, RANDOM, default):
        wrong, order = [*wrong, "order"], default
    wrong += ["range"] if ranges is None else []
    wrong += ["outline"] if outline is None and parameters.get("outline") else []
    ascending = parameters.get("ascending") == "1"
    read = dataclasses.replace(selection, order=order, ascending=ascending, ranges=ranges or (), outline=outline)
    return read, wrong


def thinned(corners: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Return at most `MAX_CORNERS` of a shape's corners, evenly spaced: a lasso has one for each mouse event."""
    if len(corners) <= MAX_CORNERS:
        return corners
    return tuple(corners[place * len(corners) // MAX_CORNERS] for place in range(MAX_CORNERS))


def box(x: str, y: str, x_ends: Iterable[float], y_ends: Iterable[float]) -> Outline:
    """Return the outline of a rectangle from any two ends of each side."""
    left, right = sorted(x_ends)
    low, high = sorted(y_ends)
    return Outline(x, y, ((left, low), (right, low), (right, high), (left, high)))


def _ranges(text: str) -> tuple[Range, ...] | None:
    """Return the ranges of `column:low:high,…`, None for another text."""
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
