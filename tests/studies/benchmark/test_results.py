"""Tables and curves over plantings, held against SciPy and a hand-worked case."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clipmem_core.studies.benchmark.results import METRICS, Piece, benchmark_table, mean_curves, metric_rows, price


def result(seed: int, values: dict[str, float], **more: Any) -> dict[str, Any]:
    detectors = {
        name: dict.fromkeys(METRICS, value) | {"seconds": 1.0, "curve": [value, value / 2]}
        for name, value in values.items()
    }
    own = {
        "kind": "random",
        "share": 0.2,
        "seed": seed,
        "judged": 100,
        "numbers": [10, 100],
        "seconds": {"members": 2.0},
    }
    return own | {"detectors": detectors} | more


def drawn(n: int) -> list[dict[str, Any]]:
    values = np.random.default_rng(0).uniform(0.5, 1, size=(n, 2))
    return [result(seed, {"misfit": a, "csls_out": b}) for seed, (a, b) in enumerate(values)]


def test_intervals_are_scipys_of_the_mean_and_of_the_paired_differences() -> None:
    results = drawn(6)
    table = benchmark_table(metric_rows(results)).set_index(["detector", "measure"])
    values = {name: [one["detectors"][name]["auroc"] for one in results] for name in ("misfit", "csls_out")}
    for name, own in values.items():
        row = table.loc[name, "auroc"]
        low, high = stats.t.interval(0.95, 5, loc=np.mean(own), scale=stats.sem(own))
        assert row[["n", "mean", "low", "high"]].tolist() == pytest.approx([6, np.mean(own), low, high])
    paired = stats.ttest_rel(values["csls_out"], values["misfit"]).confidence_interval(0.95)
    row = table.loc["csls_out", "auroc"]
    assert [row["over_reference_low"], row["over_reference_high"]] == pytest.approx([paired.low, paired.high])
    assert table.loc[("misfit", "auroc"), "over_reference"] == 0


def test_two_plantings_claim_no_interval() -> None:
    table = benchmark_table(metric_rows(drawn(2)))
    assert table[["low", "high", "over_reference_low", "over_reference_high"]].isna().all(axis=None)
    assert table["over_reference"].notna().all()


def test_a_detector_that_some_plantings_lack_is_compared_on_the_others() -> None:
    results = drawn(5)
    del results[0]["detectors"]["csls_out"]
    del results[1]["detectors"]["misfit"]
    table = benchmark_table(metric_rows(results)).set_index(["detector", "measure"])
    assert table.loc[("csls_out", "auroc"), "n"] == 4
    difference = [one["detectors"]["csls_out"]["auroc"] - one["detectors"]["misfit"]["auroc"] for one in results[2:]]
    assert table.loc[("csls_out", "auroc"), "over_reference"] == pytest.approx(np.mean(difference))
    alone = benchmark_table(metric_rows(drawn(3)), reference="learned")
    assert alone["over_reference"].isna().all()


def test_curves_are_means_at_the_numbers_that_all_plantings_reach() -> None:
    results = [result(0, {"misfit": 1.0}), result(1, {"misfit": 0.5}, numbers=[10, 90], judged=90)]
    curve = mean_curves(results)
    assert curve["number"].tolist() == [10]
    assert curve["precision"].tolist() == [0.75]


def test_the_price_is_the_mean_of_each_part() -> None:
    assert price([result(0, {}), result(1, {}, seconds={"members": 4.0})]) == {"members": 3.0}


def test_a_piece_is_found_again_by_its_name() -> None:
    for piece in (Piece("random", 0.05, 12), Piece("nearest", 0.4, 0), Piece("vague", 1e-05, 3)):
        assert Piece.of(piece.name) == piece


def test_no_result_is_an_empty_table() -> None:
    assert benchmark_table(metric_rows([])).empty
    assert isinstance(mean_curves([]), pd.DataFrame)
