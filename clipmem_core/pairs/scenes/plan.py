"""Turns random numbers into the plan of a picture: what is on it, how many, in which colour, where; long-tailed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipmem_core.pairs.scenes.canvas import COLOURS


@dataclass(frozen=True)
class Kind:
    """What pictures and captions need to know of one kind of object."""

    plural: str
    stands: bool  # on the ground; the others hang in the air or in the water
    half_width: float  # of the drawing, where the larger of both is about 1
    half_height: float
    colours: tuple[str, ...]  # favourites, most common first; the rest of the palette follows
    places: tuple[str, ...]  # where it is found, most common first


# The order is the order of frequency.
KINDS: dict[str, Kind] = {
    "cat": Kind("cats", True, 0.84, 1.0, ("orange", "black", "white"), ("room", "meadow", "city", "snow", "forest")),
    "car": Kind("cars", True, 1.0, 0.56, ("red", "blue", "white"), ("city", "desert", "snow", "meadow", "beach")),
    "tree": Kind("trees", True, 0.72, 1.0, ("green", "orange", "pink"), ("meadow", "snow", "city", "hills", "desert")),
    "bird": Kind("birds", False, 0.98, 0.7, ("blue", "red", "yellow"), ("forest", "sea", "meadow", "city", "beach")),
    "house": Kind(
        "houses", True, 0.92, 1.0, ("white", "red", "yellow"), ("meadow", "snow", "hills", "beach", "desert")
    ),
    "flower": Kind("flowers", True, 0.56, 1.0, ("pink", "yellow", "red"), ("meadow", "room", "forest", "desert")),
    "boat": Kind("boats", True, 0.95, 1.0, ("white", "red", "blue"), ("sea", "beach")),
    "fish": Kind("fish", False, 1.0, 0.6, ("orange", "blue", "yellow"), ("underwater",)),
    "balloon": Kind(
        "balloons", False, 0.56, 1.0, ("red", "yellow", "pink"), ("city", "meadow", "room", "hills", "sea")
    ),
    "star": Kind("stars", False, 0.95, 0.92, ("yellow", "white"), ("hills", "city", "snow", "desert", "sea")),
    "umbrella": Kind("umbrellas", True, 1.0, 1.0, ("red", "purple", "yellow"), ("beach", "city", "room", "meadow")),
    "butterfly": Kind("butterflies", False, 1.0, 0.8, ("purple", "orange"), ("meadow", "forest", "beach", "room")),
    "apple": Kind("apples", True, 0.86, 0.92, ("red", "green", "yellow"), ("room", "meadow", "forest", "snow")),
    "cup": Kind("cups", True, 1.0, 0.8, ("white", "teal", "blue"), ("room", "beach", "forest", "meadow")),
    "kite": Kind("kites", False, 0.72, 1.0, ("red", "teal", "yellow"), ("beach", "meadow", "sea", "city", "desert")),
    "mushroom": Kind("mushrooms", True, 0.9, 0.92, ("red", "brown", "orange"), ("forest", "meadow", "hills")),
    "lamp": Kind("lamps", True, 0.66, 1.0, ("yellow", "teal", "white"), ("room", "hills", "snow")),
    "turtle": Kind("turtles", True, 1.0, 0.58, ("green", "brown", "teal"), ("beach", "underwater", "meadow", "desert")),
    "rocket": Kind("rockets", False, 0.6, 1.0, ("white", "red", "blue"), ("hills", "desert", "city", "sea")),
}
LIGHTS: dict[str, tuple[str, ...]] = {
    "meadow": ("sunny", "cloudy", "sunset"),
    "sea": ("sunny", "sunset", "cloudy", "night"),
    "hills": ("night",),
    "desert": ("sunny", "sunset"),
    "snow": ("cloudy", "sunny", "night"),
    "city": ("sunny", "night", "sunset"),
    "room": ("indoors",),
    "beach": ("sunny", "sunset", "cloudy"),
    "forest": ("shade",),
    "underwater": ("deep",),
}
RIDERS = ("cat", "bird", "apple", "cup", "butterfly")
CARRIERS = {
    "car": -0.48,
    "house": -0.94,
    "mushroom": -0.88,
    "umbrella": -0.88,
    "tree": -0.9,
}  # where a rider's feet are
BACKS = ("house", "tree", "umbrella", "boat")
FRONTS = ("cat", "car", "flower", "apple", "cup", "mushroom", "turtle", "lamp")
RELATIONS = ("left", "right", "above", "front", "below", "on")
LOOKS = ("upside down", "dotted", "glitch")
NEVER_UPSIDE_DOWN = (
    "star",
    "kite",
    "fish",
    "bird",
    "flower",
    "butterfly",
    "apple",
    "rocket",
)  # it would hardly be seen


@dataclass(frozen=True)
class Thing:
    """One kind of object in one colour."""

    kind: str
    colour: str


@dataclass(frozen=True)
class Scene:
    """Everything a picture shows and its captions may say."""

    main: Thing
    place: str
    light: str
    count: int = 1
    relation: str | None = None  # of the main thing to the other one
    other: Thing | None = None
    look: str | None = None  # one of LOOKS: an atypical picture

    @property
    def things(self) -> tuple[Thing, ...]:
        """The main thing and, in a picture of two, the other one."""
        return (self.main,) if self.other is None else (self.main, self.other)


def plan_scene(rng: np.random.Generator) -> Scene:
    """Draw a picture's plan: one thing, several alike, or two in a relation."""
    scene = _plan_alone(rng)
    form = rng.random()
    if form < 0.42:
        return scene
    if form < 0.66:
        return _with(scene, count=2 + _rank(rng, 4, 1.0))
    return _plan_relation(rng, scene)


