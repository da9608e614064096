"""Draws the synthetic set, `scenes`: pictures with five captions each, and injected errors as
ground truth."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageOps
from PIL.ImageColor import getrgb
from scipy.interpolate import CubicSpline

from clipmem_core.dataset.scenes.contents import (
    COLOURS,
    COPY,
    OBJECT_DATA,
    PICTURE,
    PLACE_DATA,
    PLACES,
    SKIES,
    WORDS,
    PlannedPair,
    Scene,
    captions_of,
    plan_pairs,
    stream,
)
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError, cores, replacing

CAPTIONS_FILE = "captions.jsonl"
SIDE = 128  # pixels of a finished picture
_CANVAS = 3 * SIDE  # pixels of a picture while it is drawn, for smooth edges


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

    def add(plan: PlannedPair) -> str:
        """Draw a pair's picture, and return its line of captions.jsonl."""
        image = f"images/{plan.number:05d}.png"
        partner = plan if plan.partner is None else plans[plan.partner]
        drawn = partner if plan.injected == c.DUPLICATE else plan
        picture = draw_scene(drawn.scene, stream(seed, drawn.number, PICTURE))
        if plan.injected == c.DUPLICATE:
            picture = _near_duplicate(picture, stream(seed, plan.number, COPY))
        picture.save(folder / image, compress_level=4)
        described = partner if plan.injected == c.MISCAPTION else plan
        scene = None if plan.injected == c.VAGUE else described.scene
        record = {
            c.IMAGE: image,
            c.PAIR_ID: f"scene-{plan.number:05d}",
            c.CAPTIONS: captions_of(scene, stream(seed, described.number, WORDS)),
            c.LABEL: plan.scene.main.kind,
            c.INJECTED: plan.injected,
        }
        return json.dumps(record) + "\n"

    with ThreadPoolExecutor(cores()) as pool:
        lines = list(pool.map(add, plans))
    with replacing(listing) as unfinished:
        unfinished.write_text("".join(lines), encoding="utf-8")


