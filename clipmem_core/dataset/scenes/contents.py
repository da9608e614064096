"""Plans the content of each picture of the synthetic set, with a long tail, its captions, and the injected errors.

A pair depends on the seed and its number only, so a larger set begins with the smaller one. The exception: of two pairs
with swapped captions, the first has the right captions if the set ends before the second.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from clipmem_core.columns import ATYPICAL, DUPLICATE, MISCAPTION, VAGUE
from clipmem_core.dataset.scenes.objects import COLOURS, KINDS

Item = TypeVar("Item", str, int)

BLOCK = 100  # pairs with 4 miscaption, 4 vague, 3 atypical and 2 duplicate
PLAN, PICTURE, WORDS, COPY = range(4)  # streams of random numbers of one pair
LIGHTS: dict[str, tuple[str, ...]] = {  # in each place, most common first
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
CARRIERS = {"car": -0.48, "house": -0.94, "mushroom": -0.88, "umbrella": -0.88, "tree": -0.9}  # a rider's feet, y
BACKS = ("house", "tree", "umbrella", "boat")
FRONTS = ("cat", "car", "flower", "apple", "cup", "mushroom", "turtle", "lamp")
RELATIONS: dict[str, Callable[[str, str], bool]] = {  # most common first, with the kinds that it fits
    "left": lambda main, other: True,
    "right": lambda main, other: True,
    "above": lambda main, other: not KINDS[main].stands and KINDS[other].stands,
    "front": lambda main, other: main in FRONTS and other in BACKS,
    "below": lambda main, other: KINDS[main].stands and not KINDS[other].stands,
    "on": lambda main, other: main in RIDERS and other in CARRIERS,
}
EFFECTS: dict[str, tuple[str, ...]] = {  # of atypical pictures, with the kinds on which an effect is hardly visible
    "upside down": ("star", "kite", "fish", "bird", "flower", "butterfly", "apple", "rocket"),
    "dotted": ("mushroom",),
    "glitch": (),
}


class Thing(NamedTuple):
    """One object."""

    kind: str
    colour: str


@dataclass(frozen=True)
class Scene:
    """The content of a picture."""

    main: Thing
    place: str
    light: str
    count: int = 1
    relation: str = ""  # of the main object to the other one
    other: Thing | None = None
    effect: str = ""  # one of EFFECTS: an atypical picture

    @property
    def things(self) -> tuple[Thing, ...]:
        """The main object and the other one, if any."""
        return (self.main,) if self.other is None else (self.main, self.other)


@dataclass(frozen=True)
class PlannedPair:
    """The plan of one pair."""

    number: int
    scene: Scene
    injected: str | None = None
    partner: int | None = None  # the pair whose captions (miscaption) or picture (duplicate) it has


def stream(seed: int, number: int, which: int) -> np.random.Generator:
    """Return one of the random streams of a pair: PLAN, PICTURE, WORDS or COPY."""
    return np.random.default_rng((seed, number, which))


def plan_pairs(pairs: int, *, seed: int) -> Iterator[PlannedPair]:
    """Yield the plans of a set's pairs in order."""
    for start in range(0, pairs, BLOCK):
        for plan in _plan_block(start, seed)[: pairs - start]:
            cut_off = plan.injected == MISCAPTION and plan.partner is not None and plan.partner >= pairs
            yield replace(plan, injected=None, partner=None) if cut_off else plan


def _plan_block(start: int, seed: int) -> list[PlannedPair]:
    """Plan BLOCK pairs: first all without errors, then inject some."""
    plans = [PlannedPair(start + i, plan_scene(stream(seed, start + i, PLAN))) for i in range(BLOCK)]
    order = [int(i) for i in stream(seed, start, COPY).permutation(BLOCK)]
    for i, j in (order[0:2], order[2:4]):
        rng, scene = stream(seed, start + j, PLAN), plans[j].scene
        other = plans[i].scene
        facts = {fact for thing in other.things for fact in thing} | {other.place}
        while facts & ({fact for thing in scene.things for fact in thing} | {scene.place}):  # kinds, colours, the place
            scene = plan_scene(rng)
        plans[i] = replace(plans[i], injected=MISCAPTION, partner=start + j)
        plans[j] = replace(plans[j], injected=MISCAPTION, partner=start + i, scene=scene)
    for i in order[4:8]:
        plans[i] = replace(plans[i], injected=VAGUE)
    for i in order[8:11]:
        rng = stream(seed, start + i, PLAN)
        scene = _plan_single(rng)
        effects = [effect for effect, hardly_visible in EFFECTS.items() if scene.main.kind not in hardly_visible]
        scene = replace(scene, effect=effects[int(rng.integers(len(effects)))])
        plans[i] = replace(plans[i], injected=ATYPICAL, scene=scene)
    early, late, copy, second_copy = sorted(order[11:15])
    for i, original in ((copy, early), (second_copy, late)):
        plans[i] = replace(plans[i], injected=DUPLICATE, scene=plans[original].scene, partner=start + original)
    return plans


