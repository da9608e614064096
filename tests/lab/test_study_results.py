"""Paired differences against scipy and by hand, and the table of a study."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from clipmem_core.lab.experiment import Study, differences, front, relative, titles_of
from clipmem_core.lab.study import write_study_results
from clipmem_core.scores.metrics import holm

SETTINGS = {"a": 8, "b": 4, "c": 8}  # members of each


def made_rows(splits: int = 0) -> pd.DataFrame:
    """A table as of a lab, or of several splits: the baseline differs between settings."""
    rng = np.random.default_rng(0)
    rows = []
    for split in range(max(1, splits)):
        for setting, count in ({**SETTINGS, "none": 8}).items():
            for name in dict.fromkeys((setting, "none")):
                for member in range(count):
                    row = {"setting": name, "against": setting, "member": f"r0-f{member}"}
                    row |= {"clipmem": rng.normal(0.3, 0.1), "retrieval": rng.normal(0.5, 0.1)}
                    row["clipmem_held_out"] = rng.normal(0, 0.01)
                    rows.append(row | ({"split": split} if splits else {}))
    return pd.DataFrame(rows)


def side(rows: pd.DataFrame, setting: str, against: str) -> pd.DataFrame:
    return rows[(rows["setting"] == setting) & (rows["against"] == against)]


@pytest.mark.parametrize("splits", [0, 4])
def test_differences_are_paired_by_member_or_by_split(splits: int) -> None:
    rows = made_rows(splits)
    over = "split" if splits else "member"
    compared = differences(rows).set_index(["setting", "measure"])
    net = rows.assign(clipmem_net=rows["clipmem"] - rows["clipmem_held_out"])
    for measure in ("clipmem_net", "retrieval"):
        for setting, count in SETTINGS.items():
            values, base = (
                side(net, name, setting).groupby(over)[measure].mean() for name in (setting, "none")
            )
            test = ttest_rel(values, base)  # the baseline on the members of the setting alone
            row = compared.loc[(setting, measure)]
            assert row["n"] == (splits or count)
            names = ["value", "baseline", "difference", "low", "high", "p_value"]
            means = [values.mean(), base.mean(), (values - base).mean()]
            assert row[names].tolist() == pytest.approx(
                [*means, *test.confidence_interval(), test.pvalue]
            )
        of_all = compared.xs(measure, level="measure")
        np.testing.assert_allclose(of_all["p_of_all"], holm(of_all["p_value"].to_numpy()))
        none = of_all.loc["none"]
        assert none["difference"] == 0
        assert np.isnan(none["p_value"])


def test_two_members_have_no_interval_and_missing_values_are_left_out() -> None:
    rows = made_rows()
    few = rows[rows["member"].isin(["r0-f0", "r0-f1"])]
    compared = differences(few)
    assert set(compared["n"]) == {2}
    assert compared[["low", "p_value", "p_of_all"]].isna().all(axis=None)
    one = rows.copy()
    one.loc[side(one, "none", "a").index[0], "retrieval"] = np.nan
    assert differences(one).set_index(["setting", "measure"]).loc[("a", "retrieval"), "n"] == 7
    assert differences(rows[:0]).empty


def test_the_front_is_what_no_setting_beats_in_both() -> None:
    values = {"worse": (1, 0.5), "most": (2, 3), "least": (0, 0), "b": (1, 1), "equal": (1, 1)}
    points = pd.DataFrame(values, index=["x", "y"]).T.assign(setting=list(values))
    points.loc["missing"] = [np.nan, 9, "missing"]
    assert front(points, "x", "y") == ["least", "b", "equal", "most"]


def test_a_difference_is_in_percent_of_the_baseline() -> None:
    row = {"baseline": 0.4, "difference": -0.1, "low": -0.12, "high": 0.08}
    assert relative(row) == "−25.0 % [−30.0, +20.0]"
    assert relative(row | {"low": np.nan}) == "−25.0 %"
    assert relative(row | {"baseline": -0.4}) == "−0.100 [−0.120, +0.080]"


def test_results_of_a_study_are_written_with_its_command(
    finished_study: Study, tmp_path: Path
) -> None:
    path = tmp_path / "two.csv"
    write_study_results(finished_study, path, command="study one")
    assert path.read_text().startswith("# command: study one\n")
    rows = finished_study.rows
    ((setting, title),) = titles_of(rows).items()
    assert title in path.read_text()
    table = pd.read_csv(path, comment="#").set_index(["setting", "measure"])
    values, base = (side(rows, name, setting)["retrieval"].mean() for name in (setting, "none"))
    difference = table.loc[(setting, "retrieval"), "difference"]
    assert difference == pytest.approx(values - base, abs=1e-4)
