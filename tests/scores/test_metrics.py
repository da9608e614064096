import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp, ttest_rel
from sklearn.metrics import average_precision_score, roc_auc_score

from clipmem_core.scores import metrics
from clipmem_core.scores.metrics import (
    detection_table,
    holm,
    linear_probe,
    over_seeds,
    paired_difference,
    precision_curve,
    resamples,
    retrieval_recalls,
    seed_interval,
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
    recalls = retrieval_recalls(image, 3 * text, owner)
    expected = [by_image[:, :k].any(axis=1).mean() for k in (1, 5, 10)]
    expected += [by_text[:k].any(axis=0).mean() for k in (1, 5, 10)]
    assert list(recalls.values()) == pytest.approx(expected)


def test_the_probe_finds_classes_that_differ() -> None:
    rng = np.random.default_rng(0)
    labels = np.array(["cat", "dog", "owl"])[np.arange(300) % 3]
    separated = rng.normal(size=(300, 5)) + 6 * np.eye(5)[np.arange(300) % 3]
    assert linear_probe(separated[:200], labels[:200], separated[200:], labels[200:], seed=0) > 0.97
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


@pytest.mark.parametrize("values", [[0.1, 0.4, -0.3], [3.0, 5.0, 4.0, 9.0, 1.0]])
def test_the_interval_is_that_of_a_t_test_from_three_seeds_on(values: list[float]) -> None:
    expected = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert seed_interval(np.array(values)) == pytest.approx((expected.low, expected.high))
    assert np.isnan(seed_interval(np.array(values[:2]))).all()


def test_means_are_over_seeds() -> None:
    table = pd.DataFrame({"setting": ["a", "a", "a", "b", "c"], "x": [1.0, 2.0, 3.0, 5.0, np.nan]})
    found = over_seeds(table, by=["setting"], measure="x")
    assert found[["setting", "n", "mean"]].to_numpy().tolist() == [["a", 3, 2.0], ["b", 1, 5.0]]
    # SD 1, three seeds, t.975 with two degrees of freedom 4.3027
    assert found["high"][0] == pytest.approx(2 + 4.3027 / np.sqrt(3), abs=1e-4)
    assert found["high"][1:].isna().all()
    assert over_seeds(table[:0], by=["setting"], measure="x").empty


def test_paired_differences_are_those_of_a_t_test() -> None:
    values = np.array([3.0, 5.0, 7.0])
    reference = np.array([2.0, 3.0, 4.5])
    test = ttest_rel(values, reference)
    interval = test.confidence_interval()
    found = dataclasses.astuple(paired_difference(values, reference))
    mean = (values - reference).mean()
    assert found == pytest.approx((3, mean, interval.low, interval.high, test.pvalue))


def test_holm_by_hand() -> None:
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1: .02, .03, .06, .04, and no smaller than the one
    # before.
    found = holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    np.testing.assert_allclose(found, [0.03, 0.06, np.nan, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
