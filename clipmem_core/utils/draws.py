"""Random numbers that depend on (seed, stream, epoch, pair) alone: removing a pair changes no
other's draws."""

import hashlib
from collections.abc import Sequence

import numpy as np
import scipy


def rng(seed: int, stream: str, *parts: int) -> np.random.Generator:
    """Return the generator of a random stream, which has a name in the whole project.

    `parts` tell its draws apart, such as the number of a replicate: streams of different names or
    parts share no draws.

    Example:
        >>> int(rng(7, "groups").integers(100)), int(rng(7, "folds", 0).integers(100))
        (92, 16)
    """
    return np.random.default_rng([seed, *parts, _number(stream)])


def whole_number(seed: int, stream: str, *parts: int) -> int:
    """Draw the seed of another library's generator from a random stream, below 2⁶³."""
    return int(rng(seed, stream, *parts).integers(2**63))


def _number(stream: str) -> int:
    return int(draw_keys([stream])[0])


def draw_keys(pair_ids: Sequence[str]) -> np.ndarray:
    """Return one uint64 a pair that depends on its id alone, [n_pairs]."""
    digests = b"".join(
        hashlib.blake2b(pair_id.encode(), digest_size=8).digest() for pair_id in pair_ids
    )
    return np.frombuffer(digests, dtype="<u8").copy()


def _mix(values: np.ndarray) -> np.ndarray:
    # The finaliser of SplitMix64 (Steele, Lea and Flood, 2014); uint64 arithmetic wraps on purpose.
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hashed(keys: np.ndarray, seed: int, stream: str, *parts: int) -> np.ndarray:
    """Hash uint64 keys [n] together with a seed, the name of a stream and whole numbers into uint64
    [n], uniform over all 64 bits."""
    values = keys.astype(np.uint64)
    for part in (seed, _number(stream), *parts):
        values = _mix(values + _step(part))
    return values


def _step(part: int) -> np.uint64:
    return np.uint64((part * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)


def uniforms(keys: np.ndarray, count: int, seed: int, stream: str, *parts: int) -> np.ndarray:
    """Draw `count` numbers in [0, 1) for each key, float64 [n, count]."""
    return _top_bits(hashed(keys, seed, stream, *parts), count) * 2.0**-53


def normals(keys: np.ndarray, count: int, seed: int, stream: str, *parts: int) -> np.ndarray:
    """Draw `count` numbers of the standard normal distribution for each key, float32 [n, count]."""
    # The middle of each step, so that no number lies at infinity.
    bits = _top_bits(hashed(keys, seed, stream, *parts), count)
    return scipy.special.ndtri((bits + 0.5) * 2.0**-53).astype(np.float32)


def _top_bits(hashes: np.ndarray, count: int) -> np.ndarray:
    """Draw whole numbers below 2⁵³ for each hash, float64 [n, count]."""
    steps = np.array([_step(column) for column in range(count)], dtype=np.uint64)
    return (_mix(hashes[:, None] + steps) >> np.uint64(11)).astype(np.float64)
