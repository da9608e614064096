from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.config import InputError
from clipmem_core.pairs.planting import plant_miscaptions, plant_one_caption

few_texts = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=2, unique=True), min_size=2, max_size=6)


def table(captions: list[list[str]], planted: list[str | None] | None = None) -> pd.DataFrame:
    n = len(captions)
    return pd.DataFrame(
        {
            "pair_id": [f"p{i}" for i in range(n)],
            "image": [f"{i}.png" for i in range(n)],
            "captions": captions,
            "label": "x",
            "planted": pd.Series(planted or [None] * n, dtype=object),
        }
    )


def distinct(n: int) -> pd.DataFrame:
    return table([[f"caption {i}", f"other caption {i}"] for i in range(n)])


def texts(pairs: pd.DataFrame) -> Counter[tuple[str, ...]]:
    return Counter(tuple(captions) for captions in pairs["captions"])


def can_swap(captions: list[list[str]], n: int) -> bool:
    """Try every choice of n pairs and every order."""
    own = [set(texts) for texts in captions]
    return any(
        all(own[i].isdisjoint(own[j]) for i, j in zip(chosen, order, strict=True))
        for chosen in combinations(range(len(own)), n)
        for order in permutations(chosen)
    )


@settings(max_examples=40)
@given(st.integers(2, 40), st.data())
def test_exactly_n_pairs_of_the_rows_get_foreign_captions_and_nothing_else_changes(
    size: int, data: st.DataObject
) -> None:
    pairs = distinct(size)
    rows = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=2, unique=True)))
    n = data.draw(st.integers(2, len(rows)))
    seed = data.draw(st.integers(0, 1000))
    planted = plant_miscaptions(pairs, rows, n=n, seed=seed)
    changed = np.flatnonzero(planted["planted"] == "miscaption")
    assert len(changed) == n
    assert set(changed) <= set(rows)
    assert texts(planted) == texts(pairs)
    for i in range(size):
        assert (planted["captions"][i] != pairs["captions"][i]) == (i in changed)
    same = ["pair_id", "image", "label"]
    pd.testing.assert_frame_equal(planted[same], pairs[same])
    pd.testing.assert_frame_equal(plant_miscaptions(pairs, rows, n=n, seed=seed), planted)
    pd.testing.assert_frame_equal(pairs, distinct(size))


@settings(max_examples=50)
@given(few_texts, st.integers(2, 6), st.integers(0, 100))
def test_shared_captions_are_swapped_wherever_an_exhaustive_search_finds_a_way(
    captions: list[list[str]], n: int, seed: int
) -> None:
    n = min(n, len(captions))
    pairs = table(captions)
    if not can_swap(captions, n):
        with pytest.raises(InputError, match=f"which {n} pairs cannot do here"):
            plant_miscaptions(pairs, np.arange(len(captions)), n=n, seed=seed)
        return
    planted = plant_miscaptions(pairs, np.arange(len(captions)), n=n, seed=seed)
    changed = np.flatnonzero(planted["planted"].notna())
    assert len(changed) == n
    for i in changed:
        assert set(planted["captions"][i]).isdisjoint(captions[i])
    assert texts(planted) == texts(pairs)


def test_a_boilerplate_title_of_most_pairs_never_comes_back_to_one_of_them() -> None:
    pairs = table([["untitled"]] * 900 + [[f"a picture of {i}"] for i in range(100)])
    planted = plant_miscaptions(pairs, np.arange(1000), n=200, seed=1)
    changed = np.flatnonzero(planted["planted"].notna())
    assert len(changed) == 200
    assert all(planted["captions"][i] != pairs["captions"][i] for i in changed)
    with pytest.raises(InputError, match="too many share the same caption text"):
        plant_miscaptions(pairs, np.arange(1000), n=202, seed=1)


def test_captions_as_arrays_and_any_index_are_read() -> None:
    pairs = distinct(4).set_index(pd.Index([7, 7, 3, 9]))
    pairs["captions"] = [np.array(captions, dtype=object) for captions in pairs["captions"]]
    planted = plant_miscaptions(pairs, np.array([1, 3]), n=2, seed=0)
    assert planted["captions"].iloc[1].tolist() == ["caption 3", "other caption 3"]
    assert planted["captions"].iloc[3].tolist() == ["caption 1", "other caption 1"]
    assert planted.index.tolist() == [7, 7, 3, 9]
    pairs = distinct(3)
    pd.testing.assert_frame_equal(plant_miscaptions(pairs, np.array([], dtype=int), n=0, seed=0), pairs)
    pairs = table([[str(i)] for i in range(5)], ["vague", None, "duplicate", None, None])
    planted = plant_miscaptions(pairs, np.arange(5), n=3, seed=2)
    assert planted["planted"].tolist() == ["vague", "miscaption", "duplicate", "miscaption", "miscaption"]
    assert planted["captions"][0] == ["0"]


def test_seeds_draw_other_pairs_and_each_about_equally_often() -> None:
    drawn = {
        tuple(np.flatnonzero(plant_miscaptions(distinct(50), np.arange(50), n=5, seed=seed)["planted"].notna()))
        for seed in range(10)
    }
    assert len(drawn) == 10
    counts = np.zeros(10)
    for seed in range(300):
        counts += plant_miscaptions(distinct(10), np.arange(10), n=3, seed=seed)["planted"].notna().to_numpy()
    # 300 draws of 3 in 10: 90 each, standard deviation 8
    assert np.all(np.abs(counts - 90) < 35)


@pytest.mark.parametrize(
    ("captions", "rows", "n", "message"),
    [
        (["a", "b", "c"], 3, 1, "must be 0, or 2 and more, got 1"),
        (["a", "b", "c"], 3, -2, "must be 0, or 2 and more, got -2"),
        (["a", "b", "c", "d"], 3, 4, "must be at most 3, .* got 4"),
        (["untitled"] * 4, 4, 2, "too many share the same caption text"),
    ],
)
def test_a_number_that_cannot_be_planted_is_refused(captions: list[str], rows: int, n: int, message: str) -> None:
    with pytest.raises(InputError, match=f"plant_miscaptions .*{message}"):
        plant_miscaptions(table([[text] for text in captions]), np.arange(rows), n=n, seed=0)


def test_one_caption_of_several_is_another_pairs_and_the_others_stay() -> None:
    own = [[f"{row} a", f"{row} b", f"{row} c"] for row in range(20)] + [["alone"]]
    pairs = pd.DataFrame({"captions": own, "planted": [None] * 21})
    planted, place = plant_one_caption(pairs, np.arange(21), n=8, seed=0)
    assert (place >= 0).sum() == 8
    assert place[20] == -1
    for row, (before, after) in enumerate(zip(own, planted["captions"], strict=True)):
        changed = [number for number, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
        assert changed == ([place[row]] if place[row] >= 0 else [])
        assert all(after[number].split()[0] != str(row) for number in changed)
    assert planted["planted"].isna().all()
    with pytest.raises(InputError, match="20 have several"):
        plant_one_caption(pairs, np.arange(21), n=21, seed=0)
