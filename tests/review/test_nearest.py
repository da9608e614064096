import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clipmem_core.review.nearest import choose_member, cosines, highest, nearest, unit
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from clipmem_core.audits.index import write_index
from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from tests.review.embedded import embed

Copy = Callable[..., Audit]


@pytest.mark.parametrize(("by", "side"), [("image", 0), ("text", 1)])
def test_neighbours_are_those_of_scikit_learn(copy: Copy, by: str, side: int) -> None:
    audit = copy()
    vectors = embed(audit)["r1-f0"][side]
    distances, rows = NearestNeighbors(n_neighbors=9, metric="cosine").fit(vectors).kneighbors(vectors[[7]])
    found = nearest(audit, 7, by=by, member="r1-f0", k=8)
    assert [row for row, _ in found] == rows[0, 1:].tolist()
    np.testing.assert_allclose([cosine for _, cosine in found], 1 - distances[0, 1:], atol=1e-6)


def test_the_first_member_speaks_where_none_is_named(copy: Copy) -> None:
    audit = copy()
    embed(audit)
    assert nearest(audit, 3, by="text", k=5) == nearest(audit, 3, by="text", member="r0-f0", k=5)
    assert nearest(audit, 3, by="text", k=5) != nearest(audit, 3, by="text", member="r0-f1", k=5)


def test_more_neighbours_than_there_are_pairs_are_all_the_others(copy: Copy) -> None:
    audit = copy()
    embed(audit)
    assert sorted(row for row, _ in nearest(audit, 3, by="image", k=1000)) == [row for row in range(100) if row != 3]
    assert nearest(audit, 3, by="image", k=0) == []


def test_a_twin_comes_first_and_the_pair_itself_never(copy: Copy) -> None:
    audit = copy()
    vectors = embed(audit)["r0-f0"][0]
    vectors[3] = vectors[50] * 0.5
    write_index(audit.member("r0-f0") / "image.faiss", vectors)
    assert nearest(audit, 50, by="image", k=1) == [(3, pytest.approx(1))]


@pytest.mark.parametrize(("n_pairs", "dim"), [(1, 3), (7, 5), (5_001, 128), (3_000, 512)])
def test_cosines_are_exact_whatever_the_size(tmp_path: Path, n_pairs: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    vectors, query = rng.normal(size=(n_pairs, dim)).astype(np.float32), rng.normal(size=dim)
    write_index(tmp_path / "image.faiss", vectors)
    wanted = cosine_similarity(query[None], vectors)[0]
    np.testing.assert_allclose(cosines(tmp_path / "image.faiss", query), wanted, atol=1e-6)


def test_a_vector_without_length_is_like_nothing(tmp_path: Path) -> None:
    vectors = np.array([[0, 0], [2, 0], [np.nan, 1]], dtype=np.float32)
    write_index(tmp_path / "image.faiss", vectors)
    np.testing.assert_array_equal(cosines(tmp_path / "image.faiss", np.array([1.0, 0.0])), [0, 1, np.nan])
    np.testing.assert_array_equal(cosines(tmp_path / "image.faiss", np.zeros(2)), [0, 0, np.nan])
    assert unit(np.zeros(2)).tolist() == [0, 0]


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, math.nan])), st.integers(-1, 12))
def test_the_highest_are_the_first_of_a_stable_sort(values: list[float], k: int) -> None:
    known = [place for place, value in enumerate(values) if not math.isnan(value)]
    wanted = sorted(known, key=lambda place: -values[place])[: max(k, 0)]
    assert highest(np.array(values, dtype=np.float32), k).tolist() == wanted


def test_a_member_that_is_none_is_answered_with_those_there_are(copy: Copy) -> None:
    audit = copy("paper")
    embed(audit)
    with pytest.raises(InputError, match=r"no member '\.\./f-0' in this audit \(there is: f-0, g-0, f-1, g-1, f-2"):
        nearest(audit, 3, by="image", member="../f-0", k=5)


@pytest.mark.parametrize("config", [{}, {"members": []}, {"members": "f-0"}])
def test_a_config_without_members_is_an_error(config: dict[str, object]) -> None:
    with pytest.raises(InputError, match="names no members: delete the audit's folder"):
        choose_member(config, "")


def test_a_missing_index_is_named(copy: Copy) -> None:
    with pytest.raises(InputError, match=r"r0-f0/image\.faiss is missing: run the audit again"):
        nearest(copy(), 3, by="image", k=5)


def test_a_row_that_is_not_there_is_named(copy: Copy) -> None:
    audit = copy()
    embed(audit)
    for row in (-1, 100):
        with pytest.raises(InputError, match=f"has no row {row}, only 100: delete it"):
            nearest(audit, row, by="image", k=5)


def test_an_index_of_another_dimension_is_named(copy: Copy) -> None:
    audit = copy()
    embed(audit)
    with pytest.raises(InputError, match=r"image\.faiss has 12 dimensions and the query 3: delete it"):
        cosines(audit.member("r0-f0") / "image.faiss", np.ones(3))


def test_what_is_neither_pictures_nor_captions_is_refused(copy: Copy) -> None:
    with pytest.raises(ValueError, match="by must be one of image, text, not 'smell'"):
        nearest(copy(), 3, by="smell", k=5)
