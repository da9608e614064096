"""The embedding cache of a member: FAISS files whose row r is the mean embedding of pair r."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from clipmem_core.audits.store import replacing
from clipmem_core.config import InputError

IMAGE_INDEX = "image.faiss"
TEXT_INDEX = "text.faiss"


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
    """Map the vectors of an index, float32 [n_pairs, dim], read-only and without a copy."""
    index = open_index(path)
    flat = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    return _Mapped(flat.reshape(index.ntotal, index.d), index)


class _Mapped(np.ndarray):
    """An array that keeps its index, and so the mapping, alive."""

    index: faiss.IndexFlatIP | None

    def __new__(cls, array: np.ndarray, index: faiss.IndexFlatIP) -> "_Mapped":
        mapped = array.view(cls)
        mapped.index = index
        mapped.flags.writeable = False
        return mapped

    def __array_finalize__(self, parent: np.ndarray | None) -> None:
        self.index = getattr(parent, "index", None)
