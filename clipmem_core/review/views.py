"""A view of an audit's pairs: the selection on a page and its order, and its parameters in an
address, which a browser can bookmark."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from clipmem_core.dataset.checks import CHECKS
from clipmem_core.errors.misfit import evenly_spaced
from clipmem_core.scores.registry import BY_NAME
from clipmem_core.utils.columns import CLIPMEM, INDEPENDENT, MAP_X, MAP_Y, REVIEW_PLACE

MATCH = "match"  # the order of a search: cosine with the query
RANDOM = "random"  # the order of a random check
UNDECIDED = "undecided"
DECIDED = "decided"
NONE = "none"  # pairs without injected errors
ANY = "any"  # pairs with any kind of injected error
CAPTION = "caption"
PICTURE = "picture"
MAX_CORNERS = 60  # of an outline in an address


@dataclass(frozen=True)
class Range:
    """An interval of a score, both ends included."""

    column: str
    low: float = -math.inf
    high: float = math.inf


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
    incident: str = ""  # the number of an incident that the pair belongs to
    words: str = ""  # each must be in the captions, in any order and case
    ranges: tuple[Range, ...] = ()
    outline: Outline | None = None
    map: str = ""  # the map of an outline over map_x and map_y: pictures or captions
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
_TEXTS = [field.name for field in fields(Selection) if field.type is str]


def to_parameters(selection: Selection) -> dict[str, str]:
    """Return the parameters of a selection without defaults."""
    default = Selection(order=MATCH if selection.searched else "")
    values = {name: getattr(selection, name) for name in _TEXTS}
    parameters = {name: value for name, value in values.items() if value != getattr(default, name)}
    if selection.ascending:
        parameters["ascending"] = "1"
    # Not rounded, since a pair may have the value of an end
    ranges = [f"{each.column}:{each.low}:{each.high}" for each in selection.ranges]
    if ranges:
        parameters["range"] = ",".join(ranges).replace(":-inf", ":").replace(":inf", ":")
    if selection.outline:
        # A lasso has a corner for each mouse event
        corners = evenly_spaced(np.array(selection.outline.corners), MAX_CORNERS)
        numbers = [f"{number:.4g}" for number in corners.flat]
        parameters["outline"] = ":".join([selection.outline.x, selection.outline.y, *numbers])
    return parameters


def from_parameters(parameters: Mapping[str, str]) -> tuple[Selection, list[str]]:
    """Read a selection from an address, and the names of invalid parts.

    The default order is that of the review, of a search match.
    """
    given = {name: parameters[name] for name in _TEXTS if parameters.get(name)}
    default = MATCH if "meaning" in given or "like" in given else REVIEW_PLACE
    allowed = {"by": (CAPTION, PICTURE), "check": CHECKS, "order": (*BY_NAME, RANDOM, default)}
    invalid = [name for name in allowed if name in given and given[name] not in allowed[name]]
    values: dict[str, Any] = {name: given[name] for name in given if name not in invalid}
    values.setdefault("order", default)
    for parameter, field, read in (("range", "ranges", _ranges), ("outline", "outline", _outline)):
        try:
            values[field] = read(parameters.get(parameter, ""))
        except ValueError:
            invalid.append(parameter)
    ascending = parameters.get("ascending") == "1"
    return Selection(ascending=ascending, **values), invalid


def _ranges(text: str) -> tuple[Range, ...]:
    """Read ranges from `column:low:high,…`; an empty end is open."""
    ranges = []
    for part in text.split(",") if text else ():
        column, low, high = part.split(":")
        each = Range(column, float(low or "-inf"), float(high or "inf"))
        if column not in BY_NAME or not each.low <= each.high:
            raise ValueError(part)
        ranges.append(each)
    return tuple(ranges)


def _outline(text: str) -> Outline | None:
    """Read an outline from `x:y:…`, the coordinates of its corners one after another."""
    if not text:
        return None
    x, y, *parts = text.split(":")
    numbers = [float(part) for part in parts]
    if not {x, y} <= set(BY_NAME) and (x, y) != (MAP_X, MAP_Y):
        raise ValueError(x, y)
    if not (6 <= len(numbers) <= 2 * MAX_CORNERS and all(map(math.isfinite, numbers))):
        raise ValueError(len(numbers))
    return Outline(x, y, tuple(zip(numbers[::2], numbers[1::2], strict=True)))
