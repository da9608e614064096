"""The embedding cache of a member: FAISS files whose row r is the mean embedding of pair r."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import faiss
import numpy as np

from clipmem_core.atomic import replacing
from clipmem_core.config import InputError

# How faiss begins the file of an IndexFlatIP (impl/index_write.cpp): its name, dim, vectors, two numbers that nothing
# reads, trained, the metric of inner products, and how many floats follow.
_HEADER = struct.Struct("<4siqqq?iQ")
_UNREAD = 1 << 20


def write_index(path: Path, vectors: np.ndarray | Iterable[np.ndarray]) -> None:
    """Write vectors [n_pairs, dim] as an IndexFlatIP of float32, atomically.

    Args:
        path: the file.
        vectors: an array, or blocks [n, dim] of one in their order, of which only one is held at a time.
    """
    blocks = [vectors] if isinstance(vectors, np.ndarray) else vectors
    with replacing(path) as temporary, temporary.open("wb") as file:
        _write_blocks(file, blocks)


def _write_blocks(file: IO[bytes], blocks: Iterable[np.ndarray]) -> None:
    count = dim = 0
    file.write(bytes(_HEADER.size))
    for block in blocks:
        count, dim = count + len(block), block.shape[1]
        file.write(np.ascontiguousarray(block, dtype="<f4").data)
    file.seek(0)
    file.write(_HEADER.pack(b"IxFI", dim, count, _UNREAD, _UNREAD, True, faiss.METRIC_INNER_PRODUCT, count * dim))


def open_index(path: Path) -> Any:
    """Map an index from disk for searching; nothing is read until it is needed. Never add to a mapped index."""
    if not path.is_file():
        raise InputError(f"{path} is missing: run the audit again, it goes on where it stopped")
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError:
        raise InputError(f"{path} is not a FAISS index: delete it and run the audit again") from None


def map_vectors(path: Path) -> np.ndarray:
    """Map the vectors of an index, float32 [n_pairs, dim], read-only and without a copy.

    They are the last bytes of the file; a map of numpy's own lives as long as any array on it.
    """
    index = open_index(path)
    shape = (index.ntotal, index.d)
    offset = path.stat().st_size - index.ntotal * index.d * 4
    return np.memmap(path, dtype="<f4", mode="r", offset=offset, shape=shape)
