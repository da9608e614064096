"""Look-alikes by features: pictures that a locked tower hardly tells apart, also cropped, recoloured or mirrored."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

ALIKE = 0.95  # least cosine of two features, less their mean, of look-alikes
EXACT_UP_TO = 20_000  # different features; above, the search is among shortened ones, and only in the nearest cells
CELLS_UP_TO = 2_000_000  # above, among those with equal bytes in a signature

_QUERIES = 1024  # features searched for at a time
_BLOCK = 16_384  # features, or pairs of them, that are float32 at a time
_SHORT = 64  # numbers of a shortened feature
_CELLS = 4  # times the root of their number
_PROBES = 8  # cells looked into
_TRAINED = 40  # features a cell that cells are laid out by
_ROUNDS = 10  # of laying them out

_BITS = 256  # of a signature
_BANDS, _BYTES = 60, 3  # how often pictures are sorted by some bytes of their signature
_BESIDE = 3  # how far apart two that are compared may be in that order


def alike_by_features(features: np.ndarray, *, threshold: float = ALIKE) -> np.ndarray:
    """Say of each picture which cluster of look-alikes it is in: those that links of cosine ≥ threshold connect.

    The mean over all pictures is taken off first: features after a ReLU all point the same way otherwise. Of equal
    features only the first is searched for. Above `EXACT_UP_TO` a link is looked for among random projections onto
    64 numbers, in the nearest of about 4 √n cells, and then checked in full: time grows with n^1.5 at most, and a
    link near the threshold may be missed. Above `CELLS_UP_TO` it is looked for among pictures that have equal bands of
    a signature of random projections' signs (Charikar, STOC 2002): time grows with n log n, and of links at the
    threshold about one in eight is missed, of those at .98 one in a hundred.

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
    found = _banded_links if len(rows) > CELLS_UP_TO else _far_links if len(rows) > EXACT_UP_TO else _links
    links = [(first, np.arange(n)), *((rows[a], rows[b]) for a, b in found(_Directions(features, rows), threshold))]
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
    """Yield all links, found exactly."""
    vectors = directions[:]
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    for start in range(0, len(vectors), _QUERIES):
        limits, _, found = index.range_search(vectors[start : start + _QUERIES], threshold - 1e-6)
        yield np.repeat(np.arange(start, start + len(limits) - 1), (limits[1:] - limits[:-1]).astype(np.int64)), found


def _far_links(directions: _Directions, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield links found among shortened vectors, each checked on the full ones."""
    vectors = _shortened(directions)
    # A cosine t is shortened to one that has an SD of about (1 − t²) / √64
    room = 4 * (1 - threshold**2) / vectors.shape[1] ** 0.5
    for a, b in _near(vectors, threshold - room):
        for at in range(0, len(a), _BLOCK):
            part = slice(at, at + _BLOCK)
            alike = np.vecdot(directions[a[part]], directions[b[part]]) >= threshold - 1e-6
            yield a[part][alike], b[part][alike]


def _near(vectors: np.ndarray, least: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the places a < b of vectors whose product is above the least, b in one of the cells nearest to a.

    All that look into a cell are multiplied with all that lie in it at once, which faiss does for each on its own.
    """
    n, dim = vectors.shape
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": _TRAINED}
    layout = faiss.Kmeans(dim, int(_CELLS * n**0.5), niter=_ROUNDS, seed=1, spherical=True, **limits)
    layout.train(vectors)
    cells = layout.index.search(vectors, _PROBES)[1]
    with threadpool_limits(1, "blas"):  # threads would wait for each other: the products are small
        for lying, looking in zip(_by_cell(cells[:, :1], layout.k), _by_cell(cells, layout.k), strict=True):
            yield from _above(vectors, looking, lying, least)


def _above(
    vectors: np.ndarray, looking: np.ndarray, lying: np.ndarray, least: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the places a < b, a of one list and b of another, of vectors whose product is above the least."""
    for start in range(0, len(looking), _QUERIES):
        some = looking[start : start + _QUERIES]
        for at in range(0, len(lying), _BLOCK):
            beside = lying[at : at + _BLOCK]
            a, b = np.nonzero(vectors[some] @ vectors[beside].T >= least)
            forward = some[a] < beside[b]
            yield some[a[forward]], beside[b[forward]]


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


def _banded_links(directions: _Directions, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield links found among those with equal bands of their signatures, each checked on the full vectors."""
    n, signatures = len(directions), _signatures(directions)
    drawn = np.random.default_rng(1)
    bands = [drawn.choice(_BITS // 8, _BYTES, replace=False) for _ in range(_BANDS)]
    share = np.arccos(threshold) / np.pi  # of the bits, that look-alikes at the threshold differ in
    most = _BITS * share + 4 * (_BITS * share * (1 - share)) ** 0.5
    with ThreadPoolExecutor(2) as pool:
        codes = np.unique(np.concatenate(list(pool.map(lambda band: _codes(signatures, band, most), bands))))
    for at in range(0, len(codes), _BLOCK):
        a, b = np.divmod(codes[at : at + _BLOCK], n)
        alike = np.vecdot(directions[a], directions[b]) >= threshold - 1e-6
        yield a[alike], b[alike]


def _signatures(directions: _Directions) -> np.ndarray:
    """Return on which side of random planes each vector lies, uint8 [n, _BITS / 8]."""
    planes = np.random.default_rng(0).standard_normal((len(directions.mean), _BITS), dtype=np.float32)
    parts = (directions[slice(at, at + _BLOCK)] @ planes >= 0 for at in range(0, len(directions), _BLOCK))
    return np.concatenate([np.packbits(part, axis=1) for part in parts])


def _codes(signatures: np.ndarray, band: np.ndarray, most: float) -> np.ndarray:
    """Return a n + b of places a < b of vectors that are neighbours by the bytes of a band, and differ in few bits."""
    n = len(signatures)
    keys = np.zeros(n, np.uint64)
    for column in band.tolist():
        keys = keys << np.uint64(8) | signatures[:, column]
    keys = np.sort(keys << np.uint64(32) | np.arange(n, dtype=np.uint64))  # of equal ones in their order
    keys, places = keys >> np.uint64(32), (keys & np.uint64(2**32 - 1)).astype(np.int64)
    found = []
    for step in range(1, _BESIDE + 1):
        equal = np.flatnonzero(keys[step:] == keys[:-step])
        for at in range(0, len(equal), _BLOCK):
            a, b = places[equal[at : at + _BLOCK]], places[equal[at : at + _BLOCK] + step]
            few = np.bitwise_count(signatures[a] ^ signatures[b]).sum(axis=1, dtype=np.int64) <= most
            found.append(a[few] * n + b[few])
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
