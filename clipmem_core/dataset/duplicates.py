"""Clusters of near-duplicate pictures by their descriptors: rescaled or recompressed copies."""

from collections.abc import Hashable, Iterable, Iterator, Sequence

import faiss
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

FLAT = 1.0  # contrast in grey levels below which a descriptor shows almost nothing of the picture
TEXTURED = 25.0  # contrast from which a difference of TEXTURED_RMS can only come from compression
RMS = 0.03  # largest difference of any two near-duplicates, as a share of their contrast
TEXTURED_RMS = 0.1  # largest difference of two textured near-duplicates …
PEAK = 0.35  # … unless it is concentrated in one place, such as a changed mouth or word

_QUERIES = 1024  # pictures in a search
_COMPARED = 16_384  # pairs in a comparison


def near_duplicate_clusters(descriptors: np.ndarray, sha256: Sequence[str]) -> np.ndarray:
    """Return the cluster of near-duplicates of each picture.

    Two pictures are near-duplicates if their files have the same bytes, or if their descriptors differ by little
    compared with their contrast. With c the smaller contrast (the standard deviation of a descriptor's values), rms and
    peak the root mean square and the largest of the differences, in grey levels:

        rms < RMS · c      or, for c ≥ TEXTURED,      rms < TEXTURED_RMS · c and peak < PEAK · c

    Thresholds relative to the contrast separate thin drawings on white, which differ by less than a photograph and its
    copy. The looser rule allows for compression, which spreads its error over the picture. Rescaled copies differ by
    about .01, JPEG at quality 75 by .02, at 40 by .04, two photographs of one scene by .11 and more. A picture with a
    contrast below FLAT, such as a blank one, only matches the same bytes. Clusters are connected components of these
    links. Cropped, recoloured or mirrored copies are not detected. Time grows with the square of
    the number of pictures.

    Args:
        descriptors: uint8 [n_pictures, 3 · side · side] with an even side, rows of RGB values.
        sha256: hash of each picture's bytes; an empty one equals no other.

    Returns:
        int64 [n_pictures]: the row of the first picture of the cluster.
    """
    n = len(descriptors)
    if not n:
        return np.empty(0, np.int64)
    blocks = [descriptors[at : at + _COMPARED].std(axis=1, dtype=np.float32) for at in range(0, n, _COMPARED)]
    contrast = np.concatenate(blocks)
    visible = np.flatnonzero(contrast >= FLAT)
    repeats = _repeats((descriptors[row].tobytes() for row in visible), visible)
    rows = np.setdiff1d(visible, repeats[:, 0])
    similar = [rows[pairs] for pairs in _similar_pairs(descriptors[rows], contrast[rows])]
    links = np.concatenate([_repeats(sha256, range(n)), repeats, *similar])
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component]


def _repeats(keys: Iterable[Hashable], rows: Iterable[int]) -> np.ndarray:
    """Return each row with an earlier row's key and the first row with it, int64 [n, 2]; empty keys do not count."""
    first: dict[Hashable, int] = {}
    pairs = [(row, first.setdefault(key, row)) for key, row in zip(keys, rows, strict=True) if key]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def _similar_pairs(descriptors: np.ndarray, contrast: np.ndarray) -> Iterator[np.ndarray]:
    """Yield near-duplicates, int64 [n, 2]: candidates by small vectors, then compared by their descriptors."""
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
        radius = vectors.shape[1] * (2 * TEXTURED_RMS) ** 2
        limits, distances, b = index.range_search(vectors[start : start + _QUERIES], radius)
        a = np.repeat(np.arange(start, start + len(limits) - 1), (limits[1:] - limits[:-1]).astype(np.int64))
        smaller = np.minimum(contrast[a], contrast[b])
        share = np.sqrt(distances.clip(0) / vectors.shape[1]) / 2
        likely = (a < b) & (share < np.where(smaller < TEXTURED, RMS, TEXTURED_RMS) + 1e-3)  # room for rounding
        pairs, smaller = np.stack([a[likely], b[likely]], axis=1), smaller[likely]
        for at in range(0, len(pairs), _COMPARED):
            part, unit = pairs[at : at + _COMPARED], smaller[at : at + _COMPARED]
            difference = np.abs(descriptors[part[:, 0]].astype(np.int16) - descriptors[part[:, 1]])
            rms = np.sqrt(np.square(difference, dtype=np.float32).mean(axis=1)) / unit
            peak = difference.max(axis=1) / unit
            yield part[(rms < RMS) | ((unit >= TEXTURED) & (rms < TEXTURED_RMS) & (peak < PEAK))]
