from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from clipmem_core.audit.store import Audit, write_manifest
from clipmem_core.cli import main
from clipmem_core.config import InputError
from clipmem_core.review import maps
from clipmem_core.review.maps import lay_out, make_map, map_file, map_name, map_path, map_points
from tests.fixtures import Copy
from tests.review.embedded import embed

NAME = map_name("r0-f0", "image")
ODD_NAMES = ["", "r0-f0", "r0-f0.picture", "absent.image", "../../../etc.image", "r0-f0/../r0-f0.image", ".image"]


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """A finished audit with random embeddings."""
    audit = copy()
    embed(audit)
    write_manifest(audit.folder)
    return audit


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace UMAP; the list has the number of vectors of each map drawn."""
    calls: list[int] = []

    def first_two(vectors: np.ndarray, *, say: object) -> np.ndarray:
        calls.append(len(vectors))
        return vectors[:, :2]

    monkeypatch.setattr(maps, "lay_out", first_two)
    return calls


def blobs(*, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return three clouds of unit vectors around orthogonal axes, and the cloud of each vector."""
    rng, of = np.random.default_rng(seed), np.repeat(np.arange(3), each)
    vectors = np.eye(16)[of] + rng.normal(scale=0.1, size=(3 * each, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), of


def test_a_map_separates_clusters_by_cosine_and_is_reproducible() -> None:
    vectors, of = blobs(each=40)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(vectors))
    scaled = vectors[order] * rng.uniform(0.1, 1, size=(120, 1)).astype(np.float32)
    places = lay_out(scaled)
    assert places.shape == (120, 2)
    assert silhouette_score(places, of[order]) > 0.8
    np.testing.assert_array_equal(lay_out(scaled), places)


def test_a_map_has_a_place_for_every_pair_and_is_drawn_once(audit: Audit, drawn: list[int]) -> None:
    assert map_file(audit, NAME) is None
    path = make_map(audit, NAME)
    assert path == map_file(audit, NAME) == make_map(audit, NAME)
    points = map_points(audit, NAME, "clipmem")
    assert list(points.columns) == ["row", "map_x", "map_y", "clipmem"]
    assert points["row"].tolist() == list(range(100))
    np.testing.assert_allclose(points["clipmem"], audit.scores["clipmem"])
    assert drawn == [100]


def test_each_member_and_side_has_a_map_and_other_names_are_refused(audit: Audit) -> None:
    names = [map_name(member, side) for member in audit.record.members for side in ("image", "text")]
    assert len({map_path(audit, name) for name in names}) == 8
    for name in ODD_NAMES:
        assert map_file(audit, name) is None
        with pytest.raises(InputError, match="has no map"):
            make_map(audit, name)
        with pytest.raises(InputError, match="draw it on the page"):
            map_points(audit, name, "clipmem")
    (audit.member("r0-f0") / "image.npy").unlink()
    with pytest.raises(InputError, match=r"r0-f0/image\.npy is missing"):
        make_map(audit, NAME)


def test_the_job_draws_the_map_or_ends_with_one_line(
    audit: Audit, data: Path, drawn: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    task = maps.map_task(audit, NAME)
    assert task.folder == data / "jobs" / ".maps" / map_path(audit, NAME).stem
    arguments = list(task.arguments)
    assert main(arguments) == 0
    assert map_file(audit, NAME) is not None
    assert "reading the embeddings\n" in capsys.readouterr().out
    with pytest.raises(InputError, match="has no map"):
        maps.map_task(audit, "../../x.image")
    assert main([*arguments[:-1], "x.image"]) == 2
    error = capsys.readouterr().err
    assert "has no map" in error
    assert error.count("\n") == 1


def test_other_embeddings_are_another_map_and_a_large_audit_is_sampled(
    audit: Audit, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_map(audit, NAME)
    np.save(audit.member("r0-f0") / "image.npy", np.eye(100, 12, dtype=np.float32))
    write_manifest(audit.folder)
    assert map_file(audit, NAME) is None
    monkeypatch.setattr(maps, "LIMIT", 40)
    assert make_map(audit, NAME) != before
    assert drawn == [100, 40]
    rows = map_points(audit, NAME, "clipmem")["row"]
    assert rows.is_monotonic_increasing
    assert rows.is_unique
