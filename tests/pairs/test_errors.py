"""What each kind of injected error changes, and swaps of captions against an exhaustive search."""

import re
from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from clipmem_core.config import InputError
from clipmem_core.pairs.errors import (
    CONSIDERED,
    ERROR_KINDS,
    NEAREST,
    inject_errors,
    picture_sources,
    plant_miscaptions,
)

ANIMALS, PLACES = ["cat", "dog", "cow", "horse", "sheep"], ["garden", "street", "house", "river"]
COLOURS, COUNTS = ["red", "blue", "green"], ["one", "two", "three"]


def table(n: int = 120, labels: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    captions = [
        [
            f"{rng.choice(COUNTS)} {rng.choice(COLOURS)} {rng.choice(ANIMALS)} near the {rng.choice(PLACES)} {i}"
            for _ in range(2)
        ]
        for i in range(n)
    ]
    return pd.DataFrame(
        {
            "pair_id": [f"p{i}" for i in range(n)],
            "image": [f"{i}.png" for i in range(n)],
            "captions": captions,
            "label": [f"l{i % labels}" for i in range(n)] if labels else None,
            "width": 8,
            "height": np.arange(n),
            "sha256": [f"s{i}" for i in range(n)],
            "planted": pd.Series([None] * n, dtype=object),
        }
    )


def changed(pairs: pd.DataFrame, planted: pd.DataFrame) -> np.ndarray:
    return np.flatnonzero([a != b for a, b in zip(pairs["captions"], planted["captions"], strict=True)])


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_a_share_of_the_rows_is_planted_and_the_rest_stays(kind: str) -> None:
    pairs, rows = table(), np.arange(20, 120)
    pairs.loc[25, "planted"] = "vague"
    before = pairs.copy(deep=True)
    planted = inject_errors(kind, pairs, rows, share=0.2, seed=3)
    found = np.flatnonzero(planted["planted"].notna() & pairs["planted"].isna())
    assert abs(len(found) - 20) <= 2  # of 99 that are free; inside four labels each rounds its own
    assert set(found) <= set(rows) - {25}
    if kind == "duplicates":
        assert set(changed(pairs, planted)) < set(found)
    else:
        assert changed(pairs, planted).tolist() == found.tolist()
    rest = np.setdiff1d(np.arange(120), found)
    pd.testing.assert_frame_equal(planted.iloc[rest], pairs.iloc[rest], check_dtype=False)
    pd.testing.assert_frame_equal(pairs, before)
    pd.testing.assert_frame_equal(inject_errors(kind, pairs, rows, share=0.2, seed=3), planted)
    assert not inject_errors(kind, pairs, rows, share=0.2, seed=4).equals(planted)


def test_near_captions_are_swapped_between_pairs_that_scikit_learn_finds_near() -> None:
    pairs = table()
    planted = inject_errors("nearest", pairs, np.arange(120), share=0.3, seed=0)
    texts = [" ".join(captions) for captions in pairs["captions"]]
    cosines = cosine_similarity(TfidfVectorizer(token_pattern=r"\w+", sublinear_tf=True).fit_transform(texts))
    np.fill_diagonal(cosines, -1)
    ranks = []
    for row in changed(pairs, planted):
        other = texts.index(" ".join(planted["captions"][row]))
        assert planted["captions"][other] == pairs["captions"][row]
        ranks.append(min((cosines[a] > cosines[a, b] + 1e-9).sum() for a, b in ((row, other), (other, row))))
    assert max(ranks) < CONSIDERED
    assert np.mean(ranks) < NEAREST


def test_a_partly_wrong_caption_differs_in_one_word_of_one_kind() -> None:
    pairs = table()
    planted = inject_errors("partly", pairs, np.arange(120), share=0.5, seed=0)
    kinds = [COLOURS, COUNTS, [*ANIMALS, *PLACES, "near"]]
    for row in changed(pairs, planted):
        new = set()
        for old_text, new_text in zip(pairs["captions"][row], planted["captions"][row], strict=True):
            old_words, new_words = old_text.split(), new_text.split()
            ((old, now),) = ((a, b) for a, b in zip(old_words, new_words, strict=True) if a != b)
            is_number = re.fullmatch(r"\d+", old) and re.fullmatch(r"\d+", now)
            assert is_number or any(old in kind for kind in kinds)
            new.add(now)
        assert len(new) <= 2


def test_a_duplicate_has_picture_and_captions_of_another_and_both_are_marked() -> None:
    pairs = table()
    planted = inject_errors("duplicates", pairs, np.arange(120), share=0.1, seed=0)
    source = picture_sources(pairs, planted)
    copies = np.flatnonzero(source != np.arange(120))
    assert len(copies) == 6
    for row in copies:
        for column in ("image", "captions", "label", "height", "sha256"):
            assert planted[column][row] == pairs[column][source[row]] == planted[column][source[row]]
        assert planted["pair_id"][row] == f"p{row}"
    marked = np.flatnonzero(planted["planted"] == "duplicate")
    assert set(marked) == {*copies, *source[copies]}
    assert len(marked) == 12


@pytest.mark.parametrize(
    ("kind", "pairs", "share", "message"),
    [
        ("labels", table(), 0.2, "kind 'labels' of mistake is unknown: choose of random, label,"),
        ("label", table(labels=0), 0.2, "no pair has a label"),
        ("label", table(labels=60), 0.05, "no label has two pairs to swap at a share of 5%"),
        ("random", table(n=20), 0.05, "5% of 20 pairs are fewer than 2"),
        ("nearest", table().assign(captions=[["same"]] * 120), 0.2, "only 0 pairs have another caption near their own"),
        ("partly", table().assign(captions=[["of the"]] * 120), 0.2, "only 0 pairs have a word in each caption"),
    ],
)
def test_where_there_is_no_room_one_line_says_why(kind: str, pairs: pd.DataFrame, share: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inject_errors(kind, pairs, np.arange(len(pairs)), share=share, seed=0)


FEW_TEXTS = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=2, unique=True), min_size=2, max_size=6)


def of_captions(captions: list[list[str]]) -> pd.DataFrame:
    return pd.DataFrame({"captions": captions, "planted": pd.Series([None] * len(captions), dtype=object)})


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


@settings(max_examples=50)
@given(FEW_TEXTS, st.integers(2, 6), st.integers(0, 100))
def test_shared_captions_are_swapped_wherever_an_exhaustive_search_finds_a_way(
    captions: list[list[str]], n: int, seed: int
) -> None:
    n = min(n, len(captions))
    pairs = of_captions(captions)
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


def test_a_number_that_cannot_be_planted_is_refused() -> None:
    pairs = of_captions([[f"caption {i}"] for i in range(4)])
    for n, message in ((1, "2 and more, got 1"), (-2, "2 and more, got -2"), (4, "at most 3, .* got 4")):
        with pytest.raises(InputError, match=f"plant_miscaptions .*{message}"):
            plant_miscaptions(pairs, np.arange(3), n=n, seed=0)
    pd.testing.assert_frame_equal(plant_miscaptions(pairs, np.array([], dtype=int), n=0, seed=0), pairs)