def plan_atypical(rng: np.random.Generator) -> Scene:
    """Draw the plan of one thing in an impossible look."""
    scene = _plan_alone(rng)
    # dots on a spotted cap are nothing new
    barred = {"upside down": NEVER_UPSIDE_DOWN, "dotted": ("mushroom",)}
    looks = [look for look in LOOKS if scene.main.kind not in barred.get(look, ())]
    return _with(scene, look=looks[int(rng.integers(len(looks)))])


def clearly_different(first: Scene, second: Scene) -> bool:
    """Tell whether no kind and no colour of one picture is found on the other, and the places differ."""
    for one in first.things:
        if any(one.kind == thing.kind or one.colour == thing.colour for thing in second.things):
            return False
    return first.place != second.place


def _with(scene: Scene, *, count: int = 1, look: str | None = None) -> Scene:
    return Scene(scene.main, scene.place, scene.light, count=count, look=look)


def _plan_alone(rng: np.random.Generator) -> Scene:
    kind = list(KINDS)[_rank(rng, len(KINDS), 3.0)]
    place = _pick(rng, KINDS[kind].places, 1.0)
    light = _pick(rng, LIGHTS[place], 1.0)
    return Scene(Thing(kind, _colour(rng, kind, light)), place, light)


def _plan_relation(rng: np.random.Generator, scene: Scene) -> Scene:
    """Add a second thing that is found in the same place, in a relation that suits both."""
    main = scene.main.kind
    near = [kind for kind in KINDS if kind != main and scene.place in KINDS[kind].places]
    relation = _pick(rng, [name for name in RELATIONS if any(_FITS[name](main, kind) for kind in near)], 2.0)
    kind = _pick(rng, [kind for kind in near if _FITS[relation](main, kind)], 2.0)
    colour = _colour(rng, kind, scene.light, scene.main.colour)
    return Scene(scene.main, scene.place, scene.light, relation=relation, other=Thing(kind, colour))


_FITS: dict[str, Callable[[str, str], bool]] = {
    "left": lambda main, other: True,
    "right": lambda main, other: True,
    "above": lambda main, other: not KINDS[main].stands and KINDS[other].stands,
    "below": lambda main, other: KINDS[main].stands and not KINDS[other].stands,
    "front": lambda main, other: main in FRONTS and other in BACKS,
    "on": lambda main, other: main in RIDERS and other in CARRIERS,
}


def _colour(rng: np.random.Generator, kind: str, light: str, taken: str = "") -> str:
    """Draw a colour that is not taken, and none that the night swallows."""
    barred = (taken, "black" if light == "night" else "")
    favourites = KINDS[kind].colours
    order = [*favourites, *(colour for colour in COLOURS if colour not in favourites)]
    return _pick(rng, [colour for colour in order if colour not in barred], 1.0)


def _pick(rng: np.random.Generator, items: Sequence[str], head: float) -> str:
    return items[_rank(rng, len(items), head)]


def _rank(rng: np.random.Generator, n: int, head: float) -> int:
    """Draw a rank below n with probability ∝ 1 / (rank + head): Zipf's law, flatter for a larger `head`."""
    weights = np.cumsum(1 / (np.arange(n) + head))
    return int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))