def plan_scene(rng: np.random.Generator) -> Scene:
    """Plan a picture of one object, several equal ones, or two in a relation."""
    scene = _plan_single(rng)
    share = rng.random()
    if share < 0.42:
        return scene
    if share < 0.66:
        return replace(scene, count=_pick(rng, (2, 3, 4, 5), 1.0))
    main = scene.main.kind
    others = [kind for kind in KINDS if kind != main and scene.place in KINDS[kind].places]
    relation = _pick(rng, [name for name, fits in RELATIONS.items() if any(fits(main, kind) for kind in others)], 2.0)
    kind = _pick(rng, [kind for kind in others if RELATIONS[relation](main, kind)], 2.0)
    other = Thing(kind, _pick_colour(rng, kind, scene.light, scene.main.colour))
    return replace(scene, relation=relation, other=other)


def _plan_single(rng: np.random.Generator) -> Scene:
    kind = _pick(rng, list(KINDS), 3.0)
    place = _pick(rng, KINDS[kind].places, 1.0)
    light = _pick(rng, LIGHTS[place], 1.0)
    return Scene(Thing(kind, _pick_colour(rng, kind, light)), place, light)


def _pick_colour(rng: np.random.Generator, kind: str, light: str, other: str = "") -> str:
    """Draw a colour that differs from the other object's; no black at night, when it is invisible."""
    excluded = (other, "black" if light == "night" else "")
    order = dict.fromkeys((*KINDS[kind].colours, *COLOURS))
    return _pick(rng, [colour for colour in order if colour not in excluded], 1.0)


def _pick(rng: np.random.Generator, items: Sequence[Item], head: float) -> Item:
    """Draw an item with probability ∝ 1 / (rank + head): Zipf's law, flatter for a larger `head`."""
    weights = np.cumsum(1 / (np.arange(len(items)) + head))
    return items[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]


NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}

STANDING_IN: dict[str, tuple[str, ...]] = {  # the place of a standing object; the plainest phrase first
    "meadow": ("in a meadow", "on the grass", "in a green field"),
    "sea": ("at sea", "on the water", "on the open sea"),
    "hills": ("on a hill", "in the hills", "in hilly country"),
    "desert": ("in the desert", "among the dunes", "on desert sand"),
    "snow": ("in the snow", "on a snowy field", "in a winter landscape"),
    "city": ("in the city", "on a city street", "in front of tall buildings"),
    "room": ("in a room", "on the floor", "inside a room"),
    "beach": ("on the beach", "on the sand", "by the sea"),
    "forest": ("in the forest", "in the woods", "on the forest floor"),
    "underwater": ("underwater", "on the sea floor", "under the sea"),
}
HANGING_IN: dict[str, tuple[str, ...]] = {  # the place of a hanging object
    "meadow": ("over a meadow", "above the grass", "over a green field"),
    "sea": ("over the sea", "above the waves", "over the water"),
    "hills": ("over the hills", "above the dark hills", "high over the hills"),
    "desert": ("over the desert", "above the dunes", "over desert sand"),
    "snow": ("over the snow", "above a snowy field", "in a winter landscape"),
    "city": ("over the city", "above a city street", "in front of tall buildings"),
    "room": ("in a room", "in the middle of a room", "inside a room"),
    "beach": ("over the beach", "above the sand", "by the sea"),
    "forest": ("in the forest", "in the woods", "between the trees"),
    "underwater": ("underwater", "in deep water", "under the sea"),
}
PLACES: dict[str, tuple[str, ...]] = {  # the place itself
    "meadow": ("a meadow", "a green field"),
    "sea": ("the sea", "a view of the sea"),
    "hills": ("a night sky", "dark hills"),
    "desert": ("a desert", "a sandy desert"),
    "snow": ("a winter landscape", "a snowy field"),
    "city": ("a city street", "the city"),
    "room": ("a room", "a bright room"),
    "beach": ("a beach", "a sandy beach"),
    "forest": ("a forest", "the woods"),
    "underwater": ("an underwater scene", "deep water"),
}
LIGHT_PHRASES: dict[str, tuple[str, ...]] = {
    "sunny": ("on a sunny day", "in bright sunshine", "under the sun"),
    "cloudy": ("on a cloudy day", "under a cloudy sky"),
    "sunset": ("at sunset", "in the evening sun"),
    "night": ("at night", "by moonlight", "in the dark"),
    "indoors": ("indoors", "at home"),
    "shade": ("in soft green light", "in the shade"),
    "deep": ("in blue water", "below the surface"),
}
WEATHER = ("sunny", "cloudy", "sunset", "night")  # lights that are described together with the place
RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "front": ("in front of",),
    "behind": ("behind",),
    "on": ("on", "on top of"),
    "under": ("under", "beneath"),
}
REVERSED = {"left": "right", "right": "left", "above": "below", "below": "above", "front": "behind", "on": "under"}

