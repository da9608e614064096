"""The chart and the table of the page Mitigations."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import write_json, write_table
from clipmem_core.dashboard import tradeoff
from clipmem_core.dashboard.tradeoff import compared_of, points_of, table_of
from clipmem_core.studies.store import ARMS, STUDY, StudyFolder
from tests.dashboard.test_maps_pages import address, captions
from tests.dashboard.test_pages import figures, open_page, texts
from tests.made_arms import make_arms

PAGE = "pages/mitigations.py"


def open_study(study: StudyFolder, **parameters: str) -> AppTest:
    app = open_page(PAGE, study=study.name, **parameters)
    assert not app.error, [text for text in texts(app) if "/" in text]
    return app


def drawn(app: AppTest) -> dict[str, Any]:
    return figures(app)[0]


def test_every_arm_is_in_the_chart_and_the_chosen_one_has_its_arrow(data: Path) -> None:
    study = make_arms(data)
    app, arms = open_study(study, setting="text_mask=0.3"), study.arms["arm"].nunique()
    dots = [trace for trace in drawn(app)["data"] if trace.get("customdata")]
    assert sum(len(trace["customdata"]) for trace in dots) == arms
    assert len([note for note in drawn(app)["layout"]["annotations"] if note["showarrow"]]) == 1
    assert "95 % interval of its difference to none, over training seeds of one split" in captions(app)
    spoken = app.get("plotly_chart")[0].proto.alt
    assert spoken.startswith(f"retrieval against clipmem of {arms} arms. none, clipmem 0.3")
    assert "text-mask-strong, clipmem" in spoken
    assert "Pareto-optimal, from the least memorized: adaptive-rest" in spoken


def test_the_measures_are_in_the_address(data: Path) -> None:
    app = open_study(make_arms(data), memorization="membership_auroc", utility="zero_shot")
    layout = drawn(app)["layout"]
    assert layout["xaxis"]["title"]["text"] == "← less memorized · membership AUROC"
    assert layout["yaxis"]["title"]["text"] == "zero-shot · more useful →"
    app.selectbox(key="mitigation-utility").select("linear_probe").run()
    assert address(app)["utility"] == "linear_probe"
    assert "linear probe" in drawn(app)["layout"]["yaxis"]["title"]["text"]
    study = make_arms(data)
    write_table(study.folder / ARMS, study.arms.drop(columns=["zero_shot", "linear_probe"]))
    app = open_study(study, utility="zero_shot", memorization="<b>")
    assert app.selectbox(key="mitigation-utility").options == ["retrieval"]
    assert "retrieval" in drawn(app)["layout"]["yaxis"]["title"]["text"]


def test_names_that_others_wrote_are_shown_as_they_are(data: Path) -> None:
    study, bad = make_arms(data), "<img src=x>[x](//evil.test)"
    arms = study.arms.replace({"arm": {"text-mask": bad}})
    write_table(study.folder / ARMS, arms)
    write_json(study.folder / STUDY, study.asked | {"arms": {arm: {} for arm in dict.fromkeys(arms["arm"])}})
    app = open_study(study)
    assert "<img" not in json.dumps(drawn(app))
    parsed = [element.value for kind in ("markdown", "caption") for element in app.get(kind)]
    assert not [value for value in parsed if "evil.test" in value]


def wide(study: StudyFolder, measure: str) -> pd.DataFrame:
    return study.arms.pivot_table(index="seed", columns="arm", values=measure)


def rows_of(study: StudyFolder) -> pd.DataFrame:
    compared = compared_of(study)
    return compared[(compared["arm"] != "none") & (compared["reference"] == "none")]


def test_a_dot_is_the_mean_with_the_interval_of_the_paired_difference(data: Path) -> None:
    study = make_arms(data)
    points = points_of(compared_of(study), "none", "clipmem_candidate", "linear_probe").set_index("arm")
    clipmem = wide(study, "clipmem_candidate")
    assert points.at["text-mask", "memorization"] == pytest.approx(clipmem["text-mask"].mean())
    difference = clipmem["text-mask"] - clipmem["none"]
    half = 4.3027 * difference.std() / 3**0.5  # t at 2 degrees of freedom
    assert points.at["text-mask", "memorization_high"] == pytest.approx(clipmem["text-mask"].mean() + half, rel=1e-4)
    assert points.loc["none", ["memorization_low", "utility_high"]].isna().all()
    name, memorized, useful = points.at["text-mask-strong", "told"]
    assert name == "text-mask-strong"
    assert "; against none −0." in memorized
    assert useful.startswith("linear probe 0.")
    assert not any("against" in line for line in points.at["none", "told"])
    two = points_of(compared_of(make_arms(data, name="two", seeds=1)), "none", "clipmem_candidate", "retrieval")
    assert two["memorization_low"].isna().all()


def test_numbers_are_paired_differences_and_shares_of_none(data: Path) -> None:
    study = make_arms(data)
    table, texts = table_of(rows_of(study), None)
    row, text = table.set_index("arm").loc["text-mask"], texts[table["arm"] == "text-mask"].iloc[0]
    clipmem, auroc, seconds = (wide(study, name) for name in ("clipmem_candidate", "membership_auroc", "seconds"))
    share = 100 * (clipmem["text-mask"] - clipmem["none"]).mean() / clipmem["none"].mean()
    assert row["clipmem"] == pytest.approx(share)
    assert text["clipmem"].startswith(f"−{-share:.1f} % [−")
    assert row["AUROC"] == pytest.approx((auroc["text-mask"] - auroc["none"]).mean())
    assert row["seconds"] == pytest.approx(seconds["text-mask"].mean() / seconds["none"].mean())
    assert text["seconds"] == f"×{row['seconds']:.2f}"
    assert text["peak MB"] == f"{wide(study, 'peak_mb')['text-mask'].mean():,.0f}"
    assert row["n"] == 3
    assert "samples" not in table  # all arms saw as many
    arms = study.arms.drop(columns="zero_shot")
    arms.loc[arms["arm"] == "early-stop", "samples_seen"] /= 2
    write_table(study.folder / ARMS, arms)
    _, texts = table_of(rows_of(study), None)
    assert set(texts["samples"]) == {"×1.00", "×0.50"}
    assert "zero-shot" not in texts


CLICK = {"selection": {"points": [{"customdata": [1, "text"]}]}}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | int | None]:
    """What clicks write into the address; the session is a dict."""
    found: dict[str, str | int | None] = {}
    monkeypatch.setattr(tradeoff, "write", lambda **others: found.update(others))
    monkeypatch.setattr(tradeoff.st, "session_state", {"chart": CLICK, tradeoff.CLICKS: 4})
    return found


def test_a_click_on_a_dot_chooses_its_setting_once_and_one_on_none_takes_it_away(
    written: dict[str, str | int | None],
) -> None:
    tradeoff._click("chart", 4, ["", "text_mask=0.3"])
    assert written == {"setting": "text_mask=0.3", "page": None}
    written.clear()
    tradeoff._click("chart", 4, ["", "text_mask=0.3"])  # the browser says it again
    assert not written
    tradeoff._click("chart", 5, ["text_mask=0.3", ""])
    assert written == {"setting": None, "page": None}
