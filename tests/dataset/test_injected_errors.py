"""The changes of each kind of injected error, and swaps of captions against an exhaustive
search."""

import re

import numpy as np
import pandas as pd
import pytest

from clipmem_core.dataset.injected_errors import (
    ERROR_KINDS,
    draw_displaced,
    inject_errors,
    inject_miscaptions,
)
from clipmem_core.dataset.sentences import sentences_of
from clipmem_core.utils.io import InputError

ANIMALS = ["cat", "dog", "cow", "horse", "sheep"]
PLACES = ["garden", "street", "house", "river"]
COLOURS = ["red", "blue", "green"]
COUNTS = ["one", "two", "three"]


def table(n: int = 120, labels: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    captions = [
        [
            f"{rng.choice(COUNTS)} {rng.choice(COLOURS)} {rng.choice(ANIMALS)} near the "
            f"{rng.choice(PLACES)} {i}"
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
            "injected": pd.Series([None] * n, dtype=object),
        }
    )


def changed(pairs: pd.DataFrame, injected: pd.DataFrame) -> np.ndarray:
    return np.flatnonzero(
        [a != b for a, b in zip(pairs["captions"], injected["captions"], strict=True)]
    )


def test_one_sentence_of_a_long_caption_is_replaced() -> None:
    pairs = table()
    pairs["captions"] = [
        ["A dog.", f"A {first} here. It has {second} here. The end of {first} comes."]
        for first, second in pairs["captions"]
    ]
    injected, changes = inject_errors("sentence", pairs, np.arange(100), share=0.2, seed=3)
    assert sorted({change.row for change in changes}) == changed(pairs, injected).tolist()
    assert len(changes) == 20
    for row, number, _ in changes:
        before = sentences_of([pairs["captions"][row][number]])
        after = sentences_of([injected["captions"][row][number]])
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize("kind", sorted(ERROR_KINDS.keys() - {"pipeline", "sentence"}))
def test_a_share_of_the_rows_is_injected_and_the_rest_stays(kind: str) -> None:
    pairs = table()
    rows = np.arange(20, 120)
    pairs.loc[25, "injected"] = "vague"
    before = pairs.copy(deep=True)
    injected, changes = inject_errors(kind, pairs, rows, share=0.2, seed=3)
    marked = np.flatnonzero(injected["injected"].notna() & pairs["injected"].isna())
    assert abs(len(marked) - 20) <= 2  # of 99; each of the four labels rounds its share
    assert set(marked) <= set(rows) - {25}
    if kind == "duplicates":
        assert set(changed(pairs, injected)) < set(marked)
        assert not changes
    else:
        assert changed(pairs, injected).tolist() == marked.tolist()
        at = [(row, number) for row in marked for number in (0, 1)]
        differ = [
            key
            for key in at
            if pairs["captions"][key[0]][key[1]] != injected["captions"][key[0]][key[1]]
        ]
        assert sorted(change[:2] for change in changes) == differ
        if kind != "mixed":
            assert len(differ) == len(marked) * (1 if kind in ("one-caption", "one-word") else 2)
    rest = np.setdiff1d(np.arange(120), marked)
    pd.testing.assert_frame_equal(injected.iloc[rest], pairs.iloc[rest], check_dtype=False)
    pd.testing.assert_frame_equal(pairs, before)
    assert not inject_errors(kind, pairs, rows, share=0.2, seed=4)[0].equals(injected)


@pytest.mark.parametrize("kind", ["one-word", "one-word-all"])
def test_one_word_is_changed_and_of_its_kind(kind: str) -> None:
    pairs = table()
    injected, changes = inject_errors(kind, pairs, np.arange(120), share=0.5, seed=0)
    vocabulary = {"colour": COLOURS, "number": COUNTS, "noun": [*ANIMALS, *PLACES, "near"]}
    assert {change.word_kind for change in changes} == set(vocabulary)
    new: dict[int, set[str]] = {}
    for row, number, word_kind in changes:
        old_words, new_words = (
            frame["captions"][row][number].split() for frame in (pairs, injected)
        )
        differ = [a != b for a, b in zip(old_words, new_words, strict=True)]
        assert sum(differ) == 1
        position = differ.index(True)
        word = old_words[position]
        assert word in vocabulary[word_kind] or (
            word_kind == "number" and re.fullmatch(r"\d+", word)
        )
        new.setdefault(row, set()).add(new_words[position])
    assert len(new) == 60
    assert max(map(len, new.values())) <= 2


@pytest.mark.parametrize(
    ("kind", "captions", "message"),
    [
        ("one-caption", ["a cat"], "2 captions or more"),
        ("one-word", ["of the"], "a word in their captions"),
        ("nearest", ["same"], "similar words"),
    ],
)
def test_too_few_pairs_are_an_input_error(kind: str, captions: list[str], message: str) -> None:
    pairs = table().assign(captions=[captions] * 120)
    with pytest.raises(InputError, match=f"only 0 pairs .*{message}.* 24 were"):
        inject_errors(kind, pairs, np.arange(120), share=0.2, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_a_swap_gives_every_pair_other_texts_or_is_refused(seed: int) -> None:
    captions = [["a", "b"], ["b", "c"], ["c", "d"], ["d", "a"]] * 2
    pairs = table(n=8).assign(captions=captions)
    injected = inject_miscaptions(pairs, np.arange(8), n=4, seed=seed)
    rows = np.flatnonzero(injected["injected"].notna())
    assert len(rows) == 4
    assert all(set(injected["captions"][row]).isdisjoint(captions[row]) for row in rows)
    assert sorted(injected["captions"]) == sorted(captions)
    for equal, n in (([["a"]] * 8, 4), (captions, 1), (captions, 9)):
        with pytest.raises(InputError, match="cannot swap|only 8 pairs"):
            inject_miscaptions(table(n=8).assign(captions=equal), np.arange(8), n=n, seed=seed)


def test_runs_are_displaced_as_a_pipeline_would() -> None:
    captions = [[f"caption {row}"] for row in range(2000)]
    pairs = pd.DataFrame({"pair_id": map(str, range(2000)), "captions": captions})
    pairs["injected"] = None
    injected, changes = inject_errors("pipeline", pairs, np.arange(2000), share=0.45, seed=1)
    runs = draw_displaced(2000, 900, 1)
    assert {run.kind for run in runs} == {"shift", "exchange", "reversal"}
    source = np.arange(2000)
    for run in runs:
        assert (source[run.rows] == run.rows).all()  # no two overlap
        source[run.rows] = run.sources
    assert [texts[0] for texts in injected["captions"]] == [f"caption {row}" for row in source]
    assert {change.row for change in changes} == set(np.flatnonzero(source != np.arange(2000)))
    assert 600 < len(changes) <= 900
    with pytest.raises(InputError, match="too few"):
        inject_errors("pipeline", pairs, np.arange(2000), share=0.005, seed=1)
