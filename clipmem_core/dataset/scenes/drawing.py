"""Draws the synthetic set, `scenes`: pictures with five captions each, and injected errors as
ground truth."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from PIL.ImageColor import getrgb as rgb

from clipmem_core import columns as c
from clipmem_core.dataset.scenes import contents as scene_plan
from clipmem_core.dataset.scenes.objects import (
    COLOURS,
    KINDS,
    SHADE,
    SHINE,
    Brush,
    Colour,
    blend,
    rotation,
)
from clipmem_core.io import InputError, replacing

CAPTIONS_FILE = "captions.jsonl"
SIDE = 128  # pixels of a finished picture
SUPERSAMPLING = 3  # for smooth edges

# Positions of several objects: (x, y, size) in shares of the side; y is that of the feet or, if
# hanging, the centre.
Slots = dict[int, tuple[tuple[float, float, float], ...]]
STANDING_SLOTS: Slots = {
    2: ((0.27, 0.84, 0.21), (0.73, 0.88, 0.21)),
    3: ((0.2, 0.82, 0.155), (0.8, 0.82, 0.155), (0.5, 0.92, 0.165)),
    4: ((0.4, 0.74, 0.145), (0.81, 0.74, 0.145), (0.2, 0.95, 0.155), (0.61, 0.95, 0.155)),
    5: (
        (0.32, 0.72, 0.135),
        (0.68, 0.72, 0.135),
        (0.18, 0.95, 0.145),
        (0.5, 0.95, 0.145),
        (0.82, 0.95, 0.145),
    ),
}
HANGING_SLOTS: Slots = {
    2: ((0.28, 0.36, 0.21), (0.72, 0.5, 0.21)),
    3: ((0.22, 0.46, 0.17), (0.52, 0.26, 0.17), (0.78, 0.54, 0.17)),
    4: ((0.27, 0.26, 0.17), (0.73, 0.3, 0.17), (0.25, 0.68, 0.17), (0.75, 0.7, 0.17)),
    5: (
        (0.2, 0.24, 0.15),
        (0.78, 0.24, 0.15),
        (0.5, 0.48, 0.15),
        (0.22, 0.74, 0.15),
        (0.8, 0.74, 0.15),
    ),
}
_SMALL = ("apple", "bird", "butterfly", "cup", "flower", "mushroom")
SKIES: dict[str, tuple[Colour, Colour, Colour]] = {  # top, middle, horizon
    "sunny": (rgb("#7cbcea"), rgb("#b0d8f2"), rgb("#e4f3fa")),
    "cloudy": (rgb("#a0b4c8"), rgb("#beceda"), rgb("#e0e6ea")),
    "sunset": (rgb("#7068a8"), rgb("#ea8c80"), rgb("#ffd696")),
    "night": (rgb("#161a3e"), rgb("#2c3266"), rgb("#5c5c94")),
}
TINTS: dict[str, tuple[Colour, float]] = {  # colour and strength of each light on the land
    "sunny": (rgb("#fffadc"), 0.05),
    "cloudy": (rgb("#96a4b4"), 0.22),
    "sunset": (rgb("#e2705c"), 0.3),
    "night": (rgb("#1a1e4e"), 0.66),
}


def draw_scenes(folder: Path, *, pairs: int = 1100, seed: int = 0) -> None:
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
    plans = list(scene_plan.plan_pairs(pairs, seed=seed))
    lines = list[str]()
    for plan in plans:
        image = f"images/{plan.number:05d}.png"
        partner = plan.number if plan.partner is None else plan.partner
        drawn = partner if plan.injected == c.DUPLICATE else plan.number
        picture = draw_scene(plan.scene, scene_plan.stream(seed, drawn, scene_plan.PICTURE))
        if (
            plan.injected == c.DUPLICATE
        ):  # a near-duplicate: cropped by about a pixel on two sides, with faint noise
            rng = scene_plan.stream(seed, plan.number, scene_plan.COPY)
            left, top = rng.uniform(0.3, 1.3, size=2)
            moved = picture.resize(
                picture.size, Image.Resampling.BICUBIC, box=(left, top, *picture.size)
            )
            noise = rng.integers(-3, 4, size=(*picture.size, 3))
            picture = Image.fromarray(
                (np.asarray(moved, dtype=np.int16) + noise).clip(0, 255).astype(np.uint8)
            )
        picture.save(folder / image, compress_level=4)
        described = plans[partner] if plan.injected == c.MISCAPTION else plan
        rng = scene_plan.stream(seed, described.number, scene_plan.WORDS)
        if plan.injected == c.VAGUE:
            order = rng.permutation(len(scene_plan.VAGUE_CAPTIONS))
            captions = [scene_plan.VAGUE_CAPTIONS[i] for i in order[:5]]
        else:
            captions = scene_plan.captions_of(described.scene, rng)
        record = {
            c.IMAGE: image,
            c.PAIR_ID: f"scene-{plan.number:05d}",
            c.CAPTIONS: captions,
            c.LABEL: plan.scene.main.kind,
            c.INJECTED: plan.injected,
        }
        lines.append(json.dumps(record) + "\n")
    with replacing(listing) as unfinished:
        unfinished.write_text("".join(lines), encoding="utf-8")


def draw_scene(scene: scene_plan.Scene, rng: np.random.Generator) -> Image.Image:
    """Draw a scene as an RGB picture of SIDE × SIDE pixels; `rng` varies shapes, sizes, positions
    and details."""
    canvas = Canvas(SIDE * SUPERSAMPLING, scene.light, rng)
    _BACKGROUNDS[scene.place](canvas)
    if (
        scene.effect == "glitch"
    ):  # shift bands of the background and swap their colours, as in a broken file
        pixels = np.asarray(canvas.image).copy()
        edges = np.sort(rng.integers(0, canvas.side, size=16))
        for top, bottom in zip(edges[:-1], edges[1:], strict=True):
            band = np.roll(
                pixels[top:bottom], int(rng.integers(-canvas.side // 3, canvas.side // 3)), axis=1
            )
            pixels[top:bottom] = band[:, :, rng.permutation(3)]
        canvas.image.paste(Image.fromarray(pixels))
    background = canvas.image.copy()
    for spot in place_objects(scene, rng):
        _draw_object(
            canvas, spot, afloat=scene.place == "sea", upside_down=scene.effect == "upside down"
        )
    if scene.effect == "dotted":
        _dot(canvas, background, COLOURS[scene.main.colour])
    return canvas.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


class Spot(NamedTuple):
    """The position of one object, in shares of the picture's side."""

    thing: scene_plan.Thing
    x: float  # of the centre
    y: float
    size: float  # half the side of the object's own square
    grounded: bool  # with a shadow, or floating on the water


