"""Look-alikes by features: pictures that a locked tower hardly tells apart, also cropped, recoloured or mirrored."""

import hashlib
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ALIKE = 0.95  # least cosine of two features, less their mean, of look-alikes
EXACT_UP_TO = 20_000  # different features; above, shortened ones are compared, and only those in the nearest cells

_QUERIES = 1024  # features compared at a time
_BLOCK = 16_384  # features, or pairs of them, that are float32 at a time
_SHORT = 64  # numbers of a shortened feature
_CELLS = 4  # times the root of their number
_PROBES = 8  # cells searched for each feature


def alike_by_features(features: np.ndarray, *, threshold: float = ALIKE) -> np.ndarray:
    """Return each picture's cluster of look-alikes: pictures connected by links of cosine ≥ threshold.

    The mean over all pictures is subtracted first: features after a ReLU all point the same way otherwise. Of equal
    features only the first is compared. Up to `EXACT_UP_TO` features all are compared with all. Above, random
    projections onto 64 numbers are compared in the nearest of about 4 √n cells, and links are checked in full: time
    grows with n^1.5, and a link near the threshold may be missed.

    Args:
        features: [n, dim], of any float type; may be a memory map.
        threshold: least cosine of two look-alikes, between 0 and 1.

    Returns:
        int64 [n]: the first row of the cluster; its own row for a picture without look-alikes.

    Example:
        >>> alike_by_features(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.01], [-2.0, -1.0]])).tolist()
        [0, 1, 0, 3]
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}")
    n = len(features)
    if n < 2:
        return np.arange(n)
    seen: dict[bytes, int] = {}
    blocks = (np.ascontiguousarray(features[at : at + _BLOCK]) for at in range(0, n, _BLOCK))
    digests = (hashlib.blake2b(row.data, digest_size=16).digest() for block in blocks for row in block)
    first = np.array([seen.setdefault(digest, row) for row, digest in enumerate(digests)])
    rows = np.flatnonzero(first == np.arange(n))
    links = [(first, np.arange(n)), *((rows[a], rows[b]) for a, b in _links(_Directions(features, rows), threshold))]
    a, b = (np.concatenate(side) for side in zip(*links, strict=True))
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, lowest = np.unique(component, return_index=True)
    return lowest[component]


class _Directions:
    """Some features less the mean of all, as unit vectors; one that is the mean itself stays zero."""

    def __init__(self, features: np.ndarray, rows: np.ndarray) -> None:
        self.features, self.rows = features, rows
        total = np.zeros(features.shape[1])
        for at in range(0, len(features), _BLOCK):
            total += features[at : at + _BLOCK].sum(axis=0, dtype=np.float64)
        self.mean = (total / len(features)).astype(np.float32)

    def __getitem__(self, places: np.ndarray | slice) -> np.ndarray:
        """Return some of them, float32 [n, dim]."""
        return _unit(self.features[self.rows[places]].astype(np.float32) - self.mean)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=vectors, where=lengths > 0)


def _links(directions: _Directions, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the places a < b of directions whose cosine reaches the threshold."""
    n = len(directions.rows)
    if n <= EXACT_UP_TO:
        vectors, room = directions[:], 1e-5
        index: Any = faiss.IndexFlatIP(vectors.shape[1])
    else:
        vectors = _shortened(directions)
        dim = vectors.shape[1]
        # A cosine t is shortened to one that has an SD of about (1 − t²) / √64
        room = 4 * (1 - threshold**2) / dim**0.5
        flat = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFFlat(flat, dim, int(_CELLS * n**0.5), faiss.METRIC_INNER_PRODUCT)
        index.nprobe, index.cp.seed, index.cp.spherical = _PROBES, 1, True
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 40
        index.train(vectors)
    index.add(vectors)
    for start in range(0, n, _QUERIES):
        ends, _, b = index.range_search(vectors[start : start + _QUERIES], threshold - room)
        a = start + np.repeat(np.arange(len(ends) - 1), np.diff(ends).astype(np.int64))
        a, b = a[a < b], b[a < b]
        for at in range(0, len(a), _BLOCK):
            part = slice(at, at + _BLOCK)
            alike = np.vecdot(directions[a[part]], directions[b[part]]) >= threshold - 1e-6
            yield a[part][alike], b[part][alike]


def _shortened(directions: _Directions) -> np.ndarray:
    """Return random projections as unit vectors, float32 [n, 64]."""
    dim = len(directions.mean)
    drawn = np.random.default_rng(0).standard_normal((dim, min(_SHORT, dim)))
    axes = np.linalg.qr(drawn)[0].astype(np.float32)
    short = np.empty((len(directions.rows), axes.shape[1]), np.float32)
    for at in range(0, len(short), _BLOCK):
        short[at : at + _BLOCK] = _unit(directions[slice(at, at + _BLOCK)] @ axes)
    return short
