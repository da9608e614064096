"""The words of a map's regions: they tell a region from the others, and are kept beside the map."""

import numpy as np
import pytest

from clipmem_core.audits.store import Audit, write_manifest, write_table
from clipmem_core.review import maps
from clipmem_core.review.map_words import distinctive_words, map_words, region_words
from clipmem_core.review.maps import make_map
from tests.fixtures import HOSTILE, Copy
from tests.review.embedded import embed

NAME = "r0-f0.image"


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
def audit(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """An audit whose map has the shapes of its pictures apart."""
    audit = copy()
    embed(audit)
    write_manifest(audit.folder)
    of = audit.pairs["label"].map({"circle": 0, "square": 10, "triangle": 20}).to_numpy(np.float32)
    monkeypatch.setattr(maps, "lay_out", lambda vectors, *, say: np.stack([of, of], axis=1) + vectors[:, :2] / 10)
    make_map(audit, NAME)
    return audit


def test_regions_of_an_audit_are_called_by_their_captions_and_found_once(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = map_words(audit, NAME)
    first = {words.split(", ")[0] for words in found["words"]}
    assert first == {"circle", "square", "triangle"}
    monkeypatch.setattr("clipmem_core.review.map_words.region_words", None)
    assert map_words(audit, NAME).equals(found)


def test_other_captions_have_other_words(audit: Audit) -> None:
    before = map_words(audit, NAME)
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(captions=[["a crow"]] * 100))
    write_manifest(audit.folder)
    assert set(map_words(Audit(audit.folder), NAME)["words"]) == {""} != set(before["words"])
