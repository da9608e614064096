"""Clusters of near-duplicate pictures by their descriptors: the same picture again, rescaled or compressed anew."""

from collections.abc import Hashable, Iterable, Iterator, Sequence

import faiss
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

FLAT = 1.0  # grey levels of contrast below which a descriptor holds next to nothing of the picture
TEXTURED = 25.0  # contrast from which a difference of NEAR can only come from compression
CLOSE = 0.03  # largest difference for any two pictures, as a share of their contrast
NEAR = 0.1  # largest difference for two textured ones …
PEAK = 0.35  # … if it is not gathered in one place, as a changed mouth or a changed word would be

_QUERIES = 1024  # pictures searched for at a time
_COMPARED = 16_384  # pairs compared at a time


def lookalike_clusters(descriptors: np.ndarray, sha256: Sequence[str]) -> np.ndarray:
    """Say of each picture which cluster of near-duplicates it is in.

    Two pictures are look-alikes if their files hold the same bytes, or if their descriptors differ by little against
    their contrast. With c the smaller of the two contrasts (the standard deviation of a descriptor's values), rms and
    peak the root mean square and the largest of the differences, in grey levels, this means

        rms < CLOSE · c      or, for c ≥ TEXTURED,      rms < NEAR · c and peak < PEAK · c

    Thresholds in shares of the contrast keep thin drawings on white apart, which differ by less than a photograph
    and its copy do. The looser rule takes in compression, which spreads its error over the picture. Rescaled copies
    differ by about .01, JPEG at quality 75 by .02, at 40 by .04, two photographs of one scene by .11 and more. A
    picture of a contrast below FLAT, say a blank one, only looks like one of the same bytes. Clusters are what such
    links connect. Cropped, recoloured or mirrored copies are not found.

    Memory grows with the number of pictures, time with its square.

    Args:
        descriptors: uint8 [n_pictures, 3 · side · side] with an even side, rows of RGB values.
        sha256: hash of each picture's bytes; an empty one equals no other.

    Returns:
        int64 [n_pictures]: the row of the first picture of the cluster, for a picture without look-alikes its own.

    Raises:
        ValueError: the descriptors are not such an array, or there is not one hash for each.

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 256, (3, 768), dtype=np.uint8)
        >>> lookalike_clusters(noise[[0, 1, 0, 2]], ["a", "b", "c", "b"]).tolist()
        [0, 1, 0, 1]
    """
    _check(descriptors, sha256)
    contrast = _contrast(descriptors)
    clusters = np.arange(len(descriptors))
    clusters = _join(clusters, *_repeats(sha256, range(len(sha256))))
    seen = np.flatnonzero(contrast >= FLAT)
    again, first = _repeats((descriptors[row].tobytes() for row in seen), seen)
    clusters = _join(clusters, again, first)
    rows = np.setdiff1d(seen, again)
    for a, b in _near_pairs(descriptors[rows], contrast[rows]):
        clusters = _join(clusters, rows[a], rows[b])
    return clusters


def _check(descriptors: np.ndarray, sha256: Sequence[str]) -> None:
    side = round((descriptors.shape[-1] / 3) ** 0.5)
    if descriptors.ndim != 2 or descriptors.dtype != np.uint8 or side % 2 or 3 * side**2 != descriptors.shape[1]:
        given = f"{descriptors.dtype} {list(descriptors.shape)}"
        raise ValueError(f"descriptors must be uint8 [n, 3 · side · side] with an even side, not {given}")
    if len(sha256) != len(descriptors):
        raise ValueError(f"sha256 must hold one hash for each of the {len(descriptors)} pictures, not {len(sha256)}")


def _contrast(descriptors: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each row, float32, without a float copy of them all."""
    blocks = [
        descriptors[at : at + _COMPARED].std(axis=1, dtype=np.float32) for at in range(0, len(descriptors), _COMPARED)
    ]
    return np.concatenate([np.empty(0, np.float32), *blocks])


def _repeats(keys: Iterable[Hashable], rows: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows whose key came before, and beside each the row where it came first. Empty keys do not count."""
    first: dict[Hashable, int] = {}
    found = [(row, first.setdefault(key, row)) for key, row in zip(keys, rows, strict=True) if key]
    pairs = np.array([(row, earlier) for row, earlier in found if row != earlier], np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _join(clusters: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Unite the clusters of a[i] and b[i] for every i, and name each by its first row again."""
    n = len(clusters)
    if len(a) == 0:
        return clusters
    links = (np.concatenate([a, np.arange(n)]), np.concatenate([b, clusters]))
    _, component = connected_components(coo_array((np.ones(len(links[0]), bool), links), shape=(n, n)), directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component]


def _near_pairs(descriptors: np.ndarray, contrast: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield look-alikes a, b block by block: found on small vectors, then compared on the descriptors."""
    if len(descriptors) < 2:
        return
    vectors = _vectors(descriptors, contrast)
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    for start in range(0, len(vectors), _QUERIES):
        # by the triangle inequality two vectors are never further apart than twice the difference's share of contrast
        radius = vectors.shape[1] * (2 * NEAR) ** 2
        limits, distances, b = index.range_search(vectors[start : start + _QUERIES], radius)
        a = np.repeat(np.arange(start, start + len(limits) - 1), (limits[1:] - limits[:-1]).astype(np.int64))
        smaller = np.minimum(contrast[a], contrast[b])
        share = np.sqrt(distances.clip(0) / vectors.shape[1]) / 2
        likely = (a < b) & (share < np.where(smaller < TEXTURED, CLOSE, NEAR) + 1e-3)  # room for rounding
        yield _compare(descriptors, a[likely], b[likely], smaller[likely])


def _vectors(descriptors: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """Return descriptors at half their side, less their mean and in units of contrast, float32 [n, dim / 4]."""
    side = round((descriptors.shape[1] / 3) ** 0.5)
    blocks = []
    for at in range(0, len(descriptors), _COMPARED):
        grid = descriptors[at : at + _COMPARED].reshape(-1, side // 2, 2, side // 2, 2, 3)
        small = grid.mean(axis=(2, 4), dtype=np.float32).reshape(len(grid), -1)
        blocks.append((small - small.mean(axis=1, keepdims=True)) / contrast[at : at + _COMPARED, None])
    return np.concatenate(blocks)


def _compare(
    descriptors: np.ndarray, a: np.ndarray, b: np.ndarray, contrast: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the pairs that are look-alikes by their full descriptors."""
    alike = np.zeros(len(a), bool)
    for at in range(0, len(a), _COMPARED):
        part = slice(at, at + _COMPARED)
        difference = np.abs(descriptors[a[part]].astype(np.int16) - descriptors[b[part]])
        share = np.sqrt(np.square(difference, dtype=np.float32).mean(axis=1)) / contrast[part]
        peak = difference.max(axis=1) / contrast[part]
        alike[part] = (share < CLOSE) | ((contrast[part] >= TEXTURED) & (share < NEAR) & (peak < PEAK))
    return a[alike], b[alike]
