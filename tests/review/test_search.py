import os
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from clipmem_core.audits.index import write_index
from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.review import search
from clipmem_core.review.search import hits
from clipmem_core.review.selection import Selection
from tests.review.embedded import DIM, embed

Copy = Callable[..., Audit]


def meaning_of(text: str) -> np.ndarray:
    """A text encoder that knows nothing: a direction for each text."""
    vector = np.random.default_rng(list(text.encode())).normal(size=DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Put that encoder in the place of the members', and keep what it was asked."""
    asked = []

    def embed_text(audit: Audit, text: str, *, member: str = "") -> np.ndarray:
        asked.append((text, member))
        return meaning_of(text)

    monkeypatch.setattr(search, "embed_text", embed_text)
    search._hits.cache_clear()
    return asked


def expected(query: np.ndarray, vectors: np.ndarray) -> tuple[list[int], np.ndarray]:
    cosine = cosine_similarity(query[None], vectors)[0]
    order = sorted(range(len(vectors)), key=lambda row: -cosine[row])
    return order, cosine[order]


@pytest.mark.parametrize(("by", "side"), [("image", 0), ("text", 1)])
def test_a_meaning_is_held_against_every_picture_or_caption(
    copy: Copy, by: str, side: int, encoder: list[tuple[str, str]]
) -> None:
    audit = copy()
    vectors = embed(audit)["r0-f1"][side]
    rows, match = hits(audit, Selection(meaning="a red car", by=by, member="r0-f1"))
    order, cosine = expected(meaning_of("a red car"), vectors)
    assert rows.tolist() == order
    np.testing.assert_allclose(match, cosine, atol=1e-6)
    assert (rows.dtype, match.dtype) == (np.int64, np.float32)
    assert encoder == [("a red car", "r0-f1")]


@pytest.mark.parametrize(("by", "side"), [("image", 0), ("text", 1)])
def test_more_like_a_pair_begins_with_the_pair(copy: Copy, by: str, side: int) -> None:
    audit = copy()
    vectors = embed(audit)["r0-f0"][side]
    rows, match = hits(audit, Selection(like="images/042.png", by=by, member="r0-f0"))
    order, cosine = expected(vectors[42], vectors)
    assert rows.tolist() == order
    assert rows[0] == 42
    np.testing.assert_allclose(match, cosine, atol=1e-6)


def test_a_meaning_and_a_pair_together_weigh_the_same(copy: Copy) -> None:
    audit = copy()
    vectors = embed(audit)["r0-f0"][0]
    rows, match = hits(audit, Selection(meaning="at night", like="images/042.png", member="r0-f0"))
    between = (meaning_of("at night") + vectors[42] / np.linalg.norm(vectors[42])) / 2
    order, cosine = expected(between, vectors)
    assert rows.tolist() == order
    np.testing.assert_allclose(match, cosine, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "side"),
    [({"like": "images/042.png"}, 0), ({"meaning": "music"}, 1), ({"meaning": "music", "by": "image"}, 0)],
)
def test_without_a_member_the_cosines_of_all_are_averaged(copy: Copy, asked: dict[str, str], side: int) -> None:
    audit = copy()
    spaces = [vectors[side] for vectors in embed(audit).values()]
    queries = [meaning_of("music") if "meaning" in asked else vectors[42] for vectors in spaces]
    mean = np.mean(
        [cosine_similarity(query[None], vectors)[0] for query, vectors in zip(queries, spaces, strict=True)], axis=0
    )
    rows, match = hits(audit, Selection(**asked))
    assert rows.tolist() == np.argsort(-mean).tolist()
    np.testing.assert_allclose(match, mean[rows], atol=1e-6)


def test_a_search_ends_at_its_limit(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = copy()
    embed(audit)
    monkeypatch.setattr(search, "LIMIT", 7)
    rows, match = hits(audit, Selection(meaning="music"))
    assert len(rows) == len(match) == 7


def test_pages_and_filters_of_one_search_search_once(copy: Copy, encoder: list[tuple[str, str]]) -> None:
    audit = copy()
    embed(audit)
    first = hits(audit, Selection(meaning="music", member="r0-f0"))
    again = hits(audit, Selection(meaning="music", order="misfit", group="scored", ascending=True, member="r0-f0"))
    assert first[0] is again[0]
    assert len(encoder) == 1
    for array in first:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_an_index_that_changes_is_searched_anew(copy: Copy, encoder: list[tuple[str, str]]) -> None:
    audit = copy()
    vectors = embed(audit)["r0-f0"][0]
    asked = Selection(meaning="music", by="image", member="r0-f0")
    before, _ = hits(audit, asked)
    path = audit.member("r0-f0") / "image.faiss"
    then = path.stat().st_mtime_ns
    write_index(path, vectors[::-1])
    os.utime(path, ns=(then + 1, then + 1))
    after, _ = hits(audit, asked)
    assert (99 - after).tolist() == before.tolist()


def test_a_pair_that_is_none_is_named(copy: Copy) -> None:
    audit = copy()
    embed(audit)
    with pytest.raises(InputError, match="there is no pair '<b>none</b>' in audit 'made': take another"):
        hits(audit, Selection(like="<b>none</b>"))


def test_a_member_that_is_none_is_answered_with_those_there_are(copy: Copy) -> None:
    audit = copy()
    embed(audit)
    with pytest.raises(InputError, match=r"no member 'm9' in this audit \(there is: r0-f0, r0-f1, r1-f0, r1-f1\)"):
        hits(audit, Selection(meaning="music", member="m9"))


def test_an_audit_without_embeddings_is_named(copy: Copy) -> None:
    with pytest.raises(InputError, match=r"text\.faiss is missing: run the audit again"):
        hits(copy(), Selection(meaning="music"))


def test_what_is_no_search_is_refused(copy: Copy) -> None:
    with pytest.raises(ValueError, match="selection must have a meaning or a pair to be like"):
        hits(copy(), Selection())
