"""Embeddings in FAISS indices: written block by block, mapped, and searched."""

import gc
import resource
from pathlib import Path

import faiss
import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from clipmem_core.utils.embeddings import nearest_rows, read_vectors, write_vectors

KINDS = {np.float32: faiss.IndexFlatIP, np.float16: faiss.IndexScalarQuantizer}


@pytest.mark.parametrize("dtype", list(KINDS))
def test_an_index_opens_with_faiss_alone_and_is_mapped(tmp_path: Path, dtype: type) -> None:
    vectors = np.random.default_rng(0).normal(size=(700, 24)).astype(dtype)
    write_vectors(tmp_path / "x.faiss", (vectors[at : at + 100] for at in range(0, 700, 100)))
    index = faiss.read_index(str(tmp_path / "x.faiss"))
    assert type(index) is KINDS[dtype]
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    np.testing.assert_array_equal(index.reconstruct_n(0, 700), vectors)
    stored = read_vectors(tmp_path / "x.faiss")
    rows = np.array([5, 699, 5])
    part = stored.take(rows)
    del stored
    gc.collect()  # the mapping lives as long as its rows
    assert (part.shape, part.dtype) == ((3, 24), dtype)
    np.testing.assert_array_equal(part, vectors[rows])
    np.testing.assert_array_equal(part.take(np.array([1]))[:], vectors[[699]])
    assert [path.name for path in tmp_path.iterdir()] == ["x.faiss"]


@pytest.mark.parametrize("dtype", list(KINDS))
def test_vectors_are_compared_as_by_scikit_learn(tmp_path: Path, dtype: type) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(3000, 16)).astype(dtype)
    query = rng.normal(size=16).astype(np.float32)
    vectors[7] = 0
    write_vectors(tmp_path / "x.faiss", [vectors])
    stored = read_vectors(tmp_path / "x.faiss")
    cosines = cosine_similarity(query[None], vectors)[0]
    np.testing.assert_allclose(stored.cosines(query), cosines, atol=1e-5)
    products = vectors.astype(np.float32) @ query
    found, closest = nearest_rows(vectors.astype(np.float32), query[None], 10)
    np.testing.assert_allclose(found[0], np.sort(products)[::-1][:10], rtol=1e-3)
    np.testing.assert_array_equal(closest[0], np.argsort(-products)[:10])


def test_a_damaged_index_and_a_full_disk_are_errors_of_their_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.faiss"
    vectors = np.ones((1000, 64), np.float32)
    write_vectors(path, [vectors])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="faiss cannot open it"):
        read_vectors(path)
    with pytest.raises(FileNotFoundError):
        read_vectors(tmp_path / "absent.faiss")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_vectors(path, [vectors])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_size == 1000
