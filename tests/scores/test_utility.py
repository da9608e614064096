import numpy as np
import pytest

from clipmem_core.scores import utility
from clipmem_core.scores.utility import linear_probe, retrieval_recalls, zero_shot


def _embeddings(cosines: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Image and caption embeddings of unit length whose cosines are the given matrix, [n_images,
    n_captions]."""
    wanted = np.array(cosines)
    n_images, n_captions = wanted.shape
    text = np.zeros((n_captions, n_images + n_captions))
    text[:, :n_images] = wanted.T
    text[np.arange(n_captions), n_images + np.arange(n_captions)] = np.sqrt(
        1 - (wanted**2).sum(axis=0)
    )
    return np.eye(n_images, n_images + n_captions), text


@pytest.mark.parametrize("block", [1, 8_000_000])
def test_recalls_of_several_captions_in_any_order_written_by_hand(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utility, "_BLOCK", block)
    image, text = _embeddings([[0.1, 0.5, 0.2, 0.4, 0.3], [0.6, 0.3, 0.7, 0.5, 0.2]])
    owner = np.array([1, 1, 0, 0, 0])
    # Best caption of each image: 0.4 after 0.5, 0.6 after 0.7.
    # Images of captions 1 to 5: 0.6 > 0.1, 0.3 < 0.5, 0.2 < 0.7, 0.4 < 0.5, 0.3 > 0.2
    assert retrieval_recalls(image, 3 * text, owner, ks=(1, 2)) == pytest.approx(
        {
            "image_to_text_R@1": 0,
            "image_to_text_R@2": 1,
            "text_to_image_R@1": 2 / 5,
            "text_to_image_R@2": 1,
        }
    )


def test_blocks_and_scales_agree_with_ranks_by_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(40, 8)).astype(np.float32)
    owner = rng.permutation(np.concatenate([np.arange(40), rng.integers(40, size=60)]))
    text = (image[owner] + rng.normal(size=(100, 8))).astype(np.float32)
    monkeypatch.setattr(utility, "_BLOCK", 350)
    recalls = retrieval_recalls(image, text, owner, ks=(1, 5))
    unit_image, unit_text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    cosines = unit_image @ unit_text.T
    best = [min(np.flatnonzero(owner[np.argsort(-row)] == i)) for i, row in enumerate(cosines)]
    own = [
        int(np.flatnonzero(np.argsort(-column) == owner[j])[0])
        for j, column in enumerate(cosines.T)
    ]
    for k in (1, 5):
        assert recalls[f"image_to_text_R@{k}"] == pytest.approx(np.mean(np.array(best) < k))
        assert recalls[f"text_to_image_R@{k}"] == pytest.approx(np.mean(np.array(own) < k))


def test_a_member_that_maps_everything_to_one_point_finds_nothing() -> None:
    recalls = retrieval_recalls(np.ones((20, 3)), np.ones((20, 3)), np.arange(20))
    assert set(recalls.values()) == {0.0}
    assert zero_shot(np.ones((4, 3)), np.ones((2, 3)), np.array([0, 1, 0, 1])) == 0


def test_the_probe_reads_classes_that_differ_and_not_noise() -> None:
    rng = np.random.default_rng(0)
    labels = np.array(["cat", "dog", "owl"])[np.arange(300) % 3]
    apart = rng.normal(size=(300, 5)) + 6 * np.eye(5)[np.arange(300) % 3]
    assert linear_probe(apart[:200], labels[:200], apart[200:], labels[200:], seed=0) > 0.97
    noise = rng.normal(size=(300, 5))
    assert linear_probe(noise[:200], labels[:200], noise[200:], labels[200:], seed=0) < 0.55
    # A class without training rows is an error, and one class is no probe
    x = np.array([[0.0], [0.1], [5.0], [5.1]])
    y = np.array([0, 0, 1, 1])
    assert (
        linear_probe(x, y, np.array([[0.0], [5.0], [9.0], [-4.0]]), np.array([0, 1, 2, 2]), seed=0)
        == 0.5
    )
    assert np.isnan(linear_probe(x, np.zeros(4), x, np.zeros(4), seed=0))
    assert np.isnan(linear_probe(x, y, x[:0], y[:0], seed=0))


def test_zero_shot_counts_images_nearest_to_their_class_name() -> None:
    image, class_text = _embeddings([[0.5, 0.3], [0.1, 0.6], [0.4, 0.2]])
    assert zero_shot(image, class_text, np.array([0, 1, 1])) == pytest.approx(2 / 3)
    assert np.isnan(zero_shot(image[:0], class_text, np.array([], dtype=int)))
