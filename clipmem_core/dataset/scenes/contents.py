"""Plans the content of each picture of the synthetic set, with a long tail, its captions, and the
injected errors; object_drawings.json describes the kinds of objects.

A pair depends on the seed and its number only, so a larger set begins with the smaller one. The
exception: of two pairs with swapped captions, the first has the right captions if the set ends
before the second.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from clipmem_core.utils.columns import ATYPICAL, DUPLICATE, MISCAPTION, VAGUE
from clipmem_core.utils.io import read_json

_BLOCK = 100  # pairs with 4 miscaption, 4 vague, 3 atypical and 2 duplicate
PLAN, PICTURE, WORDS, COPY = range(4)  # streams of random numbers of one pair


def read_data(name: str) -> Any:
    """Read one of the JSON files beside this module."""
    return read_json(Path(__file__).with_name(name))


class ObjectKind(NamedTuple):
    """One kind of object."""

    plural: str
    stands: bool  # on the ground; other kinds hang in the air or in the water
    feet: float  # y of the feet in the drawing
    large: bool  # smaller kinds stand in front of it
    colours: list[str]  # favourites, most common first; the rest of the palette follows
    places: list[str]  # most common first
    steps: list[Any]  # its drawing, see `Pen`


OBJECT_DATA = read_data("object_drawings.json")
COLOURS: dict[str, str] = OBJECT_DATA["colours"]
OBJECT_KINDS = {name: ObjectKind(**facts) for name, facts in OBJECT_DATA["kinds"].items()}
PLACE_DATA = read_data("place_drawings.json")
PLACES = PLACE_DATA["places"]  # with the lights of each, most common first
SKIES = PLACE_DATA["skies"]  # of the lights outdoors
PHRASES = read_data("phrases.json")  # of captions, the plainest first; see `captions_of`
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
    effect: str = ""  # one of `effect_captions` in phrases.json: an atypical picture

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
    partner: int | None = None  # the pair whose captions (miscaption) or picture (duplicate) it has


def stream(seed: int, number: int, which: int) -> Generator:
    """Return one of the random streams of a pair: PLAN, PICTURE, WORDS or COPY."""
    return np.random.default_rng((seed, number, which))


def plan_pairs(pairs: int, *, seed: int) -> Iterator[PlannedPair]:
    """Yield the plans of a set's pairs in order."""
    for start in range(0, pairs, _BLOCK):
        for plan in _plan_block(start, seed)[: pairs - start]:
            if (plan.partner or 0) >= pairs:  # of swapped captions
                plan = replace(plan, injected=None, partner=None)
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
        plans[i] = replace(plans[i], injected=MISCAPTION, partner=start + j)
        plans[j] = replace(plans[j], injected=MISCAPTION, partner=start + i, scene=scene)
    for i in order[4:8]:
        plans[i] = replace(plans[i], injected=VAGUE)
    for i in order[8:11]:
        rng = stream(seed, start + i, PLAN)
        effect = _choose(list(PHRASES["effect_captions"]), rng)
        scene = replace(_plan_single(rng), effect=effect)
        plans[i] = replace(plans[i], injected=ATYPICAL, scene=scene)
    early, late, copy, second_copy = sorted(order[11:15])
    for i, original in ((copy, early), (second_copy, late)):
        scene = plans[original].scene
        plans[i] = PlannedPair(start + i, scene, DUPLICATE, start + original)
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
