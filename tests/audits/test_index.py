from pathlib import Path

import faiss
import numpy as np
import pytest

from clipmem_core.audits.index import map_vectors, open_index, write_index
from clipmem_core.config import InputError


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, np.ndarray]:
    vectors = np.random.default_rng(0).normal(size=(300, 24)).astype(np.float32)
    write_index(tmp_path / "image.faiss", vectors)
    return tmp_path / "image.faiss", vectors


def test_an_index_is_flat_and_in_row_order_and_mapped_vectors_are_those_written(
    stored: tuple[Path, np.ndarray],
) -> None:
    path, vectors = stored
    index = faiss.read_index(str(path))
    assert isinstance(index, faiss.IndexFlatIP)
    assert np.array_equal(index.reconstruct_n(0, index.ntotal), vectors)
    path, vectors = stored
    mapped = map_vectors(path)
    assert np.array_equal(mapped, vectors)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0, 0] = 1
    path, vectors = stored
    part = map_vectors(path)[100:]
    junk = [np.ones(1 << 16) for _ in range(50)]
    assert np.array_equal(part, vectors[100:])
    assert len(junk) == 50
    path, vectors = stored
    products, rows = open_index(path).search(vectors[:20], 5)
    expected = np.argsort(-(vectors[:20] @ vectors.T), axis=1)[:, :5]
    assert np.array_equal(rows, expected)
    assert np.allclose(products, np.take_along_axis(vectors[:20] @ vectors.T, expected, axis=1), atol=1e-5)


def test_a_missing_or_broken_index_is_one_line(stored: tuple[Path, np.ndarray]) -> None:
    path, _ = stored
    with pytest.raises(InputError, match="text.faiss is missing: run the audit again"):
        open_index(path.with_name("text.faiss"))
    for content in (b"", b"no index at all", path.read_bytes()[:2000]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="image.faiss is not a FAISS index: delete it and run the audit again"):
            map_vectors(path)
