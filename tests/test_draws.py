"""Draws are functions of seed, stream, epoch and pair, and look random in each of them."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clipmem_core.draws import CAPTION, ORDER, VIEW, draw_keys, hashed, uniforms

MASK = 2**64 - 1
GOLDEN, SHIFT = 0x9E3779B97F4A7C15, 0x632BE59BD9B4E019
KEYS = draw_keys([f"pair-{number}" for number in range(4000)])


def slow_hash(key: int, *parts: int) -> int:
    """Hash one key with Python's own integers, which never wrap by themselves."""
    for part in parts:
        key = (key + part * GOLDEN + SHIFT) & MASK
        key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & MASK
        key ^= key >> 31
    return key


def test_one_part_gives_the_published_outputs_of_splitmix64() -> None:
    # The first five outputs of the reference generator from state 1234567.
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    key = np.array([(1234567 - SHIFT) % 2**64], dtype=np.uint64)
    assert [int(hashed(key, turn)[0]) for turn in range(1, 6)] == published


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, MASK), min_size=1, max_size=4),
    st.lists(st.integers(-(2**70), 2**70), max_size=4),
)
def test_hashes_equal_those_of_big_integers(keys: list[int], parts: list[int]) -> None:
    fast = hashed(np.array(keys, dtype=np.uint64), *parts)
    assert fast.tolist() == [slow_hash(key, *parts) for key in keys]


def test_a_key_is_the_little_endian_blake2b_of_its_id() -> None:
    ids = ["a", "größe/日本.png", ""]
    expected = [int.from_bytes(hashlib.blake2b(own.encode(), digest_size=8).digest(), "little") for own in ids]
    assert draw_keys(ids).tolist() == expected


@settings(max_examples=100)
@given(st.lists(st.booleans(), min_size=50, max_size=50))
def test_removing_pairs_changes_no_draw_of_another(kept: list[bool]) -> None:
    keys = KEYS[:50]
    assert (hashed(keys, 3, ORDER, 1)[kept] == hashed(keys[kept], 3, ORDER, 1)).all()
    assert (uniforms(keys, 3, 3, VIEW, 1)[kept] == uniforms(keys[kept], 3, 3, VIEW, 1)).all()


def test_reordering_pairs_reorders_their_draws_and_leaves_the_keys_as_they_are() -> None:
    shuffled = np.random.default_rng(0).permutation(len(KEYS))
    assert (uniforms(KEYS[shuffled], 2, 5) == uniforms(KEYS, 2, 5)[shuffled]).all()
    keys = KEYS.copy()
    uniforms(keys, 4, 1, 2, 3)
    assert (keys == KEYS).all()


@pytest.mark.parametrize("parts", [(0, VIEW, 0), (7, CAPTION, 3), (1 << 40, ORDER, 29)])
def test_draws_are_uniform_in_every_column(parts: tuple[int, ...]) -> None:
    drawn = uniforms(KEYS, 4, *parts)
    assert drawn.shape == (4000, 4)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for column in drawn.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3


def test_bits_are_fair_coins_and_columns_of_one_draw_unrelated() -> None:
    values = hashed(KEYS, 1, CAPTION, 2)
    for bit in (0, 1, 31, 62, 63):
        ones = int(((values >> np.uint64(bit)) & np.uint64(1)).sum())
        assert stats.binomtest(ones, len(values)).pvalue > 1e-3
    correlation = np.corrcoef(uniforms(KEYS, 4, 0, VIEW, 0), rowvar=False)
    assert np.abs(correlation - np.eye(4)).max() < 4 / np.sqrt(len(KEYS))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, ORDER, 0), (0, CAPTION, 0)),
        ((0, ORDER, 0), (0, ORDER, 1)),
        ((0, ORDER, 0), (1, ORDER, 0)),
        ((1, 2), (2, 1)),
    ],
    ids=["stream", "epoch", "seed", "places of parts"],
)
def test_draws_of_another_stream_epoch_or_seed_have_nothing_in_common(one: tuple[int], other: tuple[int]) -> None:
    first, second = uniforms(KEYS, 1, *one)[:, 0], uniforms(KEYS, 1, *other)[:, 0]
    assert not (first == second).any()
    assert abs(stats.spearmanr(first, second).statistic) < 4 / np.sqrt(len(KEYS))
