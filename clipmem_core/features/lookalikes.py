"""Look-alikes by features: pictures that a locked tower hardly tells apart, also cropped, recoloured or mirrored."""

from collections.abc import Iterator

import faiss
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

ALIKE = 0.95  # least cosine of two features, less their mean, of look-alikes
EXACT_UP_TO = 20_000  # different features; above, shortened ones are compared, and only those in the nearest cells

_QUERIES = 1024  # features compared with a block at a time
_BLOCK = 16_384  # features, or pairs of them, that are float32 at a time
_SHORT = 64  # numbers of a shortened feature
_CELLS = 4  # times the root of their number
_PROBES = 8  # cells looked into
_TRAINED = 40  # features a cell that cells are laid out by
_ROUNDS = 10  # of laying them out


def alike_by_features(features: np.ndarray, *, threshold: float = ALIKE) -> np.ndarray:
    """Say of each picture which cluster of look-alikes it is in: those that links of cosine ≥ threshold connect.

    The mean over all pictures is taken off first: features after a ReLU all point the same way otherwise. Of equal
    features only the first is compared. Up to `EXACT_UP_TO` features all are compared with all, block by block. Above,
    random projections onto 64 numbers are compared in the nearest of about 4 √n cells, and links are checked in full:
    time grows with n^1.5, and a link near the threshold may be missed.

    Args:
        features: [n, dim], of any float type; may be a memory map.
        threshold: least cosine of two look-alikes, between 0 and 1.

    Returns:
        int64 [n]: the first row of the cluster, for a picture without look-alikes its own.

    Raises:
        ValueError: the threshold is not a possible one.

    Example:
        >>> alike_by_features(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.01], [-2.0, -1.0]])).tolist()
        [0, 1, 0, 3]
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}")
    n = len(features)
    if n < 2:
        return np.arange(n)
    first = _first_of_equals(features)
    rows = np.flatnonzero(first == np.arange(n))
    links = [(first, np.arange(n)), *((rows[a], rows[b]) for a, b in _links(_Directions(features, rows), threshold))]
    a, b = (np.concatenate(side) for side in zip(*links, strict=True))
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, lowest = np.unique(component, return_index=True)
    return lowest[component]


def _first_of_equals(features: np.ndarray) -> np.ndarray:
    """Return for each row the first that is equal to it, int64 [n]."""
    words = -(-features.shape[1] * features.dtype.itemsize // 8)
    odd = np.random.default_rng(0).integers(0, 2**63, words, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.empty(len(features), np.uint64)
    for at in range(0, len(features), _BLOCK):
        block = np.ascontiguousarray(features[at : at + _BLOCK])
        padded = np.zeros((len(block), words * 8), np.uint8)
        padded[:, : block.shape[1] * block.itemsize] = block.view(np.uint8).reshape(len(block), -1)
        # Sums of products with odd numbers, modulo 2⁶⁴: what is equal has equal ones
        keys[at : at + _BLOCK] = (padded.view(np.uint64) * odd).sum(axis=1, dtype=np.uint64)
    _, start, which = np.unique(keys, return_index=True, return_inverse=True)
    first = start[which]
    again = np.flatnonzero(first != np.arange(len(features)))
    for at in range(0, len(again), _BLOCK):
        some = again[at : at + _BLOCK]
        other = (features[some] != features[first[some]]).any(axis=1)
        first[some[other]] = some[other]
    return first


class _Directions:
    """Some features less the mean of all, as unit vectors; one that is the mean itself stays zero."""

    def __init__(self, features: np.ndarray, rows: np.ndarray) -> None:
        self.features, self.rows = features, rows
        total = np.zeros(features.shape[1])
        for at in range(0, len(features), _BLOCK):
            total += features[at : at + _BLOCK].sum(axis=0, dtype=np.float64)
        self.mean = (total / len(features)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: np.ndarray | slice) -> np.ndarray:
        """Return some of them, float32 [n, dim]."""
        return _unit(self.features[self.rows[places]].astype(np.float32) - self.mean)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=vectors, where=lengths > 0)


def _links(directions: _Directions, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the places a < b of directions whose cosine reaches the threshold."""
    if len(directions) <= EXACT_UP_TO:
        vectors, room = directions[:], 1e-5
        every = np.arange(len(vectors))
        compared = [(every, every)]
    else:
        vectors = _shortened(directions)
        # A cosine t is shortened to one that has an SD of about (1 − t²) / √64
        room = 4 * (1 - threshold**2) / vectors.shape[1] ** 0.5
        compared = _cells(vectors)
    with threadpool_limits(1, "blas"):  # threads would wait for each other: most products are small
        for looking, lying in compared:
            for a, b in _above(vectors, looking, lying, threshold - room):
                for at in range(0, len(a), _BLOCK):
                    part = slice(at, at + _BLOCK)
                    alike = np.vecdot(directions[a[part]], directions[b[part]]) >= threshold - 1e-6
                    yield a[part][alike], b[part][alike]


def _above(
    vectors: np.ndarray, looking: np.ndarray, lying: np.ndarray, least: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the places a < b, a of one list and b of another, of vectors whose product is above the least.

    Both lists ascend.
    """
    for start in range(0, len(looking), _QUERIES):
        some = looking[start : start + _QUERIES]
        for at in range(0, len(lying), _BLOCK):
            beside = lying[at : at + _BLOCK]
            if beside[-1] <= some[0]:
                continue
            a, b = np.nonzero(vectors[some] @ vectors[beside].T >= least)
            forward = some[a] < beside[b]
            yield some[a[forward]], beside[b[forward]]


def _cells(vectors: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lay out cells and return for each the places that look into it and those that lie in it, both ascending."""
    n, dim = vectors.shape
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": _TRAINED}
    layout = faiss.Kmeans(dim, int(_CELLS * n**0.5), niter=_ROUNDS, seed=1, spherical=True, **limits)
    layout.train(vectors)
    nearest = layout.index.search(vectors, _PROBES)[1]
    return list(zip(_by_cell(nearest, layout.k), _by_cell(nearest[:, :1], layout.k), strict=True))


def _by_cell(cells: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the rows of a table of cells that have each cell."""
    rows = np.argsort(cells.ravel(), kind="stable") // cells.shape[1]
    return np.split(rows, np.cumsum(np.bincount(cells.ravel(), minlength=count))[:-1])


def _shortened(directions: _Directions) -> np.ndarray:
    """Return random projections as unit vectors, float32 [n, 64]."""
    dim = len(directions.mean)
    drawn = np.random.default_rng(0).standard_normal((dim, min(_SHORT, dim)))
    axes = np.linalg.qr(drawn)[0].astype(np.float32)
    short = np.empty((len(directions), axes.shape[1]), np.float32)
    for at in range(0, len(short), _BLOCK):
        short[at : at + _BLOCK] = _unit(directions[slice(at, at + _BLOCK)] @ axes)
    return short