def place_objects(scene: scene_plan.Scene, rng: np.random.Generator) -> list[Spot]:
    """Return the position of every object, the farthest first."""
    main = scene.main
    other = scene.other
    stands = KINDS[scene.main.kind].stands

    def spot(
        thing: scene_plan.Thing, x: float, y: float, size: float, wobble: float = 0.01
    ) -> Spot:
        dx, dy = rng.uniform(-wobble, wobble, size=2)
        size *= rng.uniform(0.93, 1.04)
        kind = KINDS[thing.kind]
        y += dy - (kind.half_height * size if kind.stands else 0.0)
        return Spot(thing, x + dx, y, size, kind.stands)

    def size_of(thing: scene_plan.Thing) -> float:
        return 0.17 if thing.kind in _SMALL else 0.21

    if other is None and scene.count > 1:
        slots = (STANDING_SLOTS if stands else HANGING_SLOTS)[scene.count]
        return [spot(main, x, y, size, wobble=0.015) for x, y, size in slots]
    if other is None:
        size = rng.uniform(0.25, 0.35)
        x = 0.5 + rng.uniform(-1, 1) * (0.45 - size)  # a small one may be farther from the middle
        return [spot(main, x, 0.9 if stands else 0.46, size, wobble=0.03)]
    if scene.relation in ("left", "right"):
        side = -0.23 if scene.relation == "left" else 0.23
        return [
            spot(thing, x, 0.88 if KINDS[thing.kind].stands else 0.42, size_of(thing), wobble=0.02)
            for thing, x in ((main, 0.5 + side), (other, 0.5 - side))
        ]
    if scene.relation in ("above", "below"):
        high, low = (main, other) if scene.relation == "above" else (other, main)
        x = rng.uniform(0.4, 0.6)
        return [spot(high, x, 0.25, size_of(high)), spot(low, x, 0.94, 0.2)]
    if scene.relation == "front":
        return [
            spot(other, 0.5, 0.83, 0.33),
            spot(main, 0.5 + rng.choice((-0.19, 0.19)), 0.95, 0.17),
        ]
    below = spot(other, 0.5, 0.93, 0.26)
    feet = below.y + scene_plan.CARRIERS[other.kind] * below.size
    return [below, Spot(main, below.x, feet - KINDS[main.kind].half_height * 0.16, 0.16, False)]


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
        """Fill the canvas with a vertical gradient that reaches the last colour at `end`."""
        heights = np.linspace(0, end, len(colours))
        column = np.linspace(0, 1, self.side)
        channels = [np.interp(column, heights, [colour[i] for colour in colours]) for i in range(3)]
        strip = np.stack(channels, axis=1).round().astype(np.uint8)[:, None, :]
        self.image.paste(Image.fromarray(np.repeat(strip, self.side, axis=1)))

    def land(self, colour: Colour, height: float, swell: float, *, waves: float = 1.0) -> None:
        """Fill everything below a rolling line at about `height`."""
        x = np.linspace(-0.02, 1.02, 40)
        y = (
            height
            + self.lift
            + swell * np.sin(x * 2 * np.pi * waves + self.rng.uniform(0, 2 * np.pi))
        )
        self.shape([*zip(x, y, strict=True), (1.02, 1.02), (-0.02, 1.02)], self.lit(colour))

    def shape(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """Fill a polygon."""
        self.pen.polygon(self._pixels(points), fill=colour)

    def stroke(self, points: list[tuple[float, float]], colour: Colour, width: int) -> None:
        """Draw an open line, `width` in pixels."""
        self.pen.line(self._pixels(points), colour, width)

    def disc(self, x: float, y: float, rx: float, colour: Colour, ry: float | None = None) -> None:
        """Fill an upright ellipse; a circle unless `ry` is given."""
        ry = rx if ry is None else ry
        self.pen.ellipse(self._pixels([(x - rx, y - ry), (x + rx, y + ry)]), fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill an upright rectangle."""
        self.pen.rectangle(self._pixels([(left, top), (right, bottom)]), fill=colour)

    def lit(self, colour: Colour) -> Colour:
        """Return an opaque colour in the picture's light."""
        tint, share = TINTS.get(self.light, (colour, 0.0))
        return blend(colour, tint, share)

    def _pixels(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(float(x) * self.side, float(y) * self.side) for x, y in points]


def _draw_object(canvas: Canvas, spot: Spot, *, afloat: bool, upside_down: bool) -> None:
    kind = KINDS[spot.thing.kind]
    rng = canvas.rng
    side = canvas.side
    x = spot.x
    feet = spot.y + kind.half_height * spot.size
    half = kind.half_width * spot.size
    if spot.grounded and not afloat:
        canvas.disc(x, feet - 0.004, half * 0.95, rgb("#24163c3c"), ry=0.12 * spot.size)
    turn = rotation(rng.uniform(-2.5, 2.5) if kind.stands else rng.uniform(-13, 13))
    stretch = np.diag((rng.choice((-1, 1)) * rng.uniform(0.94, 1.03), -1.0 if upside_down else 1.0))
    matrix = turn @ stretch * spot.size * side
    origin = np.array((x, spot.y)) * side
    kind.draw(
        Brush(canvas.pen, spot.thing.colour, matrix, origin, max(2, round(side * 0.0085))), rng
    )
    if spot.grounded and afloat:  # the hull sinks into the water
        canvas.disc(
            x, feet + 0.004, half * 0.86, (*canvas.lit(rgb("#68a8ca")), 215), ry=half * 0.12
        )
        canvas.disc(x, feet - 0.004, half * 0.5, rgb("#ffffff46"), ry=half * 0.03)


def _dot(canvas: Canvas, background: Image.Image, fill: Colour) -> None:
    """Put dots on the areas of a colour in front of the background, not on outlines and details."""
    pixels = np.asarray(canvas.image).astype(int)
    drawn = (pixels != np.asarray(background)).any(axis=2)
    tones = [blend(fill, over[:3], over[3] / 255) for over in ((*fill, 0), SHADE, SHINE)]
    flat = np.any([np.abs(pixels - tone).max(axis=2) < 4 for tone in tones], axis=0)
    dots = Canvas(canvas.side, canvas.light, canvas.rng)
    dots.image.paste(canvas.image)
    colour = COLOURS["red" if min(fill) > 200 else "white"]
    for row, y in enumerate(np.arange(0, 1, 0.07)):
        for x in np.arange(0, 1, 0.08) + 0.04 * (row % 2):
            dots.disc(float(x), float(y), 0.02, colour)
    canvas.image.paste(dots.image, mask=Image.fromarray((drawn & flat).astype(np.uint8) * 255))


def _sky(canvas: Canvas, horizon: float) -> None:
    canvas.gradient(*SKIES[canvas.light], end=horizon)
    side = canvas.rng.choice((-1, 1))
    clouds = list[tuple[float, float, float]]()
    x = 0.5 + side * canvas.rng.uniform(0.26, 0.36)
    if canvas.light == "night":
        for sx, sy, r in canvas.rng.uniform((0, 0, 0.002), (1, horizon, 0.007), size=(26, 3)):
            canvas.disc(sx, sy, r, rgb("#fffae1d2"))
        canvas.disc(x, 0.17, 0.1, rgb("#fff6d628"))
        canvas.disc(x, 0.17, 0.07, rgb("#fff4d2"))
        canvas.disc(x - 0.03, 0.15, 0.06, blend(SKIES["night"][0], SKIES["night"][1], 0.55))
    elif canvas.light == "sunset":
        canvas.disc(x, horizon - 0.05, 0.17, rgb("#ffecaa3c"))
        canvas.disc(x, horizon - 0.05, 0.11, rgb("#ffe28c"))
    elif canvas.light == "sunny":
        canvas.disc(x, 0.15, 0.12, rgb("#fff6be5a"))
        canvas.disc(x, 0.15, 0.075, rgb("#ffe278"))
        clouds = [(0.5 - side * 0.3, 0.16, 0.8)]
    else:
        clouds = [(0.16, 0.12, 1.1), (0.56, 0.2, 1.1), (0.9, 0.1, 1.1)]
    for cx, cy, size in clouds:
        cx = cx + canvas.rng.uniform(-0.06, 0.06)
        cy = cy + canvas.rng.uniform(-0.04, 0.04)
        for dx, dy, r in ((-0.08, 0.01, 0.05), (0, -0.015, 0.07), (0.08, 0.01, 0.05)):
            canvas.disc(
                cx + dx * size, cy + dy * size, r * size, rgb("#fafcff"), ry=r * size * 0.72
            )


def _meadow(canvas: Canvas) -> None:
    _sky(canvas, 0.6)
    canvas.land(rgb("#acce96"), 0.56, 0.03)
    canvas.land(rgb("#9ec876"), 0.63, 0.025, waves=0.8)
    canvas.land(rgb("#86b862"), 0.78, 0.02, waves=0.6)
    petals: tuple[Colour, ...] = (rgb("#fffaf0"), rgb("#ffe078"), rgb("#fabec8"))
    for x, y in canvas.rng.uniform((0.02, 0.7), (0.98, 0.97), size=(12, 2)):
        canvas.disc(x, y, 0.011, canvas.lit(petals[int(x * 97) % 3]))


def _hills(canvas: Canvas) -> None:
    _sky(canvas, 0.75)
    canvas.land(rgb("#9696b0"), 0.62, 0.05)
    canvas.land(rgb("#707e8c"), 0.7, 0.035, waves=0.9)
    canvas.land(rgb("#58746e"), 0.8, 0.02, waves=0.7)


def _desert(canvas: Canvas) -> None:
    _sky(canvas, 0.6)
    canvas.land(rgb("#f0d096"), 0.57, 0.03, waves=0.8)
    canvas.land(rgb("#e6bc7c"), 0.66, 0.035, waves=0.7)
    canvas.land(rgb("#daaa6a"), 0.8, 0.025, waves=0.6)
    x = 0.12 if canvas.rng.random() < 0.5 else 0.88
    green = canvas.lit(rgb("#709668"))
    for left, top, right, bottom in (
        (-0.02, 0.4, 0.02, 0.66),
        (-0.07, 0.5, 0.02, 0.53),
        (-0.07, 0.44, -0.04, 0.53),
    ):
        canvas.pen.rounded_rectangle(
            [
                (x + left) * canvas.side,
                top * canvas.side,
                (x + right) * canvas.side,
                bottom * canvas.side,
            ],
            radius=0.018 * canvas.side,
            fill=green,
        )


def _snow(canvas: Canvas) -> None:
    _sky(canvas, 0.62)
    canvas.land(rgb("#ccdaea"), 0.55, 0.04)
    for x in canvas.rng.uniform(0.0, 1.0, size=7):
        height = canvas.rng.uniform(0.08, 0.14)
        canvas.shape(
            [(x, 0.62 - height), (x + 0.045, 0.64), (x - 0.045, 0.64)], canvas.lit(rgb("#809ea0"))
        )
    canvas.land(rgb("#e8f0f7"), 0.64, 0.02, waves=0.8)
    canvas.land(rgb("#f6f9fc"), 0.78, 0.02, waves=0.6)
    for x, y, r in canvas.rng.uniform((0, 0, 0.004), (1, 0.95, 0.011), size=(34, 3)):
        canvas.disc(x, y, r, rgb("#ffffffe1"))


def _city(canvas: Canvas) -> None:
    _sky(canvas, 0.7)
    glow: Colour = rgb("#ffde8ce6") if canvas.light == "night" else rgb("#f0f4fa6e")
    lit_windows = 0.55 if canvas.light == "night" else 0.8
    for depth, tone in enumerate((rgb("#a8b6cc"), rgb("#8896b2"))):
        x = -canvas.rng.uniform(0.0, 0.08)
        while x < 1:
            width = canvas.rng.uniform(0.09, 0.17)
            top = canvas.rng.uniform(0.3, 0.52) + 0.06 * depth
            canvas.box(x, top, x + width - 0.008, 0.76, canvas.lit(tone))
            for row, column in zip(
                *np.nonzero(canvas.rng.random((4, 2)) < lit_windows), strict=True
            ):
                left = x + width * (0.2 + 0.36 * column)
                high = top + 0.035 + 0.06 * row
                canvas.box(left, high, left + width * 0.2, high + 0.03, glow)
            x += width
    canvas.box(0, 0.74, 1, 0.79, canvas.lit(rgb("#c8c8cc")))
    canvas.box(0, 0.78, 1, 1, canvas.lit(rgb("#7e8290")))
    for x in np.arange(0.02, 1.0, 0.24):
        canvas.box(x, 0.945, x + 0.12, 0.957, canvas.lit(rgb("#ece8d8")))


def _room(canvas: Canvas) -> None:
    walls: tuple[Colour, ...] = (rgb("#f4e2c8"), rgb("#d6e4de"), rgb("#f0d6d0"), rgb("#dcdeee"))
    wall = walls[int(canvas.rng.integers(len(walls)))]
    canvas.gradient(blend(wall, rgb("#ffffff"), 0.25), blend(wall, rgb("#96786e"), 0.1), end=0.7)
    canvas.box(0, 0.685, 1, 0.72, rgb("#faf6f0"))
    canvas.box(0, 0.72, 1, 1, rgb("#c69a72"))
    for y in (0.79, 0.88):
        canvas.box(0, y, 1, y + 0.006, rgb("#ac805c"))
    canvas.disc(0.5, 0.9, 0.42, blend(wall, rgb("#96465a"), 0.35), ry=0.075)
    canvas.disc(0.5, 0.9, 0.36, blend(wall, rgb("#ffffff"), 0.3), ry=0.055)
    x = 0.2 if canvas.rng.random() < 0.5 else 0.8
    canvas.box(x - 0.13, 0.1, x + 0.13, 0.44, rgb("#faf6f0"))
    canvas.box(x - 0.11, 0.12, x + 0.11, 0.42, rgb("#b2d8f0"))
    canvas.disc(x + 0.04, 0.33, 0.05, rgb("#ecf6fc"), ry=0.03)
    canvas.box(x - 0.006, 0.12, x + 0.006, 0.42, rgb("#faf6f0"))
    canvas.box(x - 0.11, 0.262, x + 0.11, 0.274, rgb("#faf6f0"))


def _water(canvas: Canvas, top: float, bottom: float) -> None:
    front = canvas.lit(rgb("#468ab8"))
    horizon = canvas.lit(rgb("#80bed6"))
    for i, y in enumerate(np.linspace(top, bottom, 7)):
        canvas.box(0, float(y), 1, 1, blend(horizon, front, i / 6))
    foam = (*blend(canvas.lit(rgb("#ffffff")), rgb("#ffffff"), 0.4), 130)
    for x, y in canvas.rng.uniform((0.0, top + 0.03), (0.95, bottom), size=(14, 2)):
        canvas.stroke([(x, y), (x + 0.08, y)], foam, canvas.side // 110)


def _sea(canvas: Canvas) -> None:
    _sky(canvas, 0.58)
    _water(canvas, 0.56 + canvas.lift, 0.98)


def _beach(canvas: Canvas) -> None:
    _sky(canvas, 0.5)
    _water(canvas, 0.5 + canvas.lift, 0.68 + canvas.lift)
    canvas.land(rgb("#faf4e4"), 0.655, 0.014, waves=0.9)
    canvas.land(rgb("#f0daac"), 0.68, 0.014, waves=0.9)
    canvas.land(rgb("#e8cc9a"), 0.84, 0.016, waves=0.6)
    for x, y in canvas.rng.uniform((0.02, 0.76), (0.98, 0.97), size=(9, 2)):
        canvas.disc(x, y, 0.008, canvas.lit(rgb("#faecce")), ry=0.005)


def _forest(canvas: Canvas) -> None:
    canvas.gradient(rgb("#c4debe"), rgb("#e2ecc8"), rgb("#cedeaa"))
    for depth, tone in enumerate((rgb("#acc4a4"), rgb("#8aa080"))):
        for x in canvas.rng.uniform(0, 1, size=6):
            half = 0.014 + 0.012 * depth
            canvas.box(x - half, 0, x + half, 0.78, tone)
    for x in np.linspace(0, 1, 8) + canvas.rng.uniform(-0.04, 0.04, size=8):
        canvas.disc(x, -0.02, 0.13, rgb("#7aa070"), ry=0.1 + 0.04 * canvas.rng.random())
    canvas.land(rgb("#8ea866"), 0.68, 0.02)
    canvas.land(rgb("#789458"), 0.8, 0.02, waves=0.7)
    for x, y in canvas.rng.uniform((0, 0.72), (1, 0.97), size=(10, 2)):
        canvas.disc(x, y, 0.014, rgb("#ba8e54"), ry=0.007)


def _underwater(canvas: Canvas) -> None:
    canvas.gradient(rgb("#96d8de"), rgb("#469cbe"), rgb("#206096"))
    for x in canvas.rng.uniform(0.0, 0.9, size=3):
        canvas.shape([(x, 0), (x + 0.1, 0), (x - 0.06, 0.9), (x - 0.26, 0.9)], rgb("#ffffff1a"))
    canvas.land(rgb("#cebe96"), 0.88, 0.02, waves=0.8)
    for x in (*canvas.rng.uniform(0.02, 0.2, size=2), *canvas.rng.uniform(0.8, 0.98, size=2)):
        y = np.linspace(0.94, canvas.rng.uniform(0.58, 0.72), 14)
        canvas.stroke(
            [*zip(x + 0.02 * np.sin(y * 40), y, strict=True)], rgb("#3a8c6e"), canvas.side // 36
        )
    for x, y, r in canvas.rng.uniform((0.05, 0.05, 0.008), (0.95, 0.8, 0.02), size=(9, 3)):
        canvas.disc(x, y, r, rgb("#ffffff50"))


_BACKGROUNDS: dict[str, Callable[[Canvas], None]] = {
    draw.__name__.removeprefix("_"): draw
    for draw in (_meadow, _sea, _hills, _desert, _snow, _city, _room, _beach, _forest, _underwater)
}