def _near_duplicate(picture: Image.Image, rng: Generator) -> Image.Image:
    """Crop about a pixel on two sides, and add faint noise."""
    left, top = rng.uniform(0.3, 1.3, size=2)
    moved = picture.resize(picture.size, Image.Resampling.BICUBIC, box=(left, top, SIDE, SIDE))
    noisy = np.array(moved) + rng.integers(-3, 4, size=(SIDE, SIDE, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def draw_scene(scene: Scene, rng: Generator) -> Image.Image:
    """Draw a scene as an RGB picture of SIDE × SIDE pixels; `rng` varies shapes, sizes, positions
    and details."""
    image = Image.new("RGB", (_CANVAS, _CANVAS))
    sky = SKIES.get(scene.light, {"steps": [], "tint": ("white", 0)})
    Pen(image, rng).draw(sky["steps"])
    Pen(image, rng, tint=sky["tint"]).draw(PLACES[scene.place]["steps"])
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    things = [scene.main] * scene.count if scene.other is None else [scene.other, scene.main]
    slots = PLACE_DATA["slots"][scene.relation or str(scene.count)]
    for thing, (left, right, size, ground, air) in zip(things, slots, strict=True):
        kind = thing.facts
        size *= rng.uniform(0.93, 1.05)
        turn = np.deg2rad(rng.uniform(-2, 2) if kind.stands else rng.uniform(-13, 13))
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        y = ground - kind.feet * size if kind.stands else air
        own = COLOURS[thing.colour]
        colours = OBJECT_DATA["details"] | {
            "own": own,
            "dark own": blend(own, "#261a2e", 0.15),
            "outline": blend(own, "#261a2e", 0.65),
        }
        pen = Pen(image, rng, colours, matrix=rotation * (rng.choice((-1, 1)), 1) * size)
        pen.draw(kind.steps, (rng.uniform(left, right), y + rng.uniform(-0.015, 0.015)))
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    if scene.effect == "tilted":
        return image.rotate(25, Image.Resampling.BICUBIC, fillcolor="white")
    if scene.effect == "squares":
        return image.reduce(3).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return image


def blend(colour: str, other: str, share: float) -> str:
    """Return the colour `share` of the way from the first to the second, hexadecimal."""
    mixed = np.add(getrgb(colour), np.subtract(getrgb(other), getrgb(colour)) * share)
    return "#" + "".join(f"{round(value):02x}" for value in mixed)


@cache
def _path(shape: str, points: tuple[float, ...]) -> np.ndarray:
    """Return the corners of a shape, float64 [n, 2]; a `line` and a `blob` are smooth curves."""
    corners = np.reshape(points, (-1, 2))
    if shape == "ellipse":
        angles = np.linspace(0, 2 * np.pi, 36)
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return corners.mean(axis=0) + circle * np.diff(corners, axis=0) / 2
    if shape == "blob":
        return _spline(np.vstack([corners, corners[:1]]), "periodic")
    if shape == "line" and len(corners) > 2:
        return _spline(corners, "not-a-knot")
    return corners


def _spline(corners: np.ndarray, ends: str) -> np.ndarray:
    segments = len(corners) - 1
    curve = CubicSpline(range(segments + 1), corners, bc_type=ends)
    return curve(np.linspace(0, segments, 6 * segments + 1))


@dataclass
class Pen:
    """Draws the steps of place_drawings.json, in sides of the picture, and object_drawings.json,
    where an object is within [-1, 1]; x to the right, y down.

    Steps, with the coordinates x, y, x, y …:

        ["polygon" or "blob", points, fill, outline]    a blob is smooth
        ["ellipse", [left, top, right, bottom], fill, outline]
        ["line", points, colour, width]    smooth, with round ends
        ["gradient", top, bottom, colours…]    below `top`, over the whole width
        {"one of": [steps, …]}    one of them at random
        {"copies": n, "low": [x, y], "high": [x, y], "steps": steps}    n times, each at an offset

    A shape without `fill` has the object's own colour and its outline.
    """

    image: Image.Image
    rng: Generator
    colours: dict[str, str] = field(default_factory=dict)  # names of colours, hexadecimal
    tint: tuple[str, float] = ("white", 0)  # of the light on all colours that are not translucent
    matrix: np.ndarray = field(default_factory=lambda: np.eye(2))  # [2, 2], to sides of the picture

    def draw(self, steps: Sequence[Any], origin: Sequence[float] = (0, 0)) -> None:
        """Draw steps in order, their (0, 0) at `origin` in sides of the picture."""
        pen = ImageDraw.Draw(self.image, "RGBA")
        for step in steps:
            match step:
                case {"one of": choices}:
                    self.draw(choices[self.rng.integers(len(choices))], origin)
                case {"copies": count, "low": low, "high": high, "steps": copied}:
                    for offset in self.rng.uniform(low, high, size=(count, 2)):
                        self.draw(copied, offset)
                case ["gradient", top, bottom, *colours]:
                    first, *rest = map(self._colour, colours)
                    column = Image.linear_gradient("L").crop((0, 0, 1, 256))
                    column = ImageOps.colorize(
                        column, first, rest[-1], rest[0] if rest[1:] else None
                    )
                    height = round((bottom - top) * _CANVAS)
                    column = column.resize((1, height))
                    strip = column.resize((_CANVAS, height), Image.Resampling.NEAREST)
                    self.image.paste(rest[-1], (0, round(top * _CANVAS), _CANVAS, _CANVAS))
                    self.image.paste(strip, (0, round(top * _CANVAS)))
                case ["line", points, colour, width]:
                    pixels = self._pixels("line", points, origin)
                    scale = np.sqrt(abs(np.linalg.det(self.matrix))) * _CANVAS
                    thick = max(3, round(width * scale))
                    pen.line(pixels, self._colour(colour), thick, joint="curve")
                    for end in (pixels[0], pixels[-1]):
                        pen.circle(end, thick / 2, self._colour(colour))
                case [shape, points, *colours]:
                    fill, *line = map(self._colour, colours or ("own", "outline"))
                    pixels = self._pixels(shape, points, origin)
                    pen.polygon(pixels, fill)
                    if line:
                        pen.line([*pixels, *pixels[:2]], line[0], 3, joint="curve")

    def _colour(self, name: str) -> str:
        plain = self.colours.get(name, name)
        return plain if len(plain) > 7 else blend(plain, *self.tint)

    def _pixels(
        self, shape: str, points: list[float], origin: Sequence[float]
    ) -> list[tuple[float, float]]:
        corners = _path(shape, tuple(points)) @ self.matrix.T + origin
        return [(x, y) for x, y in (corners * _CANVAS).tolist()]
