"""The words of captions: numbers, the ratio of a caption, and the words that models compare them
with."""

import itertools

import numpy as np
from numpy.testing import assert_allclose

from clipmem_core.errors.words import (
    COMPARED_KINDS,
    changed_words,
    kind_of,
    mean_ratio,
    number_words,
    split_words,
)
from clipmem_core.utils.ragged import Ragged

CAPTIONS = [
    ["A red dog, two cats", "a RED dog"],
    ["the blue dog and three cats"],
    [""],
    ["red blue dog cats two three"],
] * 5


def test_words_are_numbered_by_frequency_without_grammar() -> None:
    words = split_words(CAPTIONS, english=True)
    predicted = words.spelled[: words.vocabulary_size - 2]
    assert set(predicted) == {"red", "dog", "two", "cats", "blue", "three"}  # not a, the, and
    assert words.in_captions.counts[:5].tolist() == [5, 3, 6, 0, 6]
    assert words.captions.counts[:4].tolist() == [2, 1, 1, 1]
    assert_allclose(words.frequency.sum(), 1)
    rare = split_words([["zebra zebra zebra zebra zebra"], *[["dog"]] * 5], english=True)
    assert rare.spelled[: rare.vocabulary_size - 2] == ["dog"]


def test_words_of_another_language_are_of_one_kind_without_the_most_frequent() -> None:
    captions = [[f"Der {word} im Garten"] for word in ("Hund", "red", "zwei") for _ in range(5)]
    fillers = [[f"Bild {number}"] for number in range(45)]
    words = split_words([*captions, *fillers], english=False)
    # "der", "im" and "garten" are in 15 of 60 captions, "bild" in 45, the others in 5
    assert set(words.spelled[: words.vocabulary_size - 2]) == {"hund", "red", "zwei"}
    assert set(words.kinds[2:]) == {COMPARED_KINDS.index("other word")}


def test_trigger_words_are_read_but_not_predicted_and_a_tag_is_one_word() -> None:
    words = split_words(CAPTIONS, english=True, triggers=["dog"])
    assert "dog" not in words.spelled[: words.vocabulary_size - 2]
    assert "dog" in words.spelled
    tags = split_words([["Red hair,  solo,"], ["red hair, a hat"]] * 5, english=True, tags=True)
    assert set(tags.spelled) == {"red hair", "solo", "a hat"}
    other = number_words([["solo, red hair, red"]], like=tags)
    assert [tags.spelled[number - 2] for number in other.ids[:2]] == ["solo", "red hair"]
    assert other.ids[2] == 1


def test_a_captions_score_is_log_mean_exp_of_its_words() -> None:
    rng = np.random.default_rng(0)
    start = np.array([0, 3, 3, 10])
    values = rng.normal(size=10)
    values[1] = np.nan
    parts = [values[a:b][np.isfinite(values[a:b])] for a, b in itertools.pairwise(start)]
    expected = [np.log(np.exp(part).mean()) if len(part) else np.nan for part in parts]
    assert_allclose(mean_ratio(values, Ragged(start)), expected)


def test_words_are_compared_with_another_of_their_kind() -> None:
    words = split_words(CAPTIONS, english=True)
    changed = changed_words(words)
    spelled = np.array(["", "", *words.spelled])
    pairs = {f"{spelled[a]} {spelled[b]}" for a, b in zip(words.ids, changed, strict=True) if b}
    assert pairs == {"red blue", "blue red", "two three", "three two", "dog cats", "cats dog"}
    kinds = [COMPARED_KINDS[kind_of(word, english=True)] for word in ("red", "two", "17", "dog")]
    assert kinds == ["colour", "number", "number", "other word"]
