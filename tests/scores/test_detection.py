import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from clipmem_core.scores.detection import _metrics, _rank, _resamples, detection_table, precision_curve


def _case(n: int = 600, *, ties: bool = False) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.random(n) < 0.1
    scores = {name: rng.normal(size=n) + lift * truth for name, lift in (("misfit", 2.0), ("weak", 0.5), ("none", 0.0))}
    return {name: np.round(values) if ties else values for name, values in scores.items()}, truth


@pytest.mark.parametrize("ties", [False, True])
def test_point_values_are_sklearns(ties: bool) -> None:
    scores, truth = _case(ties=ties)
    table = detection_table(scores, truth, n_boot=5).set_index("score")
    for name, score in scores.items():
        assert table.loc[name, "auroc"] == pytest.approx(roc_auc_score(truth, score))
        assert table.loc[name, "average_precision"] == pytest.approx(average_precision_score(truth, score))


@pytest.mark.parametrize("ties", [False, True])
def test_a_resample_scores_as_sklearn_does_on_the_pairs_drawn(ties: bool) -> None:
    scores, truth = _case(ties=ties)
    (weights,) = _resamples(truth, 1, np.random.default_rng(3))
    drawn = np.repeat(np.arange(600), weights[0])
    assert truth[drawn].sum() == truth.sum()
    for score in scores.values():
        auroc, average_precision, _ = _metrics(_rank(score, truth), weights, 50)[:, 0]
        assert auroc == pytest.approx(roc_auc_score(truth[drawn], score[drawn]))
        assert average_precision == pytest.approx(average_precision_score(truth[drawn], score[drawn]))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30), st.integers(1, 40))
def test_precision_at_k_is_its_mean_over_random_orders_of_ties(pairs: list[tuple[int, bool]], k: int) -> None:
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


def test_intervals_hold_the_point_and_narrow_with_more_pairs() -> None:
    widths = []
    for n in (300, 3_000):
        scores, truth = _case(n)
        table = detection_table(scores, truth, n_boot=300)
        for metric in ("auroc", "average_precision", "precision_at_k", "auroc_difference"):
            assert (table[f"{metric}_low"] <= table[metric] + 0.05).all()
            assert (table[f"{metric}_high"] >= table[metric] - 0.05).all()
        widths.append((table["auroc_high"] - table["auroc_low"]).mean())
    assert widths[1] < widths[0] / 2


def test_the_lead_of_the_reference_is_paired() -> None:
    scores, truth = _case()
    scores["same"] = 2 * scores["misfit"]
    table = detection_table(scores, truth, n_boot=200).set_index("score")
    assert table.loc["same", ["auroc_difference", "auroc_difference_low", "auroc_difference_high"]].tolist() == [
        0,
        0,
        0,
    ]
    lead = table.loc["misfit", "average_precision"] - table.loc["weak", "average_precision"]
    assert table.loc["weak", "average_precision_difference"] == pytest.approx(lead)
    assert table.loc["weak", "average_precision_difference_low"] > 0


def test_without_the_reference_there_are_no_differences_and_one_seed_gives_one_table() -> None:
    scores, truth = _case()
    del scores["misfit"]
    first, second = (detection_table(scores, truth, n_boot=50, seed=1) for _ in range(2))
    assert first.equals(second)
    assert first[[column for column in first if "difference" in column]].isna().all(axis=None)


def test_scores_and_truth_that_do_not_fit_are_named() -> None:
    scores, truth = _case()
    with pytest.raises(ValueError, match="some pairs and not others, not 0 of 600"):
        detection_table(scores, np.zeros(600, dtype=bool))
    with pytest.raises(ValueError, match="score misfit must have 3 values as truth has, not 600"):
        detection_table(scores, np.array([True, False, False]))
    scores["weak"][:2] = np.nan
    with pytest.raises(ValueError, match="score weak must be finite for every pair, 2 are not"):
        detection_table(scores, truth)


def test_the_precision_curve_is_precision_at_k_of_the_table_and_the_share_of_wrong_pairs_at_its_end() -> None:
    rng = np.random.default_rng(0)
    truth, score = rng.random(200) < 0.2, rng.integers(0, 12, size=200).astype(float)
    numbers = np.array([1, 7, 50, 200])
    expected = [
        detection_table({"score": score}, truth, k=int(k), n_boot=1, reference="score")["precision_at_k"][0]
        for k in numbers
    ]
    np.testing.assert_allclose(precision_curve(score, truth, numbers), expected)
    assert expected[-1] == pytest.approx(truth.mean())
