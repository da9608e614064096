"""Words that are left out: how many, which, and what stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.config import InputError
from clipmem_core.draws import MASK, draw_keys, uniforms
from clipmem_core.training.mitigation.masking import Masking, drop_words, end_places
from clipmem_core.training.model import build_model, tokenize
from tests.training.toys import END, START, draw_tokens

CONTEXT = 16
TOKENS = draw_tokens(4000, context=CONTEXT)
ENDS = (TOKENS == END).argmax(axis=1)
KEYS = draw_keys([f"pair-{number}" for number in range(len(TOKENS))])


def masked(share: float, *, epoch: int = 0) -> np.ndarray:
    draws = uniforms(KEYS, CONTEXT, 0, MASK, epoch)
    return drop_words(TOKENS, ENDS, np.full(len(TOKENS), share), draws)


def words_of(tokens: np.ndarray) -> list[list[int]]:
    return [row[1 : row.index(END)] for row in tokens.tolist()]


@settings(max_examples=50)
@given(st.floats(0, 0.99), st.integers(0, 50))
def test_start_and_end_stay_and_what_is_left_keeps_its_order(share: float, epoch: int) -> None:
    left = masked(share, epoch=epoch)
    assert (left[:, 0] == START).all()
    assert ((left == END).sum(axis=1) == 1).all()
    for before, after, row in zip(words_of(TOKENS), words_of(left), left.tolist(), strict=True):
        words = iter(before)
        assert all(word in words for word in after)  # a subsequence
        assert len(after) >= 1
        assert not any(row[len(after) + 2 :])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_share_asked_for_is_left_out_on_average_at_every_length(share: float) -> None:
    counts = ENDS - 1
    gone = np.mean([counts - [len(words) for words in words_of(masked(share, epoch=epoch))] for epoch in range(20)], 0)
    for length in range(2, CONTEXT - 1):
        of_this = gone[counts == length]
        assert of_this.mean() == pytest.approx(share * length, abs=4 * 0.5 / np.sqrt(20 * len(of_this)))
    assert not gone[counts == 1].any()  # a caption's only word stays


def test_every_word_is_left_out_equally_often() -> None:
    tokens = np.tile(np.array([START, 1, 2, 3, 4, 5, END, 0], dtype=np.int32), (5000, 1))
    keys = draw_keys([str(number) for number in range(5000)])
    left = drop_words(tokens, np.full(5000, 6), np.full(5000, 0.4), uniforms(keys, 8, 1, MASK, 0))
    counts = [(left == word).any(axis=1).mean() for word in range(1, 6)]
    assert counts == pytest.approx([0.6] * 5, abs=4 * np.sqrt(0.24 / 5000))


def test_a_share_of_0_changes_nothing_and_each_caption_has_its_own() -> None:
    assert (masked(0.0) == TOKENS).all()
    share = np.where(np.arange(len(TOKENS)) % 2, 0.5, 0.0)
    left = drop_words(TOKENS, ENDS, share, uniforms(KEYS, CONTEXT, 0, MASK, 0))
    assert (left[::2] == TOKENS[::2]).all()
    assert (left[1::2] == masked(0.5)[1::2]).all()


def test_a_captions_words_do_not_depend_on_its_batch(toy: str) -> None:
    masking = Masking(build_model(toy, loss="clip", seed=0), TOKENS, seed=3)
    some = np.array([5, 900, 2])
    whole, part = (
        masking.masked(TOKENS[rows], rows, KEYS[rows], np.full(len(rows), 0.4), 7)
        for rows in (np.arange(len(TOKENS)), some)
    )
    assert (whole[some] == part).all()
    assert (masking.masked(TOKENS[some], some, KEYS[some], np.full(3, 0.4), 8) != part).any()


def test_the_end_token_is_found_in_real_captions(toy: str) -> None:
    tokens = tokenize("tiny", ["a cat", "!!! wow", "a very long caption " * 20])
    ends = end_places(build_model("tiny", loss="clip", seed=0), tokens)
    assert (tokens[np.arange(3), ends] == 49407).all()
    assert ends[2] == tokens.shape[1] - 1
    model = build_model(toy, loss="clip", seed=0)
    model.text_pool_type = "last"
    with pytest.raises(InputError, match="--text-mask and --adaptive-mask need a text encoder that reads up to an end"):
        end_places(model, TOKENS)
    model.text_pool_type, model.text_eos_id = "eos", END
    assert (end_places(model, TOKENS) == ENDS).all()
