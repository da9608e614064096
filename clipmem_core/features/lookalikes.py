"""Look-alikes by features: pictures that a locked tower hardly tells apart, also cropped, recoloured or mirrored."""

from collections.abc import Iterator

import faiss
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ALIKE = 0.95  # least cosine of two features, less their mean, of look-alikes
APPROXIMATE_ABOVE = 200_000  # from here on the search looks only into the nearest cells

_QUERIES = 1024  # features searched for at a time
_PROBES = 16  # cells looked into by the approximate search


def alike_by_features(features: np.ndarray, *, threshold: float = ALIKE) -> np.ndarray:
    """Say of each picture which cluster of look-alikes it is in: those that links of cosine ≥ threshold connect.

    The mean over all pictures is taken off first: features after a ReLU all point the same way otherwise.

    Args:
        features: [n, dim], of any float type.
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
    links = [np.concatenate(side) for side in zip(*_links(_directions(features), threshold), strict=True)]
    graph = coo_array((np.ones(len(links[0]), bool), (links[0], links[1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component]


def _directions(features: np.ndarray) -> np.ndarray:
    """Return unit vectors less the mean, float32 [n, dim]; one that is the mean itself stays zero."""
    vectors = features.astype(np.float32)
    vectors -= vectors.mean(axis=0)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=vectors, where=lengths > 0)


def _links(vectors: np.ndarray, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    n, dim = vectors.shape
    index: faiss.Index = faiss.IndexFlatIP(dim)
    if n > APPROXIMATE_ABOVE:
        index = faiss.IndexIVFFlat(index, dim, int(2 * n**0.5), faiss.METRIC_INNER_PRODUCT)
        index.nprobe = _PROBES
        index.train(vectors)
    index.add(vectors)
    for start in range(0, n, _QUERIES):
        limits, _, found = index.range_search(vectors[start : start + _QUERIES], threshold - 1e-6)
        yield np.repeat(np.arange(start, start + len(limits) - 1), np.diff(limits.astype(np.int64))), found
