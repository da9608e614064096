from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from clipmem_core.audits.store import Audit, write_manifest
from clipmem_core.commands import main
from clipmem_core.config import InputError
from clipmem_core.review import maps
from clipmem_core.review.maps import (
    distinctive_words,
    lay_out,
    make_map,
    map_file,
    map_name,
    map_path,
    map_words,
    read_map,
)
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
    """Take the layout out of the way; the list has the number of vectors of each map that would have been drawn."""
    calls: list[int] = []

    def first_two(vectors: np.ndarray, *, say: object) -> np.ndarray:
        calls.append(len(vectors))
        return vectors[:, :2]

    monkeypatch.setattr(maps, "lay_out", first_two)
    return calls


def blobs(*, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return three clouds of unit vectors around right angles, and which one each is of."""
    rng, of = np.random.default_rng(seed), np.repeat(np.arange(3), each)
    vectors = np.eye(16)[of] + rng.normal(scale=0.1, size=(3 * each, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), of


def test_clusters_stay_apart_by_direction_and_the_map_is_the_same_again() -> None:
    """Lengths do not count: the embeddings are means of unit vectors, and short ones are not near each other."""
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
    table = read_map(audit, NAME)
    assert table.dtypes.astype(str).to_dict() == {"row": "int64", "map_x": "float32", "map_y": "float32"}
    assert table["row"].tolist() == list(range(100))
    assert drawn == [100]


def test_every_member_and_side_has_its_own_map_and_no_other_name_has_one(audit: Audit) -> None:
    names = [map_name(member, side) for member in audit.record.members for side in ("image", "text")]
    assert len({map_path(audit, name) for name in names}) == 8
    for name in ODD_NAMES:
        assert map_file(audit, name) is None
        with pytest.raises(InputError, match="has no map"):
            make_map(audit, name)
        with pytest.raises(InputError, match="draw it on the page"):
            read_map(audit, name)
    (audit.member("r0-f0") / "image.npy").unlink()
    with pytest.raises(InputError, match=r"r0-f0/image\.npy is missing"):
        make_map(audit, NAME)


def test_a_process_of_its_own_says_what_it_does_and_leaves_the_map_or_one_line(
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


def test_the_words_are_those_of_a_hand_worked_case() -> None:
    """The first class has 9 words, the second 6, so A is 7.5.

    frog: 4/9 · log(1 + 7.5/4) = .47; pond: 3/9 · log(1 + 7.5/3) = .42; crow: 3/6 · log(1 + 7.5/3) = .63. Green is in
    two pairs of either, and three are wanted.
    """
    texts = ["frog pond green", "frog pond", "frog green", "frog pond", "crow green", "crow field", "crow green"]
    assert distinctive_words(texts, np.array([0] * 4 + [1] * 3)) == ["frog, pond", "crow"]


@pytest.fixture
def shaped(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """An audit whose map has the shapes of its pictures apart."""
    shaped = copy()
    embed(shaped)
    write_manifest(shaped.folder)
    of = shaped.pairs["label"].map({"circle": 0, "square": 10, "triangle": 20}).to_numpy(np.float32)
    monkeypatch.setattr(maps, "lay_out", lambda vectors, *, say: np.stack([of, of], axis=1) + vectors[:, :2] / 10)
    make_map(shaped, NAME)
    return shaped


def test_regions_of_an_audit_are_called_by_their_captions(shaped: Audit) -> None:
    found = map_words(shaped, NAME)
    assert {words.split(", ")[0] for words in found["words"]} == {"circle", "square", "triangle"}
    assert found["pairs"].sum() == 100


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
    rows = read_map(audit, NAME)["row"]
    assert rows.is_monotonic_increasing
    assert rows.is_unique
