from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_score

from clipmem_core.audits.store import Audit, write_manifest, write_table
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
    region_words,
    sampled_rows,
)
from tests.fixtures import HOSTILE, Copy
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
    few = lay_out(vectors[:5])  # fewer pairs than neighbours are enough
    assert len(few) == 5
    assert np.isfinite(few).all()


def test_vectors_that_make_no_map_are_refused() -> None:
    vectors = np.eye(8, dtype=np.float32)
    with pytest.raises(InputError, match="needs at least 5 pairs, and there are 4"):
        lay_out(vectors[:4])
    vectors[3, 3] = np.nan
    with pytest.raises(InputError, match="not all finite"):
        lay_out(vectors)


def test_a_map_has_a_place_for_every_pair_and_is_drawn_once(audit: Audit, drawn: list[int]) -> None:
    assert map_file(audit, NAME) is None
    path = make_map(audit, NAME)
    assert path == map_file(audit, NAME) == make_map(audit, NAME)
    table = read_map(audit, NAME)
    assert table.dtypes.astype(str).to_dict() == {"row": "int64", "map_x": "float32", "map_y": "float32"}
    assert table["row"].tolist() == list(range(100))
    assert drawn == [100]


@pytest.mark.parametrize("in_manifest", [True, False])
@pytest.mark.usefixtures("drawn")
def test_other_embeddings_are_another_map(audit: Audit, in_manifest: bool) -> None:
    if not in_manifest:  # the file itself is hashed
        (audit.folder / "manifest.json").write_text('{"version": 1, "files": {}, "sizes": {}}')
    before = make_map(audit, NAME)
    np.save(audit.member("r0-f0") / "image.npy", np.eye(100, 12, dtype=np.float32))
    if in_manifest:
        write_manifest(audit.folder)
    assert map_file(audit, NAME) is None
    assert make_map(audit, NAME) != before
    assert read_map(audit, NAME)["map_x"].tolist() == [1.0] + [0.0] * 99


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


@pytest.mark.parametrize(
    ("what", "value"),
    [("SETTINGS", {"metric": "euclidean"}), ("NEIGHBOURS", 5), ("SEED", 1), ("LIMIT", 50), ("_versions", dict)],
)
def test_all_that_changes_a_map_is_in_its_key(
    audit: Audit, monkeypatch: pytest.MonkeyPatch, what: str, value: object
) -> None:
    before = map_path(audit, NAME)
    monkeypatch.setattr(maps, what, value)
    assert map_path(audit, NAME) != before


@pytest.mark.parametrize("damage", [lambda content: b"{ nonsense", lambda content: flipped(content, 60)])
def test_a_broken_map_is_none_and_is_named_when_it_is_drawn_again(
    audit: Audit, drawn: list[int], damage: Callable[[bytes], bytes]
) -> None:
    path = make_map(audit, NAME)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert map_file(audit, NAME) is None
    with pytest.raises(InputError, match="there is no map 'r0-f0.image' of .* yet: draw it"):
        read_map(audit, NAME)
    said: list[str] = []
    assert make_map(audit, NAME, say=said.append).read_bytes() == whole
    assert said[0] == f"{path} is broken: drawing it again"


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_large_audit_is_thinned_evenly_and_always_alike(
    audit: Audit, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "LIMIT", 40)
    make_map(audit, NAME)
    table = read_map(audit, NAME)
    assert drawn == [40]
    assert table["row"].is_monotonic_increasing
    assert table["row"].tolist() == sampled_rows(100).tolist()
    counts = np.bincount(sampled_rows(100_000) // 50_000)
    assert counts.sum() == 40
    assert pd.Series(sampled_rows(100_000)).is_unique


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


def test_a_word_counts_once_a_pair_and_stop_words_rare_ones_plurals_and_numbers_are_left_out() -> None:
    texts = ["the house " * 999, "a house 12345", "a house of houses", "houses", "houses _x_", "x" * 30] + [
        "a crow"
    ] * 4
    assert distinctive_words(texts, np.array([0] * 6 + [1] * 4)) == ["house", "crow"]
    assert distinctive_words(["the", "a an"], np.array([0, 1])) == ["", ""]
    assert distinctive_words(HOSTILE, np.zeros(len(HOSTILE), int)) == [""]


def test_few_pairs_and_equal_places_make_fewer_regions() -> None:
    same = region_words(np.zeros((10, 2), np.float32), ["a frog"] * 10)
    assert same["pairs"].tolist() == [10]
    places = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    found = region_words(places, ["a frog"] * 2000)
    assert len(found) == 14
    assert found["pairs"].sum() == 2000
    assert set(found["words"]) == {""}


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


def test_regions_of_an_audit_are_called_by_their_captions_and_found_once(
    shaped: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = map_words(shaped, NAME)
    first = {words.split(", ")[0] for words in found["words"]}
    assert first == {"circle", "square", "triangle"}
    monkeypatch.setattr("clipmem_core.review.maps.region_words", None)
    assert map_words(shaped, NAME).equals(found)


def test_other_captions_have_other_words(shaped: Audit) -> None:
    before = map_words(shaped, NAME)
    write_table(shaped.folder / "pairs.parquet", shaped.pairs.assign(captions=[["a crow"]] * 100))
    write_manifest(shaped.folder)
    assert set(map_words(Audit(shaped.folder), NAME)["words"]) == {""} != set(before["words"])
