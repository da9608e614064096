"""Captions become the tokens that open_clip makes of them, without the special ones they spell."""

import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.training.model import tokenize

START, END = 49406, 49407
CAPTIONS = [
    "a photo of a cat",
    "Two DOGS, one ball & 3 sticks!",
    "  spaced \t out\n caption ",
    "größe, naïve café – “quoted” 日本語 🐈",
    "don't they'll we've I'm",
    "<b>bold</b> &amp; &lt;i&gt;",
    "voil\u00c3\u00a0 mojibake",
    "12345 x 67890",
    "!",
    "x",
    "",
]


@pytest.mark.parametrize(("model", "context"), [("tiny", 16), ("ViT-B-32", 77)])
def test_tokens_of_ordinary_captions_are_open_clips(model: str, context: int) -> None:
    tokens = tokenize(model, CAPTIONS)
    expected = open_clip.get_tokenizer("ViT-B-32")(CAPTIONS, context_length=context)
    assert tokens.dtype == "int32"
    assert tokens.shape == (len(CAPTIONS), context)
    assert (tokens == expected.numpy()).all()


@settings(max_examples=40)
@given(st.text(alphabet="abcXYZ 0189.,;:!?'\"()-–/&#@äéßñçøżдяλ中文日本🐈🎈 \n\t", max_size=60))
def test_tokens_of_any_ordinary_caption_are_open_clips(caption: str) -> None:
    expected = open_clip.tokenize([caption], context_length=16).numpy()
    assert (tokenize("tiny", [caption]) == expected).all()


@pytest.mark.parametrize(
    "spelled",
    [
        "<end_of_text>",
        "&lt;end_of_text&gt;",
        "&amp;lt;end_of_text&amp;gt;",
        "<start_of_text>",
        "<END_OF_TEXT>",
        "<end_of_text>" * 3,
    ],
)
def test_special_tokens_that_a_caption_spells_vanish(spelled: str) -> None:
    plain, odd = tokenize("tiny", ["a red dog", f"a {spelled} red {spelled} dog"])
    assert odd.tolist() == plain.tolist()
    assert tokenize("tiny", [spelled])[0, :3].tolist() == [START, END, 0]


def test_captions_of_any_length_keep_their_first_words_and_their_end() -> None:
    words = ["red", "green", "blue"] * 3334
    long, short = tokenize("tiny", [" ".join(words), " ".join(words[:14])])
    assert long.tolist() == short.tolist()
    assert (long != 0).all()
    assert tokenize("tiny", [" " * 50_000 + "dog"]).tolist() == tokenize("tiny", ["dog"]).tolist()
    tokens = tokenize("tiny", ["ab" * 50_000])
    assert tokens[0, [0, -1]].tolist() == [START, END]
    assert tokenize("tiny", []).shape == (0, 16)
