"""Turns the plan of a picture into the picture: where each object goes, its shadow, the odd looks of atypical ones."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from clipmem_core.pairs.scenes.canvas import SHADE, SHINE, Brush, Canvas, Colour, blend, ink, rotation
from clipmem_core.pairs.scenes.places import paint_place
from clipmem_core.pairs.scenes.plan import CARRIERS, KINDS, Scene, Thing
from clipmem_core.pairs.scenes.things import DRAWINGS

SIDE = 128  # pixels of a finished picture
SUPERSAMPLING = 3  # drawn this much larger, so that edges come out smooth

# Where several go: (x, y, size) in shares of the side; y is the feet's of what stands, the centre's of the rest.
ROWS: dict[int, tuple[tuple[float, float, float], ...]] = {
    2: ((0.27, 0.84, 0.21), (0.73, 0.88, 0.21)),
    3: ((0.2, 0.82, 0.155), (0.8, 0.82, 0.155), (0.5, 0.92, 0.165)),
    4: ((0.4, 0.74, 0.145), (0.81, 0.74, 0.145), (0.2, 0.95, 0.155), (0.61, 0.95, 0.155)),
    5: ((0.32, 0.72, 0.135), (0.68, 0.72, 0.135), (0.18, 0.95, 0.145), (0.5, 0.95, 0.145), (0.82, 0.95, 0.145)),
}
FLOCKS: dict[int, tuple[tuple[float, float, float], ...]] = {
    2: ((0.28, 0.36, 0.21), (0.72, 0.5, 0.21)),
    3: ((0.22, 0.46, 0.17), (0.52, 0.26, 0.17), (0.78, 0.54, 0.17)),
    4: ((0.27, 0.26, 0.17), (0.73, 0.3, 0.17), (0.25, 0.68, 0.17), (0.75, 0.7, 0.17)),
    5: ((0.2, 0.24, 0.15), (0.78, 0.24, 0.15), (0.5, 0.48, 0.15), (0.22, 0.74, 0.15), (0.8, 0.74, 0.15)),
}


SMALL = ("apple", "bird", "butterfly", "cup", "flower", "mushroom")  # smaller than what they are seen with


class Spot(NamedTuple):
    """One object's place, in shares of the picture's side."""

    thing: Thing
    x: float  # the centre's
    y: float
    size: float  # half the side of the object's own square
    grounded: bool  # it casts a shadow, or floats on the water


def paint(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Paint a scene as an RGB picture of SIDE × SIDE pixels.

    Args:
        scene: what is to be seen.
        rng: where shapes, sizes, places and details vary.
    """
    canvas = paint_place(scene.place, scene.light, side=SIDE * SUPERSAMPLING, rng=rng)
    if scene.look == "glitch":
        _tear(canvas)
    bare = canvas.image.copy() if scene.look == "dotted" else None
    for spot in _spots(scene, rng):
        _draw(canvas, spot, afloat=scene.place == "sea", upside_down=scene.look == "upside down")
    if bare is not None:
        _dot(canvas, bare, ink(scene.main.colour).fill)
    return canvas.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def nearly(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a near-duplicate: cropped by about a pixel on two sides, with faint noise."""
    left, top = rng.uniform(0.3, 1.3, size=2)
    moved = picture.resize(picture.size, Image.Resampling.BICUBIC, box=(left, top, *picture.size))
    noise = rng.integers(-3, 4, size=(*picture.size, 3))
    return Image.fromarray((np.asarray(moved, dtype=np.int16) + noise).clip(0, 255).astype(np.uint8))


def _spots(scene: Scene, rng: np.random.Generator) -> list[Spot]:
    """Place every object of a scene, the farthest first."""
    main = KINDS[scene.main.kind]
    if scene.other is not None:
        return _two(scene.main, scene.other, str(scene.relation), rng)
    if scene.count > 1:
        slots = (ROWS if main.stands else FLOCKS)[scene.count]
        return [_spot(scene.main, x, y, size, rng, wobble=0.015) for x, y, size in slots]
    size = rng.uniform(0.25, 0.35)
    x = 0.5 + rng.uniform(-1, 1) * (0.45 - size)  # a small one may stand farther from the middle
    return [_spot(scene.main, x, 0.9 if main.stands else 0.46, size, rng, wobble=0.03)]


def _two(main: Thing, other: Thing, relation: str, rng: np.random.Generator) -> list[Spot]:
    if relation in ("left", "right"):
        side = -0.23 if relation == "left" else 0.23
        spots = [(main, 0.5 + side), (other, 0.5 - side)]
        return [
            _spot(thing, x, 0.88 if KINDS[thing.kind].stands else 0.42, _size(thing), rng, wobble=0.02)
            for thing, x in spots
        ]
    if relation in ("above", "below"):
        high, low = (main, other) if relation == "above" else (other, main)
        x = rng.uniform(0.4, 0.6)
        return [_spot(high, x, 0.25, _size(high), rng), _spot(low, x, 0.94, 0.2, rng)]
    if relation == "front":
        back = _spot(other, 0.5, 0.83, 0.33, rng)
        return [back, _spot(main, 0.5 + rng.choice((-0.19, 0.19)), 0.95, 0.17, rng)]
    below = _spot(other, 0.5, 0.93, 0.26, rng)
    feet = below.y + CARRIERS[other.kind] * below.size
    return [below, Spot(main, below.x, feet - KINDS[main.kind].half_height * 0.16, 0.16, False)]


def _size(thing: Thing) -> float:
    return 0.17 if thing.kind in SMALL else 0.21


def _spot(thing: Thing, x: float, y: float, size: float, rng: np.random.Generator, *, wobble: float = 0.01) -> Spot:
    """Place a thing with a little chance; y is its feet's if it stands, its centre's otherwise."""
    dx, dy = rng.uniform(-wobble, wobble, size=2)
    size *= rng.uniform(0.93, 1.04)
    kind = KINDS[thing.kind]
    y += dy - (kind.half_height * size if kind.stands else 0.0)
    return Spot(thing, x + dx, y, size, kind.stands)


def _draw(canvas: Canvas, spot: Spot, *, afloat: bool, upside_down: bool) -> None:
    kind, rng, side = KINDS[spot.thing.kind], canvas.rng, canvas.side
    feet = spot.y + kind.half_height * spot.size
    if spot.grounded and not afloat:
        canvas.disc(spot.x, feet - 0.004, kind.half_width * spot.size * 0.95, (36, 22, 60, 60), ry=0.12 * spot.size)
    turn = rotation(rng.uniform(-2.5, 2.5) if kind.stands else rng.uniform(-13, 13))
    stretch = np.diag((rng.choice((-1, 1)) * rng.uniform(0.94, 1.03), -1.0 if upside_down else 1.0))
    matrix, origin = turn @ stretch * spot.size * side, np.array((spot.x, spot.y)) * side
    brush = Brush(canvas.pen, matrix, origin, max(2, round(side * 0.0085)))
    DRAWINGS[spot.thing.kind](brush, ink(spot.thing.colour), rng)
    if spot.grounded and afloat:
        _splash(canvas, spot.x, feet, kind.half_width * spot.size)


def _splash(canvas: Canvas, x: float, feet: float, half: float) -> None:
    """Let the foot of a hull sink into the water."""
    canvas.disc(x, feet + 0.004, half * 0.86, (*canvas.lit((104, 168, 202)), 215), ry=half * 0.12)
    canvas.disc(x, feet - 0.004, half * 0.5, (255, 255, 255, 70), ry=half * 0.03)


def _dot(canvas: Canvas, bare: Image.Image, fill: Colour) -> None:
    """Put dots on what was drawn in a colour since the copy `bare`, outlines and details left alone."""
    pixels = np.asarray(canvas.image).astype(int)
    painted = (pixels != np.asarray(bare)).any(axis=2)
    looks = [blend(fill, over[:3], over[3] / 255) for over in ((*fill, 0), SHADE, SHINE)]
    flat = np.any([np.abs(pixels - look).max(axis=2) < 4 for look in looks], axis=0)
    dots = Canvas(canvas.side, canvas.light, canvas.rng)
    dots.image.paste(canvas.image)
    colour = ink("red" if min(fill) > 200 else "white").fill
    for row, y in enumerate(np.arange(0, 1, 0.07)):
        for x in np.arange(0, 1, 0.08) + 0.04 * (row % 2):
            dots.disc(float(x), float(y), 0.02, colour)
    canvas.image.paste(dots.image, mask=Image.fromarray((painted & flat).astype(np.uint8) * 255))


def _tear(canvas: Canvas) -> None:
    """Shift bands of the background sideways and swap their colours, as a broken file would."""
    pixels = np.asarray(canvas.image).copy()
    edges = np.sort(canvas.rng.integers(0, canvas.side, size=16))
    for top, bottom in zip(edges[:-1], edges[1:], strict=True):
        band = np.roll(pixels[top:bottom], int(canvas.rng.integers(-canvas.side // 3, canvas.side // 3)), axis=1)
        pixels[top:bottom] = band[:, :, canvas.rng.permutation(3)]
    canvas.image.paste(Image.fromarray(pixels))
