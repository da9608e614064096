from pathlib import Path

import faiss
import numpy as np
import pytest

from clipmem_core.audits import near
from clipmem_core.audits.index import map_vectors, write_index
from clipmem_core.audits.near import RECALL, ensure_near, near_path, open_near, tune
from clipmem_core.audits.store import IMAGE_INDEX, TEXT_INDEX, Audit, write_manifest
from clipmem_core.review.search import hits, nearest
from clipmem_core.review.selection import Selection
from tests.million import make_large_audit

PAIRS, DIM = 3_000, 24


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """A made-up audit with embeddings of some kinds of things, of lengths that differ."""
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    monkeypatch.setattr(near, "ABOVE", PAIRS - 1)
    made = make_large_audit(tmp_path, "large", pairs=PAIRS, embeddings=True)
    rng = np.random.default_rng(3)
    for name in made.record.members:
        latent = rng.normal(size=(60, DIM))[rng.integers(60, size=PAIRS)] + 0.5 * rng.normal(size=(PAIRS, DIM))
        for file in (IMAGE_INDEX, TEXT_INDEX):
            own = latent + 0.3 * rng.normal(size=(PAIRS, DIM))
            lengths = rng.uniform(0.5, 1, size=(PAIRS, 1)) / np.linalg.norm(own, axis=1, keepdims=True)
            write_index(made.member(name) / file, (own * lengths).astype(np.float32))
    write_manifest(made.folder)
    return made


def _said(audit: Audit) -> list[str]:
    lines: list[str] = []
    ensure_near(audit, say=lines.append)
    return lines


def _cosines(audit: Audit, member: str, file: str, row: int) -> np.ndarray:
    vectors = np.array(map_vectors(audit.member(member) / file), dtype=np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit[row]


def test_it_is_made_above_a_size_and_finds_what_was_measured(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as larger:
        larger.setattr(near, "ABOVE", PAIRS)
        assert _said(audit) == []
        assert open_near(audit, "r0-f0", IMAGE_INDEX) is None
    assert len(_said(audit)) == 2 * len(audit.record.members)
    assert _said(audit) == []  # all are there
    made = open_near(audit, "r0-f0", IMAGE_INDEX)
    assert made is not None
    assert RECALL <= made.measured.recall <= 1
    assert made.measured.pairs == PAIRS
    assert made.measured.probes < made.index.nlist / 2
    vectors = np.array(map_vectors(audit.member("r0-f0") / IMAGE_INDEX))
    found = []
    for row in range(0, PAIRS, 10):
        wanted = np.argsort(-_cosines(audit, "r0-f0", IMAGE_INDEX, row))[:11]
        found.append(np.isin(wanted, made.candidates(vectors[row], 11)).mean())
    assert np.mean(found) == pytest.approx(made.measured.recall, abs=0.04)


def test_what_is_found_with_it_has_the_exact_cosines_and_order(audit: Audit) -> None:
    like = Selection(like=str(audit.pairs["pair_id"][70]), by="text", member="r1-f0")
    exact, all_of_them = nearest(audit, 70, by="image", k=10), hits(audit, like)
    _said(audit)
    found = nearest(audit, 70, by="image", k=10)
    assert found == sorted(found, key=lambda own: -own[1])
    assert 70 not in dict(found)
    assert len(set(dict(found)) & set(dict(exact))) >= 8
    cosines = _cosines(audit, "r0-f0", IMAGE_INDEX, 70)
    for row, cosine in found:
        assert cosine == pytest.approx(cosines[row], abs=1e-6)
        assert dict(exact).get(row, cosine) == cosine  # where both have it, the bits are the same
    rows, match = hits(audit, Selection(like=like.like, by="text", member="r1-f0", order="misfit"))
    assert rows[0] == 70
    assert np.isin(all_of_them[0][:10], rows).mean() >= 0.9
    both = hits(audit, Selection(like=like.like))  # in the spaces of all members
    assert both[0][0] == 70
    mean = np.mean([_cosines(audit, name, IMAGE_INDEX, 70) for name in audit.record.members], axis=0)
    np.testing.assert_allclose(both[1], mean[both[0]], atol=1e-6)
    assert (np.diff(both[1]) <= 0).all()


def test_one_that_is_deleted_or_broken_is_made_again_and_until_then_all_are_compared(audit: Audit) -> None:
    exact = nearest(audit, 70, by="image", k=10)
    _said(audit)
    path = near_path(audit, "r0-f0", IMAGE_INDEX)
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[:1000] + b"x" + whole[1001:], b""):
        path.unlink()
        path.write_bytes(broken)
        assert open_near(audit, "r0-f0", IMAGE_INDEX) is None
        assert nearest(audit, 70, by="image", k=10) == exact
        assert any(f"{path} is broken: making it again" in line for line in _said(audit))
        assert path.read_bytes() == whole
    path.with_suffix(".json").write_text("{}")
    path.touch()
    assert open_near(audit, "r0-f0", IMAGE_INDEX) is None
    path.unlink()
    assert nearest(audit, 70, by="image", k=10) == exact
    _said(audit)
    assert open_near(audit, "r0-f0", IMAGE_INDEX) is not None


def test_other_embeddings_have_another_one(audit: Audit) -> None:
    before = [near_path(audit, "r0-f0", file) for file in (IMAGE_INDEX, TEXT_INDEX)]
    assert len(set(before)) == 2
    vectors = np.array(map_vectors(audit.member("r0-f0") / IMAGE_INDEX))
    write_index(audit.member("r0-f0") / IMAGE_INDEX, vectors[::-1])
    write_manifest(audit.folder)
    assert near_path(audit, "r0-f0", IMAGE_INDEX) not in before


def test_as_many_cells_are_looked_into_as_it_takes() -> None:
    """Vectors without any structure: only looking into most cells finds the nearest."""
    vectors = np.random.default_rng(0).normal(size=(4_000, 48)).astype(np.float32)
    index = faiss.index_factory(48, "IVF64,SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    asked, own = vectors[:40], np.concatenate([np.arange(20), np.full(20, -1)])
    assert tune(index, vectors, asked, own) >= RECALL
    assert index.nprobe > 32


def test_where_the_other_side_is_missing_all_are_compared(audit: Audit) -> None:
    exact = nearest(audit, 70, by="image", k=10)
    _said(audit)
    (audit.member("r0-f0") / TEXT_INDEX).unlink()
    assert open_near(audit, "r0-f0", IMAGE_INDEX) is None
    assert nearest(audit, 70, by="image", k=10) == exact
