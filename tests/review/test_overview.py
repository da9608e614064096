import inspect
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.audits import verdict
from clipmem_core.audits.console import show_verdict
from clipmem_core.audits.store import Audit, write_json, write_table
from clipmem_core.config import InputError
from clipmem_core.exports import write
from clipmem_core.review.overview import detection_table, explain_null, join_intervals, load_overview, utility_table

Copy = Callable[..., Audit]


def test_groups_carry_the_intervals_of_the_verdict(made: dict[str, Audit]) -> None:
    groups = load_overview(made["paper"]).groups
    wanted = {row["group"]: row for row in made["paper"].verdict["groups"]}
    assert groups["group"].tolist() == ["candidate", "independent", "shared", "external"]
    assert groups["low"].tolist() == [wanted[group]["low"] for group in groups["group"]]
    assert set(groups["kind"]) == {"SD over pairs"}


def test_a_verdict_of_one_sentence_is_enough(copy: Copy) -> None:
    audit = copy()
    write_json(audit.folder / "verdict.json", {"sentence": "fine"})
    groups = load_overview(audit).groups
    assert groups["low"].isna().all()
    assert groups["n"].tolist() == [80, 20]


@pytest.mark.parametrize("groups", [[], [{"group": "scored"}], [{"low": 1}], [{"group": "scored", "low": "x"}]])
def test_odd_optional_parts_are_passed_over(copy: Copy, groups: object) -> None:
    audit = copy()
    write_json(audit.folder / "verdict.json", {"sentence": "fine", "groups": groups})
    assert load_overview(audit).groups["mean"].notna().all()


@pytest.mark.parametrize("name", ["verdict.json", "config.json"])
def test_json_that_is_no_object_is_named(copy: Copy, name: str) -> None:
    audit = copy()
    (audit.folder / name).write_text("[]")
    with pytest.raises(InputError, match=rf"{name}: .* should be an object"):
        load_overview(audit)


def test_groups_without_a_verdict_keep_their_order() -> None:
    summary = pd.DataFrame({"group": ["external", "odd", "candidate"], "n": 1, "mean": 0.0, "sd": 0.0})
    assert join_intervals(summary, pd.DataFrame())["group"].tolist() == ["candidate", "external", "odd"]


def test_utility_has_the_mean_over_the_members() -> None:
    utility = pd.DataFrame({"member": ["b", "a", "b"], "metric": ["R@5", "R@5", "R@1"], "value": [0.5, 0.25, 0.1]})
    table = utility_table(utility).set_index("metric")
    assert table.columns.tolist() == ["mean", "b", "a"]
    assert table.loc["R@5"].tolist() == [0.375, 0.5, 0.25]
    assert table.loc["R@1", "mean"] == 0.1


def test_no_utility_is_an_empty_table(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "utility.parquet", audit.utility.iloc[:0])
    assert load_overview(audit).utility.empty


def test_detection_shows_each_interval_beside_its_number() -> None:
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


def test_detection_without_scores_is_empty() -> None:
    assert detection_table(pd.DataFrame({"auroc": [0.5]})).empty


NULL = pd.DataFrame({"group": ["candidate", "shared", "external"], "mean": [0.3, -0.0071, 0.0042]})


@pytest.mark.parametrize(
    ("good", "start", "end"),
    [
        (True, "The null is near 0: ", "as memorized."),
        (False, "The null is not near 0: ", "not against 0."),
        (None, "The null: ", "as memorized."),
    ],
)
def test_the_null_is_told_in_words_as_the_verdict_judged_it(good: bool | None, start: str, end: str) -> None:
    sentence = explain_null(
        NULL, {"checks": [{"name": "x", "good": not good}, {"name": "a null group …", "good": good}]}
    )
    assert sentence.startswith(start)
    assert sentence.endswith(end)
    assert "mean clipmem is −0.007 for shared and +0.004 for external pairs" in sentence


@pytest.mark.parametrize("name", ["null groups are flat", "a null group is not flat"])
def test_the_verdicts_own_names_are_understood(name: str) -> None:
    """They are those of clipmem_core.audits.verdict, whose source is read here."""
    assert f'"{name}"' in inspect.getsource(verdict)
    assert explain_null(NULL, {"checks": [{"name": name, "good": True}]}).startswith("The null is near 0")


def test_without_a_null_group_nothing_is_said() -> None:
    assert explain_null(NULL[:1], {}) == ""


def test_intervals_over_seeds_say_that_they_cover_one_split_on_page_report_and_terminal(
    copy: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = copy("paper")
    told = audit.verdict
    for row in told["groups"]:
        row["kind"] = "95% interval over seeds"  # as audits of today and of before say it
    write_json(audit.folder / "verdict.json", told)
    assert set(load_overview(audit).groups["kind"]) == {"95% interval over training seeds of one split"}
    write(audit, "html", tmp_path / "report.html")
    assert "low to high: 95% interval over training seeds of one split" in (tmp_path / "report.html").read_text()
    write_json(audit.folder / "verdict.json", told | {"detection": [], "utility": {}})  # made ones are not whole
    show_verdict(audit)
    assert "95% interval over training seeds of one split" in " ".join(capsys.readouterr().out.split())
