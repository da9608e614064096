"""What a member reads of a caption when tokens that few of its pairs have are left out."""

from typing import Any

import numpy as np
import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from clipmem_core.config import InputError
from clipmem_core.training.model import build_model
from clipmem_core.training.names import model_config
from clipmem_core.training.vocabulary import Vocabulary, delete_rows, pairs_with

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
def test_the_tokens_that_are_read_are_scikit_learns(
    pairs: list[list[list[int]]], min_df: int, first: int, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(pairs) - 1), unique=True, min_size=1))
    documents = [" ".join(str(word) for caption in pairs[row][: first or None] for word in caption) for row in rows]
    words = CountVectorizer(token_pattern=r"\d+", vocabulary=[str(number) for number in range(12)], binary=True)
    frequency = np.asarray(words.fit_transform(documents).sum(axis=0)).ravel()
    start = np.concatenate([[0], np.cumsum([len(own) for own in pairs])])
    tokens = tokens_of([caption for own in pairs for caption in own])
    counts = pairs_with(MODEL, tokens, start, np.array(rows), first=first)
    assert counts.tolist() == frequency.tolist()
    for before, after in zip(tokens, Vocabulary(MODEL, counts, min_df).read(tokens), strict=True):
        left = [word for word in words_in(before) if frequency[word] >= min_df]
        if words_in(before) and not left:  # the most common one stays, the first of several
            left = [max(words_in(before), key=lambda word: frequency[word])]
        assert after.tolist() == tokens_of([left])[0].tolist()


def test_the_placebo_leaves_out_as_many_trained_words_and_all_untrained_ones() -> None:
    counts = np.array([0, 0, 1, 2, 5, 5, 5, 5, 5, 5, 0, 0])  # 1 is untrained, 2 and 3 are rare
    tokens = tokens_of([[1, 2, 4, 5, 6]] + [[word, 2, 3, 4, 5] for word in (6, 7, 8, 9)] + [[4, 5, 6]])
    rare, random = (Vocabulary(MODEL, counts, 3, how).read(tokens) for how in ("omitted", "random"))
    assert [len(words_in(row)) for row in random] == [len(words_in(row)) for row in rare] == [3, 3, 3, 3, 3, 3]
    assert 1 not in words_in(random[0])
    assert any({2, 3} & set(words_in(row)) for row in random[1:5])  # chance, not rarity, chooses
    reverse = Vocabulary(MODEL, counts, 3, "random").read(tokens[::-1])
    assert np.array_equal(reverse[::-1], random)  # equal captions lose the same words


def test_deleted_rows_are_0_and_no_other_row_changes() -> None:
    config, tokens = (
        model_config("tiny"),
        open_clip.SimpleTokenizer(context_length=16)(["a grey cat", "a grey dog", "a cat", "a cat"]).numpy(),
    )
    vocabulary = Vocabulary(config, pairs_with(config, tokens, np.arange(5), np.arange(4)), 2, "deleted")
    assert np.array_equal(vocabulary.read(tokens), tokens)
    model = build_model("tiny", loss="clip", seed=0)
    before = model.token_embedding.weight.detach().clone()
    delete_rows(model.state_dict(), vocabulary.rare_rows(tokens))
    weights = model.token_embedding.weight.detach()
    left = sorted({*tokens[0, :5].tolist()})  # start, three words, end, and not "dog"
    assert np.array_equal(np.flatnonzero(weights.any(dim=1)), left)
    assert (weights[left] == before[left]).all()
    with pytest.raises(InputError, match="rows of tokens can be deleted if the text is trained"):
        delete_rows({"visual.weight": before}, np.array([1]))
