"""Near-duplicates by the features of a locked tower: they match also if cropped, recoloured or mirrored."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ALIKE = 0.95  # minimum cosine of centred features of near-duplicates
EXACT_UP_TO = 20_000  # distinct features; above, the search is approximate
QUERIES = 1024  # features compared at a time
BLOCK = 16_384  # features, or pairs of them, that are float32 at a time
SHORT = 64  # numbers of a shortened feature
CELLS = 4  # times the root of their number
PROBES = 8  # cells searched for each feature


def alike_by_features(features: np.ndarray, *, threshold: float = ALIKE) -> np.ndarray:
    """Return each picture's cluster of near-duplicates: pictures connected by links of cosine ≥ threshold.

    The mean over all pictures is subtracted first, since features after a ReLU all have similar directions. Up to
    `EXACT_UP_TO` distinct features are compared exhaustively. Above, an inverted file index of about 4 √n cells
    searches random projections onto 64 dimensions, and links are verified on the
    features: time grows with n^1.5, and a link close to the threshold may be missed.

    Args:
        features: [n, dim], of any float type; may be a memory map.
        threshold: minimum cosine of two near-duplicates, between 0 and 1.

    Returns:
        int64 [n]: the first row of the cluster; its own row for a picture without near-duplicates.

    Example:
        >>> alike_by_features(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.01], [-2.0, -1.0]])).tolist()
        [0, 1, 0, 3]
    """
    n = len(features)
    if n < 2:
        return np.arange(n)
    total, first_row = np.zeros(features.shape[1]), dict[bytes, int]()
    first = np.empty(n, np.int64)
    for at in range(0, n, BLOCK):
        block = np.ascontiguousarray(features[at : at + BLOCK])
        total += block.sum(axis=0, dtype=np.float64)
        for row, values in enumerate(block, start=at):
            first[row] = first_row.setdefault(hashlib.blake2b(values.data, digest_size=16).digest(), row)
    rows, mean = np.flatnonzero(first == np.arange(n)), (total / n).astype(np.float32)

    def directions(places: np.ndarray | slice) -> np.ndarray:
        """Return some distinct features, centred, as unit vectors float32 [n, dim]."""
        return _unit(features[rows[places]].astype(np.float32) - mean)

    links = [(first, np.arange(n)), *((rows[a], rows[b]) for a, b in _links(directions, len(rows), threshold))]
    a, b = (np.concatenate(side) for side in zip(*links, strict=True))
    _, component = connected_components(coo_array((np.ones(len(a), bool), (a, b)), shape=(n, n)), directed=False)
    _, lowest = np.unique(component, return_index=True)
    return lowest[component]


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=vectors, where=lengths > 0)


def _links(
    directions: Callable[[np.ndarray | slice], np.ndarray], n: int, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the places a < b of n directions whose cosine reaches the threshold."""
    if n <= EXACT_UP_TO:
        vectors, room = directions(slice(None)), 1e-5
        index: Any = faiss.IndexFlatIP(vectors.shape[1])
    else:
        dim = directions(slice(1)).shape[1]
        drawn = np.random.default_rng(0).standard_normal((dim, min(SHORT, dim)))
        axes = np.linalg.qr(drawn)[0].astype(np.float32)
        vectors = np.concatenate([_unit(directions(slice(at, at + BLOCK)) @ axes) for at in range(0, n, BLOCK)])
        # The projection changes a cosine t with an SD of about (1 − t²) / √64.
        room = 4 * (1 - threshold**2) / axes.shape[1] ** 0.5
        flat = faiss.IndexFlatIP(axes.shape[1])
        index = faiss.IndexIVFFlat(flat, axes.shape[1], int(CELLS * n**0.5), faiss.METRIC_INNER_PRODUCT)
        index.nprobe, index.cp.seed, index.cp.spherical = PROBES, 1, True
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 40
        index.train(vectors)
    index.add(vectors)
    for start in range(0, n, QUERIES):
        ends, _, b = index.range_search(vectors[start : start + QUERIES], threshold - room)
        a = start + np.repeat(np.arange(len(ends) - 1), np.diff(ends).astype(np.int64))
        a, b = a[a < b], b[a < b]
        for at in range(0, len(a), BLOCK):
            part = slice(at, at + BLOCK)
            alike = np.vecdot(directions(a[part]), directions(b[part])) >= threshold - 1e-6
            yield a[part][alike], b[part][alike]
