"""The selection of pairs on a page and their order, and its parameters in an address."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clipmem_core.columns import CLIPMEM, INDEPENDENT, REVIEW_PLACE
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.scores.registry import BY_NAME

MATCH = "match"  # the order of a search: cosine with the query
RANDOM = "random"  # the order of a random check
UNDECIDED = "undecided"
DECIDED = "decided"
NONE = "none"  # pairs without injected errors
ANY = "any"  # pairs with any kind of injected error
IMAGE_SIDE = "image"
TEXT_SIDE = "text"
CAPTION = "caption"
PICTURE = "picture"
MAP_X = "map_x"
MAP_Y = "map_y"
MAX_CORNERS = 60  # of an outline in an address


@dataclass(frozen=True)
class Range:
    """An interval of a score, both ends included; None is open."""

    column: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Outline:
    """A polygon on a map: its corners in the units of the columns `x` and `y`."""

    x: str
    y: str
    corners: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Selection:
    """Conditions on pairs and their order. An empty string or tuple is no condition."""

    order: str = CLIPMEM  # a score column, `match` or `random`
    ascending: bool = False
    group: str = ""
    label: str = ""
    injected: str = ""  # a kind, `any` or `none`
    decision: str = ""  # keep | remove | recaption | decided | undecided
    check: str = ""  # a check of `CHECKS` that the pair fails
    words: str = ""  # each must be in the captions, in any order and case
    ranges: tuple[Range, ...] = ()
    outline: Outline | None = None
    map: str = ""  # the map of embeddings of an outline over map_x and map_y
    meaning: str = ""  # search: the pairs closest to this text
    like: str = ""  # search: the pairs closest to the pair with this id
    by: str = CAPTION  # search: among captions or pictures

    @property
    def searched(self) -> bool:
        """Whether it is a search by meaning, which can be ordered by `match`."""
        return bool(self.meaning or self.like)

    @property
    def lowest_first(self) -> bool:
        """Whether its first pairs have the lowest values: of review_place, and of clipmem that g
        learned."""
        return self.order == REVIEW_PLACE or (self.order == CLIPMEM and self.group == INDEPENDENT)


RANDOM_CHECK = Selection(order=RANDOM)  # its first 50 pairs are the random check
_TEXTS = (
    "group",
    "label",
    "injected",
    "decision",
    "check",
    "words",
    "map",
    "meaning",
    "like",
    "by",
)


def to_parameters(selection: Selection) -> dict[str, str]:
    """Return the parameters of a selection without defaults."""
    default = Selection(order=MATCH if selection.searched else "")
    values = {name: getattr(selection, name) for name in ("order", *_TEXTS)}
    parameters = {name: value for name, value in values.items() if value != getattr(default, name)}
    if selection.ascending:
        parameters["ascending"] = "1"
    if selection.ranges:
        ends = (
            ["" if end is None else f"{end:.6g}" for end in (r.low, r.high)]
            for r in selection.ranges
        )
        parameters["range"] = ",".join(
            ":".join([r.column, *e]) for r, e in zip(selection.ranges, ends, strict=True)
        )
    if selection.outline:
        corners = selection.outline.corners
        if len(corners) > MAX_CORNERS:  # a lasso has one for each mouse event
            corners = tuple(
                corners[place * len(corners) // MAX_CORNERS] for place in range(MAX_CORNERS)
            )
        numbers = [f"{number:.4g}" for corner in corners for number in corner]
        parameters["outline"] = ":".join([selection.outline.x, selection.outline.y, *numbers])
    return parameters


def from_parameters(parameters: Mapping[str, str]) -> tuple[Selection, list[str]]:
    """Read a selection from an address, and the names of invalid parts.

    The default order is that of the review, of a search match.
    """
    texts: dict[str, Any] = {name: parameters[name] for name in _TEXTS if parameters.get(name)}
    wrong = ["by"] if texts.get("by", CAPTION) not in (CAPTION, PICTURE) else []
    wrong += ["check"] if texts.get("check", "") not in ("", *CHECKS) else []
    selection = Selection(**{name: value for name, value in texts.items() if name not in wrong})
    default = MATCH if selection.searched else REVIEW_PLACE
    order = parameters.get("order") or default
    ranges = _ranges(parameters.get("range", ""))
    outline = _outline(parameters.get("outline", ""))
    if order not in (*BY_NAME, RANDOM, default):
        wrong = [*wrong, "order"]
        order = default
    wrong += ["range"] if ranges is None else []
    wrong += ["outline"] if outline is None and parameters.get("outline") else []
    ascending = parameters.get("ascending") == "1"
    selection = dataclasses.replace(
        selection, order=order, ascending=ascending, ranges=ranges or (), outline=outline
    )
    return selection, wrong


def box(x: str, y: str, x_ends: Iterable[float], y_ends: Iterable[float]) -> Outline:
    """Return a rectangle from two ends of each axis."""
    left, right = sorted(x_ends)
    low, high = sorted(y_ends)
    return Outline(x, y, ((left, low), (right, low), (right, high), (left, high)))


def _ranges(text: str) -> tuple[Range, ...] | None:
    """Read ranges from `column:low:high,…`; None if it is malformed."""
    if not text:
        return ()
    ranges = []
    for column, *ends in (part.split(":") for part in text.split(",")):
        numbers = [_float(end) for end in ends]
        if (
            column not in BY_NAME
            or len(ends) != 2
            or [n is None for n in numbers] != [not end for end in ends]
        ):
            return None
        ranges.append(Range(column, *numbers))
    return tuple(ranges)


def _outline(text: str) -> Outline | None:
    x, _, rest = text.partition(":")
    y, _, rest = rest.partition(":")
    numbers = [_float(part) for part in rest.split(":")]
    columns = {x, y} <= set(BY_NAME) or (x, y) == (MAP_X, MAP_Y)
    if (
        not columns
        or None in numbers
        or len(numbers) % 2
        or not 6 <= len(numbers) <= 2 * MAX_CORNERS
    ):
        return None
    flat = [number for number in numbers if number is not None]
    return Outline(x, y, tuple(zip(flat[::2], flat[1::2], strict=True)))


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
