import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from clipmem_core.lab import benchmark as baselines
from clipmem_core.training.trainer import Contrast
from clipmem_core.utils.embeddings import unit


def test_lemon_is_its_formula_in_slow_loops() -> None:
    rng = np.random.default_rng(0)
    image, text = unit(rng.normal(size=(24, 5))).reshape(2, 12, 5)
    near_images, near_texts = rng.permuted(np.tile(np.arange(12), (2, 12, 1)), axis=2)[..., :3]
    score = baselines.lemon(image, text, near_images, near_texts)
    of_images = 1 - image @ image.T
    of_texts = 1 - text @ text.T
    of_pairs = 1 - image @ text.T
    for pair in range(12):
        expected = of_pairs[pair, pair]
        for near, here, there in (
            (near_images, of_images, of_texts),
            (near_texts, of_texts, of_images),
        ):
            for j in near[pair]:
                fading = np.exp(-0.1 * here[pair, j] - 5 * of_pairs[j, j])
                expected += 5 * there[pair, j] * fading / 3
        assert score[pair] == pytest.approx(expected)


def test_the_margin_is_that_of_torchs_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    trajectory = np.full((4, 10, 2), np.nan)
    expected = []
    for epoch in range(3):  # equal towers: both directions have one probability
        vectors = functional.normalize(torch.randn(9, 4, generator=generator), dim=1)
        logits = 5 * vectors @ vectors.T
        others = logits.masked_fill(torch.eye(9, dtype=torch.bool), -torch.inf)
        expected.append(logits.diagonal() - torch.logsumexp(others, dim=1))
        trajectory[epoch, :9, 1] = Contrast.apply(vectors, vectors, torch.tensor(5.0), "fp32")[1]
    found = baselines.margin_over_epochs(trajectory)
    np.testing.assert_allclose(found[:9], torch.stack(expected).mean(dim=0), atol=1e-4)
    assert np.isnan(found[9])


def test_confident_learning_subtracts_thresholds_of_classes() -> None:
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(4), size=50)
    classes = rng.permutation(np.arange(50) % 4)
    found = baselines._over_thresholds(probability, classes)
    threshold = [probability[classes == k, k].mean() for k in range(4)]
    for above, own, score in zip(probability - threshold, classes, found, strict=True):
        assert score == pytest.approx(np.delete(above, own).max() - above[own])


def test_confident_learning_finds_captions_of_another_label() -> None:
    rng = np.random.default_rng(0)
    classes = np.arange(300) % 3
    features = rng.normal(size=(300, 8)) + 3 * np.eye(8)[classes]
    labels = np.array(["cat", "dog", "owl"], dtype=object)[classes]
    labels[:30] = np.roll(labels, -1)[:30]
    labels[290:] = None
    labels[280:284] = "rare"
    score = baselines.confident_learning(features, labels, seed=0)
    assert roc_auc_score(np.arange(280) < 30, score[:280]) > 0.98
    assert (score[280:284] == 0).all()
    assert (score[290:] == 0).all()
    with pytest.raises(ValueError, match="fewer than two labels"):
        baselines.confident_learning(features, np.array(["a"] * 300, dtype=object), seed=0)
