"""What scenes are drawn with: colours, light, a brush for smooth shapes, and a canvas in units of its side."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, ...]  # RGB, or RGBA where it is to let what is below shine through
Points = tuple[tuple[float, float], ...]

COLOURS: dict[str, Colour] = {
    "red": (221, 68, 64),
    "blue": (62, 118, 204),
    "yellow": (248, 203, 70),
    "green": (62, 150, 92),
    "orange": (240, 136, 56),
    "white": (247, 244, 237),
    "pink": (242, 142, 176),
    "purple": (138, 92, 186),
    "brown": (148, 100, 70),
    "black": (62, 62, 76),
    "teal": (44, 164, 164),
}
SHADE: Colour = (40, 20, 60, 42)
SHINE: Colour = (255, 255, 255, 96)


class Ink(NamedTuple):
    """One colour of the palette as it is used in a drawing."""

    fill: Colour
    line: Colour  # outlines: the same hue, darker


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from the first to the second.

    Example:
        >>> blend((0, 0, 0), (100, 200, 40), 0.5)
        (50, 100, 20)
    """
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def ink(colour: str) -> Ink:
    """Return fill and outline of a colour of the palette."""
    fill = COLOURS[colour]
    return Ink(fill, blend(fill, (38, 26, 46), 0.88 if colour == "black" else 0.55))


@lru_cache(maxsize=256)
def smooth(points: Points, closed: bool = True) -> np.ndarray:
    """Return a Catmull–Rom curve through the points, as an array [n_points × 6, 2]."""
    knots = np.array(points, dtype=float)
    before, after = np.roll(knots, 1, axis=0), np.roll(knots, -1, axis=0)
    if not closed:
        before[0], after[-1] = knots[0], knots[-1]
    beyond = np.roll(after, -1, axis=0)
    t = np.linspace(0, 1, 6, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None, :] for p in (before, knots, after, beyond))
    cubic = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    curve = (cubic / 2).reshape(-1, 2)
    return curve if closed else np.vstack([curve[:-6], knots[-1:]])


@lru_cache(maxsize=1)
def _circle() -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


class Brush:
    """Draws in an object's own coordinates: x to the right, y down, the object within [-1, 1] both ways."""

    def __init__(self, canvas: ImageDraw.ImageDraw, matrix: np.ndarray, origin: np.ndarray, line_width: int) -> None:
        self.canvas = canvas
        self.matrix = matrix  # [2, 2], object units to pixels
        self.origin = origin  # [2], pixels
        self.line_width = line_width
        self.unit = float(np.sqrt(abs(np.linalg.det(matrix))))  # pixels

    def polygon(self, points: Points | np.ndarray, fill: Colour, line: Colour | None = None) -> None:
        """Fill a polygon and, where a line colour is given, outline it."""
        corners = self._pixels(points)
        self.canvas.polygon(corners, fill=fill)
        if line is not None:
            self.canvas.line(corners + corners[:4], fill=line, width=self.line_width, joint="curve")

    def blob(self, points: Points, fill: Colour, line: Colour | None = None) -> None:
        """Fill the smooth closed curve through the points."""
        self.polygon(smooth(points), fill, line)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Colour, line: Colour | None = None, *, tilt: float = 0.0
    ) -> None:
        """Fill an ellipse with centre (x, y), half-axes rx and ry, turned by `tilt` degrees."""
        ring = _circle() * (rx, ry)
        if tilt:
            ring = ring @ rotation(tilt).T
        self.polygon(ring + (x, y), fill, line)

    def stroke(self, points: Points | np.ndarray, colour: Colour, width: float) -> None:
        """Draw an open line with round ends, `width` in object units."""
        pixels = self._pixels(points)
        thick = max(self.line_width, round(width * self.unit))
        self.canvas.line(pixels, fill=colour, width=thick, joint="curve")
        for x, y in (pixels[:2], pixels[-2:]):
            self.canvas.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=colour)

    def curve(self, points: Points, colour: Colour, width: float) -> None:
        """Draw the smooth open curve through the points."""
        self.stroke(smooth(points, closed=False), colour, width)

    def _pixels(self, points: Sequence[Sequence[float]] | np.ndarray) -> list[float]:
        pixels: list[float] = (np.asarray(points) @ self.matrix.T + self.origin).ravel().tolist()
        return pixels


def rotation(degrees: float) -> np.ndarray:
    """Return the matrix [2, 2] that turns by an angle, clockwise on screen."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


TINTS: dict[str, tuple[Colour, float]] = {  # what the light does to the land
    "sunny": ((255, 250, 220), 0.05),
    "cloudy": ((150, 164, 180), 0.22),
    "sunset": ((226, 112, 92), 0.3),
    "night": ((26, 30, 78), 0.66),
}


class Canvas:
    """A square canvas in units of its side: (0, 0) top left, (1, 1) bottom right."""

    def __init__(self, side: int, light: str, rng: np.random.Generator) -> None:
        self.side = side
        self.light = light
        self.rng = rng
        self.lift = float(rng.uniform(-0.03, 0.03))  # of the horizon
        self.image = Image.new("RGB", (side, side))
        self.pen = ImageDraw.Draw(self.image, "RGBA")

    def gradient(self, *colours: Colour, end: float = 1.0) -> None:
        """Fill the canvas from top to bottom, the last colour at `end`."""
        heights = np.linspace(0, end, len(colours))
        column = np.linspace(0, 1, self.side)
        channels = [np.interp(column, heights, [colour[c] for colour in colours]) for c in range(3)]
        strip = np.stack(channels, axis=1).round().astype(np.uint8)[:, None, :]
        self.image.paste(Image.fromarray(np.repeat(strip, self.side, axis=1)))

    def land(self, colour: Colour, height: float, swell: float, *, waves: float = 1.0) -> None:
        """Fill everything below a rolling line at about `height`."""
        x = np.linspace(-0.02, 1.02, 40)
        phase = self.rng.uniform(0, 2 * np.pi)
        y = height + self.lift + swell * np.sin(x * 2 * np.pi * waves + phase)
        self.shape([*zip(x, y, strict=True), (1.02, 1.02), (-0.02, 1.02)], self.lit(colour))

    def shape(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """Fill a polygon."""
        self.pen.polygon([(x * self.side, y * self.side) for x, y in points], fill=colour)

    def disc(self, x: float, y: float, rx: float, colour: Colour, ry: float | None = None) -> None:
        """Fill an upright ellipse; a circle unless `ry` is given."""
        ry = rx if ry is None else ry
        s = self.side
        self.pen.ellipse(((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s), fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill an upright rectangle."""
        s = self.side
        self.pen.rectangle((left * s, top * s, right * s, bottom * s), fill=colour)

    def lit(self, colour: Colour) -> Colour:
        """Return an opaque colour as it looks in the picture's light."""
        tint, share = TINTS.get(self.light, (colour, 0.0))
        return blend(colour, tint, share)
