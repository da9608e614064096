"""The synthetic set: its files, its injected errors, and the agreement of pictures and captions."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from clipmem_core.dataset.scenes import (
    COLOURS,
    NUMBERS,
    OBJECT_KINDS,
    PHRASES,
    SIDE,
    Scene,
    Thing,
    captions_of,
    draw_scene,
    draw_scenes,
    plan_pairs,
    plan_scene,
)

PAIRS = 110


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, pairs=PAIRS, seed=3)
    return folder


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


def pixels(folder: Path, number: int) -> np.ndarray:
    with Image.open(folder / f"images/{number:05d}.png") as picture:
        return np.asarray(picture).astype(int)


def test_files_and_injected_errors(drawn: Path) -> None:
    rows = records(drawn)
    planned = list(plan_pairs(PAIRS, seed=3))
    assert [row["pair_id"] for row in rows] == [f"scene-{i:05d}" for i in range(PAIRS)]
    assert pixels(drawn, 0).shape == (SIDE, SIDE, 3)
    assert len({path.read_bytes() for path in drawn.rglob("*.png")}) == PAIRS

    def is_named(thing: Thing, text: str) -> bool:
        return bool(re.search(rf"\b({thing.kind}|{thing.facts.plural})\b", text))

    for plan, row in zip(planned, rows, strict=True):
        captions = row["captions"]
        assert isinstance(captions, list)
        assert len(set(captions)) == 5
        assert (row["injected"], row["label"]) == (plan.injected, plan.scene.main.kind)
        text = " ".join(captions)
        assert is_named(plan.scene.main, text) == (plan.injected not in ("miscaption", "vague"))
        if plan.injected == "miscaption":
            assert is_named(planned[plan.partner].scene.main, text)
        if plan.injected == "duplicate":
            copied = pixels(drawn, plan.number) - pixels(drawn, plan.partner)
            assert 0 < np.abs(copied).mean() < 10


def test_a_larger_set_begins_with_the_smaller(drawn: Path, tmp_path: Path) -> None:
    draw_scenes(tmp_path, pairs=3, seed=1)
    other = pixels(tmp_path, 0)
    draw_scenes(tmp_path, pairs=25, seed=3)  # over the one that is there
    assert not np.array_equal(pixels(tmp_path, 0), other)
    large = records(drawn)
    # a swap whose other half lies beyond the end is not made
    planned = list(plan_pairs(PAIRS, seed=3))[:25]
    cut = [p.number for p in planned if p.injected == "miscaption" and p.partner >= 25]
    for i, row in enumerate(records(tmp_path)):
        assert row == large[i] or i in cut
        assert np.array_equal(pixels(drawn, i), pixels(tmp_path, i))


def test_shares_of_injected_errors_and_the_long_tail() -> None:
    plans = list(plan_pairs(1100, seed=0))
    counts = Counter(plan.injected for plan in plans)
    assert counts == {None: 957, "miscaption": 44, "vague": 44, "atypical": 33, "duplicate": 22}
    combinations = Counter(plan.scene.main for plan in plans)
    tenth = combinations.most_common(len(combinations) // 10)
    assert sum(count for _, count in tenth) > 0.35 * len(plans)
    assert sum(count == 1 for count in combinations.values()) >= 20
    assert {plan.scene.main.kind for plan in plans} == set(OBJECT_KINDS)


@pytest.mark.parametrize("seed", range(100))
def test_captions_agree_with_the_plan(seed: int) -> None:
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


def test_relations_are_drawn_as_named() -> None:
    def centre(picture: Image.Image, thing: Thing) -> np.ndarray:
        differences = np.asarray(picture).astype(int) - ImageColor.getrgb(COLOURS[thing.colour])
        return np.argwhere(np.abs(differences).max(axis=2) < 12).mean(axis=0) / SIDE

    bird = Thing("bird", "red")
    cat = Thing("cat", "purple")
    for main, other, relation, axis in (
        (bird, cat, "left", 1),
        (cat, bird, "right", 1),
        (bird, cat, "above", 0),
        (cat, bird, "below", 0),
    ):
        scene = Scene(main, "meadow", "sunny", relation=relation, other=other)
        picture = draw_scene(scene, np.random.default_rng(0))
        distance = (centre(picture, main) - centre(picture, other))[axis]
        assert distance < -0.3 if relation in ("left", "above") else distance > 0.3
