"""Draws are functions of seed, stream, epoch and pair, and look random in each of them."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clipmem_core.utils.draws import draw_keys, hashed, rng, uniforms

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
SHIFT = 0x632BE59BD9B4E019
KEYS = draw_keys([f"pair-{number}" for number in range(4000)])


def blake2b(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def slow_hash(key: int, seed: int, stream: str, *parts: int) -> int:
    """SplitMix64 with Python's integers, which never wrap."""
    for part in (seed, blake2b(stream), *parts):
        key = (key + part * GOLDEN + SHIFT) & MASK
        key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & MASK
        key ^= key >> 31
    return key


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, MASK), min_size=1, max_size=4),
    st.integers(-(2**70), 2**70),
    st.lists(st.integers(-(2**70), 2**70), max_size=3),
)
def test_hashes_equal_those_of_big_integers(keys: list[int], seed: int, parts: list[int]) -> None:
    fast = hashed(np.array(keys, dtype=np.uint64), seed, "view", *parts)
    assert fast.tolist() == [slow_hash(key, seed, "view", *parts) for key in keys]


def test_a_draw_depends_on_the_pair_id_alone() -> None:
    ids = ["a", "größe/日本.png", ""]
    assert draw_keys(ids).tolist() == [blake2b(name) for name in ids]
    some = np.random.default_rng(0).permutation(len(KEYS))[:100]
    assert (hashed(KEYS, 3, "order", 1)[some] == hashed(KEYS[some], 3, "order", 1)).all()
    assert (uniforms(KEYS, 3, 3, "view", 1)[some] == uniforms(KEYS[some], 3, 3, "view", 1)).all()


def test_draws_are_uniform_and_uncorrelated() -> None:
    streams = ((0, "order", 0), (0, "caption", 0), (0, "order", 1), (1, "order", 0))
    draws = [uniforms(KEYS, 4, 0, "view", 0), *(uniforms(KEYS, 1, *parts) for parts in streams)]
    columns = np.concatenate(draws, axis=1)
    assert all(stats.kstest(column, "uniform").pvalue > 1e-3 for column in columns.T)
    correlations = np.corrcoef(columns, rowvar=False) - np.eye(columns.shape[1])
    assert np.abs(correlations).max() < 4 / len(KEYS) ** 0.5


def test_streams_of_another_name_seed_or_part_differ() -> None:
    named = [(7, "groups"), (7, "folds"), (7, "folds", 0), (7, "folds", 1), (0, "groups"), (7, "")]
    assert len({int(rng(*parts).integers(2**63)) for parts in named}) == len(named)
    assert rng(7, "folds", 1).random() == rng(7, "folds", 1).random()
