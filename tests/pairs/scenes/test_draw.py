import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from clipmem_core.config import InputError
from clipmem_core.pairs.scenes import paint as scene_paint
from clipmem_core.pairs.scenes.brush import COLOURS, Brush, ink
from clipmem_core.pairs.scenes.draw import Plan, draw_scenes, plan_pairs
from clipmem_core.pairs.scenes.paint import DRAWINGS, SIDE, paint
from clipmem_core.pairs.scenes.plan import CARRIERS, KINDS, LIGHTS, RELATIONS, Scene, Thing, plan_scene
from clipmem_core.pairs.scenes.words import NUMBERS, PLACES, REVERSED, VAGUE, captions_of

PAIRS = 110


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, pairs=PAIRS, seed=3)
    return folder


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return list(plan_pairs(1100, seed=0))


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


def pixels(folder: Path, number: int) -> np.ndarray:
    with Image.open(folder / f"images/{number:05d}.png") as picture:
        return np.asarray(picture).astype(int)


def test_a_drawn_set_has_a_picture_and_five_different_captions_for_every_pair(drawn: Path) -> None:
    rows = records(drawn)
    assert [row["pair_id"] for row in rows] == [f"scene-{i:05d}" for i in range(PAIRS)]
    assert sorted(str(path.relative_to(drawn)) for path in drawn.rglob("*.png")) == [row["image"] for row in rows]
    for row in rows:
        assert set(row) == {"image", "pair_id", "captions", "label", "planted"}
        assert isinstance(row["captions"], list)
        assert len(set(row["captions"])) == 5
        assert row["label"] in KINDS
    assert pixels(drawn, 0).shape == (SIDE, SIDE, 3)


def test_no_unfinished_listing_is_left(drawn: Path) -> None:
    assert sorted(path.name for path in drawn.iterdir()) == ["captions.jsonl", "images"]


def test_the_same_seed_gives_the_same_bytes_and_a_larger_set_begins_with_the_smaller(
    drawn: Path, tmp_path: Path
) -> None:
    draw_scenes(tmp_path, pairs=25, seed=3)
    large = (drawn / "captions.jsonl").read_bytes().splitlines()
    small = (tmp_path / "captions.jsonl").read_bytes().splitlines()
    # a swap whose other half lies beyond the end is not made
    cut = {p.number for p in plan_pairs(PAIRS, seed=3) if p.planted == "miscaption" and (p.partner or 0) >= 25}
    assert [line for i, line in enumerate(small) if i not in cut] == [
        line for i, line in enumerate(large[:25]) if i not in cut
    ]
    for i in range(25):
        assert (drawn / f"images/{i:05d}.png").read_bytes() == (tmp_path / f"images/{i:05d}.png").read_bytes()


def test_a_set_drawn_over_another_one_equals_one_drawn_afresh(drawn: Path, tmp_path: Path) -> None:
    draw_scenes(tmp_path, pairs=3, seed=1)
    draw_scenes(tmp_path, pairs=3, seed=3)
    assert (tmp_path / "images/00002.png").read_bytes() == (drawn / "images/00002.png").read_bytes()


def test_another_seed_gives_other_pictures_and_captions(tmp_path: Path) -> None:
    for seed in (0, 1):
        draw_scenes(tmp_path / str(seed), pairs=4, seed=seed)
    assert records(tmp_path / "0") != records(tmp_path / "1")
    assert (tmp_path / "0/images/00000.png").read_bytes() != (tmp_path / "1/images/00000.png").read_bytes()


def test_no_two_pictures_are_the_same(drawn: Path) -> None:
    assert len({path.read_bytes() for path in drawn.rglob("*.png")}) == PAIRS


def test_pictures_carry_no_time_stamp(drawn: Path) -> None:
    data = (drawn / "images/00000.png").read_bytes()
    assert b"tIME" not in data
    assert b"tEXt" not in data


def test_the_default_plants_the_promised_shares(plans: list[Plan]) -> None:
    counts = Counter(plan.planted for plan in plans)
    assert counts == {None: 957, "miscaption": 44, "vague": 44, "atypical": 33, "duplicate": 22}


def test_a_miscaptioned_pair_has_the_captions_of_another_that_shares_neither_kind_nor_colour(plans: list[Plan]) -> None:
    swapped = [plan for plan in plans if plan.planted == "miscaption"]
    assert Counter(plan.number for plan in swapped) == Counter(plan.partner for plan in swapped)
    for plan in swapped:
        assert plan.partner not in (None, plan.number)
        told = plans[plan.partner or 0].scene
        assert {t.kind for t in plan.scene.things}.isdisjoint(t.kind for t in told.things)
        assert {t.colour for t in plan.scene.things}.isdisjoint(t.colour for t in told.things)


def test_miscaptions_are_permuted_within_the_set_at_every_size() -> None:
    for pairs in (1, 7, 40, 77, 130):
        swapped = [plan for plan in plan_pairs(pairs, seed=5) if plan.planted == "miscaption"]
        assert {plan.number for plan in swapped} == {plan.partner for plan in swapped}


def test_the_listing_tells_what_was_planted(drawn: Path) -> None:
    rows = records(drawn)
    for plan, row in zip(plan_pairs(PAIRS, seed=3), rows, strict=True):
        assert row["planted"] == plan.planted
        assert row["label"] == plan.scene.main.kind
        text = " ".join(row["captions"])  # type: ignore[arg-type]
        if plan.planted == "miscaption":
            assert naming(plan.scene.main).search(text) is None
            assert naming(list(plan_pairs(PAIRS, seed=3))[plan.partner or 0].scene.main).search(text)
        elif plan.planted == "vague":
            assert set(row["captions"]) <= set(VAGUE)  # type: ignore[arg-type]
        else:
            assert naming(plan.scene.main).search(text)


def naming(thing: Thing) -> re.Pattern[str]:
    return re.compile(rf"\b({thing.kind}|{KINDS[thing.kind].plural})\b")


def test_a_duplicate_looks_like_its_original_and_is_not_the_same_file(drawn: Path) -> None:
    copies = [plan for plan in plan_pairs(PAIRS, seed=3) if plan.planted == "duplicate"]
    assert len(copies) >= 2
    others = np.mean([np.abs(pixels(drawn, i) - pixels(drawn, i + 1)).mean() for i in range(20)])
    for plan in copies:
        assert plan.partner is not None
        assert plan.partner < plan.number
        difference = np.abs(pixels(drawn, plan.number) - pixels(drawn, plan.partner)).mean()
        assert 0 < difference < others / 5
        assert records(drawn)[plan.number]["captions"] != records(drawn)[plan.partner]["captions"]


@settings(max_examples=300)
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


@settings(max_examples=300)
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
def test_a_drawing_fills_the_extent_its_kind_states_and_does_not_leave_it(kind: str) -> None:
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


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_colour_it_is_said_to_have(kind: str) -> None:
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


def test_attributes_are_long_tailed(plans: list[Plan]) -> None:
    combinations = Counter((plan.scene.main.kind, plan.scene.main.colour) for plan in plans)
    shares = np.sort(list(combinations.values()))[::-1] / len(plans)
    assert shares[: len(shares) // 10].sum() > 0.35
    assert sum(count == 1 for count in combinations.values()) >= 20
    assert len(Counter(plan.scene.main.kind for plan in plans)) == len(KINDS)


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


def test_too_few_pairs_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scenes_pairs must be 1 or more, got 0"):
        draw_scenes(tmp_path / "set", pairs=0)
    assert not (tmp_path / "set").exists()


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scenes_seed must be 0 or more, got -1"):
        draw_scenes(tmp_path / "set", seed=-1)
