"""What a member reads of a caption when tokens that few of its pairs have are left out."""

import re
from typing import Any

import numpy as np
import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from clipmem_core.config import InputError
from clipmem_core.mitigations import can_cut_text
from clipmem_core.training.model import build_model
from clipmem_core.training.names import model_config
from clipmem_core.training.vocabulary import Vocabulary, caption_ends, delete_rows, pairs_with

MODEL: dict[str, Any] = {"text_cfg": {"vocab_size": 12, "context_length": 7}}
START, END = 10, 11
captions = st.lists(st.integers(1, 9), max_size=5)
pair_lists = st.lists(st.lists(captions, min_size=1, max_size=3), min_size=1, max_size=12)


def tokens_of(captions: list[list[int]]) -> np.ndarray:
    tokens = np.zeros((len(captions), 7), dtype=np.int32)
    for row, words in enumerate(captions):
        tokens[row, : len(words) + 2] = [START, *words, END]
    return tokens


def words_in(row: np.ndarray) -> list[int]:
    return [int(token) for token in row if 0 < token < START]


@given(pair_lists, st.integers(1, 4), st.integers(0, 2), st.data())
def test_the_tokens_known_are_scikit_learns(
    pairs: list[list[list[int]]], min_df: int, first: int, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(pairs) - 1), unique=True, min_size=1))
    documents = [" ".join(str(word) for caption in pairs[row][: first or None] for word in caption) for row in rows]
    words = CountVectorizer(token_pattern=r"\d+", vocabulary=[str(number) for number in range(12)], binary=True)
    vectors = words.fit_transform(documents)
    frequency = np.asarray(vectors.sum(axis=0)).ravel()
    start = np.concatenate([[0], np.cumsum([len(own) for own in pairs])])
    tokens = tokens_of([caption for own in pairs for caption in own])
    counts = pairs_with(MODEL, tokens, start, np.array(rows), first=first)
    assert counts.tolist() == frequency.tolist()
    read = Vocabulary(MODEL, counts, min_df).read(tokens)
    known = set(np.flatnonzero(frequency >= min_df).tolist())
    for before, after in zip(tokens, read, strict=True):
        left = [word for word in words_in(before) if word in known]
        if left or not words_in(before):
            assert words_in(after) == left
        else:  # the one that most pairs have, the first of several
            assert words_in(after) == [max(words_in(before), key=lambda word: frequency[word])]
        assert after.tolist() == tokens_of([words_in(after)])[0].tolist()


def test_captions_of_open_clips_tokenizer_lose_their_rare_words_alone() -> None:
    texts = ["a grey cat", "a grey dog", "a cat " * 3, "a grey cat " * 10]
    tokenize = open_clip.SimpleTokenizer(context_length=16)
    tokens = tokenize(texts).numpy()
    counts = pairs_with(model_config("tiny"), tokens, np.arange(5), np.arange(4))
    read = Vocabulary(model_config("tiny"), counts, 2).read(tokens)
    left = [re.sub(r" dog", "", text) for text in texts]
    assert np.array_equal(read, tokenize(left).numpy())
    assert Vocabulary(model_config("tiny"), counts, 4).read(tokens)[0].tolist() == tokenize(["a"])[0].tolist()


TEXT = {**model_config("tiny")["text_cfg"], "vocab_size": 99}


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ({}, False),
        ({"pool_type": "argmax"}, False),
        ({"pool_type": "eos", "eos_id": 98}, False),
        ({"pool_type": "last"}, True),
        ({"no_causal_mask": True}, True),
    ],
)
def test_a_configuration_says_what_a_model_says_of_its_captions_end(
    text: dict[str, Any], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**model_config("tiny"), "text_cfg": {**TEXT, **text}}
    monkeypatch.setattr("clipmem_core.training.model.model_config", lambda _: config)
    assert can_cut_text(build_model("tiny", loss="clip", seed=0)) is not refused
    tokens = np.array([[97, 5, 6, 98, 0], [97, 98, 0, 0, 0]])
    if refused:
        with pytest.raises(InputError, match="--text-min-df and --text-forget-df need a text encoder that reads up"):
            caption_ends(config, tokens)
    else:
        assert caption_ends(config, tokens).tolist() == [3, 1]


def test_the_placebo_leaves_out_as_many_trained_words_and_all_that_nobody_trained() -> None:
    counts = np.array([0, 0, 1, 2, 5, 5, 5, 5, 5, 5, 0, 0])  # 1 is unknown, 2 and 3 are rare
    tokens = tokens_of([[1, 2, 4, 5, 6]] + [[word, 2, 3, 4, 5] for word in (6, 7, 8, 9)] + [[4, 5, 6]])
    rare, random = (Vocabulary(MODEL, counts, 3, how).read(tokens) for how in ("omitted", "random"))
    assert [len(words_in(row)) for row in random] == [len(words_in(row)) for row in rare] == [3, 3, 3, 3, 3, 3]
    assert 1 not in words_in(random[0])
    kept = [words_in(row) for row in random[1:5]]
    assert any({2, 3} & set(own) for own in kept)  # chance, not rarity, chooses
    again = Vocabulary(MODEL, counts, 3, "random").read(tokens[::-1])
    assert np.array_equal(again[::-1], random)  # the same of a caption wherever it comes


def test_deleted_rows_read_as_nothing_and_no_other_row_moves() -> None:
    texts = ["a grey cat", "a grey dog", "a cat", "a cat"]
    tokens = open_clip.SimpleTokenizer(context_length=16)(texts).numpy()
    known = Vocabulary(
        model_config("tiny"), pairs_with(model_config("tiny"), tokens, np.arange(5), np.arange(4)), 2, "deleted"
    )
    assert np.array_equal(known.read(tokens), tokens)
    model = build_model("tiny", loss="clip", seed=0, image_size=0, pretrained="", device="cpu")
    before = model.token_embedding.weight.detach().clone()
    delete_rows(model.state_dict(), known.rare_rows(tokens))
    weights = model.token_embedding.weight.detach()
    dog = int(tokens[1, 3])
    kept = sorted({*tokens[0, :5].tolist()})  # start, three words, end
    assert not weights[dog].any()
    assert np.array_equal(np.flatnonzero(weights.any(dim=1)), kept)
    assert (weights[kept] == before[kept]).all()
    with pytest.raises(InputError, match="rows of tokens can be deleted where text is trained"):
        delete_rows({"visual.weight": before}, np.array([1]))