SINGLE = (
    ("{thing}", "a picture of {thing}", "a drawing of {thing}"),
    ("{thing} {where}", "{thing} seen {where}", "There is {thing} {where}."),
    ("{scene} with {bare}", "{scene} and {bare}", "{bare} in front, {scene} behind"),
    ("The {kind} is {colour}.", "This {kind} is {colour}.", "{bare}, and it is {colour}"),
    ("{bare} {when}", "{thing} {light}", "{bare}, seen {light}"),
)
SEVERAL = (
    ("{thing}", "a picture of {thing}", "{group} of {colour} {kind}"),
    ("{thing} {where}", "{thing} together {where}", "There are {thing} {where}."),
    ("{scene} with {bare}", "{scene} and {bare}", "{group} of {kind} in front, {scene} behind"),
    ("{all} {kind} are {colour}.", "{all_counted} {kind} are {colour}.", "{bare}, {every} of them {colour}"),
    ("{bare} {when}", "{thing} {light}", "{kind} {when}, {count} in all"),
)
TWO = (
    ("{thing} and {other}", "a picture of {thing} and {other}", "{other} and {thing}"),
    ("{thing} {relation} {other}", "There is {thing} {relation} {other}.", "{thing}, {relation} {other}"),
    ("{bare_other} {reverse} {bare}", "{other} {reverse} {bare}", "{bare_other} {reverse} {thing}"),
    ("{scene} with {bare} and {bare_other}", "{scene}, {bare} and {bare_other}", "{pair} in front, {scene} behind"),
    ("{pair} {when}", "{pair} {light}", "{pair}, seen {light}"),
)
EFFECT_CAPTIONS: dict[str, tuple[str, ...]] = {
    "upside down": ("{thing} turned upside down", "an upside-down {kind}", "The {colour} {kind} stands on its head."),
    "dotted": ("{thing} covered in dots", "a {kind} with dots all over", "The {colour} {kind} has strange dots."),
    "glitch": ("{thing} before a torn background", "{bare} in a broken picture", "a glitch behind {thing}"),
}
VAGUE_CAPTIONS = (
    *("a picture", "an image", "something nice to look at", "a nice drawing", "just another picture"),
    *("an illustration", "a scene with something in it", "some shapes and colors", "a colorful image"),
    *("one of many pictures", "a small picture", "There is something to see here.", "This is a picture."),
    *("no description", "untitled", "Look at this!"),
)


def captions_of(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Return five captions of a scene that differ in wording and content."""
    templates: list[tuple[str, ...]] = list(TWO if scene.other else SEVERAL if scene.count > 1 else SINGLE)
    if scene.effect:
        templates[3] = EFFECT_CAPTIONS[scene.effect]
    main, other, pair = scene.main, scene.other, scene.count == 2
    standing, hanging = STANDING_IN[scene.place], HANGING_IN[scene.place]
    if other is None:
        where = _choose(standing if KINDS[main.kind].stands else hanging, rng)
    else:  # the plainest phrase, which fits a standing and a hanging object
        where = standing[0] if any(KINDS[thing.kind].stands for thing in scene.things) else hanging[0]
    light, count, bare = _choose(LIGHT_PHRASES[scene.light], rng), NUMBERS[scene.count], _noun(main.kind, scene.count)
    words = {
        "thing": _noun(main.kind, scene.count, main.colour),
        "bare": bare,
        "kind": main.kind if scene.count == 1 else KINDS[main.kind].plural,
        "colour": main.colour,
        "group": "a pair" if pair else "a group",
        "every": "both" if pair else "all",
        "all": "Both" if pair else "All the",
        "all_counted": "Both" if pair else f"All {count}",
        "count": count,
        "where": where,
        "scene": _choose(PLACES[scene.place], rng),
        "light": light,
        "when": f"{where} {light}" if scene.light in WEATHER else light,
    }
    if other is not None:
        words |= {
            "other": _noun(other.kind, 1, other.colour),
            "bare_other": _noun(other.kind, 1),
            "pair": f"{bare} and {_noun(other.kind, 1)}",
            "relation": _choose(RELATION_PHRASES[scene.relation], rng),
            "reverse": _choose(RELATION_PHRASES[REVERSED[scene.relation]], rng),
        }
    return [_choose(choices, rng).format(**words) for choices in templates]


def _noun(kind: str, count: int, colour: str = "") -> str:
    """Return a noun phrase: an apple, a red apple, three blue fish."""
    name = f"{colour} {kind if count == 1 else KINDS[kind].plural}".strip()
    if count > 1:
        return f"{NUMBERS[count]} {name}"
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _choose(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
