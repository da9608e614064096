"""Clusters of near-duplicate pictures: copies by their descriptors, and cropped or mirrored ones by their features."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import pandas as pd
import scipy
from threadpoolctl import threadpool_limits

QUERIES = 1024  # vectors in a search
BLOCK = 16_384  # rows, or pairs of them, that are converted or compared at a time

FLAT = 1.0  # contrast in grey levels below which a descriptor shows almost nothing of the picture
TEXTURED = 25.0  # contrast from which a difference of TEXTURED_RMS can only come from compression
RMS = 0.03  # largest difference of any two near-duplicates, as a share of their contrast
TEXTURED_RMS = 0.1  # largest difference of two textured near-duplicates …
PEAK = 0.35  # … unless it is concentrated in one place, such as a changed mouth or word

ALIKE = 0.95  # minimum cosine of centred features of near-duplicates
EXACT_UP_TO = 20_000  # distinct features; above, the search is approximate
SHORT = 64  # numbers of a shortened feature
CELLS = 2  # times the root of their number
PROBES = 8  # cells searched for each feature
COMPARED = 1 << 20  # features by features at a time


def near_duplicate_clusters(descriptors: np.ndarray, sha256: Sequence[str]) -> np.ndarray:
    """Return each picture's cluster of rescaled or recompressed copies: its first picture, int64 [n_pictures].

    Two pictures are near-duplicates if their files have the same bytes, or if their descriptors differ by little
    compared with their contrast. With c the smaller contrast (the standard deviation of a descriptor's values), rms and
    peak the root mean square and the largest of the differences, in grey levels:

        rms < RMS · c      or, for c ≥ TEXTURED,      rms < TEXTURED_RMS · c and peak < PEAK · c

    Thresholds relative to the contrast separate thin drawings on white, which differ by less than a photograph and its
    copy. The looser rule allows for compression, which spreads its error over the picture. Rescaled copies differ by
    about .01, JPEG at quality 75 by .02, at 40 by .04, two photographs of one scene by .11 and more. A picture with a
    contrast below FLAT, such as a blank one, only matches the same bytes. Time grows with the square of the number of
    pictures.

    Args:
        descriptors: uint8 [n_pictures, 3 · side · side] with an even side, rows of RGB values.
        sha256: hash of each picture's bytes; an empty one equals no other.
    """
    n = len(descriptors)
    contrast = np.zeros(n, np.float32)
    for at in range(0, n, BLOCK):
        contrast[at : at + BLOCK] = descriptors[at : at + BLOCK].std(axis=1, dtype=np.float32)
    visible = np.flatnonzero(contrast >= FLAT)
    repeats = _repeats((descriptors[row].tobytes() for row in visible), visible)
    rows = np.setdiff1d(visible, repeats[:, 0])
    similar = [rows[pairs] for pairs in _similar_pairs(descriptors[rows], contrast[rows])]
    return _clusters(n, [_repeats(sha256, range(n)), repeats, *similar])


def alike_by_features(features: np.ndarray, *, threshold: float = ALIKE) -> np.ndarray:
    """Return each picture's cluster by features of a locked tower: the row of its first picture, int64 [n].

    They match cropped or recoloured copies too. Pictures of one cluster are connected by links of cosine ≥ threshold.
    The mean over all pictures is subtracted first, since features after a ReLU all have similar directions. Up to
    `EXACT_UP_TO` distinct features are compared exhaustively. Above, random projections onto 64 dimensions are compared
    in about 2 √n cells, and links are verified on the features: time grows with n^1.5, and a link close to the
    threshold may be missed. `features` [n, dim] may be of any float type and a memory map.
    """
    n, features = len(features), np.asarray(features)
    if n < 2:
        return np.arange(n)
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in features)
    repeats = _repeats(digests, range(n))
    rows = np.setdiff1d(np.arange(n), repeats[:, 0])

    def directions(places: np.ndarray | slice) -> np.ndarray:
        """Return some distinct features, centred, as unit vectors float32 [n, dim]."""
        vectors = features[rows[places]].astype(np.float32) - mean
        faiss.normalize_L2(vectors)
        return vectors

    return _clusters(n, [repeats, *(rows[pairs] for pairs in _alike_pairs(directions, len(rows), threshold))])


def _repeats(keys: Iterable[Hashable], rows: Iterable[int]) -> np.ndarray:
    """Return each row with an earlier row's key and the first row with it, int64 [n, 2]; empty keys do not count."""
    first: dict[Hashable, int] = {}
    pairs = [(row, first.setdefault(key, row)) for key, row in zip(keys, rows, strict=True) if key]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def _clusters(n: int, links: Sequence[np.ndarray]) -> np.ndarray:
    """Return the first row of the connected component of each of n rows."""
    a, b = np.concatenate(links).T
    edges = scipy.sparse.coo_array((np.ones(len(a), bool), (a, b)), shape=(n, n))
    _, component = scipy.sparse.csgraph.connected_components(edges, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component]


def _close_pairs(index: Any, vectors: np.ndarray, limit: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield places a < b of vectors, int64 [n, 2], and the distance or cosine of each pair that is within the limit."""
    index.add(vectors)
    for start in range(0, len(vectors), QUERIES):
        ends, values, b = index.range_search(vectors[start : start + QUERIES], limit)
        a = start + np.repeat(np.arange(len(ends) - 1), np.diff(ends).astype(np.int64))
        yield np.stack([a, b], axis=1)[a < b], values[a < b]


def _similar_pairs(descriptors: np.ndarray, contrast: np.ndarray) -> Iterator[np.ndarray]:
    """Yield near-duplicates, int64 [n, 2]: candidates by small vectors, then compared by their descriptors."""
    if len(descriptors) < 2:
        return
    side, blocks = round((descriptors.shape[1] / 3) ** 0.5), []
    for at in range(0, len(descriptors), BLOCK):  # at half their side, less their mean, in units of contrast
        grid = descriptors[at : at + BLOCK].reshape(-1, side // 2, 2, side // 2, 2, 3)
        small = grid.mean(axis=(2, 4), dtype=np.float32).reshape(len(grid), -1)
        blocks.append((small - small.mean(axis=1, keepdims=True)) / contrast[at : at + BLOCK, None])
    vectors = np.concatenate(blocks)
    dim = vectors.shape[1]
    # by the triangle inequality two vectors are never further apart than twice the difference's share of contrast
    for pairs, distances in _close_pairs(faiss.IndexFlatL2(dim), vectors, dim * (2 * TEXTURED_RMS) ** 2):
        smaller, share = contrast[pairs].min(axis=1), np.sqrt(distances.clip(0) / dim) / 2
        likely = share < np.where(smaller < TEXTURED, RMS, TEXTURED_RMS) + 1e-3  # room for rounding
        pairs, smaller = pairs[likely], smaller[likely]
        for at in range(0, len(pairs), BLOCK):
            part, unit = pairs[at : at + BLOCK], smaller[at : at + BLOCK]
            difference = np.abs(descriptors[part[:, 0]].astype(np.int16) - descriptors[part[:, 1]])
            rms = np.sqrt(np.square(difference, dtype=np.float32).mean(axis=1)) / unit
            peak = difference.max(axis=1) / unit
            yield part[(rms < RMS) | ((unit >= TEXTURED) & (rms < TEXTURED_RMS) & (peak < PEAK))]


def _alike_pairs(
    directions: Callable[[np.ndarray | slice], np.ndarray], n: int, threshold: float
) -> Iterator[np.ndarray]:
    """Yield places, int64 [n, 2], of the pairs of n directions whose cosine reaches the threshold."""
    if n <= EXACT_UP_TO:
        vectors = directions(slice(None))
        found: Iterator[np.ndarray] = (
            pairs for pairs, _ in _close_pairs(faiss.IndexFlatIP(vectors.shape[1]), vectors, threshold - 1e-5)
        )
    else:
        dim = directions(slice(1)).shape[1]
        drawn = np.random.default_rng(0).standard_normal((dim, min(SHORT, dim)))
        axes = np.linalg.qr(drawn)[0].astype(np.float32)
        vectors = np.concatenate([directions(slice(at, at + BLOCK)) @ axes for at in range(0, n, BLOCK)])
        faiss.normalize_L2(vectors)
        # The projection changes a cosine t with an SD of about (1 − t²) / √64.
        found = _pairs_by_cell(vectors, threshold - 4 * (1 - threshold**2) / axes.shape[1] ** 0.5)
    for pairs in found:
        for at in range(0, len(pairs), BLOCK):
            part = pairs[at : at + BLOCK]
            alike = np.vecdot(directions(part[:, 0]), directions(part[:, 1])) >= threshold - 1e-6
            yield part[alike]


def _pairs_by_cell(vectors: np.ndarray, limit: float) -> Iterator[np.ndarray]:
    """Yield places a < b of unit vectors, int64 [n, 2], whose cosine is within the limit: of b in one of a's cells.

    An inverted file index compares the same vectors one by one; here a cell is a product of two matrices.
    """
    options = {"niter": 10, "seed": 1, "spherical": True, "min_points_per_centroid": 1, "max_points_per_centroid": 40}
    kmeans = faiss.Kmeans(vectors.shape[1], int(CELLS * len(vectors) ** 0.5), **options)
    kmeans.train(vectors)
    near = kmeans.index.search(vectors, PROBES)[1]
    own, probing = (pd.Series(cells).groupby(cells).indices for cells in (near[:, 0], near.ravel()))

    def compare(cell: int) -> np.ndarray:
        members, queries, pairs = np.asarray(own[cell]), np.asarray(probing[cell]) // PROBES, []
        inside, rows = vectors[members].T, max(1, COMPARED // len(members))
        for part in (queries[at : at + rows] for at in range(0, len(queries), rows)):
            a, b = np.nonzero(vectors[part] @ inside >= limit)
            pairs.append(np.stack([part[a], members[b]], axis=1)[part[a] < members[b]])
        return np.concatenate(pairs)

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(2) as pool:
        yield from pool.map(compare, own)
