import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from clipmem_core.scores import metrics
from clipmem_core.scores.metrics import (
    detection_table,
    linear_probe,
    precision_curve,
    resamples,
    retrieval_recalls,
    zero_shot,
)
from clipmem_core.utils import draws
from clipmem_core.utils.embeddings import unit


def _case() -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.random(600) < 0.1
    lifts = {"misfit": 2.0, "weak": 0.5, "none": 0.0}
    return {name: rng.normal(size=600) + lift * truth for name, lift in lifts.items()}, truth


def test_metrics_and_intervals_are_those_of_scikit_learn() -> None:
    scores, truth = _case()
    scores["ties"] = scores["weak"].round()
    table = detection_table(scores, truth, n_boot=20, seed=3).set_index("score")
    strata = np.flatnonzero(truth), np.flatnonzero(~truth)
    (weights,) = resamples(strata, 600, 20, draws.rng(3, "detection resamples"))
    assert (weights[:, truth].sum(axis=1) == truth.sum()).all()
    drawn = [np.repeat(np.arange(600), counts) for counts in weights]
    measures = {"auroc": roc_auc_score, "average_precision": average_precision_score}
    for (name, score), (metric, measure) in itertools.product(scores.items(), measures.items()):
        ends = np.percentile([measure(truth[rows], score[rows]) for rows in drawn], (2.5, 97.5))
        found = table.loc[name, [metric, f"{metric}_low", f"{metric}_high"]].tolist()
        assert found == pytest.approx([measure(truth, score), *ends])


def test_ties_count_as_random_order_would() -> None:
    score = np.array([3.0, 1.0, 1.0, 1.0, 0.0])
    truth = np.array([True, True, False, False, True])
    expected = [1, (1 + 1 / 3) / 2, 2 / 4, 3 / 5]
    numbers = np.array([1, 2, 4, 5])
    np.testing.assert_allclose(precision_curve(score, truth, numbers), expected)
    for k, precision in zip(numbers.tolist(), expected, strict=True):
        table = detection_table({"score": score}, truth, k=k, n_boot=2)
        assert table["precision_at_k"][0] == pytest.approx(precision)


def test_the_lead_of_the_reference_is_paired() -> None:
    scores, truth = _case()
    scores["same"] = 2 * scores["misfit"]
    table = detection_table(scores, truth, n_boot=200).set_index("score")
    ends = ["auroc_difference_low", "auroc_difference_high"]
    assert (table.loc["same", ends] == 0).all()
    assert (table.loc["weak", ends] > 0).all()


def test_recalls_are_those_of_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_COSINES", 350)
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
