import numpy as np
import pytest

from clipmem_core.scores import utility
from clipmem_core.scores.alignment import unit
from clipmem_core.scores.utility import linear_probe, retrieval_recalls, zero_shot


@pytest.mark.parametrize("block", [1, 350, 2_000_000])
def test_recalls_are_those_of_sorting(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utility, "_BLOCK", block)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(40, 8)).astype(np.float32)
    owner = rng.permutation(np.concatenate([np.arange(40), rng.integers(40, size=60)]))
    text = (image[owner] + rng.normal(size=(100, 8))).astype(np.float32)
    cosines = unit(image) @ unit(text).T
    is_partner = np.arange(40)[:, None] == owner
    by_image = np.take_along_axis(is_partner, np.argsort(-cosines, axis=1), axis=1)
    by_text = np.take_along_axis(is_partner, np.argsort(-cosines, axis=0), axis=0)
    recalls = retrieval_recalls(image, 3 * text, owner, ks=(1, 5))
    expected = [by_image[:, :k].any(axis=1).mean() for k in (1, 5)]
    expected += [by_text[:k].any(axis=0).mean() for k in (1, 5)]
    assert list(recalls.values()) == pytest.approx(expected)


def test_a_member_that_maps_everything_to_one_point_finds_nothing() -> None:
    recalls = retrieval_recalls(np.ones((20, 3)), np.ones((20, 3)), np.arange(20))
    assert set(recalls.values()) == {0.0}
    assert zero_shot(np.ones((4, 3)), np.ones((2, 3)), np.array([0, 1, 0, 1])) == 0


def test_the_probe_finds_classes_that_differ() -> None:
    rng = np.random.default_rng(0)
    labels = np.array(["cat", "dog", "owl"])[np.arange(300) % 3]
    apart = rng.normal(size=(300, 5)) + 6 * np.eye(5)[np.arange(300) % 3]
    assert linear_probe(apart[:200], labels[:200], apart[200:], labels[200:], seed=0) > 0.97
    # A class without training rows is an error, and one class is no probe
    x = np.array([[0.0], [0.1], [5.0], [5.1]])
    y = np.array([0, 0, 1, 1])
    test_x = np.array([[0.0], [5.0], [9.0], [-4.0]])
    assert linear_probe(x, y, test_x, np.array([0, 1, 2, 2]), seed=0) == 0.5
    assert np.isnan(linear_probe(x, np.zeros(4), x, np.zeros(4), seed=0))
    assert np.isnan(linear_probe(x, y, x[:0], y[:0], seed=0))


def test_zero_shot_counts_images_nearest_to_their_class_name() -> None:
    image = np.array([[0.5, 0.3], [0.1, 0.6], [0.4, 0.2]])
    assert zero_shot(image, np.eye(2), np.array([0, 1, 1])) == pytest.approx(2 / 3)
    assert np.isnan(zero_shot(image[:0], np.eye(2), np.array([], dtype=int)))
