"""Plans the content of each picture of the synthetic set, with a long tail, its captions, and the
injected errors.

A pair depends on the seed and its number only, so a larger set begins with the smaller one. The
exception: of two pairs with swapped captions, the first has the right captions if the set ends
before the second.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from clipmem_core.columns import ATYPICAL, DUPLICATE, MISCAPTION, VAGUE
from clipmem_core.dataset.scenes.objects import COLOURS, KINDS

Item = TypeVar("Item", str, int)

_BLOCK = 100  # pairs with 4 miscaption, 4 vague, 3 atypical and 2 duplicate
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
CARRIERS = {
    "car": -0.48,
    "house": -0.94,
    "mushroom": -0.88,
    "umbrella": -0.88,
    "tree": -0.9,
}  # a rider's feet, y
BACKS = ("house", "tree", "umbrella", "boat")
FRONTS = ("cat", "car", "flower", "apple", "cup", "mushroom", "turtle", "lamp")
RELATIONS: dict[
    str, Callable[[str, str], bool]
] = {  # most common first, with the kinds that it fits
    "left": lambda main, other: True,
    "right": lambda main, other: True,
    "above": lambda main, other: not KINDS[main].stands and KINDS[other].stands,
    "front": lambda main, other: main in FRONTS and other in BACKS,
    "below": lambda main, other: KINDS[main].stands and not KINDS[other].stands,
    "on": lambda main, other: main in RIDERS and other in CARRIERS,
}
EFFECTS: dict[
    str, tuple[str, ...]
] = {  # of atypical pictures, with the kinds on which an effect is hardly visible
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
    for start in range(0, pairs, _BLOCK):
        for plan in _plan_block(start, seed)[: pairs - start]:
            cut_off = (
                plan.injected == MISCAPTION and plan.partner is not None and plan.partner >= pairs
            )
            yield replace(plan, injected=None, partner=None) if cut_off else plan


def _plan_block(start: int, seed: int) -> list[PlannedPair]:
    """Plan BLOCK pairs: first all without errors, then inject some."""
    plans = [
        PlannedPair(start + i, plan_scene(stream(seed, start + i, PLAN))) for i in range(_BLOCK)
    ]
    order = [int(i) for i in stream(seed, start, COPY).permutation(_BLOCK)]
    for i, j in (order[0:2], order[2:4]):
        rng = stream(seed, start + j, PLAN)
        scene = plans[j].scene
        other = plans[i].scene
        facts = {fact for thing in other.things for fact in thing} | {other.place}
        while facts & (
            {fact for thing in scene.things for fact in thing} | {scene.place}
        ):  # kinds, colours, the place
            scene = plan_scene(rng)
        plans[i] = replace(plans[i], injected=MISCAPTION, partner=start + j)
        plans[j] = replace(plans[j], injected=MISCAPTION, partner=start + i, scene=scene)
    for i in order[4:8]:
        plans[i] = replace(plans[i], injected=VAGUE)
    for i in order[8:11]:
        rng = stream(seed, start + i, PLAN)
        scene = _plan_single(rng)
        effects = [
            effect
            for effect, hardly_visible in EFFECTS.items()
            if scene.main.kind not in hardly_visible
        ]
        scene = replace(scene, effect=effects[int(rng.integers(len(effects)))])
        plans[i] = replace(plans[i], injected=ATYPICAL, scene=scene)
    early, late, copy, second_copy = sorted(order[11:15])
    for i, original in ((copy, early), (second_copy, late)):
        plans[i] = replace(
            plans[i], injected=DUPLICATE, scene=plans[original].scene, partner=start + original
        )
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
    relation = _pick(
        rng,
        [name for name, fits in RELATIONS.items() if any(fits(main, kind) for kind in others)],
        2.0,
    )
    kind = _pick(rng, [kind for kind in others if RELATIONS[relation](main, kind)], 2.0)
    other = Thing(kind, _pick_colour(rng, kind, scene.light, scene.main.colour))
    return replace(scene, relation=relation, other=other)


def _plan_single(rng: np.random.Generator) -> Scene:
    kind = _pick(rng, list(KINDS), 3.0)
    place = _pick(rng, KINDS[kind].places, 1.0)
    light = _pick(rng, LIGHTS[place], 1.0)
    return Scene(Thing(kind, _pick_colour(rng, kind, light)), place, light)


def _pick_colour(rng: np.random.Generator, kind: str, light: str, other: str = "") -> str:
    """Draw a colour that differs from the other object's; no black at night, when it is
    invisible."""
    excluded = (other, "black" if light == "night" else "")
    order = dict.fromkeys((*KINDS[kind].colours, *COLOURS))
    return _pick(rng, [colour for colour in order if colour not in excluded], 1.0)


def _pick(rng: np.random.Generator, items: Sequence[Item], head: float) -> Item:
    """Draw an item with probability ∝ 1 / (rank + head): Zipf's law, flatter for a larger
    `head`."""
    weights = np.cumsum(1 / (np.arange(len(items)) + head))
    return items[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]


NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
WEATHER = (
    "sunny",
    "cloudy",
    "sunset",
    "night",
)  # lights that are described together with the place
REVERSED = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
    "front": "behind",
    "on": "under",
}
# The wording of captions, the plainest phrase first; templates are filled in by `captions_of`.
PHRASES: dict[str, Any] = json.loads(
    (Path(__file__).parent / "phrases.json").read_text(encoding="utf-8")
)
STANDING_IN, HANGING_IN, PLACES = (
    PHRASES[name] for name in ("standing_in", "hanging_in", "places")
)
LIGHTING, RELATED, VAGUE_CAPTIONS = (
    PHRASES[name] for name in ("light_phrases", "relation_phrases", "vague_captions")
)


def captions_of(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Return five captions of a scene that differ in wording and content."""
    templates = list(PHRASES["two" if scene.other else "several" if scene.count > 1 else "single"])
    if scene.effect:
        templates[3] = PHRASES["effect_captions"][scene.effect]
    main = scene.main
    other = scene.other
    pair = scene.count == 2
    standing = STANDING_IN[scene.place]
    hanging = HANGING_IN[scene.place]
    if other is None:
        where = _choose(standing if KINDS[main.kind].stands else hanging, rng)
    else:  # the plainest phrase, which fits a standing and a hanging object
        where = (
            standing[0] if any(KINDS[thing.kind].stands for thing in scene.things) else hanging[0]
        )
    light = _choose(LIGHTING[scene.light], rng)
    count = NUMBERS[scene.count]
    bare = _noun(main.kind, scene.count)
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
            "relation": _choose(RELATED[scene.relation], rng),
            "reverse": _choose(RELATED[REVERSED[scene.relation]], rng),
        }
    return [_choose(choices, rng).format(**words) for choices in templates]


def _noun(kind: str, count: int, colour: str = "") -> str:
    """Return a noun phrase: an apple, a red apple, three blue fish."""
    name = f"{colour} {kind if count == 1 else KINDS[kind].plural}".strip()
    if count > 1:
        return f"{NUMBERS[count]} {name}"
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _choose(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
