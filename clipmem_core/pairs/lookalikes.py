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
    """Return the cluster of near-duplicates that each picture is in.

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
    """
    n = len(descriptors)
    if not n:
        return np.empty(0, np.int64)
    blocks = [descriptors[at : at + _COMPARED].std(axis=1, dtype=np.float32) for at in range(0, n, _COMPARED)]
    contrast = np.concatenate(blocks)
    seen = np.flatnonzero(contrast >= FLAT)
    repeats = _repeats((descriptors[row].tobytes() for row in seen), seen)
    rows = np.setdiff1d(seen, repeats[:, 0])
    near = [rows[pairs] for pairs in _near_pairs(descriptors[rows], contrast[rows])]
    links = np.concatenate([_repeats(sha256, range(n)), repeats, *near])
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component]


def _repeats(keys: Iterable[Hashable], rows: Iterable[int]) -> np.ndarray:
    """Return int64 [n, 2]: each row whose key came before, and the row where it came first. Empty keys do not count."""
    first: dict[Hashable, int] = {}
    pairs = [(row, first.setdefault(key, row)) for key, row in zip(keys, rows, strict=True) if key]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def _near_pairs(descriptors: np.ndarray, contrast: np.ndarray) -> Iterator[np.ndarray]:
    """Yield look-alikes, int64 [n, 2], block by block: found on small vectors, then compared on the descriptors."""
    if len(descriptors) < 2:
        return
    side, blocks = round((descriptors.shape[1] / 3) ** 0.5), []
    for at in range(0, len(descriptors), _COMPARED):  # at half their side, less their mean, in units of contrast
        grid = descriptors[at : at + _COMPARED].reshape(-1, side // 2, 2, side // 2, 2, 3)
        small = grid.mean(axis=(2, 4), dtype=np.float32).reshape(len(grid), -1)
        blocks.append((small - small.mean(axis=1, keepdims=True)) / contrast[at : at + _COMPARED, None])
    vectors = np.concatenate(blocks)
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
        pairs, smaller = np.stack([a[likely], b[likely]], axis=1), smaller[likely]
        for at in range(0, len(pairs), _COMPARED):
            part, unit = pairs[at : at + _COMPARED], smaller[at : at + _COMPARED]
            difference = np.abs(descriptors[part[:, 0]].astype(np.int16) - descriptors[part[:, 1]])
            rms = np.sqrt(np.square(difference, dtype=np.float32).mean(axis=1)) / unit
            peak = difference.max(axis=1) / unit
            yield part[(rms < CLOSE) | ((unit >= TEXTURED) & (rms < NEAR) & (peak < PEAK))]
