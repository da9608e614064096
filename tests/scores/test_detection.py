import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from clipmem_core import draws
from clipmem_core.scores.detection import detection_table, precision_curve, resamples


def _case() -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.random(600) < 0.1
    lifts = {"misfit": 2.0, "weak": 0.5, "none": 0.0}
    return {name: rng.normal(size=600) + lift * truth for name, lift in lifts.items()}, truth


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_and_intervals_are_those_of_scikit_learn(ties: bool) -> None:
    scores, truth = _case()
    if ties:
        scores = {name: score.round() for name, score in scores.items()}
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


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30),
    st.integers(1, 40),
)
def test_precision_at_k_is_its_mean_over_random_orders_of_ties(
    pairs: list[tuple[int, bool]], k: int
) -> None:
    score, truth = (np.array(column) for column in zip(*pairs, strict=True))
    if truth.all() or not truth.any():
        return
    k = min(k, len(truth))
    before = 0
    found = 0.0
    for value in sorted(set(score.tolist()), reverse=True):
        tied = truth[score == value]
        taken = min(len(tied), max(0, k - before))
        found += tied.mean() * taken
        before += len(tied)
    table = detection_table({"score": score}, truth, k=k, n_boot=2, reference="score")
    assert table["precision_at_k"][0] == pytest.approx(found / k)


def test_the_lead_of_the_reference_is_paired() -> None:
    scores, truth = _case()
    scores["same"] = 2 * scores["misfit"]
    table = detection_table(scores, truth, n_boot=200).set_index("score")
    columns = ["auroc_difference", "auroc_difference_low", "auroc_difference_high"]
    assert (table.loc["same", columns] == 0).all()
    lead = table.loc["misfit", "average_precision"] - table.loc["weak", "average_precision"]
    assert table.loc["weak", "average_precision_difference"] == pytest.approx(lead)
    assert table.loc["weak", "average_precision_difference_low"] > 0


def test_the_precision_curve_is_precision_at_k() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.2
    score = rng.integers(0, 12, size=200).astype(float)
    numbers = np.array([1, 7, 50, 200])
    expected = [
        detection_table({"score": score}, truth, k=int(k), n_boot=1)["precision_at_k"][0]
        for k in numbers
    ]
    np.testing.assert_allclose(precision_curve(score, truth, numbers), expected)
    assert expected[-1] == pytest.approx(truth.mean())
