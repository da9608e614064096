"""The kinds of objects of the synthetic set: colours, places and drawing of each, the most common
kind first."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import ImageDraw
from PIL.ImageColor import getrgb as rgb

Colour = tuple[int, ...]  # RGB, or RGBA for a translucent one
Points = tuple[tuple[float, float], ...]

COLOURS: dict[str, Colour] = {
    "red": rgb("#dd4440"),
    "blue": rgb("#3e76cc"),
    "yellow": rgb("#f8cb46"),
    "green": rgb("#3e965c"),
    "orange": rgb("#f08838"),
    "white": rgb("#f7f4ed"),
    "pink": rgb("#f28eb0"),
    "purple": rgb("#8a5cba"),
    "brown": rgb("#946446"),
    "black": rgb("#3e3e4c"),
    "teal": rgb("#2ca4a4"),
}
SHADE: Colour = rgb("#28143c2a")
SHINE: Colour = rgb("#ffffff60")
WHITE = rgb("#ffffff")
_DARK = rgb("#2e2638")
BARK = rgb("#845c42")
LEAF = rgb("#549654")
LEAF_LINE = rgb("#2c5c3a")
CREAM = rgb("#faeed6")
GLASS = rgb("#bee0f0")
GLASS_LINE = rgb("#547492")
WOOD = rgb("#926244")
WOOD_LINE = rgb("#56382c")
WARM = rgb("#ffe496")


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from the first to the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def rotation(degrees: float) -> np.ndarray:
    """Return the matrix [2, 2] that rotates by an angle, clockwise on screen."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@lru_cache(maxsize=256)
