"""Draws the synthetic set, `scenes`: pictures with five captions each, and injected errors as
ground truth."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.random import Generator
from PIL import Image, ImageDraw
from PIL.ImageColor import getrgb

from clipmem_core import columns as c
from clipmem_core.dataset.scenes.contents import (
    COLOURS,
    COPY,
    OBJECT_DATA,
    OBJECT_KINDS,
    PICTURE,
    PLACE_DATA,
    PLACES,
    SKIES,
    WORDS,
    Rgb,
    Scene,
    Steps,
    Thing,
    captions_of,
    plan_pairs,
    stream,
)
from clipmem_core.io import InputError, replacing

Ink = Rgb | str  # a colour, or its hexadecimal code
Points = Sequence[float] | np.ndarray  # x, y, x, y … or [n_points, 2]

CAPTIONS_FILE = "captions.jsonl"
SIDE = 128  # pixels of a finished picture
_CANVAS = 3 * SIDE  # pixels of a picture while it is drawn, for smooth edges
# Positions of several objects, by `standing` or `hanging` and their number: (x, y, size) in sides
# of the picture; y is that of the feet or, if hanging, the centre.
_SLOTS = PLACE_DATA["slots"]
_DETAILS = OBJECT_DATA["details"]
_LINE_WIDTH = 3  # pixels of an outline


def draw_scenes(folder: Path, *, pairs: int, seed: int) -> None:
    """Draw a data set into a folder: images/NNNNN.png and, written last, captions.jsonl.

    Each line of captions.jsonl has image, pair_id, captions (five), label (kind of the main object)
    and injected (null, or the injected error: miscaption, vague, duplicate, atypical). An existing
    set is overwritten. The same seed gives the same bytes with the same versions of Pillow, its
    zlib and numpy.
    """
    if pairs < 1 or seed < 0:
        raise InputError(
            f"scenes_pairs must be 1 or more and scenes_seed 0 or more, got {pairs} and {seed}"
        )
    (folder / "images").mkdir(parents=True, exist_ok=True)
    listing = folder / CAPTIONS_FILE
    listing.unlink(missing_ok=True)  # a set without it is unfinished
    plans = list(plan_pairs(pairs, seed=seed))
    lines = list[str]()
    for plan in plans:
        image = f"images/{plan.number:05d}.png"
        partner = plan if plan.partner is None else plans[plan.partner]
        drawn = partner if plan.injected == c.DUPLICATE else plan
        picture = draw_scene(drawn.scene, stream(seed, drawn.number, PICTURE))
        if plan.injected == c.DUPLICATE:
            picture = _near_duplicate(picture, stream(seed, plan.number, COPY))
        picture.save(folder / image, compress_level=4)
        described = partner if plan.injected == c.MISCAPTION else plan
        scene = None if plan.injected == c.VAGUE else described.scene
        words = stream(seed, described.number, WORDS)
        record = {
            c.IMAGE: image,
            c.PAIR_ID: f"scene-{plan.number:05d}",
            c.CAPTIONS: captions_of(scene, words),
            c.LABEL: plan.scene.main.kind,
            c.INJECTED: plan.injected,
        }
        lines.append(json.dumps(record) + "\n")
    with replacing(listing) as unfinished:
        unfinished.write_text("".join(lines), encoding="utf-8")


def _near_duplicate(picture: Image.Image, rng: Generator) -> Image.Image:
    """Crop about a pixel on two sides, and add faint noise."""
    left, top = rng.uniform(0.3, 1.3, size=2)
    box = (left, top, *picture.size)
    moved = np.asarray(picture.resize(picture.size, Image.Resampling.BICUBIC, box=box), np.int16)
    noise = rng.integers(-3, 4, size=moved.shape)
    return Image.fromarray((moved + noise).clip(0, 255).astype(np.uint8))


def draw_scene(scene: Scene, rng: Generator) -> Image.Image:
    """Draw a scene as an RGB picture of SIDE × SIDE pixels; `rng` varies shapes, sizes, positions
    and details."""
    canvas = Canvas(scene.light, rng)
    canvas.draw(PLACES[scene.place]["steps"])
    if scene.effect == "glitch":
        canvas.tear()
    background = canvas.image.copy()
    for spot in place_objects(scene, rng):
        _draw_object(canvas, spot, scene)
    if scene.effect == "dotted":
        _dot(canvas, background, COLOURS[scene.main.colour])
    return canvas.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


class Spot(NamedTuple):
    """The position of one object, in sides of the picture."""

    thing: Thing
    x: float  # of the centre
    y: float
    size: float  # half the side of the object's own square
    grounded: bool  # with a shadow, or floating on the water


def place_objects(scene: Scene, rng: Generator) -> list[Spot]:
    """Return the position of every object, the farthest first."""
    main = scene.main
    other = scene.other

    def spot(thing: Thing, x: float, y: float, size: float, wobble: float = 0.01) -> Spot:
        dx, dy = rng.uniform(-wobble, wobble, size=2)
        size *= rng.uniform(0.93, 1.04)
        kind = thing.facts
        y += dy - (kind.half_height * size if kind.stands else 0.0)
        return Spot(thing, x + dx, y, size, kind.stands)

    if other is None and scene.count > 1:
        slots = _SLOTS["standing" if main.facts.stands else "hanging"][str(scene.count)]
        return [spot(main, x, y, size, wobble=0.015) for x, y, size in slots]
    if other is None:
        size = rng.uniform(0.25, 0.35)
        x = 0.5 + rng.uniform(-1, 1) * (0.45 - size)  # a small one may be farther from the middle
        return [spot(main, x, 0.9 if main.facts.stands else 0.46, size, wobble=0.03)]
    if scene.relation in ("left", "right"):
        side = -0.23 if scene.relation == "left" else 0.23
        return [
            spot(thing, x, 0.88 if thing.facts.stands else 0.42, thing.facts.size_beside, 0.02)
            for thing, x in ((main, 0.5 + side), (other, 0.5 - side))
        ]
    if scene.relation in ("above", "below"):
        high, low = (main, other) if scene.relation == "above" else (other, main)
        x = rng.uniform(0.4, 0.6)
        return [spot(high, x, 0.25, high.facts.size_beside), spot(low, x, 0.94, 0.2)]
    if scene.relation == "front":
        behind = spot(other, 0.5, 0.83, 0.33)
        return [behind, spot(main, 0.5 + rng.choice((-0.19, 0.19)), 0.95, 0.17)]
    below = spot(other, 0.5, 0.93, 0.26)
    feet = below.y + (other.facts.carries_at or 0) * below.size
    return [below, Spot(main, below.x, feet - main.facts.half_height * 0.16, 0.16, False)]


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
        details = _DETAILS | OBJECT_KINDS[kind].details.get(colour, {})
        tones = {name: blend(own, outline, share) for name, share in OBJECT_DATA["tones"].items()}
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


class Canvas(Drawing):
    """A square canvas in units of its side: (0, 0) top left, (1, 1) bottom right."""

    def __init__(self, light: str, rng: Generator) -> None:
        self.light = light
        self.rng = rng
        self.lift = float(rng.uniform(-0.03, 0.03))  # of the horizon
        self.image = Image.new("RGB", (_CANVAS, _CANVAS))
        self.pen = ImageDraw.Draw(self.image, "RGBA")
        self.colours = dict[str, str]()

    def colour(self, name: str) -> Rgb:
        """Return a colour in the picture's light, which does not change a translucent one."""
        plain = getrgb(self.colours.get(name, name))
        if self.light not in SKIES or len(plain) > 3:
            return plain
        tint, share = SKIES[self.light]["tint"]
        return blend(plain, getrgb(tint), share)

    def palette(self, *choices: dict[str, str]) -> None:
        """Draw the set of named colours of the later steps."""
        self.colours = choices[int(self.rng.integers(len(choices)))]

    def gradient(self, end: float, *colours: Rgb) -> None:
        """Fill the canvas with a vertical gradient that reaches the last colour at `end`."""
        heights = np.linspace(0, end, len(colours))
        column = np.linspace(0, 1, _CANVAS)
        channels = [np.interp(column, heights, channel) for channel in zip(*colours, strict=True)]
        strip = np.stack(channels, axis=1).round().astype(np.uint8)[:, None, :]
        self.image.paste(Image.fromarray(np.repeat(strip, _CANVAS, axis=1)))

    def sky(self, horizon: float) -> None:
        """Fill the canvas with the sky of its light: stars, sun or moon, and clouds."""
        sky = SKIES[self.light]
        self.gradient(horizon, *map(getrgb, sky["gradient"]))
        side = self.rng.choice((-1, 1))
        x = 0.5 + side * self.rng.uniform(0.26, 0.36)
        self.scatter(sky["stars"], (0, 0, 0.002), (1, horizon, 0.007), None, "#fffae1d2")
        for dx, y, r, colour in sky["discs"]:
            self.disc((x + dx, y if y > 0 else horizon + y), r, colour)
        for cx, cy, size in sky["clouds"]:
            cx = 0.5 - side * 0.3 if cx is None else cx  # opposite the sun
            cx += self.rng.uniform(-0.06, 0.06)
            cy += self.rng.uniform(-0.04, 0.04)
            for dx, dy, r in ((-0.08, 0.01, 0.05), (0, -0.015, 0.07), (0.08, 0.01, 0.05)):
                centre = (cx + dx * size, cy + dy * size)
                self.disc(centre, r * size, "#fafcff", r * size * 0.72)

    def land(self, colour: Rgb, height: float, swell: float, waves: float = 1.0) -> None:
        """Fill everything below a rolling line at about `height`."""
        x = np.linspace(-0.02, 1.02, 40)
        phase = self.rng.uniform(0, 2 * np.pi)
        y = height + self.lift + swell * np.sin(x * 2 * np.pi * waves + phase)
        outline = np.vstack([np.stack([x, y], axis=1), [(1.02, 1.02), (-0.02, 1.02)]])
        self.shape(outline, colour)

    def water(self, top: float, bottom: float, shore: bool = False) -> None:
        """Fill everything below `top` with bands and foam down to `bottom`, which moves with a
        shore."""
        top += self.lift
        bottom += self.lift if shore else 0.0
        front = self.colour("#468ab8")
        horizon = self.colour("#80bed6")
        for i, y in enumerate(np.linspace(top, bottom, 7)):
            self.box((0, y, 1, 1), blend(horizon, front, i / 6))
        foam = (*blend(self.colour("#ffffff"), (255, 255, 255), 0.4), 130)
        for x, y in self.rng.uniform((0.0, top + 0.03), (0.95, bottom), size=(14, 2)):
            self.pen.line(_pixels((x, y, x + 0.08, y)), foam, 3)

    def houses(self, colour: Rgb, highest: float) -> None:
        """Draw a row of houses with windows, lit at night."""
        night = self.light == "night"
        x = -self.rng.uniform(0.0, 0.08)
        while x < 1:
            width = self.rng.uniform(0.09, 0.17)
            top = self.rng.uniform(highest, highest + 0.22)
            self.box((x, top, x + width - 0.008, 0.76), colour)
            windows = self.rng.random((4, 2)) < (0.55 if night else 0.8)
            for row, column in zip(*np.nonzero(windows), strict=True):
                left = x + width * (0.2 + 0.36 * column)
                high = top + 0.035 + 0.06 * row
                window = (left, high, left + width * 0.2, high + 0.03)
                self.box(window, "#ffde8ce6" if night else "#f0f4fa6e")
            x += width

    def crowns(self, colour: Rgb) -> None:
        """Draw a row of leafy crowns at the upper edge."""
        for x in np.linspace(0, 1, 8) + self.rng.uniform(-0.04, 0.04, size=8):
            self.disc((x, -0.02), 0.13, colour, 0.1 + 0.04 * self.rng.random())

    def weeds(self, colour: Rgb) -> None:
        """Draw waving plants on the sea floor at both sides."""
        left = self.rng.uniform(0.02, 0.2, size=2)
        for x in (*left, *self.rng.uniform(0.8, 0.98, size=2)):
            y = np.linspace(0.94, self.rng.uniform(0.58, 0.72), 14)
            self.pen.line(_pixels(np.stack([x + 0.02 * np.sin(y * 40), y], axis=1)), colour, 10)

    def scatter(
        self,
        count: int,
        low: Points,
        high: Points,
        radii: tuple[float, float] | None,
        *colours: Ink,
    ) -> None:
        """Draw ellipses between two corners, in varied colours; without radii, the third numbers of
        the corners are the limits of a circle's radius."""
        for x, y, *radius in self.rng.uniform(low, high, size=(count, len(low))):
            rx, ry = radii or (radius[0], radius[0])
            self.disc((x, y), rx, colours[int(x * 97) % len(colours)], ry)

    def shape(self, points: Points, colour: Ink) -> None:
        """Fill a polygon."""
        self.pen.polygon(_pixels(points), colour)

    def disc(self, centre: Points, rx: float, colour: Ink, ry: float | None = None) -> None:
        """Fill an upright ellipse; a circle unless `ry` is given."""
        x, y = centre
        ry = rx if ry is None else ry
        self.pen.ellipse(_pixels((x - rx, y - ry, x + rx, y + ry)), colour)

    def box(self, corners: Points, colour: Ink) -> None:
        """Fill an upright rectangle: left, top, right, bottom."""
        self.pen.rectangle(_pixels(corners), colour)

    def bar(self, corners: Points, colour: Ink) -> None:
        """Fill an upright rectangle with round corners."""
        self.pen.rounded_rectangle(_pixels(corners), 0.018 * _CANVAS, colour)

    def tear(self) -> None:
        """Shift bands of the canvas and swap their colours, as in a broken file."""
        pixels = np.asarray(self.image).copy()
        edges = np.sort(self.rng.integers(0, _CANVAS, size=16))
        for top, bottom in zip(edges[:-1], edges[1:], strict=True):
            shift = int(self.rng.integers(-_CANVAS // 3, _CANVAS // 3))
            band = np.roll(pixels[top:bottom], shift, axis=1)
            pixels[top:bottom] = band[:, :, self.rng.permutation(3)]
        self.image.paste(Image.fromarray(pixels))


def _pixels(points: Points) -> list[float]:
    return list(np.ravel(points) * _CANVAS)


def _draw_object(canvas: Canvas, spot: Spot, scene: Scene) -> None:
    """Draw an object with its shadow, or with its hull in the water."""
    kind = spot.thing.facts
    rng = canvas.rng
    x = spot.x
    feet = spot.y + kind.half_height * spot.size
    half = kind.half_width * spot.size
    afloat = scene.place == "sea"
    if spot.grounded and not afloat:
        canvas.disc((x, feet - 0.004), half * 0.95, "#24163c3c", 0.12 * spot.size)
    turn = rotation(rng.uniform(-2.5, 2.5) if kind.stands else rng.uniform(-13, 13))
    upright = -1.0 if scene.effect == "upside down" else 1.0
    stretch = np.diag((rng.choice((-1, 1)) * rng.uniform(0.94, 1.03), upright))
    matrix = turn @ stretch * spot.size * _CANVAS
    origin = np.array((x, spot.y)) * _CANVAS
    Brush(canvas.pen, rng, spot.thing, matrix, origin).draw(kind.steps)
    if spot.grounded and afloat:
        water = (*canvas.colour("#68a8ca"), 215)
        canvas.disc((x, feet + 0.004), half * 0.86, water, half * 0.12)
        canvas.disc((x, feet - 0.004), half * 0.5, "#ffffff46", half * 0.03)


def _dot(canvas: Canvas, background: Image.Image, fill: Rgb) -> None:
    """Put dots on the areas of a colour in front of the background, not on outlines and details."""
    pixels = np.asarray(canvas.image).astype(int)
    drawn = (pixels != np.asarray(background)).any(axis=2)
    overlays: list[Rgb] = [getrgb(_DETAILS[name]) for name in ("shade", "shine")]
    tones = [fill, *(blend(fill, over[:3], over[3] / 255) for over in overlays)]
    flat = np.any([np.abs(pixels - tone).max(axis=2) < 4 for tone in tones], axis=0)
    dots = Canvas(canvas.light, canvas.rng)
    dots.image.paste(canvas.image)
    colour = COLOURS["red" if min(fill) > 200 else "white"]
    for row, y in enumerate(np.arange(0, 1, 0.07)):
        for x in np.arange(0, 1, 0.08) + 0.04 * (row % 2):
            dots.disc((x, y), 0.02, colour)
    canvas.image.paste(dots.image, mask=Image.fromarray((drawn & flat).astype(np.uint8) * 255))
