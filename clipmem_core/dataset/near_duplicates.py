"""Clusters of near-duplicate pictures: copies by their descriptors, and cropped or mirrored ones by
their features."""

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence

import faiss
import numpy as np
import scipy

from clipmem_core.dataset.pictures import DESCRIPTOR_SIDE
from clipmem_core.utils.embeddings import BLOCK, close_pairs, similar_pairs

FLAT = 1.0  # contrast in grey levels below which a descriptor shows almost nothing of the picture
TEXTURED = 25.0  # contrast from which a difference of TEXTURED_RMS can only come from compression
RMS = 0.03  # largest difference of any two near-duplicates, as a share of their contrast
TEXTURED_RMS = 0.1  # largest difference of two textured near-duplicates …
PEAK = 0.35  # … unless it is concentrated in one place, such as a changed mouth or word

SIMILAR_FROM = 0.95  # minimum cosine of centred features of near-duplicates


def near_duplicate_clusters(descriptors: np.ndarray, sha256: Sequence[str]) -> np.ndarray:
    """Return each picture's cluster of rescaled or recompressed copies: its first picture, int64
    [n_pictures].

    Two pictures are near-duplicates if their files have the same bytes, or if their descriptors
    differ by little compared with their contrast. With c the smaller contrast (the standard
    deviation of a descriptor's values), rms and peak the root mean square and the largest of the
    differences, in grey levels:

        rms < RMS · c      or, for c ≥ TEXTURED,      rms < TEXTURED_RMS · c and peak < PEAK · c

    Thresholds relative to the contrast separate thin drawings on white, which differ by less than a
    photograph and its copy. The looser rule allows for compression, which spreads its error over
    the picture. Rescaled copies differ by about .01, JPEG at quality 75 by .02, at 40 by .04, two
    photographs of one scene by .11 and more. A picture with a contrast below FLAT, such as a blank
    one, only matches the same bytes. Time grows with the square of the number of pictures.

    Args:
        descriptors: uint8 [n_pictures, 3 · DESCRIPTOR_SIDE²], rows of RGB values.
        sha256: hash of each picture's bytes; an empty one equals no other.
    """
    n = len(descriptors)
    contrast = np.array([row.std(dtype=np.float32) for row in descriptors], np.float32)
    visible = np.flatnonzero(contrast >= FLAT)
    replicates = _repeats((descriptors[row].tobytes() for row in visible), visible)
    rows = np.setdiff1d(visible, replicates[:, 0])
    similar = [rows[pairs] for pairs in _similar_pairs(descriptors[rows], contrast[rows])]
    return _clusters(n, [_repeats(sha256, range(n)), replicates, *similar])


def near_duplicates_by_features(features: np.ndarray) -> np.ndarray:
    """Return each picture's cluster by features of a locked tower: the row of its first picture,
    int64 [n].

    They match cropped or recoloured copies too. Pictures of one cluster are connected by links of
    cosine ≥ SIMILAR_FROM. The mean over all pictures is subtracted first, since features after a
    ReLU all have similar directions. Above 20,000 distinct features the search is approximate.
    `features` [n, dim] may be of any float type and mapped.
    """
    n = len(features)
    starts = range(0, n, BLOCK)
    total = sum(features[at : at + BLOCK].sum(axis=0, dtype=np.float64) for at in starts)
    mean = (total / n).astype(np.float32)
    digests = (hashlib.sha256(row).digest() for at in starts for row in features[at : at + BLOCK])
    replicates = _repeats(digests, range(n))
    rows = np.setdiff1d(np.arange(n), replicates[:, 0])

    def directions(places: np.ndarray | slice) -> np.ndarray:
        """Return some distinct features, centred, as unit vectors float32 [n, dim]."""
        vectors = features[rows[places]].astype(np.float32) - mean
        faiss.normalize_L2(vectors)
        return vectors

    found = similar_pairs(directions, len(rows), SIMILAR_FROM)
    return _clusters(n, [replicates, *(rows[pairs] for pairs in found)])


def join_clusters(clusters: np.ndarray, keys: Sequence[Hashable]) -> np.ndarray:
    """Return each picture's cluster where pictures with the same key share one too, int64 [n].

    Args: the near-duplicate cluster of each picture, [n]; its key, None for none.

    Example:
        >>> join_clusters(np.array([0, 1, 1, 3]), ["a", "b", None, "a"]).tolist()
        [0, 1, 1, 0]
    """
    rows = np.arange(len(clusters))
    return _clusters(len(rows), [np.column_stack([rows, clusters]), _repeats(keys, rows.tolist())])


def _repeats(keys: Iterable[Hashable], rows: Iterable[int]) -> np.ndarray:
    """Return each row with an earlier row's key and the first row with it, int64 [n, 2]; empty keys
    do not count."""
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


def _similar_pairs(descriptors: np.ndarray, contrast: np.ndarray) -> Iterator[np.ndarray]:
    """Yield near-duplicates, int64 [n, 2]: candidates by small vectors, then compared by their
    descriptors."""
    half = DESCRIPTOR_SIDE // 2
    # At half their side, less their mean, in units of contrast
    grid = descriptors.reshape(-1, half, 2, half, 2, 3)
    small = grid.mean(axis=(2, 4), dtype=np.float32).reshape(-1, 3 * half**2)
    vectors = (small - small.mean(axis=1, keepdims=True)) / contrast[:, None]
    dim = vectors.shape[1]
    # by the triangle inequality two vectors are never further apart than twice the difference's
    # share of contrast
    limit = dim * (2 * TEXTURED_RMS) ** 2
    for pairs, _ in close_pairs(vectors, limit, metric=faiss.METRIC_L2):
        for at in range(0, len(pairs), BLOCK):
            part = pairs[at : at + BLOCK]
            unit = contrast[part].min(axis=1)
            difference = np.abs(descriptors[part[:, 0]].astype(np.int16) - descriptors[part[:, 1]])
            rms = np.sqrt(np.square(difference, dtype=np.float32).mean(axis=1)) / unit
            peak = difference.max(axis=1) / unit
            yield part[(rms < RMS) | ((unit >= TEXTURED) & (rms < TEXTURED_RMS) & (peak < PEAK))]
