"""The synthetic set, `scenes`: plans of pictures with a long tail, their captions, the pictures,
and injected errors as ground truth. scenes_objects.json describes the kinds of objects.

A pair depends on the seed and its number only, so a larger set begins with the smaller one. The
exception: of two pairs with swapped captions, the first has the right captions if the set ends
before the second.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageOps
from PIL.ImageColor import getrgb
from scipy.interpolate import CubicSpline

from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError, cores, read_json, replacing

CAPTIONS_FILE = "captions.jsonl"
SIDE = 128  # pixels of a finished picture
_CANVAS = 3 * SIDE  # pixels of a picture while it is drawn, for smooth edges
_FOLDER = Path(__file__).parent
_BLOCK = 100  # pairs with 4 miscaption, 4 vague, 3 atypical and 2 duplicate
PLAN, PICTURE, WORDS, COPY = range(4)  # streams of random numbers of one pair


class ObjectKind(NamedTuple):
    """One kind of object."""

    plural: str
    stands: bool  # on the ground; other kinds hang in the air or in the water
    feet: float  # y of the feet in the drawing
    large: bool  # smaller kinds stand in front of it
    colours: list[str]  # favourites, most common first; the rest of the palette follows
    places: list[str]  # most common first
    steps: list[Any]  # its drawing, see `Pen`


OBJECT_DATA = read_json(_FOLDER / "scenes_objects.json")
COLOURS: dict[str, str] = OBJECT_DATA["colours"]
OBJECT_KINDS = {name: ObjectKind(**facts) for name, facts in OBJECT_DATA["kinds"].items()}
PLACE_DATA = read_json(_FOLDER / "scenes_places.json")
PLACES = PLACE_DATA["places"]  # with the lights of each, most common first
SKIES = PLACE_DATA["skies"]  # of the lights outdoors
# of captions, the plainest first; see `captions_of`
PHRASES = read_json(_FOLDER / "scenes_phrases.json")
NUMBERS = PHRASES["numbers"]


class Thing(NamedTuple):
    """One object."""

    kind: str
    colour: str

    @property
    def facts(self) -> ObjectKind:
        """The description of its kind."""
        return OBJECT_KINDS[self.kind]


@dataclass(frozen=True)
class Scene:
    """The content of a picture."""

    main: Thing
    place: str
    light: str
    count: int = 1
    relation: str = ""  # of the main object to the other one
    other: Thing | None = None
    effect: str = ""  # one of `effect_captions` in scenes_phrases.json: an atypical picture

    @property
    def things(self) -> tuple[Thing, ...]:
        """The main object and the other one, if any."""
        return (self.main,) if self.other is None else (self.main, self.other)

    @property
    def subjects(self) -> set[str]:
        """The kinds and colours of the objects, and the place."""
        return {fact for thing in self.things for fact in thing} | {self.place}


@dataclass(frozen=True)
class PlannedPair:
    """The plan of one pair."""

    number: int
    scene: Scene
    injected: str | None = None
    partner: int = 0  # the pair whose captions (miscaption) or picture (duplicate) it has


def stream(seed: int, number: int, which: int) -> Generator:
    """Return one of the random streams of a pair: PLAN, PICTURE, WORDS or COPY."""
    return np.random.default_rng((seed, number, which))


def plan_pairs(pairs: int, *, seed: int) -> Iterator[PlannedPair]:
    """Yield the plans of a set's pairs in order."""
    for start in range(0, pairs, _BLOCK):
        for plan in _plan_block(start, seed)[: pairs - start]:
            if plan.partner >= pairs:  # of swapped captions
                plan = replace(plan, injected=None)
            yield plan


def _plan_block(start: int, seed: int) -> list[PlannedPair]:
    """Plan a block of pairs: first all without errors, then inject some."""
    plans = [
        PlannedPair(start + i, plan_scene(stream(seed, start + i, PLAN))) for i in range(_BLOCK)
    ]
    order = stream(seed, start, COPY).permutation(_BLOCK).tolist()
    for i, j in (order[0:2], order[2:4]):
        rng = stream(seed, start + j, PLAN)
        scene = plans[j].scene
        while scene.subjects & plans[i].scene.subjects:
            scene = plan_scene(rng)
        plans[i] = replace(plans[i], injected=c.MISCAPTION, partner=start + j)
        plans[j] = replace(plans[j], injected=c.MISCAPTION, partner=start + i, scene=scene)
    for i in order[4:8]:
        plans[i] = replace(plans[i], injected=c.VAGUE)
    for i in order[8:11]:
        rng = stream(seed, start + i, PLAN)
        effect = _choose(list(PHRASES["effect_captions"]), rng)
        scene = replace(_plan_single(rng), effect=effect)
        plans[i] = replace(plans[i], injected=c.ATYPICAL, scene=scene)
    early, late, *copies = sorted(order[11:15])
    for i, original in zip(copies, (early, late), strict=True):
        scene = plans[original].scene
        plans[i] = PlannedPair(start + i, scene, c.DUPLICATE, start + original)
    return plans