def _catmull_rom(points: Points, closed: bool = True) -> np.ndarray:
    """Return a Catmull–Rom curve through the points, as an array [n_points × 6, 2]."""
    knots = np.array(points, dtype=float)
    before = np.roll(knots, 1, axis=0)
    after = np.roll(knots, -1, axis=0)
    if not closed:
        before[0] = knots[0]
        after[-1] = knots[-1]
    t = np.linspace(0, 1, 6, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None, :] for p in (before, knots, after, np.roll(after, -1, axis=0)))
    cubic = (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    curve = (cubic / 2).reshape(-1, 2)
    return curve if closed else np.vstack([curve[:-6], knots[-1:]])


def path(text: str, side: int = 1) -> Points:
    """Read points as in an SVG polygon: "x,y x,y …"; `side` is −1 for their mirror image."""
    corners = (corner.split(",") for corner in text.split())
    return tuple((float(x) * side, float(y)) for x, y in corners)


def _mirrored(right: str) -> Points:
    """Return a symmetric outline from the `path` of its right half, from top to bottom."""
    half = path(right)
    return (*half, *((-x, y) for x, y in reversed(half) if x))


class Brush:
    """Draws an object in its colour, with an outline unless `fill` is given, within [-1, 1]: x to
    the right, y down."""

    def __init__(
        self,
        pen: ImageDraw.ImageDraw,
        colour: str,
        matrix: np.ndarray,
        origin: np.ndarray,
        line_width: int,
    ) -> None:
        self.pen = pen
        self.fill = COLOURS[colour]
        self.line = blend(self.fill, rgb("#261a2e"), 0.88 if colour == "black" else 0.55)
        self.matrix = matrix  # [2, 2], object units to pixels
        self.origin = origin  # [2], pixels
        self.line_width = line_width

    def polygon(
        self, points: Points | np.ndarray, fill: Colour | None = None, line: Colour | None = None
    ) -> None:
        """Fill a polygon and outline it."""
        if fill is None:
            fill = self.fill
            line = self.line
        corners = self._pixels(points)
        self.pen.polygon(corners, fill=fill)
        if line is not None:
            self.pen.line(corners + corners[:4], fill=line, width=self.line_width, joint="curve")

    def blob(self, points: Points, fill: Colour | None = None, line: Colour | None = None) -> None:
        """Fill the smooth closed curve through the points."""
        self.polygon(_catmull_rom(points), fill, line)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, *colours: Colour, tilt: float = 0.0
    ) -> None:
        """Fill an ellipse with centre (x, y) and half-axes rx and ry, rotated by `tilt` degrees."""
        angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (rx, ry)
        self.polygon((ring @ rotation(tilt).T if tilt else ring) + (x, y), *colours)

    def stroke(self, points: Points | np.ndarray, colour: Colour, width: float) -> None:
        """Draw an open line with round ends, `width` in object units."""
        pixels = self._pixels(points)
        thick = max(self.line_width, round(width * float(np.sqrt(abs(np.linalg.det(self.matrix))))))
        self.pen.line(pixels, fill=colour, width=thick, joint="curve")
        for x, y in (pixels[:2], pixels[-2:]):
            self.pen.ellipse(
                (x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=colour
            )

    def curve(self, points: Points, colour: Colour, width: float) -> None:
        """Draw the smooth open curve through the points."""
        self.stroke(_catmull_rom(points, closed=False), colour, width)

    def _pixels(self, points: Points | np.ndarray) -> list[float]:
        pixels: list[float] = (np.asarray(points) @ self.matrix.T + self.origin).ravel().tolist()
        return pixels


Draw = Callable[[Brush, np.random.Generator], None]


@dataclass(frozen=True)
class Kind:
    """One kind of object."""

    plural: str
    stands: bool  # on the ground; other kinds hang in the air or in the water
    half_width: float  # of the drawing; the larger of the two is about 1
    half_height: float
    colours: tuple[str, ...]  # favourites, most common first; the rest of the palette follows
    places: tuple[str, ...]  # most common first
    draw: Draw


KINDS: dict[str, Kind] = {}  # most common first


def _kind(
    plural: str, colours: str, places: str, *, stands: bool, extent: tuple[float, float]
) -> Callable[..., Draw]:
    def register(draw: Draw) -> Draw:
        name = draw.__name__.removeprefix("_draw_")
        KINDS[name] = Kind(
            plural, stands, *extent, tuple(colours.split()), tuple(places.split()), draw
        )
        return draw

    return register


@_kind(
    "cats", "orange black white", "room meadow city snow forest", stands=True, extent=(0.84, 1.0)
)
def _draw_cat(brush: Brush, rng: np.random.Generator) -> None:
    brush.curve(path("0.38,0.82 0.7,0.72 0.74,0.38 0.6,0.12"), brush.line, 0.22)
    brush.curve(path("0.38,0.82 0.7,0.72 0.74,0.38 0.6,0.12"), brush.fill, 0.14)
    brush.blob(_mirrored("0,-0.16 0.38,0.2 0.54,0.72 0.42,0.98 0,1"))
    brush.ellipse(0, 0.58, 0.2, 0.34, rgb("#ffffff46"))
    for side in (-1, 1):
        brush.ellipse(0.2 * side, 0.93, 0.17, 0.09)
        brush.polygon(path("0.1,-0.66 0.46,-1 0.52,-0.4", side))
        brush.polygon(path("0.24,-0.66 0.41,-0.85 0.45,-0.5", side), rgb("#f5a0aa"))
    brush.blob(_mirrored("0,-0.76 0.4,-0.68 0.56,-0.36 0.36,-0.06 0,0"))
    if rng.random() < 0.5:  # a tabby's forehead
        for x in (-0.14, 0, 0.14):
            brush.stroke(((x, -0.7), (x, -0.56)), brush.line, 0.05)
    brush.ellipse(0, -0.19, 0.2, 0.13, rgb("#ffffff82"))
    for side in (-1, 1):
        brush.ellipse(0.23 * side, -0.38, 0.1, 0.12, rgb("#c4de78"), _DARK)
        brush.ellipse(0.23 * side, -0.37, 0.05, 0.1, _DARK)
        brush.stroke(path("0.3,-0.18 0.64,-0.22", side), (*_DARK, 150), 0.02)
        brush.stroke(path("0.3,-0.13 0.62,-0.06", side), (*_DARK, 150), 0.02)
    brush.polygon(path("-0.07,-0.25 0.07,-0.25 0,-0.17"), rgb("#ec7882"))


@_kind("cars", "red blue white", "city desert snow meadow beach", stands=True, extent=(1.0, 0.56))
def _draw_car(brush: Brush, rng: np.random.Generator) -> None:
    low = -0.54 if rng.random() < 0.5 else -0.46
    rear = -0.5 if rng.random() < 0.5 else -0.66
    brush.polygon(((rear, -0.1), (rear + 0.16, low), (0.22, low), (0.56, -0.08)))
    brush.polygon(
        ((rear + 0.1, -0.1), (rear + 0.22, low + 0.1), (-0.08, low + 0.1), (-0.08, -0.1)),
        GLASS,
        GLASS_LINE,
    )
    brush.polygon(
        ((0.02, -0.1), (0.02, low + 0.1), (0.18, low + 0.1), (0.42, -0.1)), GLASS, GLASS_LINE
    )
    body = path("-0.98,0.3 -0.98,-0.02 -0.84,-0.12 0.6,-0.12 0.9,0.0 1,0.14 0.98,0.34 0,0.36")
    brush.polygon(body)
    brush.polygon(path("-0.96,0.16 0.98,0.16 0.96,0.34 -0.96,0.34"), SHADE)
    brush.stroke(path("-0.84,-0.02 0.5,-0.02"), SHINE, 0.05)
    brush.ellipse(0.9, 0.1, 0.08, 0.07, WARM, brush.line)
    brush.stroke(path("-0.02,-0.08 -0.02,0.28"), brush.line, 0.03)
    for x in (-0.54, 0.56):
        brush.ellipse(x, 0.34, 0.22, 0.22, rgb("#3a3844"), rgb("#1e1c26"))
        brush.ellipse(x, 0.34, 0.1, 0.1, rgb("#ced0d8"))


@_kind(
    "trees", "green orange pink", "meadow snow city hills desert", stands=True, extent=(0.72, 1.0)
)
def _draw_tree(brush: Brush, rng: np.random.Generator) -> None:
    brush.polygon(path("-0.13,0.2 0.13,0.2 0.19,1 -0.19,1"), BARK, rgb("#52362a"))
    if rng.random() < 0.4:
        for top, half in ((0.12, 0.72), (-0.34, 0.56), (-0.98, 0.42)):
            brush.polygon(((0, top - 0.06), (half, top + 0.58), (-half, top + 0.58)))
            brush.polygon(((0, top - 0.04), (half, top + 0.57), (half * 0.2, top + 0.57)), SHADE)
        return
    crown = path("0,-1 0.5,-0.82 0.7,-0.3 0.58,0.2 0.2,0.4 -0.24,0.38 -0.6,0.16 -0.7,-0.34")
    brush.blob((*crown, (-0.44, -0.84)))
    brush.blob(path("0.62,-0.3 0.52,0.16 0.2,0.34 -0.24,0.32 0.16,0.1 0.44,-0.16"), SHADE)
    for x, y in ((-0.3, -0.5), (0.1, -0.66), (-0.36, -0.06), (0.1, -0.16)):
        dx, dy = rng.uniform(-0.06, 0.06, size=2)
        brush.ellipse(x + dx, y + dy, 0.17, 0.11, SHINE)


@_kind("birds", "blue red yellow", "forest sea meadow city beach", stands=False, extent=(0.98, 0.7))
def _draw_bird(brush: Brush, rng: np.random.Generator) -> None:
    brush.polygon(path("-0.5,0.06 -0.98,-0.14 -0.94,0.3 -0.5,0.36"))
    brush.polygon(path("0.76,-0.22 0.98,-0.1 0.76,0.02"), rgb("#f6aa3c"), rgb("#b26e28"))
    back = path("0.58,-0.46 0.8,-0.2 0.62,0.24 0.2,0.56")
    brush.blob((*back, (-0.3, 0.5), (-0.62, 0.2), (-0.3, -0.02), (0.24, -0.36)))
    brush.blob(path("0.6,0.08 0.5,0.32 0.14,0.5 -0.2,0.44 0.2,0.24"), rgb("#ffffff6e"))
    tip = -0.7 if rng.random() < 0.6 else -0.5
    wing: Points = (
        (0.26, 0.06),
        (0.12, -0.34),
        (-0.42, tip),
        (-0.46, -0.3),
        (-0.3, 0.12),
        (0.02, 0.24),
    )
    brush.blob(wing, blend(brush.fill, brush.line, 0.22), brush.line)
    brush.curve(path("-0.36,-0.3 -0.16,-0.1 0.1,0.0"), brush.line, 0.04)
    brush.ellipse(0.56, -0.2, 0.08, 0.08, WHITE, _DARK)
    brush.ellipse(0.58, -0.2, 0.045, 0.05, _DARK)


@_kind(
    "houses", "white red yellow", "meadow snow hills beach desert", stands=True, extent=(0.92, 1.0)
)
def _draw_house(brush: Brush, rng: np.random.Generator) -> None:
    roof, roof_line = (
        (rgb("#7a524e"), rgb("#482e32")) if rng.random() < 0.6 else (rgb("#606880"), rgb("#363a50"))
    )
    brush.polygon(path("0.36,-0.9 0.58,-0.9 0.58,-0.2 0.36,-0.2"), rgb("#b07c68"), roof_line)
    brush.polygon(path("-0.72,-0.16 0,-0.86 0.72,-0.16 0.72,1 -0.72,1"))
    brush.polygon(path("0.34,-0.3 0.7,-0.14 0.7,0.98 0.34,0.98"), SHADE)
    brush.polygon(path("0,-1 0.94,-0.12 0.8,0.02 0,-0.72 -0.8,0.02 -0.94,-0.12"), roof, roof_line)
    door = -0.26 if rng.random() < 0.7 else 0.0
    brush.polygon(
        ((door - 0.2, 0.36), (door + 0.2, 0.36), (door + 0.2, 1), (door - 0.2, 1)), WOOD, WOOD_LINE
    )
    brush.ellipse(door + 0.11, 0.7, 0.04, 0.04, WARM)
    windows = [(0.36, 0.42, 0.2) if door < 0 else (0.48, 0.42, 0.16)]
    round_window = rng.random() < 0.5
    for x, y, r in windows if round_window else [*windows, (0, -0.24, 0.14)]:
        brush.polygon(
            ((x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)), WARM, GLASS_LINE
        )
        brush.stroke(((x - r, y), (x + r, y)), GLASS_LINE, 0.04)
        brush.stroke(((x, y - r), (x, y + r)), GLASS_LINE, 0.04)
    if round_window:
        brush.ellipse(0, -0.28, 0.15, 0.15, WARM, GLASS_LINE)


@_kind("flowers", "pink yellow red", "meadow room forest desert", stands=True, extent=(0.56, 1.0))
def _draw_flower(brush: Brush, rng: np.random.Generator) -> None:
    brush.curve(path("0,-0.4 0.05,0.3 0,1"), LEAF_LINE, 0.13)
    brush.curve(path("0,-0.4 0.05,0.3 0,1"), LEAF, 0.07)
    brush.blob(path("0.03,0.7 0.22,0.36 0.54,0.3 0.4,0.6"), LEAF, LEAF_LINE)
    brush.blob(path("0.0,0.86 -0.2,0.56 -0.5,0.5 -0.38,0.8"), LEAF, LEAF_LINE)
    petals = int(rng.integers(5, 8))
    for angle in np.arange(petals) * 360 / petals + rng.uniform(0, 60):
        x = 0.33 * np.cos(np.deg2rad(angle))
        y = 0.33 * np.sin(np.deg2rad(angle))
        brush.ellipse(x, y - 0.46, 0.23, 0.17, tilt=float(angle))
    heart = rgb("#946446") if brush.fill == COLOURS["yellow"] else rgb("#face54")
    brush.ellipse(0, -0.46, 0.19, 0.19, heart, blend(heart, _DARK, 0.4))
    brush.ellipse(-0.05, -0.51, 0.06, 0.06, SHINE)


@_kind("boats", "white red blue", "sea beach", stands=True, extent=(0.95, 1.0))
def _draw_boat(brush: Brush, rng: np.random.Generator) -> None:
    sail, line = (
        (rgb("#fcf8ec"), rgb("#96908c")) if rng.random() < 0.7 else (rgb("#fae2b0"), rgb("#a08260"))
    )
    brush.stroke(path("0,-0.98 0,0.5"), WOOD_LINE, 0.08)
    brush.blob(path("0.08,-0.9 0.34,-0.4 0.76,0.3 0.4,0.34 0.08,0.32"), sail, line)
    brush.polygon(path("-0.08,-0.7 -0.08,0.32 -0.6,0.32"), sail, line)
    brush.polygon(path("0.08,0.06 0.6,0.06 0.72,0.3 0.08,0.3"), (*brush.fill, 200))
    brush.polygon(path("0,-0.98 0.3,-0.9 0,-0.8"))
    brush.polygon(path("-0.92,0.46 0.95,0.46 0.82,0.74 0.56,1 -0.5,1 -0.76,0.76"))
    brush.polygon(path("-0.7,0.78 0.78,0.78 0.56,0.98 -0.5,0.98"), SHADE)
    brush.stroke(path("-0.8,0.57 0.84,0.57"), SHINE, 0.06)


@_kind("fish", "orange blue yellow", "underwater", stands=False, extent=(1.0, 0.6))
def _draw_fish(brush: Brush, rng: np.random.Generator) -> None:
    brush.blob(path("-0.5,0 -0.96,-0.5 -0.84,0 -0.96,0.5"))
    brush.blob(path("-0.24,-0.3 -0.1,-0.6 0.38,-0.44 0.3,-0.3"))
    back = path("1,0.02 0.7,-0.32 0.2,-0.46 -0.3,-0.32 -0.62,0")
    brush.blob((*back, (-0.3, 0.34), (0.2, 0.48), (0.7, 0.36)))
    brush.blob(path("0.9,0.12 0.5,0.36 0.1,0.42 -0.3,0.28 0.2,0.24"), rgb("#ffffff5a"))
    if rng.random() < 0.5:  # stripes
        for x in (-0.26, 0.0, 0.26):
            brush.curve(((x, -0.32), (x + 0.08, 0), (x, 0.32)), rgb("#ffffff96"), 0.09)
    else:  # scales
        for x, y in (
            (-0.34, 0.0),
            (-0.12, -0.16),
            (-0.12, 0.16),
            (0.1, 0.0),
            (0.24, -0.22),
            (0.24, 0.2),
        ):
            brush.curve(((x, y - 0.1), (x - 0.08, y), (x, y + 0.1)), brush.line, 0.03)
    brush.blob(
        path("0.26,0.1 -0.02,0.3 0.04,0.06"), blend(brush.fill, brush.line, 0.25), brush.line
    )
    brush.ellipse(0.62, -0.1, 0.12, 0.12, WHITE, _DARK)
    brush.ellipse(0.65, -0.1, 0.06, 0.07, _DARK)


@_kind(
    "balloons", "red yellow pink", "city meadow room hills sea", stands=False, extent=(0.56, 1.0)
)
def _draw_balloon(brush: Brush, rng: np.random.Generator) -> None:
    sway = rng.uniform(0.06, 0.16)
    brush.curve(((0, 0.36), (sway, 0.56), (-sway, 0.78), (0.04, 1)), (*_DARK, 190), 0.035)
    brush.polygon(path("0,0.22 0.12,0.4 -0.12,0.4"))
    brush.blob(_mirrored("0,-1 0.38,-0.86 0.55,-0.44 0.38,0.04 0,0.28"))
    brush.blob(path("0.48,-0.4 0.32,0.02 0,0.23 -0.2,0.12 0.2,-0.1"), SHADE)
    brush.ellipse(-0.22, -0.6, 0.1, 0.2, rgb("#ffffff96"), tilt=24)


@_kind("stars", "yellow white", "hills city snow desert sea", stands=False, extent=(0.95, 0.92))
def _draw_star(brush: Brush, rng: np.random.Generator) -> None:
    angles = np.deg2rad(np.arange(10) * 36 - 90)
    radii = np.where(np.arange(10) % 2 == 0, 0.98, rng.uniform(0.42, 0.5))[:, None]
    tips = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii + (0, 0.06)
    brush.polygon(tips)
    for i in range(0, 10, 2):
        brush.polygon(np.vstack([tips[i : i + 2], [[0, 0.06]]]), SHADE)
    brush.ellipse(-0.16, -0.18, 0.1, 0.07, rgb("#ffffff82"), tilt=-35)


@_kind("umbrellas", "red purple yellow", "beach city room meadow", stands=True, extent=(1.0, 1.0))
def _draw_umbrella(brush: Brush, rng: np.random.Generator) -> None:
    brush.curve(path("0,-0.9 0,0 0,0.8 0.1,0.96 0.24,0.92 0.26,0.78"), WOOD_LINE, 0.09)
    dome: Points = path("-1,0.06 -0.86,-0.42 -0.48,-0.76 0,-0.88 0.48,-0.76 0.86,-0.42 1,0.06")
    ribs = (-1.0, -0.36, 0.36, 1.0)
    hem = [(left + right) / 2 for left, right in zip(ribs[:-1], ribs[1:], strict=True)]
    edge = (
        (ribs[3], 0.06),
        (hem[2], -0.06),
        (ribs[2], 0.06),
        (hem[1], -0.06),
        (ribs[1], 0.06),
        (hem[0], -0.06),
    )
    brush.polygon(np.vstack([_catmull_rom(dome, closed=False), np.array(edge)]))
    panel = SHINE if rng.random() < 0.5 else SHADE
    brush.blob(path("0,-0.86 0.24,-0.5 0.34,0.02 0,-0.06 -0.34,0.02 -0.24,-0.5"), panel)
    for x in (-0.36, 0.36):
        brush.curve(((0, -0.86), (x * 0.7, -0.5), (x, 0.05)), brush.line, 0.03)
    brush.stroke(path("0,-0.98 0,-0.86"), WOOD_LINE, 0.07)


@_kind("butterflies", "purple orange", "meadow forest beach room", stands=False, extent=(1.0, 0.8))
def _draw_butterfly(brush: Brush, rng: np.random.Generator) -> None:
    lower = blend(brush.fill, brush.line, 0.25)
    spot = rgb("#ffffffbe") if rng.random() < 0.5 else rgb("#ffd66edc")
    for s in (-1, 1):
        brush.blob(path("0.04,0.06 0.5,0.06 0.66,0.5 0.34,0.78", s), lower, brush.line)
        brush.blob(path("0.04,-0.02 0.28,-0.54 0.8,-0.78 0.98,-0.4 0.6,0.1", s))
        brush.ellipse(0.66 * s, -0.42, 0.15, 0.13, spot)
        brush.ellipse(0.4 * s, -0.16, 0.08, 0.08, spot)
        brush.ellipse(0.42 * s, 0.4, 0.1, 0.1, spot)
        brush.curve(path("0.02,-0.4 0.1,-0.66 0.24,-0.78", s), _DARK, 0.03)
    brush.ellipse(0, 0.06, 0.08, 0.5, _DARK)


@_kind("apples", "red green yellow", "room meadow forest snow", stands=True, extent=(0.86, 0.92))
def _draw_apple(brush: Brush, rng: np.random.Generator) -> None:
    brush.blob(_mirrored("0,-0.46 0.4,-0.6 0.8,-0.3 0.78,0.3 0.44,0.84 0,0.8"))
    brush.blob(path("0.7,-0.2 0.7,0.28 0.4,0.76 0.02,0.74 0.4,0.4"), SHADE)
    brush.ellipse(-0.42, -0.18, 0.16, 0.26, SHINE, tilt=20)
    brush.curve(path("0,-0.44 0.02,-0.7 0.12,-0.9"), BARK, 0.09)
    if rng.random() < 0.8:
        brush.blob(path("0.06,-0.62 0.28,-0.88 0.6,-0.84 0.36,-0.6"), LEAF, LEAF_LINE)


@_kind("cups", "white teal blue", "room beach forest meadow", stands=True, extent=(1.0, 0.8))
def _draw_cup(brush: Brush, rng: np.random.Generator) -> None:
    handle = path("0.48,-0.1 0.84,-0.14 0.84,0.34 0.44,0.42")
    brush.curve(handle, brush.line, 0.22)
    brush.curve(handle, brush.fill, 0.13)
    body = path("-0.62,-0.26 0.62,-0.26 0.58,0.3 0.42,0.72 0,0.8 -0.42,0.72 -0.58,0.3")
    brush.polygon(body)
    brush.polygon(path("0.24,-0.2 0.6,-0.24 0.56,0.3 0.41,0.7 0.1,0.77"), SHADE)
    brush.stroke(path("-0.42,0.02 -0.36,0.42"), SHINE, 0.1)
    brush.ellipse(0, -0.26, 0.62, 0.16)
    brush.ellipse(0, -0.25, 0.5, 0.1, rgb("#704630") if rng.random() < 0.6 else rgb("#c49646"))
    for x in (-0.24, 0.16):
        brush.curve(
            ((x, -0.4), (x + 0.1, -0.52), (x, -0.66), (x + 0.08, -0.78)), rgb("#ffffff96"), 0.06
        )


@_kind("kites", "red teal yellow", "beach meadow sea city desert", stands=False, extent=(0.72, 1.0))
def _draw_kite(brush: Brush, rng: np.random.Generator) -> None:
    sway = 0.2 if rng.random() < 0.5 else -0.2
    brush.curve(((0, 0.34), (sway, 0.56), (-sway, 0.78), (0.1, 0.98)), _DARK, 0.035)
    for x, y in ((sway * 0.9, 0.56), (-sway * 0.9, 0.78)):
        brush.polygon(((x - 0.13, y - 0.09), (x, y), (x - 0.13, y + 0.09)))
        brush.polygon(((x + 0.13, y - 0.09), (x, y), (x + 0.13, y + 0.09)))
    brush.polygon(path("0,-1 0.68,-0.36 0,0.36 -0.68,-0.36"))
    brush.polygon(path("0,-0.97 0.66,-0.36 0,-0.36"), SHINE)
    brush.polygon(path("0,-0.36 0,0.33 -0.66,-0.36"), SHINE if rng.random() < 0.5 else SHADE)
    brush.stroke(path("0,-0.98 0,0.34"), brush.line, 0.03)
    brush.stroke(path("-0.66,-0.36 0.66,-0.36"), brush.line, 0.03)


@_kind("mushrooms", "red brown orange", "forest meadow hills", stands=True, extent=(0.9, 0.92))
def _draw_mushroom(brush: Brush, rng: np.random.Generator) -> None:
    stem = path("-0.22,-0.1 0.22,-0.1 0.26,0.5 0.36,0.9 0,0.96 -0.36,0.9 -0.26,0.5")
    brush.blob(stem, CREAM, rgb("#aa9074"))
    brush.blob(path("0.06,0.06 0.2,0.1 0.22,0.5 0.3,0.86 0.08,0.88"), SHADE)
    cap = path("-0.9,0.06 -0.74,-0.46 -0.36,-0.84 0.06,-0.92 0.48,-0.76 0.8,-0.38 0.9,0.08")
    brush.blob((*cap, (0.5, 0.2), (-0.5, 0.2)))
    spot = blend(CREAM, rgb("#be9682"), 0.5) if brush.fill == COLOURS["white"] else CREAM
    for x, y, r in (
        (-0.46, -0.26, 0.17),
        (0.06, -0.56, 0.15),
        (0.52, -0.2, 0.15),
        (0.04, -0.06, 0.11),
    ):
        brush.ellipse(x + rng.uniform(-0.05, 0.05), y, r, r * 0.85, spot)


@_kind("lamps", "yellow teal white", "room hills snow", stands=True, extent=(0.66, 1.0))
def _draw_lamp(brush: Brush, rng: np.random.Generator) -> None:
    for r in (0.66, 0.46):
        brush.ellipse(0, -0.06, r, r * 0.7, rgb("#ffec962c"))
    if rng.random() < 0.5:
        brush.stroke(path("0,-0.1 0,0.86"), rgb("#786054"), 0.11)
    else:
        brush.ellipse(0, 0.52, 0.24, 0.3, rgb("#ceb08c"), rgb("#786054"))
    foot = path("-0.4,0.94 -0.3,0.82 0.3,0.82 0.4,0.94 0.3,1 -0.3,1")
    brush.blob(foot, rgb("#967660"), rgb("#5c463e"))
    brush.ellipse(0, -0.08, 0.16, 0.16, rgb("#fff6c8"))
    top = 0.3 + rng.uniform(-0.04, 0.06)
    brush.polygon(((-top, -0.98), (top, -0.98), (0.64, -0.1), (-0.64, -0.1)))
    brush.polygon(((-0.05, -0.96), (top - 0.02, -0.96), (0.6, -0.12), (0.24, -0.12)), SHADE)
    brush.polygon(
        ((-top + 0.06, -0.96), (-0.14, -0.96), (-0.2, -0.12), (-0.54, -0.12)), rgb("#fffad264")
    )


@_kind(
    "turtles", "green brown teal", "beach underwater meadow desert", stands=True, extent=(1.0, 0.58)
)
def _draw_turtle(brush: Brush, rng: np.random.Generator) -> None:
    skin = rgb("#98ba6e")
    line = rgb("#526c42")
    for x in (-0.42, 0.34):
        brush.blob(
            ((x - 0.14, 0.2), (x + 0.16, 0.2), (x + 0.2, 0.54), (x - 0.16, 0.56)), skin, line
        )
    brush.polygon(path("-0.7,0.2 -0.98,0.36 -0.66,0.36"), skin, line)
    brush.blob(path("0.52,0.28 0.66,-0.12 0.88,-0.2 1,0 0.88,0.16 0.74,0.36"), skin, line)
    brush.ellipse(0.84, -0.04, 0.05, 0.06, _DARK)
    brush.blob(path("-0.74,0.3 -0.64,-0.16 -0.3,-0.5 0.1,-0.54 0.46,-0.26 0.6,0.3 0,0.36"))
    high = -0.2 if rng.random() < 0.5 else -0.12
    brush.polygon(
        ((-0.24, high), (0.1, high), (0.22, 0.1), (-0.06, 0.26), (-0.34, 0.1)), SHINE, brush.line
    )
    for start, end in (
        ((-0.24, high), (-0.34, -0.42)),
        ((0.1, high), (0.16, -0.48)),
        path("0.22,0.1 0.54,0.08"),
    ):
        brush.stroke((start, end), brush.line, 0.04)
    brush.stroke(path("-0.34,0.1 -0.68,0.08"), brush.line, 0.04)


@_kind("rockets", "white red blue", "hills desert city sea", stands=False, extent=(0.6, 1.0))
def _draw_rocket(brush: Brush, rng: np.random.Generator) -> None:
    flame = rng.uniform(0.88, 0.98)
    brush.blob(
        ((-0.2, 0.54), (0.2, 0.54), (0.12, 0.8), (0, flame), (-0.12, 0.8)),
        rgb("#f8a03c"),
        rgb("#d66032"),
    )
    brush.blob(path("-0.1,0.56 0.1,0.56 0,0.82"), rgb("#ffe682"))
    fin = blend(brush.fill, brush.line, 0.4)
    for side in (-1, 1):
        brush.polygon(path("0.26,0.06 0.6,0.48 0.56,0.7 0.2,0.5", side), fin, brush.line)
    brush.blob(_mirrored("0,-0.98 0.24,-0.62 0.34,-0.1 0.22,0.54"))
    brush.blob(path("0.04,-0.86 0.2,-0.6 0.3,-0.1 0.18,0.52 0.06,0.52"), SHADE)
    brush.ellipse(0, -0.26, 0.17, 0.17, GLASS, GLASS_LINE)
    brush.ellipse(-0.05, -0.31, 0.05, 0.05, WHITE)
    brush.stroke(path("-0.28,0.24 0.28,0.24"), brush.line, 0.06)
