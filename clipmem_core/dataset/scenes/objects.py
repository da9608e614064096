"""The kinds of objects of the synthetic set, as object_drawings.json describes them, and the brush
that draws them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.random import Generator
from PIL import ImageDraw
from PIL.ImageColor import getrgb

from clipmem_core.io import read_json

Rgb = tuple[int, ...]  # or RGBA for a translucent colour
Points = Sequence[float] | np.ndarray  # x, y, x, y … or [n_points, 2]
Steps = Sequence[Any]  # see `Drawing`

_LINE_WIDTH = 3  # pixels of an outline


def read_data(name: str) -> Any:
    """Read one of the JSON files beside this module."""
    return read_json(Path(__file__).with_name(name))


@dataclass(frozen=True)
class ObjectKind:
    """One kind of object."""

    plural: str
    stands: bool  # on the ground; other kinds hang in the air or in the water
    half_width: float  # of the drawing; the larger of the two is about 1
    half_height: float
    colours: list[str]  # favourites, most common first; the rest of the palette follows
    places: list[str]  # most common first
    steps: Steps  # its drawing, see `Brush`
    size_beside: float = 0.21  # half its side beside another object, in sides of the picture
    rides: bool = False  # on a kind that carries
    carries_at: float | None = None  # y of the feet of a rider
    in_front: bool = False  # of a kind with `behind`
    behind: bool = False
    hides: list[str] = field(default_factory=list)  # effects that are hardly visible on it
    # for some of its own colours: other colours of details
    details: dict[str, dict[str, str]] = field(default_factory=dict)


_DATA = read_data("object_drawings.json")
COLOURS: dict[str, Rgb] = {name: getrgb(text) for name, text in _DATA["colours"].items()}
DETAILS = _DATA["details"]
OBJECT_KINDS = {name: ObjectKind(**facts) for name, facts in _DATA["kinds"].items()}


def blend(first: Rgb, second: Rgb, share: float) -> Rgb:
    """Return the colour `share` of the way from the first to the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def rotation(degrees: float) -> np.ndarray:
    """Return the matrix [2, 2] that rotates by an angle, clockwise on screen."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _smooth(points: Points, *, closed: bool) -> np.ndarray:
    """Return a Catmull–Rom curve through the points, six points a segment, float64 [n, 2]."""
    knots = np.reshape(points, (-1, 2))
    if closed:
        padded = np.pad(knots, ((1, 2), (0, 0)), mode="wrap")
    else:
        padded = np.pad(knots, ((1, 1), (0, 0)), mode="edge")
    segments = len(padded) - 3
    tangents = (padded[2:] - padded[:-2]) / 2
    spline = scipy.interpolate.CubicHermiteSpline(range(segments + 1), padded[1:-1], tangents)
    return spline(np.arange(6 * segments + (not closed)) / 6)


class Drawing:
    """Draws the steps of object_drawings.json or place_drawings.json.

    A step is the name of a method and its arguments; a text among them is a colour. Three kinds of
    steps draw random numbers:

        {"chance": p, "then": steps, "else": steps}    `then` with probability p
        {"from": steps, "to": [points, …]}             points at a random share of the way to `to`
        {"copies": n, "low": [x, y], "high": [x, y], "steps": steps}    n times, each at an offset
    """

    rng: Generator

    def colour(self, name: str) -> Rgb:
        """Return the colour with a name or a hexadecimal code."""
        raise NotImplementedError

    def draw(self, steps: Steps) -> None:
        """Draw steps in order."""
        for name, *values in self._resolve(steps):
            method = getattr(self, name)
            method(*(self.colour(value) if isinstance(value, str) else value for value in values))

    def _resolve(self, steps: Steps) -> Iterator[Sequence[Any]]:
        """Draw the random numbers of steps; yield names and arguments."""
        for step in steps:
            match step:
                case {"chance": chance, "then": first, "else": second}:
                    yield from self._resolve(first if self.rng.random() < chance else second)
                case {"from": start, "to": ends}:
                    share = self.rng.random()
                    for (name, points, *rest), end in zip(start, ends, strict=True):
                        yield name, np.add(points, np.subtract(end, points) * share), *rest
                case {"copies": count, "low": low, "high": high, "steps": copied}:
                    for offset in self.rng.uniform(low, high, size=(count, len(low))):
                        for name, points, *rest in self._resolve(copied):
                            moved = np.array(points, float).reshape(-1, 2)
                            moved[:, : len(offset)] += offset
                            yield name, moved, *rest
                case _:
                    yield step


class Brush(Drawing):
    """Draws one object within [-1, 1]: x to the right, y down.

    A shape without `fill` has the object's own colour and its outline.
    """

    def __init__(
        self,
        pen: ImageDraw.ImageDraw,
        rng: Generator,
        names: tuple[str, str],
        matrix: np.ndarray,
        origin: np.ndarray,
    ) -> None:
        """Args: names: of the kind and the colour. matrix: [2, 2], object units to pixels. origin:
        [2], pixels."""
        self.pen = pen
        self.rng = rng
        self.matrix = matrix
        self.origin = origin
        kind, colour = names
        own = COLOURS[colour]
        outline = blend(own, getrgb("#261a2e"), 0.88 if colour == "black" else 0.55)
        details = DETAILS | OBJECT_KINDS[kind].details.get(colour, {})
        tones = {name: blend(own, outline, share) for name, share in _DATA["tones"].items()}
        self.colours = tones | {"translucent own": (*own, 200)}
        self.colours |= {name: getrgb(text) for name, text in details.items()}

    def colour(self, name: str) -> Rgb:
        """Return the colour with a name or a hexadecimal code."""
        return self.colours.get(name) or getrgb(name)

    def polygon(self, points: Points, fill: Rgb | None = None, line: Rgb | None = None) -> None:
        """Fill a polygon and outline it."""
        if fill is None:
            fill = self.colours["own"]
            line = self.colours["outline"]
        corners = self._pixels(points)
        self.pen.polygon(corners, fill=fill)
        if line is not None:
            self.pen.line(corners + corners[:4], fill=line, width=_LINE_WIDTH, joint="curve")

    def blob(self, points: Points, *colours: Rgb) -> None:
        """Fill the smooth closed curve through the points."""
        self.polygon(_smooth(points, closed=True), *colours)

    def dome(self, top: Points, hem: Points) -> None:
        """Fill the area between the smooth curve through `top` and the corners of `hem`."""
        self.polygon(np.vstack([_smooth(top, closed=False), np.reshape(hem, (-1, 2))]))

    def ellipse(
        self,
        centre: Points,
        rx: float,
        ry: float,
        fill: Rgb | None = None,
        line: Rgb | None = None,
        tilt: float = 0.0,
    ) -> None:
        """Fill an ellipse with half-axes rx and ry, rotated by `tilt` degrees."""
        angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (rx, ry)
        self.polygon(ring @ rotation(tilt).T + np.ravel(centre), fill, line)

    def petals(self, centre: Points, distance: float, rx: float, ry: float) -> None:
        """Draw five to seven ellipses in a circle."""
        count = int(self.rng.integers(5, 8))
        for angle in np.arange(count) * 360 / count + self.rng.uniform(0, 60):
            petal = rotation(angle) @ (distance, 0) + centre
            self.ellipse(petal, rx, ry, tilt=float(angle))

    def stroke(self, points: Points, colour: Rgb, width: float) -> None:
        """Draw an open line with round ends, `width` in object units."""
        pixels = self._pixels(points)
        scale = np.sqrt(abs(np.linalg.det(self.matrix)))
        thick = max(_LINE_WIDTH, round(width * float(scale)))
        self.pen.line(pixels, fill=colour, width=thick, joint="curve")
        for x, y in (pixels[:2], pixels[-2:]):
            box = (x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2)
            self.pen.ellipse(box, fill=colour)

    def curve(self, points: Points, colour: Rgb, width: float) -> None:
        """Draw the smooth open curve through the points."""
        self.stroke(_smooth(points, closed=False), colour, width)

    def _pixels(self, points: Points) -> list[float]:
        corners = np.reshape(points, (-1, 2)) @ self.matrix.T + self.origin
        return list(corners.ravel())
