"""Turns the plan of a picture into five differently worded captions that are true of it, or five that say nothing."""

import numpy as np

from clipmem_core.pairs.scenes.plan import KINDS, Scene

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}

# Of each place: where a standing thing is, where a hanging one is, and the place by itself; the plainest comes first.
PLACES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "meadow": (
        ("in a meadow", "on the grass", "in a green field"),
        ("over a meadow", "above the grass", "over a green field"),
        ("a meadow", "a green field"),
    ),
    "sea": (
        ("at sea", "on the water", "on the open sea"),
        ("over the sea", "above the waves", "over the water"),
        ("the sea", "a view of the sea"),
    ),
    "hills": (
        ("on a hill", "in the hills", "in hilly country"),
        ("over the hills", "above the dark hills", "high over the hills"),
        ("a night sky", "dark hills"),
    ),
    "desert": (
        ("in the desert", "among the dunes", "on desert sand"),
        ("over the desert", "above the dunes", "over desert sand"),
        ("a desert", "a sandy desert"),
    ),
    "snow": (
        ("in the snow", "on a snowy field", "in a winter landscape"),
        ("over the snow", "above a snowy field", "in a winter landscape"),
        ("a winter landscape", "a snowy field"),
    ),
    "city": (
        ("in the city", "on a city street", "in front of tall buildings"),
        ("over the city", "above a city street", "in front of tall buildings"),
        ("a city street", "the city"),
    ),
    "room": (
        ("in a room", "on the floor", "inside a room"),
        ("in a room", "in the middle of a room", "inside a room"),
        ("a room", "a bright room"),
    ),
    "beach": (
        ("on the beach", "on the sand", "by the sea"),
        ("over the beach", "above the sand", "by the sea"),
        ("a beach", "a sandy beach"),
    ),
    "forest": (
        ("in the forest", "in the woods", "on the forest floor"),
        ("in the forest", "in the woods", "between the trees"),
        ("a forest", "the woods"),
    ),
    "underwater": (
        ("underwater", "on the sea floor", "under the sea"),
        ("underwater", "in deep water", "under the sea"),
        ("an underwater scene", "deep water"),
    ),
}
LIGHTS: dict[str, tuple[str, ...]] = {
    "sunny": ("on a sunny day", "in bright sunshine", "under the sun"),
    "cloudy": ("on a cloudy day", "under a cloudy sky"),
    "sunset": ("at sunset", "in the evening sun"),
    "night": ("at night", "by moonlight", "in the dark"),
    "indoors": ("indoors", "at home"),
    "shade": ("in soft green light", "in the shade"),
    "deep": ("in blue water", "below the surface"),
}
WEATHER = ("sunny", "cloudy", "sunset", "night")  # tells something that the place does not
RELATIONS: dict[str, tuple[str, ...]] = {
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

ALONE = (
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
ODD: dict[str, tuple[str, ...]] = {
    "upside down": ("{thing} turned upside down", "an upside-down {kind}", "The {colour} {kind} stands on its head."),
    "dotted": ("{thing} covered in dots", "a {kind} with dots all over", "The {colour} {kind} has strange dots."),
    "glitch": ("{thing} before a torn background", "{bare} in a broken picture", "a glitch behind {thing}"),
}
VAGUE = (
    "a picture",
    "an image",
    "something nice to look at",
    "a nice drawing",
    "just another picture",
    "an illustration",
    "a scene with something in it",
    "some shapes and colors",
    "a colorful image",
    "one of many pictures",
    "a small picture",
    "There is something to see here.",
    "This is a picture.",
    "no description",
    "untitled",
    "Look at this!",
)


def captions_of(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Return five captions of a scene that differ in wording and in what they tell.

    Example:
        >>> from clipmem_core.pairs.scenes.plan import Thing
        >>> scene = Scene(Thing("apple", "red"), "room", "indoors")
        >>> captions_of(scene, np.random.default_rng(1))[3]
        'an apple, and it is red'
    """
    templates: list[tuple[str, ...]] = list(TWO if scene.other else SEVERAL if scene.count > 1 else ALONE)
    if scene.look is not None:
        templates[3] = ODD[scene.look]
    words = _words(scene, rng)
    return [_any(choices, rng).format(**words) for choices in templates]


def vague_captions(rng: np.random.Generator) -> list[str]:
    """Return five captions that would fit any picture.

    Example:
        >>> len(set(vague_captions(np.random.default_rng(0))))
        5
    """
    return [VAGUE[i] for i in rng.permutation(len(VAGUE))[:5]]


def _words(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    """Return what the templates' names stand for in one scene."""
    main, other = scene.main, scene.other
    count, where, light = NUMBERS[scene.count], _where(scene, rng), _any(LIGHTS[scene.light], rng)
    words = {
        "thing": _noun(main.kind, scene.count, main.colour),
        "bare": _noun(main.kind, scene.count),
        "kind": main.kind if scene.count == 1 else KINDS[main.kind].plural,
        "colour": main.colour,
        "group": "a pair" if scene.count == 2 else "a group",
        "every": "both" if scene.count == 2 else "all",
        "all": "Both" if scene.count == 2 else "All the",
        "all_counted": "Both" if scene.count == 2 else f"All {count}",
        "count": count,
        "where": where,
        "scene": _any(PLACES[scene.place][2], rng),
        "light": light,
        "when": f"{where} {light}" if scene.light in WEATHER else light,
    }
    if other is None or scene.relation is None:
        return words
    return words | {
        "other": _noun(other.kind, 1, other.colour),
        "bare_other": _noun(other.kind, 1),
        "pair": f"{words['bare']} and {_noun(other.kind, 1)}",
        "relation": _any(RELATIONS[scene.relation], rng),
        "reverse": _any(RELATIONS[REVERSED[scene.relation]], rng),
    }


def _where(scene: Scene, rng: np.random.Generator) -> str:
    """Return a phrase for the place that is true of the main thing, of both where there are two."""
    standing, hanging, _ = PLACES[scene.place]
    if scene.other is None:
        return _any(standing if KINDS[scene.main.kind].stands else hanging, rng)
    # of two, one may stand while the other hangs or sits on it: the plainest phrase, from one that stands if any does
    return standing[0] if any(KINDS[thing.kind].stands for thing in scene.things) else hanging[0]


def _noun(kind: str, count: int, colour: str = "") -> str:
    """Return a noun phrase.

    Example:
        >>> _noun("apple", 1), _noun("apple", 1, "red"), _noun("fish", 3, "blue")
        ('an apple', 'a red apple', 'three blue fish')
    """
    name = f"{colour} {kind if count == 1 else KINDS[kind].plural}".strip()
    if count > 1:
        return f"{NUMBERS[count]} {name}"
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _any(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
