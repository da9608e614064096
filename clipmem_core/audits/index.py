"""The embedding cache of a member: FAISS files whose row r is the mean embedding of pair r."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from clipmem_core.atomic import replacing
from clipmem_core.config import InputError


def write_index(path: Path, vectors: np.ndarray) -> None:
    """Write vectors float32 [n_pairs, dim] as an IndexFlatIP, atomically."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    with replacing(path) as temporary:
        faiss.write_index(index, str(temporary))


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
