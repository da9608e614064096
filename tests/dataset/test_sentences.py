"""Sentences of captions: their places, in languages with and without spaces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.dataset.sentences import sentence_spans


@pytest.mark.parametrize(
    ("caption", "sentences"),
    [
        ("a dog", ["a dog"]),
        ("A dog runs. The grass is wet!", ["A dog runs.", "The grass is wet!"]),
        ("Dr. Smith waits at 3 p.m. He reads.", ["Dr. Smith waits at 3 p.m.", "He reads."]),
        ("一只狗在草地上跑。天空是蓝色的。", ["一只狗在草地上跑。", "天空是蓝色的。"]),
        ("Der Hund z.B. bellt. Es regnet.", ["Der Hund z.B. bellt.", "Es regnet."]),
    ],
)
def test_sentences_are_split_by_language_rules(caption: str, sentences: list[str]) -> None:
    assert [caption[start:end] for start, end in sentence_spans(caption)] == sentences


@given(st.text())
def test_sentences_lose_no_letter_and_do_not_overlap(caption: str) -> None:
    spans = sentence_spans(caption)
    between = [0, *(place for span in spans for place in span), len(caption)]
    assert between == sorted(between)
    gaps = zip(between[::2], between[1::2], strict=True)
    assert not "".join(caption[start:end] for start, end in gaps).strip() or len(spans) == 1
