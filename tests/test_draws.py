"""Draws are functions of seed, stream, epoch and pair, and look random in each of them."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clipmem_core.draws import CAPTION, ORDER, VIEW, draw_keys, hashed, uniforms

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
SHIFT = 0x632BE59BD9B4E019
KEYS = draw_keys([f"pair-{number}" for number in range(4000)])


def slow_hash(key: int, *parts: int) -> int:
    """SplitMix64 with Python's integers, which never wrap."""
    for part in parts:
        key = (key + part * GOLDEN + SHIFT) & MASK
        key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & MASK
        key ^= key >> 31
    return key


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, MASK), min_size=1, max_size=4),
    st.lists(st.integers(-(2**70), 2**70), max_size=4),
)
def test_hashes_equal_those_of_big_integers(keys: list[int], parts: list[int]) -> None:
    fast = hashed(np.array(keys, dtype=np.uint64), *parts)
    assert fast.tolist() == [slow_hash(key, *parts) for key in keys]


def test_a_draw_depends_on_the_pair_id_alone() -> None:
    ids = ["a", "größe/日本.png", ""]
    expected = [
        int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        for name in ids
    ]
    assert draw_keys(ids).tolist() == expected
    some = np.random.default_rng(0).permutation(len(KEYS))[:100]
    assert (hashed(KEYS, 3, ORDER, 1)[some] == hashed(KEYS[some], 3, ORDER, 1)).all()
    assert (uniforms(KEYS, 3, 3, VIEW, 1)[some] == uniforms(KEYS[some], 3, 3, VIEW, 1)).all()


def test_draws_are_uniform_and_uncorrelated() -> None:
    streams = ((0, ORDER, 0), (0, CAPTION, 0), (0, ORDER, 1), (1, ORDER, 0))
    draws = [uniforms(KEYS, 4, 0, VIEW, 0), *(uniforms(KEYS, 1, *parts) for parts in streams)]
    columns = np.concatenate(draws, axis=1)
    assert all(stats.kstest(column, "uniform").pvalue > 1e-3 for column in columns.T)
    correlations = np.corrcoef(columns, rowvar=False) - np.eye(columns.shape[1])
    assert np.abs(correlations).max() < 4 / len(KEYS) ** 0.5
