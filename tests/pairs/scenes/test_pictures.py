"""One drawn scene: what its captions say, where its things are, how each kind and each odd look is drawn."""

import re
from collections import Counter

import numpy as np
import pytest
from clipmem_core.pairs.scenes.canvas import COLOURS, Brush, ink
from clipmem_core.pairs.scenes.paint import paint
from clipmem_core.pairs.scenes.phrases import NUMBERS, PLACES, REVERSED, captions_of
from clipmem_core.pairs.scenes.things import DRAWINGS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from clipmem_core.pairs.scenes import paint as scene_paint
from clipmem_core.pairs.scenes.plan import CARRIERS, KINDS, LIGHTS, RELATIONS, Scene, Thing, plan_scene


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_captions_name_only_colours_kinds_and_numbers_of_the_picture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = plan_scene(rng)
    captions = captions_of(scene, rng)
    assert len(set(captions)) == 5
    # colours and objects that belong to the words for a place or a light
    phrases = [phrase for group in PLACES[scene.place] for phrase in group] + ["soft green light", "in blue water"]
    text = " ".join(captions)
    for phrase in sorted(phrases, key=len, reverse=True):
        text = text.replace(phrase, "")
    words = set(re.findall(r"[a-z]+", text.lower()))
    assert words & set(COLOURS) == {thing.colour for thing in scene.things}
    kinds = {kind for kind, facts in KINDS.items() if words & {kind, facts.plural}}
    assert kinds == {thing.kind for thing in scene.things}
    counted = {number for number, word in NUMBERS.items() if word in words}
    assert counted <= ({scene.count} if scene.count > 1 else set())
    assert not re.search(r"\ba [aeio]|\ban [^aeiou]|  |[{}]", " ".join(captions))


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_objects_are_where_the_relation_says_and_inside_the_picture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = plan_scene(rng)
    spots = scene_paint._spots(scene, rng)
    assert len(spots) == (scene.count if scene.other is None else 2)
    for spot in spots:
        kind = KINDS[spot.thing.kind]
        assert spot.x - kind.half_width * spot.size > 0
        assert spot.x + kind.half_width * spot.size < 1
        assert spot.y - kind.half_height * spot.size > 0
        assert spot.y + kind.half_height * spot.size < 1
    if scene.other is None:
        return
    main = next(spot for spot in spots if spot.thing == scene.main)
    other = next(spot for spot in spots if spot.thing == scene.other)
    true_of = {
        "left": main.x < other.x - 0.3,
        "right": main.x > other.x + 0.3,
        "above": main.y < other.y - 0.3 and abs(main.x - other.x) < 0.1,
        "below": main.y > other.y + 0.3 and abs(main.x - other.x) < 0.1,
        "front": spots[1] is main and main.y > other.y,
        "on": main.y < other.y - 0.2 and main.x == other.x,
    }
    assert true_of[str(scene.relation)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawing_fills_the_extent_its_kind_states_in_the_colour_it_is_said_to_have(kind: str) -> None:
    for seed in range(8):
        sheet = Image.new("RGB", (400, 400))
        brush = Brush(ImageDraw.Draw(sheet, "RGBA"), np.eye(2) * 160.0, np.array((200.0, 200.0)), 3)
        DRAWINGS[kind](brush, ink("red"), np.random.default_rng(seed))
        box = sheet.getbbox()
        assert box is not None
        left, top, right, bottom = ((edge - 200) / 160 for edge in box)
        facts = KINDS[kind]
        assert max(-left, right) == pytest.approx(facts.half_width, abs=0.05)
        assert max(-top, bottom) == pytest.approx(facts.half_height, abs=0.12)
    sheet = Image.new("RGB", (200, 200))
    brush = Brush(ImageDraw.Draw(sheet, "RGBA"), np.eye(2) * 90.0, np.array((100.0, 100.0)), 2)
    DRAWINGS[kind](brush, ink("teal"), np.random.default_rng(0))
    colours = Counter(sheet.get_flattened_data() if hasattr(sheet, "get_flattened_data") else sheet.getdata())
    del colours[0, 0, 0]
    assert COLOURS["teal"] in [colour for colour, _ in colours.most_common(2)]


def test_kinds_places_and_words_know_each_other() -> None:
    assert set(DRAWINGS) == set(KINDS)
    assert len(KINDS) >= 14
    assert {place for kind in KINDS.values() for place in kind.places} == set(LIGHTS) == set(PLACES)
    assert set(CARRIERS) <= set(KINDS)
    assert set(REVERSED) == set(RELATIONS)


@pytest.mark.parametrize("look", ["upside down", "dotted", "glitch"])
def test_an_odd_look_changes_the_picture_and_one_caption_tells(look: str) -> None:
    plain = Scene(Thing("house", "red"), "meadow", "sunny")
    odd = Scene(Thing("house", "red"), "meadow", "sunny", look=look)
    first, second = (np.asarray(paint(scene, np.random.default_rng(0))).astype(int) for scene in (plain, odd))
    assert np.abs(first - second).mean() > 1
    told = captions_of(odd, np.random.default_rng(0))
    assert [caption for caption in told if re.search("upside|head|dots|torn|broken|glitch", caption)] == [told[3]]


def test_dots_leave_the_rest_of_the_picture_alone() -> None:
    scenes = (Scene(Thing("car", "blue"), "city", "sunny", look=look) for look in (None, "dotted"))
    first, second = (np.asarray(paint(scene, np.random.default_rng(0))).astype(int) for scene in scenes)
    changed = np.abs(first - second).max(axis=2) > 40
    assert changed.any()
    blue = first[changed] - np.array(COLOURS["blue"])
    assert np.median(np.abs(blue).max(axis=1)) < 60
