from pathlib import Path

import numpy as np
import pytest

from clipmem_core.audits.store import broken_files
from clipmem_core.pairs.references import read_bytes
from clipmem_core.review.rows import audit_root, count_pairs, find_rows, labels
from clipmem_core.review.search import embed_text
from clipmem_core.review.selection import Selection
from tests.fixtures import HOSTILE, MEMBERS
from tests.large_fixtures import DIM, make_large_audit


def test_a_large_audit_is_one_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    audit = make_large_audit(tmp_path, "large", pairs=3000, seed=1, embeddings=True)
    assert broken_files(audit.folder) == []
    assert count_pairs(audit, Selection()) == 3000
    assert find_rows(audit, Selection(), page=1, size=10) == list(range(10))
    assert [captions[0] for captions in audit.pairs["captions"][:10]] == HOSTILE
    assert len(labels(audit)) > 100
    assert {read_bytes(audit_root(audit), image)[:2] for image in audit.pairs["image"][:50]} == {b"\xff\xd8"}
    trained = audit.membership[list(MEMBERS["ensemble"])].to_numpy().sum(axis=1)
    assert set(zip(audit.membership["group"], trained, strict=True)) == {("scored", 2), ("external", 0)}
    vectors = np.load(audit.member("r1-f1") / "text.npy", mmap_mode="r")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert embed_text(audit, "a teal circle").shape == (DIM,)


def test_the_same_seed_makes_the_same_pairs_and_scores(tmp_path: Path) -> None:
    one, same, other = (make_large_audit(tmp_path, f"a{n}", pairs=100, seed=n % 2) for n in (0, 2, 1))
    for table in ("pairs", "scores", "membership"):
        assert getattr(one, table).equals(getattr(same, table))
        assert not getattr(one, table).equals(getattr(other, table))
