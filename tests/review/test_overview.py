import numpy as np
import pandas as pd
import pytest

from clipmem_core.audit.store import Audit, write_json, write_table
from clipmem_core.review import overview
from clipmem_core.review.overview import (
    attack_auroc,
    attack_rows,
    detection_table,
    find_corners,
    group_bins,
    group_summary,
    join_intervals,
    load_overview,
    points_and_density,
    utility_table,
)
from clipmem_core.review.queries import count_rows
from tests.fixtures import Copy


def with_scores(audit: Audit, **columns: object) -> Audit:
    write_table(audit.folder / "scores.parquet", audit.scores.assign(**columns))
    return audit


def test_groups_carry_the_intervals_of_the_verdict(made: dict[str, Audit]) -> None:
    groups = load_overview(made["paper"]).groups
    expected = {row["group"]: row for row in made["paper"].verdict["groups"]}
    assert groups["group"].tolist() == ["candidate", "independent", "shared", "external"]
    assert groups["low"].tolist() == [expected[group]["low"] for group in groups["group"]]
    assert set(groups["kind"]) == {"SD over pairs"}
    assert count_rows(made["paper"].folder / "quarantine.parquet") == 120


@pytest.mark.parametrize("groups", [None, [], [{"group": "scored"}], [{"low": 1}], [{"group": "scored", "low": "x"}]])
def test_a_malformed_verdict_is_no_error(copy: Copy, groups: object) -> None:
    audit = copy()
    write_json(audit.folder / "verdict.json", {"sentence": "fine"} | ({} if groups is None else {"groups": groups}))
    result = load_overview(audit).groups
    assert result["low"].isna().all()
    assert result["n"].tolist() == [80, 20]


def test_tables_keep_their_order_and_have_means_and_intervals_beside_numbers() -> None:
    summary = pd.DataFrame({"group": ["external", "odd", "candidate"], "n": 1, "mean": 0.0, "sd": 0.0})
    assert join_intervals(summary, pd.DataFrame())["group"].tolist() == ["candidate", "external", "odd"]
    utility = pd.DataFrame({"member": ["b", "a", "b"], "metric": ["R@5", "R@5", "R@1"], "value": [0.5, 0.25, 0.1]})
    table = utility_table(utility).set_index("metric")
    assert table.columns.tolist() == ["mean", "b", "a"]
    assert table.loc["R@5"].tolist() == [0.375, 0.5, 0.25]
    assert table.loc["R@1", "mean"] == 0.1
    rows = [
        {"score": "misfit", "auroc": 0.8567, "auroc_low": 0.8, "auroc_high": 0.9, "precision_at_k": 0.78},
        {"score": "odd", "auroc": "?", "auroc_low": None, "auroc_high": 1, "precision_at_k": None},
    ]
    table = detection_table(pd.DataFrame(rows))
    assert table.to_dict("list") == {
        "score": ["misfit", "odd"],
        "auroc": ["0.857 (0.80 to 0.90)", ""],
        "precision_at_k": ["0.780", ""],
    }


def test_attacks_are_shown_with_both_intervals_and_absent_ones_with_their_reason() -> None:
    ends = {"members_low": 0.8, "members_high": 0.9, "pairs_low": None, "pairs_high": None}
    rows = [
        {"attack": "bavaria", "measure": "auroc", "value": 0.85, "missing": ""} | ends,
        {"attack": "bavaria", "measure": "TPR@0.001", "value": None, "missing": "needs 1,000 pairs"},
        {"attack": "bavaria", "measure": "odd", "value": 1.0},
    ]
    shown, missing = attack_rows(pd.DataFrame(rows))
    expected = {
        "attack": "bavaria",
        "measure": "AUROC",
        "value": 0.85,
        "over members": "0.800 to 0.900",
        "over pairs": "",
    }
    assert shown.to_dict("records") == [expected]
    assert missing == ["TPR at .1 % FPR of bavaria: needs 1,000 pairs"]
    assert attack_auroc(pd.DataFrame(rows)) == 0.85
    assert attack_auroc(pd.DataFrame()) is None
    assert attack_rows(pd.DataFrame())[0].empty


def test_groups_and_their_bins_agree_with_pandas_and_numpy(made: dict[str, Audit]) -> None:
    scores = made["paper"].scores
    expected = scores.groupby("group")["clipmem"].agg(["size", "mean", "std"])
    result = group_summary(made["paper"]).set_index("group").loc[expected.index]
    np.testing.assert_allclose(result.to_numpy(float), expected.to_numpy(float))
    bins = group_bins(made["paper"], bins=40)
    for group, rows in scores.groupby("group"):
        counts, edges = np.histogram(rows["clipmem"], bins=40, range=scores["clipmem"].agg(["min", "max"]))
        own = bins[bins["group"] == group]
        np.testing.assert_allclose(own["share"], counts[counts > 0] / len(rows))
        np.testing.assert_allclose(own["low"], edges[:-1][counts > 0])
    _, cells, _ = points_and_density(made["paper"], "similarity_out", "clipmem", limit=9)
    counts, x_edges, y_edges = np.histogram2d(scores["similarity_out"], scores["clipmem"], bins=overview.CELLS)
    slow = [
        (x_edges[i : i + 2].mean(), y_edges[j : j + 2].mean(), counts[i, j])
        for i, j in zip(*counts.nonzero(), strict=True)
    ]
    np.testing.assert_allclose(cells[["x", "y", "n"]].to_numpy(float), np.array(slow))


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_corners_are_quantiles_of_the_external_pairs(made: dict[str, Audit], protocol: str) -> None:
    external = made[protocol].scores.query("group == 'external'")
    corners = find_corners(made[protocol])
    assert corners is not None
    assert corners.fits == pytest.approx(np.quantile(external["similarity_out"], 0.25))
    assert corners.high == pytest.approx(np.quantile(external["clipmem"], 0.95))
    assert (corners.low is None) == (protocol == "ensemble")
    assert corners.low is None or corners.low == pytest.approx(np.quantile(external["clipmem"], 0.05))
