"""The synthetic set: its files, its injected errors, and the agreement of pictures and captions."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipmem_core.dataset.scenes.contents import (
    COLOURS,
    NUMBERS,
    OBJECT_KINDS,
    PHRASES,
    PlannedPair,
    Thing,
    captions_of,
    plan_pairs,
    plan_scene,
)
from clipmem_core.dataset.scenes.drawing import SIDE, draw_scenes, place_objects

PAIRS = 110


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, pairs=PAIRS, seed=3)
    return folder


@pytest.fixture(scope="module")
def plans() -> list[PlannedPair]:
    return list(plan_pairs(1100, seed=0))


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


def pixels(folder: Path, number: int) -> np.ndarray:
    with Image.open(folder / f"images/{number:05d}.png") as picture:
        return np.asarray(picture).astype(int)


def test_files_and_injected_errors(drawn: Path) -> None:
    rows = records(drawn)
    planned = list(plan_pairs(PAIRS, seed=3))
    assert [row["pair_id"] for row in rows] == [f"scene-{i:05d}" for i in range(PAIRS)]
    assert sorted(str(path.relative_to(drawn)) for path in drawn.rglob("*.png")) == [
        row["image"] for row in rows
    ]
    assert pixels(drawn, 0).shape == (SIDE, SIDE, 3)
    assert len({path.read_bytes() for path in drawn.rglob("*.png")}) == PAIRS

    def naming(thing: Thing) -> re.Pattern[str]:
        return re.compile(rf"\b({thing.kind}|{OBJECT_KINDS[thing.kind].plural})\b")

    for plan, row in zip(planned, rows, strict=True):
        captions = row["captions"]
        assert isinstance(captions, list)
        assert len(set(captions)) == 5
        assert (row["injected"], row["label"]) == (plan.injected, plan.scene.main.kind)
        text = " ".join(captions)
        if plan.injected == "miscaption":
            assert naming(plan.scene.main).search(text) is None
            assert naming(planned[plan.partner or 0].scene.main).search(text)
        elif plan.injected == "vague":
            assert set(captions) <= set(PHRASES["vague_captions"])
        else:
            assert naming(plan.scene.main).search(text)


def test_a_larger_set_begins_with_the_smaller(drawn: Path, tmp_path: Path) -> None:
    draw_scenes(tmp_path, pairs=3, seed=1)
    other = pixels(tmp_path, 0)
    draw_scenes(tmp_path, pairs=25, seed=3)  # over the one that is there
    assert not np.array_equal(pixels(tmp_path, 0), other)
    large = records(drawn)
    # a swap whose other half lies beyond the end is not made
    planned = list(plan_pairs(PAIRS, seed=3))[:25]
    cut = [p.number for p in planned if p.injected == "miscaption" and (p.partner or 0) >= 25]
    for i, row in enumerate(records(tmp_path)):
        assert row == large[i] or i in cut
        assert np.array_equal(pixels(drawn, i), pixels(tmp_path, i))


def test_shares_of_injected_errors_and_the_long_tail(
    plans: list[PlannedPair],
) -> None:
    counts = Counter(plan.injected for plan in plans)
    assert counts == {None: 957, "miscaption": 44, "vague": 44, "atypical": 33, "duplicate": 22}
    combinations = Counter(plan.scene.main for plan in plans)
    tenth = combinations.most_common(len(combinations) // 10)
    assert sum(count for _, count in tenth) > 0.35 * len(plans)
    assert sum(count == 1 for count in combinations.values()) >= 20
    assert {plan.scene.main.kind for plan in plans} == set(OBJECT_KINDS)
    swapped = [plan for plan in plans if plan.injected == "miscaption"]
    assert {plan.number for plan in swapped} == {plan.partner for plan in swapped}


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_captions_and_places_agree_with_the_plan(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = plan_scene(rng)
    captions = captions_of(scene, rng)
    assert len(set(captions)) == 5
    assert not re.search(r"\ba [aeio]|\ban [^aeiou]|  |[{}]", " ".join(captions))
    # colours and objects that belong to the words for a place or a light
    groups = ("standing_in", "hanging_in", "places")
    phrases = [phrase for group in groups for phrase in PHRASES[group][scene.place]]
    text = " ".join(captions)
    for phrase in sorted([*phrases, "soft green light", "in blue water"], key=len, reverse=True):
        text = text.replace(phrase, "")
    words = set(re.findall(r"[a-z]+", text.lower()))
    assert words & set(COLOURS) == {thing.colour for thing in scene.things}
    assert {kind for kind, facts in OBJECT_KINDS.items() if words & {kind, facts.plural}} == {
        t.kind for t in scene.things
    }
    counts = {n for n, word in enumerate(NUMBERS) if word in words}
    assert counts <= ({scene.count} if scene.count > 1 else set())
    spots = place_objects(scene, rng)
    assert len(spots) == (scene.count if scene.other is None else 2)
    for spot in spots:
        kind = OBJECT_KINDS[spot.thing.kind]
        assert kind.half_width * spot.size < min(spot.x, 1 - spot.x)
        assert kind.half_height * spot.size < min(spot.y, 1 - spot.y)
    if scene.other is not None:
        main, other = (next(s for s in spots if s.thing == thing) for thing in scene.things)
        assert {
            "left": main.x < other.x - 0.3,
            "right": main.x > other.x + 0.3,
            "above": main.y < other.y - 0.3 and abs(main.x - other.x) < 0.1,
            "below": main.y > other.y + 0.3 and abs(main.x - other.x) < 0.1,
            "front": spots[1] is main and main.y > other.y,
            "on": main.y < other.y - 0.2 and main.x == other.x,
        }[scene.relation]
