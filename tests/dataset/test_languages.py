"""Languages of captions: what is certain, shares, what a tower reads, and what is another one."""

from dataclasses import replace

import pytest

from clipmem_core.config import preset_config
from clipmem_core.dataset.checks import Captions, caption_flags
from clipmem_core.dataset.languages import is_read, language_of, language_shares, mostly_english
from clipmem_core.dataset.scenes import captions_of, plan_pairs, stream
from clipmem_core.features.tower_by_language import describe_languages, with_text_tower

SENTENCES = {
    "de": "Ein Hund läuft über die Wiese.",
    "fr": "Deux enfants jouent sur la plage.",
    "ar": "طفلان يلعبان على الشاطئ.",
    "zh": "两个孩子在海滩上玩耍。",
    "ja": "二人の子供が浜辺で遊んでいる。",
    "hi": "दो बच्चे समुद्र तट पर खेल रहे हैं।",
    "en": "Two children play on the beach.",
}
ENGLISH = [
    text
    for plan in plan_pairs(300, seed=0)
    for text in captions_of(plan.scene, stream(0, plan.number, 2))
]
TITLES = [f"{thing} {number}" for thing in ("Ferrari", "Sushi", "Doughnut") for number in range(40)]


def test_sentences_have_their_language_and_short_english_texts_no_other() -> None:
    assert {name: language_of(text) for name, text in SENTENCES.items()} == {
        name: name for name in SENTENCES
    }
    assert {language_of(text) for text in (*ENGLISH, *TITLES)} == {"en", ""}
    assert list(language_shares(ENGLISH)) == ["en"]
    assert mostly_english(language_shares(TITLES[:3]))


def test_shares_count_every_caption_and_short_ones_by_twenties() -> None:
    short = ["Hund", "Katze", "Garten mit Blumen", "rotes Kleid", "Haus am See"] * 20
    assert not any(map(language_of, short[:2]))
    shares = language_shares([*short, *[SENTENCES["hi"]] * 100])
    assert shares == {"de": 0.5, "hi": 0.5}
    chosen = with_text_tower(preset_config("locked"), shares)
    described = describe_languages(shares, chosen)
    assert "German 50 %" in described
    assert "Hindi is not read" in described
    unknown = replace(chosen, text_tower="another")
    assert "not read" not in describe_languages(shares, unknown)
    assert not mostly_english(shares)


@pytest.mark.parametrize(
    ("text", "languages", "expected"),
    [
        (SENTENCES["de"], ["en"], False),
        (SENTENCES["de"], ["de", "en"], True),
        (SENTENCES["hi"], ["de", "en"], False),
        (SENTENCES["hi"], [], True),
        ("собака", ["en"], False),  # Russian or Bulgarian: the script is clear
        ("Guernica", ["en"], True),
        ("42", ["en"], True),
    ],
)
def test_a_caption_is_not_read_if_it_is_clearly_in_another_language(
    text: str, languages: list[str], expected: bool
) -> None:
    assert is_read(text, languages) == expected


def other(pairs: list[list[str]]) -> list[bool]:
    return caption_flags(Captions.from_pairs(pairs))["other_language"].tolist()


def test_another_language_is_that_of_few_captions_or_of_a_minority_of_a_pair() -> None:
    english, german = SENTENCES["en"], SENTENCES["de"]
    rare = [[english]] * 9 + [[german]]
    assert other(rare) == [False] * 9 + [True]
    by_half = [[english, german]] * 10  # by design
    assert not any(other(by_half))
    mixed = [[english] * 2, [german] * 2] * 5 + [[german, german, english]]
    assert other(mixed) == [False] * 22 + [True]
