from collections import Counter

import numpy as np
import pytest
from clipmem_core.pairs.checks.captions import (
    REPEATED,
    Captions,
    empty,
    file_name,
    gibberish,
    long,
    main_script,
    markup,
    of_pairs,
    other_script,
    repeated,
    short,
)

PLAIN = [
    "a frog on a lily pad",
    "Knightsbridge station at night",
    "AT&T building, R&D department, Q&A",
    "x < 3 and y > 2 in a diagram",
    "HTML5 logo and CCCP badge on an NTFS disk",
    "a chemical formula C6H12O6 on a blackboard",
    "Rhythms: a crypt, a lynx and a gypsy",
    "Übergrößenträger auf dem Rücken",
    "une forêt près d'Angoulême, « été »",
    "the angle θ between two rays",
    "the 1948 edition, p. 12",
    "a picture of a dog",
    "photo of IMG_0042 on a screen",
]


def one(text: str) -> Captions:
    return of_pairs([[text]])


@pytest.mark.parametrize("check", [empty, short, markup, gibberish, file_name, repeated, other_script, long])
@pytest.mark.parametrize("text", PLAIN)
def test_plain_captions_pass_every_check(check: object, text: str) -> None:
    assert check(one(text)).tolist() == [False]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("check", "texts"),
    [
        (empty, ["?!…", "—", "12", "1234-5678", "🐊"]),
        (short, ["frog", "a b", "青", "Georgia?"]),
        (markup, ["<b>frog</b>", "fish &amp; chips", "see https://example.org", "www.a.org", "[[File:frog]]"]),
        (markup, ['<img src="x" />', "a&nbsp;frog", "&#39;frog&#39;", "[frog](x)", "<!-- frog -->", "<br/>frog"]),
        (gibberish, ["CafÃ© in Paris", "itâ€™s a frog", "fro\ufffdg in a pond", "xkcdq wrtzp", "aaaaaah nooooo"]),
        (gibberish, ["a1b2c3d4e5f6", "qwrtpsdfg hjklzx"]),
        (file_name, ["IMG_0042.JPG", "DSC01234", "P1010001", "red_car_3", "Screenshot 2020-01-02", "my frog.png"]),
        (file_name, ["untitled", "image (3)", "C:/pictures/frog.webp"]),
    ],
)
def test_what_is_wrong_is_found(check: object, texts: list[str]) -> None:
    for text in texts:
        assert check(one(text)).tolist() == [True], text  # type: ignore[operator]


def test_a_caption_without_a_word_is_not_also_a_short_one() -> None:
    assert not short(one("12")).any()


def test_words_that_are_not_set_apart_are_counted_by_their_letters() -> None:
    assert short(of_pairs([["一只青蛙坐在荷叶上"], ["青蛙"]])).tolist() == [False, True]


def test_the_script_of_most_letters_counts_and_only_a_rare_one_is_another() -> None:
    texts = [["a frog"]] * 60 + [["лягушка на листе"]] * 40
    assert not other_script(of_pairs(texts)).any()  # both are the data set's own
    texts = [["a frog"]] * 99 + [["лягушка, frog"]]
    assert np.flatnonzero(other_script(of_pairs(texts))).tolist() == [99]
    assert [main_script(text) for text in ("ひらがな漢字", "ｆｒｏｇ", "한국어", "")] == ["CJK", "LATIN", "HANGUL", ""]


def test_repeats_are_counted_over_pairs_whatever_the_case() -> None:
    often = [["A frog", "another"], ["a  FROG"], ["a frog"], ["a frog"]]
    assert not repeated(of_pairs([*often, ["a frog ", "one more"]][: REPEATED - 1])).any()
    found = repeated(of_pairs([*often, ["a frog ", "one more"]]))
    assert found.tolist() == [True, False, True, True, True, True, False]
    assert not repeated(of_pairs([["a frog"] * 9])).any()  # of one pair alone


def test_repeats_agree_with_a_slow_count() -> None:
    rng = np.random.default_rng(0)
    texts = [[f"caption {number}" for number in rng.integers(0, 30, 2)] for _ in range(100)]
    times = Counter(text for own in texts for text in set(own))
    assert repeated(of_pairs(texts)).tolist() == [times[text] >= REPEATED for own in texts for text in own]


def test_what_the_tower_does_not_read_is_told_where_it_is_known() -> None:
    captions = one("a frog")
    assert long(Captions(captions.texts, captions.owner, np.array([True]))).tolist() == [True]
    assert long(captions).tolist() == [False]


@pytest.mark.parametrize("check", [empty, short, markup, gibberish, file_name, other_script])
def test_hostile_text_takes_no_time(check: object) -> None:
    for text in ("<" * 50_000, "a_" * 50_000, "(" * 50_000, "&" * 50_000, "Ã" * 50_000, "a1" * 50_000, "<a " * 20_000):
        check(one(text))  # type: ignore[operator]
