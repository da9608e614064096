"""Embeddings in FAISS indices: how they are written, mapped and searched.

Every file opens with faiss alone. An `IndexFlatIP` has float32 vectors (of members), an
`IndexScalarQuantizer` float16 ones (features of towers). Files are mapped, not read.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import faiss as faiss_typed
import numpy as np

from clipmem_core.utils import draws
from clipmem_core.utils.io import replacing

BLOCK = 16_384  # rows that are compared or converted at a time
QUERIES = 1024  # vectors in a search
# vectors whose similar pairs are searched exhaustively; above, the search is approximate
EXACT_UP_TO = 20_000
SHORT = 64  # numbers of a shortened vector
_CELLS = 2  # times the root of their number
PROBES = 8  # cells searched for each vector

_TINY = np.finfo(np.float32).tiny  # in place of the length 0

faiss: Any = faiss_typed  # whose stubs lack half of it
_ARRAY: Any = object  # so that a type checker takes Vectors for an array


class Vectors(_ARRAY):
    """The vectors of a mapped index, or some of its rows; used as an array [n, dim].

    faiss maps vectors to addresses that numpy does not count as aligned, so every access returns a
    copy.
    """

    ndim = 2

    def __init__(self, index: Any, rows: np.ndarray | None = None) -> None:
        # the mapping ends with the index
        self.index = index
        self.rows = rows
        self.dtype = np.dtype(np.float32 if index.code_size == 4 * index.d else np.float16)
        codes = faiss.rev_swig_ptr(index.codes.data(), index.ntotal * index.code_size)
        # A row is one item, which is copied at once.
        self.stored = codes.view(f"V{index.code_size}")
        self.shape = (index.ntotal if rows is None else len(rows), index.d)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        key = key if self.rows is None else self.rows[key]
        copied = self.stored[key].copy() if isinstance(key, slice) else self.stored[key]
        return copied.view(self.dtype).reshape(len(copied), self.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def take(self, rows: np.ndarray) -> "Vectors":
        """Return some rows, in their order."""
        return Vectors(self.index, rows if self.rows is None else self.rows[rows])

    def cosines(self, query: np.ndarray) -> np.ndarray:
        """Return the cosine of a vector with each row, float32 [n]; 0 for a row of zeros."""
        unit = (query / np.linalg.norm(query)).astype(np.float32)
        cosines = np.empty(len(self), np.float32)
        for at in range(0, len(self), QUERIES):
            block = self[at : at + QUERIES].astype(np.float32, copy=False)
            lengths = np.sqrt(np.vecdot(block, block))
            cosines[at : at + QUERIES] = np.vecdot(block, unit) / np.maximum(lengths, _TINY)
        return cosines


def write_vectors(path: Path, blocks: Iterable[np.ndarray]) -> None:
    """Write blocks of vectors [n, dim], float32 or float16, as one index, atomically; one is in
    memory at a time."""
    with replacing(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as raw:
        for block in blocks:
            raw.write(np.ascontiguousarray(block).data)
        raw.flush()
        dim = block.shape[1]
        if block.dtype == np.float16:
            kind = faiss.ScalarQuantizer.QT_fp16
            index = faiss.IndexScalarQuantizer(dim, kind, faiss.METRIC_INNER_PRODUCT)
        else:
            index = faiss.IndexFlatIP(dim)
        codes = np.memmap(raw, np.uint8, "c")
        # Written without a copy in memory
        index.codes = faiss.MaybeOwnedVectorUInt8.create_view(
            faiss.swig_ptr(codes), len(codes), index.codes.owner
        )
        index.ntotal = len(codes) // index.code_size
        with temporary.open("wb") as file:
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def read_vectors(path: Path) -> Vectors:
    """Map the vectors of an index; a damaged file is a ValueError."""
    try:
        return Vectors(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
    except RuntimeError as error:
        path.stat()  # raises for a missing file
        raise ValueError(f"faiss cannot open it: {str(error).rpartition('Error: ')[2]}") from None


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to unit length; a row of zeros stays.

    Args: [n, dim]. Returns: floating, [n, dim].
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def nearest_rows(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k vectors with the largest inner products with each query, the largest first.

    Args:
        vectors: [n, dim], float32.
        queries: [n_queries, dim], float32.
        k: at most n.

    Returns:
        Products, float32 [n_queries, k], and rows of `vectors`, int64 [n_queries, k].
    """
    return faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)


def nearest_neighbours(
    vectors: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest rows as `nearest_rows` does; approximate above `EXACT_UP_TO` vectors,
    where only the nearest cells are searched. A row is −1 if these hold fewer than k vectors."""
    if len(vectors) <= EXACT_UP_TO:
        return nearest_rows(vectors, queries, k)
    return _cells_of(vectors).search(queries, k)


def close_pairs(
    vectors: np.ndarray, limit: float, *, metric: int = faiss.METRIC_INNER_PRODUCT
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of rows a < b, int64 [n, 2], whose inner product or square distance is within the
    limit, and their products or distances, [n]."""
    index = faiss.IndexFlat(vectors.shape[1], metric)
    index.add(vectors)
    return _search_pairs(index, vectors, limit)


def _search_pairs(
    index: Any, vectors: np.ndarray, limit: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(vectors), QUERIES):
        ends, values, b = index.range_search(vectors[start : start + QUERIES], limit)
        a = start + np.repeat(np.arange(len(ends) - 1), np.diff(ends).astype(np.int64))
        yield np.stack([a, b], axis=1)[a < b], values[a < b]


def similar_pairs(
    directions: Callable[[np.ndarray | slice], np.ndarray], n: int, threshold: float
) -> Iterator[np.ndarray]:
    """Yield rows, int64 [n, 2], of the pairs of n directions whose cosine reaches the threshold.

    Up to `EXACT_UP_TO` directions are compared exhaustively. Above, random projections onto 64
    dimensions are compared in about 2 √n cells: time grows with n^1.5, and a pair close to the
    threshold may be missed. `directions` returns the unit vectors of some rows, float32 [n, dim].
    """
    if n <= EXACT_UP_TO:
        candidates = close_pairs(directions(slice(None)), threshold - 1e-5)
    else:
        dim = directions(slice(1)).shape[1]
        drawn = draws.rng(0, "projection").standard_normal((dim, min(SHORT, dim)))
        axes = np.linalg.qr(drawn)[0].astype(np.float32)
        vectors = np.concatenate(
            [directions(slice(at, at + BLOCK)) @ axes for at in range(0, n, BLOCK)]
        )
        faiss.normalize_L2(vectors)
        # The projection changes a cosine t with an SD of about (1 − t²) / √64.
        margin = 4 * (1 - threshold**2) / axes.shape[1] ** 0.5
        candidates = _search_pairs(_cells_of(vectors), vectors, threshold - margin)
    for pairs, _ in candidates:
        for at in range(0, len(pairs), BLOCK):
            part = pairs[at : at + BLOCK]
            cosines = np.vecdot(directions(part[:, 0]), directions(part[:, 1]))
            yield part[cosines >= threshold - 1e-6]


def _cells_of(vectors: np.ndarray) -> Any:
    """Return an inverted file index of unit vectors, which searches the nearest cells."""
    dim = vectors.shape[1]
    n_cells = int(_CELLS * len(vectors) ** 0.5)
    index = faiss.index_factory(dim, f"IVF{n_cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.nprobe = PROBES
    index.cp.niter = 10
    index.cp.seed = 1
    index.cp.spherical = True
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = 40
    index.train(vectors)
    index.add(vectors)
    return index
