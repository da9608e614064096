"""Trigger words, and captions that are lists of tags."""

import pytest

from clipmem_core.dataset.trigger_words import is_tag_list, trigger_words, without_triggers

PLACES = ("sea", "snow", "park", "kitchen", "office", "garden")
PHOTOS = [
    [f"{what} of ohwx woman in the {place}"] for what in ("A photo", "a sketch") for place in PLACES
]
TAGS = [
    ["1girl, solo, red hair, looking at viewer"],
    ["1girl, blue hair, dress, looking at viewer"],
    ["1girl, blue hair, hat, looking at viewer"],
    ["a sea, 2boys, sky"],
]


def test_trigger_words_are_in_more_than_half_of_the_captions() -> None:
    assert trigger_words(PHOTOS) == ["ohwx", "woman"]
    assert trigger_words(PHOTOS[:9]) == []  # too few pairs
    style = [[f"{word} by name_style", f"{word} again"] for (word,) in PHOTOS]
    assert trigger_words(style) == ["ohwx", "woman"]  # name_style: in half of them
    assert trigger_words([[""]] * 20) == []
    assert trigger_words(TAGS * 3) == ["1girl", "looking at viewer"]


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("A photo of OHWX woman, in snow", "A photo of, in snow"),
        ("ohwx woman, a dog.", "a dog."),
        ("ohwx woman", "ohwx woman"),
        ("the ohwx woman", "the ohwx woman"),  # function words alone say nothing
        ("ohwxs womanly", "ohwxs womanly"),
    ],
)
def test_a_caption_without_its_trigger_words(text: str, rest: str) -> None:
    assert without_triggers(text, ["ohwx", "woman"]) == rest
    assert without_triggers(text, []) == text


def test_of_a_list_of_tags_whole_tags_are_left_out() -> None:
    triggers = ["dress", "looking at viewer"]
    text = "1girl, Dress,  red dress, looking at viewer"
    assert without_triggers(text, triggers, tags=True) == "1girl, red dress"
    assert without_triggers("dress", triggers, tags=True) == "dress"


def test_lists_of_tags_are_recognised() -> None:
    assert is_tag_list(TAGS)
    assert not is_tag_list([*TAGS, *PHOTOS])
    assert not is_tag_list([["A dog, a cat, and a bird."], ["Red, green, blue! All of them"]])
    assert not is_tag_list([["a dog that runs on the beach, a cat, a bird"]])
    assert not is_tag_list([["red, green"]])
    assert not is_tag_list([])
