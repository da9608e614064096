import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from clipmem_core.pairs.scenes.draw import Plan, draw_scenes, plan_pairs
from clipmem_core.pairs.scenes.paint import SIDE
from clipmem_core.pairs.scenes.phrases import VAGUE
from PIL import Image

from clipmem_core.config import InputError
from clipmem_core.pairs.scenes.plan import KINDS, Thing

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
    assert len({path.read_bytes() for path in drawn.rglob("*.png")}) == PAIRS
    data = (drawn / "images/00000.png").read_bytes()
    assert b"tIME" not in data
    assert b"tEXt" not in data


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
    for seed in (0, 1):
        draw_scenes(tmp_path / str(seed), pairs=4, seed=seed)
    assert records(tmp_path / "0") != records(tmp_path / "1")
    assert (tmp_path / "0/images/00000.png").read_bytes() != (tmp_path / "1/images/00000.png").read_bytes()


def test_the_default_plants_the_promised_shares_among_attributes_with_a_long_tail(plans: list[Plan]) -> None:
    counts = Counter(plan.planted for plan in plans)
    assert counts == {None: 957, "miscaption": 44, "vague": 44, "atypical": 33, "duplicate": 22}
    combinations = Counter((plan.scene.main.kind, plan.scene.main.colour) for plan in plans)
    shares = np.sort(list(combinations.values()))[::-1] / len(plans)
    assert shares[: len(shares) // 10].sum() > 0.35
    assert sum(count == 1 for count in combinations.values()) >= 20
    assert len(Counter(plan.scene.main.kind for plan in plans)) == len(KINDS)


def test_a_miscaptioned_pair_has_the_captions_of_another_that_shares_neither_kind_nor_colour(plans: list[Plan]) -> None:
    swapped = [plan for plan in plans if plan.planted == "miscaption"]
    assert Counter(plan.number for plan in swapped) == Counter(plan.partner for plan in swapped)
    for plan in swapped:
        assert plan.partner not in (None, plan.number)
        told = plans[plan.partner or 0].scene
        assert {t.kind for t in plan.scene.things}.isdisjoint(t.kind for t in told.things)
        assert {t.colour for t in plan.scene.things}.isdisjoint(t.colour for t in told.things)
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


def test_too_few_pairs_and_a_negative_seed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scenes_pairs must be 1 or more, got 0"):
        draw_scenes(tmp_path / "set", pairs=0)
    assert not (tmp_path / "set").exists()
    with pytest.raises(InputError, match="scenes_seed must be 0 or more, got -1"):
        draw_scenes(tmp_path / "set", seed=-1)