def plan_scene(rng: Generator) -> Scene:
    """Plan a picture of one object, several equal ones, or two in a relation."""
    scene = _plan_single(rng)
    share = rng.random()
    if share < 0.42:
        return scene
    if share < 0.66:
        return replace(scene, count=_pick(rng, (2, 3, 4, 5), 1.0))
    one = scene.main.facts
    beside = ["left", "right"]
    others = dict[str, list[str]]()  # kinds by relation
    for kind, two in OBJECT_KINDS.items():
        if kind == scene.main.kind or scene.place not in two.places:
            continue
        if one.stands != two.stands:
            possible = [*beside, "below" if one.stands else "above"]
        else:
            possible = [*beside, "front"] if two.large > one.large else beside
        for relation in possible:
            others.setdefault(relation, []).append(kind)
    relation = _pick(rng, [name for name in PHRASES["reversed"] if name in others], 2.0)
    kind = _pick(rng, others[relation], 2.0)
    other = Thing(kind, _pick_colour(rng, kind, scene.light, scene.main.colour))
    return replace(scene, relation=relation, other=other)


def _plan_single(rng: Generator) -> Scene:
    kind = _pick(rng, list(OBJECT_KINDS), 3.0)
    place = _pick(rng, OBJECT_KINDS[kind].places, 1.0)
    light = _pick(rng, PLACES[place]["lights"], 1.0)
    return Scene(Thing(kind, _pick_colour(rng, kind, light)), place, light)


def _pick_colour(rng: Generator, kind: str, light: str, other: str = "") -> str:
    """Draw a colour that differs from the other object's; no black at night, when it is
    invisible."""
    excluded = (other, "black" if light == "night" else "")
    order = dict.fromkeys((*OBJECT_KINDS[kind].colours, *COLOURS))
    return _pick(rng, [colour for colour in order if colour not in excluded], 1.0)


def _pick(rng: Generator, items: Sequence[Any], head: float) -> Any:
    """Draw an item with probability ∝ 1 / (rank + head): Zipf's law, flatter for a larger
    `head`."""
    weights = np.cumsum(1 / (np.arange(len(items)) + head))
    return items[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]


def captions_of(scene: Scene | None, rng: Generator) -> list[str]:
    """Return five captions of a scene that differ in wording and content; vague ones without
    a scene."""
    if scene is None:
        vague = PHRASES["vague_captions"]
        return [vague[i] for i in rng.permutation(len(vague))[:5]]
    number = "single" if scene.count == 1 else "several"
    templates = list(PHRASES["two" if scene.other else number])
    if scene.effect:
        templates[3] = PHRASES["effect_captions"][scene.effect]
    main = scene.main
    other = scene.other
    stands = any(thing.facts.stands for thing in scene.things)
    places = PHRASES["standing_in" if stands else "hanging_in"][scene.place]
    # the plainest phrase fits a standing and a hanging object
    where = _choose(places, rng) if other is None else places[0]
    light = _choose(PHRASES["light_phrases"][scene.light], rng)
    bare = _noun(main.kind, scene.count)
    words = {
        "thing": _noun(main.kind, scene.count, main.colour),
        "bare": bare,
        "kind": main.kind if scene.count == 1 else main.facts.plural,
        "colour": main.colour,
        "count": NUMBERS[scene.count],
        "where": where,
        "scene": _choose(PHRASES["places"][scene.place], rng),
        "light": light,
        "when": f"{where} {light}" if scene.light in SKIES else light,
    }
    if other is not None:
        relations = PHRASES["relation_phrases"]
        words |= {
            "other": _noun(other.kind, 1, other.colour),
            "bare_other": _noun(other.kind, 1),
            "pair": f"{bare} and {_noun(other.kind, 1)}",
            "relation": _choose(relations[scene.relation], rng),
            "reverse": _choose(relations[PHRASES["reversed"][scene.relation]], rng),
        }
    return [_choose(choices, rng).format(**words) for choices in templates]


def _noun(kind: str, count: int, colour: str = "") -> str:
    """Return a noun phrase: an apple, a red apple, three blue fish."""
    name = f"{colour} {kind if count == 1 else OBJECT_KINDS[kind].plural}".strip()
    if count > 1:
        return f"{NUMBERS[count]} {name}"
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _choose(choices: Sequence[str], rng: Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


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
        drawn = described = plan
        if plan.injected == c.DUPLICATE:
            drawn = plans[plan.partner]
        if plan.injected == c.MISCAPTION:
            described = plans[plan.partner]
        picture = draw_scene(drawn.scene, stream(seed, drawn.number, PICTURE))
        if drawn is not plan:
            picture = _near_duplicate(picture, stream(seed, plan.number, COPY))
        picture.save(folder / image, compress_level=4)
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
        shades = {"own": 0, "dark own": 0.15, "outline": 0.65}
        colours = OBJECT_DATA["details"] | {
            name: blend(own, "#261a2e", share) for name, share in shades.items()
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
    ends = "not-a-knot"
    if shape == "blob":
        corners = np.vstack([corners, corners[:1]])
        ends = "periodic"
    elif shape != "line" or len(corners) == 2:
        return corners
    segments = len(corners) - 1
    curve = CubicSpline(range(segments + 1), corners, bc_type=ends)
    return curve(np.linspace(0, segments, 6 * segments + 1))


@dataclass
class Pen:
    """Draws the steps of scenes_places.json, in sides of the picture, and scenes_objects.json,
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
                    start = round(top * _CANVAS)
                    strip = ImageOps.colorize(
                        Image.linear_gradient("L"), first, rest[-1], rest[0] if rest[1:] else None
                    )
                    self.image.paste(rest[-1], (0, start, _CANVAS, _CANVAS))
                    self.image.paste(
                        strip.resize((_CANVAS, round((bottom - top) * _CANVAS))), (0, start)
                    )
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
